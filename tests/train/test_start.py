import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from auricle.core.errors import ConfigError, DataError, ModelError, RunFolderError
from auricle.core.events import current, read
from auricle.data.loader import TrainingSet
from auricle.inference.load import open_model
from auricle.store import directory, steps
from auricle.train.claim import Options
from auricle.train.evaluate import evaluate
from auricle.train.run import StopRequest
from tests.experiments import losses, run, tiny
from tests.paths import ROOT
from tests.speech import digits_manifest, tone

AUGMENTED = {"augment": {"speeds": [0.9, 1.0, 1.1], "gain_db": [-6, 6], "spec_augment": {}}}


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    return digits_manifest(tmp_path_factory.mktemp("digits")).folder


@pytest.fixture
def stop_after(monkeypatch):
    """Ctrl-C during the given step of the next run."""

    def after(steps: int) -> None:
        asked = []

        def install(request):
            asked.append(request)

        original = TrainingSet.__getitem__
        seen = []

        def load(dataset, place):
            if place.last:
                seen.append(place)
                if len(seen) == steps:
                    asked[-1].asked = True
            return original(dataset, place)

        monkeypatch.setattr(StopRequest, "install", install)
        monkeypatch.setattr(TrainingSet, "__getitem__", load)

    return after


def weights(folder: Path) -> dict[str, torch.Tensor]:
    newest = steps.all_steps(folder)[-1]
    return {name: value for file in newest.glob("*.safetensors") for name, value in load_file(file).items()}


def test_a_run_leaves_what_it_promises(tmp_path, digits):
    outcome, events = run(tiny(tmp_path, manifest=digits, eval_steps=6, price_per_hour=0.5))
    folder = tmp_path / "run"
    assert (outcome.reason, outcome.step) == ("finished", 12)
    for name in (
        "run.json",
        "config.yaml",
        "events.jsonl",
        "trainer_log.txt",
        "config.json",
        "encoder.safetensors",
        "ctc_head.safetensors",
        "tokenizer.json",
        "latest.json",
        "best.json",
    ):
        assert (folder / name).is_file(), name
    assert next(read(folder / "events.jsonl")).kind == "run"
    kinds = {event.kind for event in events}
    assert kinds >= {"run", "derived", "stage", "train", "eval", "save", "system", "end"}
    assert [step for step, _ in losses(events)] == list(range(1, 13))
    evaluations = [event for event in events if event.kind == "eval"]
    assert [event.step for event in evaluations] == [6, 12]
    last = evaluations[-1].values
    lines = [json.loads(line) for line in (folder / last["hypotheses"]).read_text().splitlines()]
    assert len(lines) == last["utterances"] == 100
    assert (
        last["wer"]
        == sum(line["substitutions"] + line["deletions"] + line["insertions"] for line in lines) / last["words"]
    )
    assert all(not directory.problems(path) for path in steps.all_steps(folder))
    assert open_model(str(folder)).tokenizer.size == open_model(str(steps.all_steps(folder)[0])).tokenizer.size
    assert [event.values["cost"] for event in events if event.kind == "train"][-1] > 0
    derived = next(event for event in events if event.kind == "derived").values
    assert derived["parameters"] == sum(p.numel() for p in open_model(str(folder)).model.parameters())


def test_running_it_again_says_that_it_is_done(tmp_path, digits):
    run(tiny(tmp_path, manifest=digits))
    before = weights(tmp_path / "run")
    outcome, events = run(tiny(tmp_path, manifest=digits))
    assert outcome.reason == "already finished"
    assert losses(events) == []
    assert all(torch.equal(value, before[name]) for name, value in weights(tmp_path / "run").items())


@pytest.mark.parametrize(("stop_at", "workers"), [(1, 0), (5, 0), (7, 0)])
def test_resuming_a_stopped_run_is_the_uninterrupted_run_bit_for_bit(tmp_path, digits, stop_after, stop_at, workers):
    _, events = run(tiny(tmp_path / "a", manifest=digits, data=AUGMENTED))
    stop_after(stop_at)
    first, first_events = run(tiny(tmp_path / "b", manifest=digits, data=AUGMENTED, dataloader_num_workers=workers))
    assert (first.reason, first.step) == ("interrupted", stop_at)
    second, second_events = run(tiny(tmp_path / "b", manifest=digits, data=AUGMENTED, dataloader_num_workers=2))
    assert second.reason == "finished"
    assert losses(first_events) + losses(second_events) == losses(events)
    expected = weights(tmp_path / "a" / "run")
    found = weights(tmp_path / "b" / "run")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    kept = current(read(tmp_path / "b" / "run" / "events.jsonl"))
    assert [event.step for event in kept if event.kind == "train"] == list(range(1, 13))


def test_the_same_utterances_meet_each_step_for_any_number_of_workers(tmp_path, digits):
    seen = {}
    for workers in (0, 1, 2):
        _, events = run(
            tiny(tmp_path / str(workers), manifest=digits, data=AUGMENTED, dataloader_num_workers=workers, max_steps=6)
        )
        seen[workers] = losses(events)
    assert seen[0] == seen[1] == seen[2]


def test_evaluation_does_not_see_augmentation(tmp_path, digits):
    plain = {"spec_augment": {"time_masks": 0, "frequency_masks": 0}}
    heavy = {"speeds": [1.0], "gain_db": [0.0, 0.0], **plain}
    results = []
    for name, augment in (("a", {}), ("b", heavy)):
        _, events = run(tiny(tmp_path / name, manifest=digits, data={"augment": augment}, max_steps=4))
        results.append([(e.values["loss"], e.values["wer"]) for e in events if e.kind == "eval"])
    assert results[0] == results[1]
    _, events = run(
        tiny(
            tmp_path / "c",
            manifest=digits,
            max_steps=4,
            data={"augment": {"speeds": [2.0], "spec_augment": {"time_fraction": 1.0, "time_width": 500}}},
        )
    )
    model = open_model(str(tmp_path / "c" / "run"))
    evaluated = next(e for e in events if e.kind == "eval").values
    from auricle.core.config import EvaluationConfig, TrainingConfig
    from auricle.data.manifest import Manifest
    from auricle.data.plan import Budget
    from auricle.train.engine import Engine
    from auricle.train.evaluate import evaluate

    [outside] = evaluate(
        "digits",
        Manifest.open(digits).where(split="test"),
        model.task,
        model.model,
        Engine(TrainingConfig(max_steps=1, batch_seconds=1.0, device="cpu")),
        EvaluationConfig(),
        budget=Budget(seconds=6.0),
    )
    assert outside.summary()["loss"] == evaluated["loss"]
    assert outside.summary()["wer"] == evaluated["wer"]


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(tmp_path, digits):
    run(tiny(tmp_path, manifest=digits, save_steps=4, max_steps=8))
    folder = tmp_path / "run"
    newest = steps.all_steps(folder)[-1]
    (newest / "encoder.safetensors").write_bytes(b"torn")
    longer = tiny(tmp_path, manifest=digits, save_steps=4, max_steps=12)
    outcome, events = run(longer, options=Options(extend=True))
    assert outcome.step == 12
    assert next(event.step for event in events if event.kind == "resume") == 4
    assert "damaged" in next(event.values["message"] for event in events if event.kind == "alarm")
    assert (folder / "checkpoints" / f"damaged-{newest.name}").is_dir()


def test_a_run_can_be_given_more_steps(tmp_path, digits):
    run(tiny(tmp_path, manifest=digits, max_steps=4))
    with pytest.raises(RunFolderError, match=r"at step 4 the rate would jump from 0 to .* --extend"):
        run(tiny(tmp_path, manifest=digits, max_steps=6))
    outcome, events = run(tiny(tmp_path, manifest=digits, max_steps=6), options=Options(extend=True))
    assert outcome.step == 6
    assert [step for step, _ in losses(events)] == [5, 6]


def test_stages_freeze_carry_moments_and_leave_the_loss_where_it_was(tmp_path, digits):
    stages = {
        "head": {"trainable": ["ctc_head"], "max_steps": 3},
        "all": {"max_steps": 3, "learning_rates": {"encoder": 1e-4}},
    }
    _, events = run(tiny(tmp_path, manifest=digits, stages=stages))
    named = {event.stage: event.values for event in events if event.kind == "stage"}
    assert set(named["head"]["components"]) == {"ctc_head"}
    assert set(named["all"]["components"]) == {"encoder", "ctc_head"}
    assert named["head"]["trainable"] < named["all"]["trainable"] == named["all"]["parameters"]
    assert [event.step for event in events if event.kind == "train"] == [1, 2, 3, 4, 5, 6]
    switch = next(event for event in events if event.kind == "switch").values
    assert switch["loss_after"] == pytest.approx(switch["loss_before"], abs=1e-6)
    assert switch["moments_carried"] == 2


def test_a_stage_may_start_from_the_best_step_before_it_and_says_so(tmp_path, digits, monkeypatch):
    losses_told = iter([1.0, 9.0, 9.0, 9.0])  # of steps 2, 4 and 6, and of the end of the second stage

    def told(*args, **options):
        [found] = evaluate(*args, **options)
        return (replace(found, loss=next(losses_told)),)

    monkeypatch.setattr("auricle.train.run.evaluate", told)
    stages = {"one": {"max_steps": 6, "eval_steps": 2}, "two": {"max_steps": 1, "start_from": "best"}}
    settings = {"stages": stages, "metric_for_best_model": "loss", "learning_rate": 0.01, "save_steps": None}
    _, events = run(tiny(tmp_path, manifest=digits, **settings))
    switch = next(event for event in events if event.kind == "switch")
    assert (switch.step, switch.values["start_from"]) == (6, "step-000000002")
    assert switch.values["loss_after"] == pytest.approx(switch.values["loss_before"], abs=1e-6)
    kept = tmp_path / "run" / "checkpoints"
    at = {step: load_file(kept / steps.name_of(step) / "ctc_head.safetensors")["ctc_head.weight"] for step in (2, 6, 7)}
    moved = {step: (at[7] - at[step]).abs().max() for step in (2, 6)}
    assert moved[2] <= 0.011 < moved[6]  # Adam moves a weight by no more than about the rate


def test_a_stage_that_starts_from_the_best_step_needs_an_evaluation(tmp_path, digits):
    stages = {"one": {"max_steps": 1}, "two": {"max_steps": 1, "start_from": "best"}}
    data = {"datasets": {"digits": {"manifest": str(digits), "eval_split": None}}}
    with pytest.raises(ConfigError, match=r"stages\.two\.start_from is best, and nothing before was evaluated"):
        run(tiny(tmp_path, manifest=digits, stages=stages, data=data))


def test_a_stage_may_augment_in_its_own_way(tmp_path, digits):
    fast = {"speeds": [1.9]}
    stages = {"plain": {"max_steps": 2}, "fast": {"max_steps": 2, "augment": fast}}
    _, events = run(tiny(tmp_path, manifest=digits, stages=stages))
    told = {event.stage: event.values["utterances_per_step"] for event in events if event.kind == "derived"}
    assert told["fast"] > 1.5 * told["plain"]  # at twice the speed, a batch of so many seconds holds more of them


def test_a_weights_only_start_begins_at_step_zero_with_the_weights(tmp_path, digits):
    run(tiny(tmp_path / "a", manifest=digits))
    _, events = run(
        tiny(
            tmp_path / "b",
            manifest=digits,
            pretrained_model_path=str(tmp_path / "a" / "run"),
            max_steps=1,
            learning_rate=1e-9,
        )
    )
    report = next(event for event in events if event.kind == "weights").values
    assert (report["missing"], report["unexpected"]) == ((), ())
    first, second = (load_file(tmp_path / name / "run" / "encoder.safetensors") for name in "ab")
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)
    with pytest.raises(ModelError, match="nowhere"):
        run(tiny(tmp_path / "c", manifest=digits, pretrained_model_path=str(tmp_path / "nowhere")))


def test_another_experiment_in_the_same_folder_is_refused_and_fresh_keeps_the_old_one(tmp_path, digits):
    run(tiny(tmp_path, manifest=digits, max_steps=2))
    with pytest.raises(RunFolderError, match=r"training\.learning_rate was 0\.003, is 0\.1"):
        run(tiny(tmp_path, manifest=digits, learning_rate=0.1))
    run(tiny(tmp_path, manifest=digits, max_steps=2, learning_rate=0.1), options=Options(fresh=True))
    assert (tmp_path / "run.old-1" / "events.jsonl").is_file()


def test_the_time_box_chooses_once_and_the_last_evaluation_is_complete(tmp_path, digits, stop_after):
    stop_after(6)
    config = {"manifest": digits, "eval_steps": 2, "eval_max_seconds": 1e-6}
    run(tiny(tmp_path, **config))
    stored = (tmp_path / "run" / "eval" / "subset-digits.json").read_bytes()
    run(tiny(tmp_path, **config))
    assert (tmp_path / "run" / "eval" / "subset-digits.json").read_bytes() == stored
    evaluations = [event for event in current(read(tmp_path / "run" / "events.jsonl")) if event.kind == "eval"]
    assert [event.step for event in evaluations] == [2, 4, 6, 8, 10, 12]
    assert [event.values["complete"] for event in evaluations] == [False] * 5 + [True]
    ids = set(json.loads(stored)["ids"])
    for event in evaluations[:-1]:
        lines = (tmp_path / "run" / event.values["hypotheses"]).read_text().splitlines()
        assert {json.loads(line)["id"] for line in lines} == ids


def test_audio_that_breaks_after_preparation_is_counted_and_stops_a_run_when_it_is_much(tmp_path):
    manifest = digits_manifest(tmp_path)
    victims = [manifest.where(split="train").row(number).audio for number in range(3)]
    victims[0].write_text("no longer audio")
    soundfile.write(victims[1], tone(0.1), 8000)
    victims[2].unlink()
    with pytest.raises(DataError, match="could not be read"):
        run(tiny(tmp_path / "a", manifest=manifest.folder, data={"max_rejected": 0.01}, num_train_epochs=1.0))
    _, events = run(
        tiny(tmp_path / "b", manifest=manifest.folder, data={"max_rejected": 0.2}, num_train_epochs=2.0, max_steps=100)
    )
    listed = [tuple(row[:2]) for event in events if event.kind == "rejected" for row in event.values["listed"]]
    assert {reason for _, reason in listed} == {"unreadable", "missing_file"}
    assert len({name for name, _ in listed}) == 2


def test_a_step_that_is_not_finite_leaves_the_weights_alone_and_names_its_utterances(tmp_path):
    manifest = digits_manifest(tmp_path)
    path = manifest.where(split="train").row(0).audio
    audio, rate = soundfile.read(path)
    audio[5] = np.nan
    path.unlink()
    soundfile.write(path, audio, rate, subtype="FLOAT")
    row = manifest.where(split="train").row(0)
    outcome, events = run(tiny(tmp_path, manifest=manifest.folder, num_train_epochs=2.0, max_steps=1000))
    bad = [event.values for event in events if event.kind == "bad_step"]
    assert outcome.reason == "finished"
    assert len(bad) == 2  # once an epoch
    assert all(dict(zip(one["ids"], one["lengths"], strict=True))[row.id] == round(row.seconds, 3) for one in bad)
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())


def test_a_transcript_in_another_alphabet_is_rejected_where_the_alphabet_is_given(tmp_path):
    from auricle.core.decode import decode
    from auricle.data.prepare import prepare
    from auricle.data.sources import jsonl
    from tests.speech import write_audio

    lines = []
    for number in range(40):
        audio = write_audio(tmp_path / "corpus" / f"{number}.wav", seconds=0.6)
        text = "שלום" if number == 7 else "two words"
        lines.append(json.dumps({"audio": str(audio), "text": text}, ensure_ascii=False))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    rows = str(tmp_path / "rows.jsonl")
    prepare(jsonl.Config(files={"train": rows}), tmp_path / "manifest", workers=1)
    config = tiny(tmp_path, manifest=tmp_path / "manifest", max_steps=2, data={"max_rejected": 0.05})
    plain = config.model_dump(mode="json")
    plain["data"]["datasets"]["digits"]["eval_split"] = None
    plain["task"]["tokenizer"]["alphabet"] = " abcdefghijklmnopqrstuvwxyz'"
    _, events = run(decode(plain))
    rejected = next(event.values for event in events if event.kind == "rejected")
    assert rejected["count_by_reason"] == {"unknown_characters": 1}
    assert "שלום" in rejected["listed"][0][2]


def torchrun(config_folder: Path, digits: Path, processes: int) -> list[dict]:
    script = config_folder / "ranks.py"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(f"""
from pathlib import Path
from tests.experiments import run, tiny, losses
import auricle.train.loop as loop, json, os
seen = []
original = loop.train_step
def spy(model, optimizer, task, micro, *rest):
    seen.append(sorted(name for batch in micro for name in batch.ids))
    return original(model, optimizer, task, micro, *rest)
loop.train_step = spy
model = {{"dropout": 0.0}}
import tests.experiments as e
e.MODEL = {{**e.MODEL, **model}}
folder = Path({str(config_folder)!r})
settings = {{"gradient_accumulation_steps": {2 // processes}, "max_steps": 6, "eval_steps": 3, "device": "auto"}}
config = tiny(folder, manifest=Path({str(digits)!r}), **settings)
_, events = run(config)
evals = [[x.values["wer"], x.values["loss"], x.values["utterances"]] for x in events if x.kind == "eval"]
found = {{"ids": seen, "losses": losses(events), "evals": evals}}
(folder / f"rank{{os.environ.get('RANK', '0')}}.json").write_text(json.dumps(found))
""")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
        str(script),
    ]
    done = subprocess.run(
        command, cwd=ROOT, env=_environment(), capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((config_folder / f"rank{rank}.json").read_text()) for rank in range(processes)]


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_two_ranks_meet_the_same_utterances_losses_and_scores_as_one(tmp_path, digits):
    (one,) = torchrun(tmp_path / "one", digits, 1)
    two = torchrun(tmp_path / "two", digits, 2)
    together = [sorted(first + second) for first, second in zip(two[0]["ids"], two[1]["ids"], strict=True)]
    assert together == one["ids"]
    assert [step for step, _ in two[0]["losses"]] == [step for step, _ in one["losses"]]
    np.testing.assert_allclose([loss for _, loss in two[0]["losses"]], [loss for _, loss in one["losses"]], rtol=2e-5)
    np.testing.assert_allclose(two[0]["evals"], one["evals"], rtol=2e-5)
    assert two[1]["losses"] == []
    shutil.rmtree(tmp_path / "two")
