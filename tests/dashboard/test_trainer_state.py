"""Hugging Face's trainer_state.json, made from events."""

import json
import math

from transformers import TrainerState

from auricle.core.events import EventLog, read
from auricle.dashboard.trainer_state import keep_trainer_state, trainer_state
from tests.runs import resume_run, write_run


def state_of(folder):
    return trainer_state(read(folder / "events.jsonl"))


def test_the_plotting_script_that_people_have_reads_it(tmp_path):
    state = state_of(write_run(tmp_path / "run"))
    steps = [h["step"] for h in state["log_history"] if "loss" in h]
    losses = [h["loss"] for h in state["log_history"] if "loss" in h]
    assert steps == list(range(25, 601, 25))
    assert losses[0] > losses[-1] > 0


def test_transformers_itself_loads_it(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "trainer_state.json").write_text(json.dumps(state_of(folder)))
    state = TrainerState.load_from_json(str(folder / "trainer_state.json"))
    assert (state.global_step, state.max_steps, state.num_train_epochs, state.logging_steps) == (600, 600, 6, 25)
    assert state.best_metric == 5 / 22
    assert (state.best_global_step, state.best_model_checkpoint) == (600, "step-000000600")
    assert state.epoch == 6.0


def test_it_has_every_field_of_transformers_state_and_no_other(tmp_path):
    assert state_of(write_run(tmp_path / "run")).keys() == vars(TrainerState()).keys()


def test_an_evaluation_row_has_hugging_face_names(tmp_path):
    rows = [row for row in state_of(write_run(tmp_path / "run"))["log_history"] if "eval_wer" in row]
    assert [row["step"] for row in rows] == [200, 400, 600]
    assert rows[0]["eval_loss"] == 0.4
    assert rows[0]["epoch"] == 2.0
    assert "loss" not in rows[0]


def test_several_datasets_do_not_share_a_key(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    for dataset, wer in (("clean", 0.1), ("noisy", 0.3)):
        log.write("eval", step=10, dataset=dataset, wer=wer)
    log.close()
    rows = state_of(tmp_path)["log_history"]
    assert [{key: value for key, value in row.items() if "wer" in key} for row in rows] == [
        {"eval_clean_wer": 0.1}, {"eval_noisy_wer": 0.3}]


def test_what_other_decoders_said_beside_is_no_row_of_its_history(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    for decoder, more in (("joint", {"best": True}), ("ctc", {"beside": "joint", "best": False})):
        log.write("eval", step=10, dataset="dev", wer=0.1 if decoder == "joint" else 0.05, decoder=decoder, **more)
    log.close()
    state = state_of(tmp_path)
    assert [row["eval_wer"] for row in state["log_history"]] == [0.1]
    assert state["best_metric"] == 0.1


def test_rows_that_a_resume_took_back_are_not_in_it(tmp_path):
    folder = write_run(tmp_path / "run", steps=450, end="interrupted")
    resume_run(folder, at=200, steps=50)
    losses = {row["step"]: row["loss"] for row in state_of(folder)["log_history"] if "loss" in row}
    assert list(losses) == list(range(25, 251, 25))
    assert losses[200] < 100 < losses[225]


def test_a_loss_that_is_not_finite_stays_a_number(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log.write("train", step=1, loss=float("nan"))
    log.close()
    assert math.isnan(json.loads(json.dumps(state_of(tmp_path)))["log_history"][0]["loss"])


def test_a_run_without_events_has_an_empty_state():
    state = trainer_state([])
    assert (state["log_history"], state["global_step"], state["best_metric"]) == ([], 0, None)


def test_the_sink_keeps_the_file_up_to_date_and_leaves_nothing_aside(tmp_path):
    log = EventLog(tmp_path / "events.jsonl", sinks=[keep_trainer_state(tmp_path)])
    log.write("train", step=5, loss=1.0)
    assert not (tmp_path / "trainer_state.json").exists()
    log.write("save", step=5, checkpoint="checkpoints/step-000000005")
    assert json.loads((tmp_path / "trainer_state.json").read_text())["global_step"] == 5
    log.write("train", step=10, loss=0.5)
    log.write("end", step=10, reason="finished")
    log.close()
    assert json.loads((tmp_path / "trainer_state.json").read_text())["global_step"] == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["events.jsonl", "trainer_state.json"]
