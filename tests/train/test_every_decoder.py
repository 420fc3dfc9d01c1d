"""A run of the hybrid task: a weight that moves, and every decoder beside the others in complete evaluations."""

import json
from pathlib import Path

import pytest

from auricle.core.config import EvaluationConfig
from auricle.core.errors import ConfigError
from auricle.core.events import current, read
from auricle.dashboard.report import write_report
from auricle.dashboard.trainer_state import keep_trainer_state
from auricle.tasks.hybrid.config import Config
from auricle.tasks.hybrid.task import smoothing_floor
from auricle.train.claim import Options
from auricle.train.run_folder import Start
from auricle.train.start import train
from tests import experiments
from tests.experiments import losses, run
from tests.speech import digits_manifest
from tests.tasks.hybrid.test_task import EVERY, tiny

SCHEDULE = {"start": 0.9, "end": 0.2, "steps": 4}


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    return digits_manifest(tmp_path_factory.mktemp("digits"), recordings=6).folder


def hybrid(folder: Path, manifest: Path, *, decoder: str = "all", task: dict | None = None, **training):
    config = experiments.tiny(folder, manifest=manifest, lr_scheduler_type="constant_with_warmup", **training)
    task = Config.model_validate({"ctc_weight": SCHEDULE, "beam_size": 2, "max_new_tokens": 5, **(task or {})})
    return config.model_copy(update={"model": tiny(), "task": task, "evaluation": EvaluationConfig(decoder=decoder)})


@pytest.fixture(scope="module")
def finished(tmp_path_factory, digits):
    """(run folder, its events)"""
    folder = tmp_path_factory.mktemp("finished")
    settings = {"max_steps": 4, "eval_steps": 2, "metric_for_best_model": "loss"}
    config, events = hybrid(folder, digits, task={"label_smoothing_factor": 0.1}, **settings), []
    train(config, Start(), sinks=[events.append, keep_trainer_state(folder / "run")])
    return folder / "run", events


def test_the_default_decoder_is_asked_while_training_and_all_of_them_at_the_end(finished):
    _, events = finished
    evaluations = [event for event in events if event.kind == "eval"]
    assert [(event.step, event.values["decoder"]) for event in evaluations] == [
        (2, "joint"), *((4, decoder) for decoder in EVERY)]
    assert [event.values.get("beside") for event in evaluations] == [None, None, *["joint"] * 4]
    assert [event.values["best"] for event in evaluations] == [True, True, *[False] * 4]
    assert len({event.values["hypotheses"] for event in evaluations}) == 6
    assert len({event.values["loss"] for event in evaluations[1:]}) == 1
    for event in evaluations:
        assert {"empty_rate", "repetition_rate"} <= event.values.keys()
        assert ("cut_rate" in event.values) == (not event.values["decoder"].startswith("ctc"))
    assert all((finished[0] / event.values["hypotheses"]).is_file() for event in evaluations)


def test_readers_of_one_number_see_the_default_decoder_alone(finished):
    folder, events = finished
    state = json.loads((folder / "trainer_state.json").read_text())
    lead = [event.values["wer"] for event in events if event.kind == "eval" and not event.values.get("beside")]
    assert [row["eval_wer"] for row in state["log_history"] if "eval_wer" in row] == lead
    page = write_report(folder).read_text()
    for decoder in EVERY:
        assert f"<td>{decoder}</td>" in page
    assert "decoder joint" in page


def test_what_evaluating_takes_and_the_floor_of_a_smoothed_loss_are_told(finished):
    _, events = finished
    end = next(event for event in events if event.kind == "end")
    assert 0 < end.values["evaluating_percent"] < 100
    floors = next(event for event in events if event.kind == "derived").values["loss_floors"]
    classes = next(event.values for event in events if event.kind == "run")["config"]
    assert classes["task"]["label_smoothing_factor"] == 0.1
    letters = len(set("zeroonetwothreefourfivesixseveneightnine"))
    assert floors == pytest.approx({"attention_smoothed": smoothing_floor(0.1, letters + 1),
                                    "loss": 0.8 * smoothing_floor(0.1, letters + 1)})


def test_the_logged_loss_is_the_objective_with_the_weight_of_its_step(finished):
    _, events = finished
    for event in events:
        if event.kind == "train":
            ctc = 0.9 - 0.7 * (event.step - 1) / 4
            terms = event.values["terms"]
            smoothed = 0.9 * terms["attention"] + 0.1 * terms["label_smoothing"]
            assert event.values["loss"] == pytest.approx(ctc * terms["ctc"] + (1 - ctc) * smoothed, rel=1e-6)


def test_a_run_that_goes_on_weighs_as_one_that_was_never_stopped(tmp_path, digits):
    _, straight = run(hybrid(tmp_path / "a", digits, max_steps=4, eval_steps=None, decoder="ctc"))
    run(hybrid(tmp_path / "b", digits, max_steps=2, eval_steps=None, decoder="ctc"))
    _, rest = run(hybrid(tmp_path / "b", digits, max_steps=4, eval_steps=None, decoder="ctc"),
                  options=Options(extend=True))
    assert losses(rest) == losses(straight)[2:]
    kept = current(read(tmp_path / "b" / "run" / "events.jsonl"))
    assert {event.values["decoder"] for event in kept if event.kind == "eval"} == {"ctc"}


def test_a_decoder_that_there_is_not_is_refused_before_the_first_step(tmp_path, digits):
    config = hybrid(tmp_path, digits, decoder="jiont")
    with pytest.raises(ConfigError, match=r"evaluation\.decoder: no decoder 'jiont'; did you mean 'joint'"):
        run(config)
    assert not any(event.kind == "train" for event in read(tmp_path / "run" / "events.jsonl"))
