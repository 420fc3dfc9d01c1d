"""Data or budgets that change amid an epoch: refused, or the rest of the epoch is planned anew."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from auricle.core.errors import CheckpointError, RunFolderError
from auricle.data.prepare import prepare
from auricle.data.sources import jsonl
from auricle.store import steps
from auricle.train import loop
from auricle.train.checkpoint import SEEN, load_state
from auricle.train.claim import Options
from auricle.train.orders import ORDERS
from auricle.train.run import Run
from tests.experiments import run, tiny
from tests.speech import digits_manifest, write_digits

SETTINGS = {
    "per_device_train_batch_size": 2,
    "batch_seconds": None,
    "max_steps": 1000,
    "num_train_epochs": 1.0,
    "data": {"max_eval_samples": 4},
}
"""An epoch has 10 steps."""
ALLOWED = Options(allow_replan=True)


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    return digits_manifest(tmp_path_factory.mktemp("digits")).folder


class Met:
    """The utterances of each step, by its epoch."""

    def __init__(self):
        self.steps: list[tuple[int, list[str]]] = []
        self.stop_after: int | None = None

    def count(self, epoch: int = 0) -> Counter:
        return Counter(name for at, names in self.steps for name in names if at == epoch)


@pytest.fixture
def met(monkeypatch) -> Met:
    found, next_step = Met(), loop.next_step

    def loaded(data):
        step = next_step(data)
        found.steps.append((step.places[0].epoch, [name for batch in step.micro for name in batch.ids]))
        return step

    def stopping(_):
        return found.stop_after is not None and len(found.steps) >= found.stop_after

    monkeypatch.setattr(loop, "next_step", loaded)
    monkeypatch.setattr(Run, "stopping", stopping)
    return found


def stopped(met: Met, after: int, config, **options) -> None:
    """Trains `after` steps more."""
    met.stop_after = len(met.steps) + after
    outcome, _ = run(config, **options)
    assert outcome.reason == "interrupted"
    met.stop_after = None


def weights(folder: Path) -> dict[str, torch.Tensor]:
    newest = steps.all_steps(folder)[-1]
    return {name: value for file in newest.glob("*.safetensors") for name, value in load_file(file).items()}


def test_another_budget_amid_an_epoch_is_refused_and_with_the_flag_each_utterance_is_met_once(tmp_path, digits, met):
    stopped(met, 4, tiny(tmp_path, manifest=digits, **SETTINGS))
    other = tiny(tmp_path, manifest=digits, **{**SETTINGS, "per_device_train_batch_size": 3})
    before = weights(tmp_path / "run")
    with pytest.raises(RunFolderError, match=r"per_device_train_batch_size was 2, is 3: .* --allow-replan"):
        run(other)
    assert all(torch.equal(value, before[name]) for name, value in weights(tmp_path / "run").items())
    outcome, events = run(other, options=ALLOWED)
    assert (outcome.reason, outcome.step) == ("finished", 8)  # 24 utterances, 6 a step
    assert met.count() == Counter(dict.fromkeys(met.count(), 1))
    assert len(met.count()) == 40
    assert [len(names) for _, names in met.steps] == [4] * 4 + [6] * 4
    (replan,) = [event for event in events if event.kind == "replan"]
    assert (replan.step, replan.values["seen"]) == (4, 16)
    assert "budget was" in replan.values["changes"][0]


@pytest.mark.slow
def test_a_replanned_epoch_that_is_stopped_goes_on_in_its_new_plan(tmp_path, digits, met):
    two_epochs = {**SETTINGS, "num_train_epochs": 2.0}

    def before(name):
        return tiny(tmp_path / name, manifest=digits, **two_epochs)

    def after(name):
        return tiny(tmp_path / name, manifest=digits, **{**two_epochs, "per_device_train_batch_size": 3})

    stopped(met, 4, before("a"))
    run(after("a"), options=ALLOWED)
    straight = list(met.steps)
    met.steps.clear()
    stopped(met, 4, before("b"))
    stopped(met, 2, after("b"), options=ALLOWED)
    newest = steps.all_steps(tmp_path / "b" / "run")[-1]
    assert (newest / SEEN).is_file()
    assert (load_state(newest).replanned_epoch, load_state(newest).position) == (0, (0, 2))
    _, events = run(after("b"))
    assert not [event for event in events if event.kind == "replan"]
    assert met.steps == straight
    assert met.count(0) == met.count(1) == Counter(dict.fromkeys(met.count(), 1))
    found, expected = weights(tmp_path / "b" / "run"), weights(tmp_path / "a" / "run")
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    assert load_state(steps.all_steps(tmp_path / "b" / "run")[-1]).position == (2, 0)


def test_killed_before_the_first_save_of_its_new_plan_it_is_planned_again(tmp_path, digits, met, monkeypatch):
    stopped(met, 4, tiny(tmp_path, manifest=digits, **SETTINGS))
    other = tiny(tmp_path, manifest=digits, **{**SETTINGS, "per_device_train_batch_size": 3})

    class Killed(BaseException):
        pass

    def killed(*_, **__):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(loop, "advance", killed)
        with pytest.raises(Killed):
            run(other, options=ALLOWED)
    del met.steps[4:]
    outcome, _ = run(other)  # the change was accepted
    assert outcome.reason == "finished"
    assert met.count() == Counter(dict.fromkeys(met.count(), 1))
    assert len(met.count()) == 40


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_digits(tmp_path_factory.mktemp("corpus"), recordings=4)


def rows(folder: Path, corpus: Path, keep) -> Path:
    """A manifest, at the same place, of the recordings that `keep(name)` says yes to. Names end in 0 … 3; 0 tests."""
    shutil.rmtree(folder, ignore_errors=True)
    files = {"train": [], "test": []}
    for audio in sorted((corpus / "recordings").glob("*.wav")):
        if keep(audio.stem):
            line = {"id": audio.stem, "audio": str(audio), "text": "one two"}
            files["test" if audio.stem.endswith("0") else "train"].append(json.dumps(line))
    for split, lines in files.items():
        (folder.parent / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    source = jsonl.Config(files={split: str(folder.parent / f"{split}.jsonl") for split in files})
    return prepare(source, folder, workers=1).folder


@pytest.mark.slow
def test_rows_that_came_and_went_amid_an_epoch(tmp_path, corpus, met):
    old, new = (lambda name: not name.endswith("3")), (lambda name: not name.endswith("ben_1"))
    manifest = rows(tmp_path / "rows", corpus, old)
    config = tiny(tmp_path, manifest=manifest, **{**SETTINGS, "num_train_epochs": 2.0})
    stopped(met, 4, config)
    behind = met.count()
    rows(tmp_path / "rows", corpus, new)
    with pytest.raises(RunFolderError, match=r"step 4 .*10 utterances are gone and 20 are new.* --allow-replan"):
        run(config)
    stopped(met, 3, config, options=ALLOWED)
    outcome, events = run(config)  # the new plan is the checkpoint's now
    assert outcome.reason == "finished"
    assert not [event for event in events if event.kind == "replan"]
    train = {audio.stem for audio in (corpus / "recordings").glob("*.wav") if not audio.stem.endswith("0")}
    expected = set(behind) | {name for name in train if new(name)}
    assert met.count(0) == Counter(dict.fromkeys(expected, 1))
    assert met.count(1) == Counter(dict.fromkeys(filter(new, train), 1))


def test_an_order_that_is_damaged_cannot_say_what_was_seen(tmp_path, digits, met):
    stopped(met, 4, tiny(tmp_path, manifest=digits, **SETTINGS))
    (order,) = (tmp_path / "run" / ORDERS).iterdir()
    (order / "hashes.npy").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match=r"nobody can tell what this epoch has seen.*--fresh"):
        run(tiny(tmp_path, manifest=digits, **{**SETTINGS, "per_device_train_batch_size": 3}), options=ALLOWED)


def test_a_checkpoint_of_a_stage_that_is_no_more_is_refused(tmp_path, digits, met):
    stages = {"first": {"max_steps": 3}, "second": {"max_steps": 3}}
    stopped(met, 2, tiny(tmp_path / "a", manifest=digits, stages=stages, **SETTINGS))
    elsewhere = str(steps.all_steps(tmp_path / "a" / "run")[-1])
    with pytest.raises(RunFolderError, match=r"stands in stage 'first', which this experiment does not have.* main"):
        run(tiny(tmp_path / "b", manifest=digits, resume_from_checkpoint=elsewhere, **SETTINGS))
