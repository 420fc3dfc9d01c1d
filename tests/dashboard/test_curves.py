"""Curves of our runs and of anybody's trainer_state.json."""

import json

import pytest

from auricle.core.errors import RunFolderError
from auricle.core.events import EventLog, read
from auricle.dashboard.curves import distinct_names, read_curves
from auricle.dashboard.trainer_state import trainer_state
from tests.runs import resume_run, write_run

HISTORY = [{"loss": 2.0, "grad_norm": 1.0, "learning_rate": 1e-5, "epoch": 0.1, "step": 50},
           {"eval_loss": 0.6, "eval_wer": 31.5, "eval_runtime": 9.0, "epoch": 0.2, "step": 100},
           {"loss": 1.5, "learning_rate": 2e-5, "epoch": 0.2, "step": 100},
           {"train_runtime": 99.0, "train_loss": 1.7, "epoch": 0.2, "step": 100}]


def write_state(path, history):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"log_history": history}))
    return path


def test_a_run_folder_has_loss_rate_and_word_error_rate(tmp_path):
    curves = read_curves(write_run(tmp_path / "quickstart"))
    assert curves.name == "quickstart"
    assert list(curves.loss) == list(curves.learning_rate) == list(range(25, 601, 25))
    assert list(curves.wer[""]) == [200, 400, 600]
    assert curves.eval_loss[""][200] == 0.4


def test_rows_that_a_resume_took_back_are_not_drawn(tmp_path):
    folder = write_run(tmp_path / "run", steps=450, end="interrupted")
    log = EventLog(folder / "events.jsonl", run="run")
    log.write("onset", stage="main", step=225, began=200, loss_before=2.5, loss_after=0.5)
    log.close()
    resume_run(folder, at=200, steps=50)
    curves = read_curves(folder)
    assert max(curves.loss) == 250
    assert list(curves.wer[""]) == [200]
    assert curves.onsets == ()


def test_our_trainer_state_gives_the_curves_of_its_run(tmp_path):
    folder = write_run(tmp_path / "run")
    log = EventLog(folder / "events.jsonl", run="run")
    log.write("onset", stage="main", step=325, began=300, loss_before=2.5, loss_after=0.5)
    log.close()
    assert read_curves(folder).onsets == (300,)
    state = tmp_path / "copy" / "run" / "trainer_state.json"
    state.parent.mkdir(parents=True)
    state.write_text(json.dumps(trainer_state(read(folder / "events.jsonl"))))
    assert read_curves(state) == read_curves(folder)


def test_a_foreign_state_is_read_and_per_cent_become_fractions(tmp_path):
    curves = read_curves(write_state(tmp_path / "whisper" / "trainer_state.json", HISTORY))
    assert curves.name == "whisper"
    assert curves.loss == {50: 2.0, 100: 1.5}
    assert curves.wer == {"": {100: 0.315}}


@pytest.mark.parametrize(("logged", "meant"), [([0.9, 0.3], [0.9, 0.3]), ([32.0, 8.0, 1.2], [0.32, 0.08, 0.012]),
                                               ([4.0, 1.1, 0.5], [4.0, 1.1, 0.5])])
def test_what_cannot_be_a_fraction_is_per_cent(tmp_path, logged, meant):
    rows = [{"eval_wer": value, "step": step} for step, value in enumerate(logged, 1)]
    curves = read_curves(write_state(tmp_path / "trainer_state.json", rows))
    assert list(curves.wer[""].values()) == pytest.approx(meant)


def test_the_newest_checkpoint_speaks_for_a_folder_without_a_state_of_its_own(tmp_path):
    for step in (900, 1000, 50):
        path = tmp_path / "run" / f"checkpoint-{step}" / "trainer_state.json"
        write_state(path, [{"loss": float(step), "step": step}])
    curves = read_curves(tmp_path / "run")
    assert (curves.name, curves.loss) == ("run", {1000: 1000.0})


def test_datasets_keep_their_names(tmp_path):
    path = write_state(tmp_path / "trainer_state.json", [{"eval_test_clean_wer": 0.1, "eval_dev_wer": 0.2, "step": 5}])
    assert read_curves(path).wer == {"test_clean": {5: 0.1}, "dev": {5: 0.2}}


@pytest.mark.parametrize("content", ["", "[]", "{", '{"log_history": 3}', '{"log_history": [3]}',
                                     '{"log_history": []}'])
def test_a_file_that_is_no_trainer_state_is_one_sentence(tmp_path, content):
    path = tmp_path / "trainer_state.json"
    path.write_text(content)
    with pytest.raises(RunFolderError, match=r"not a trainer state|nothing to plot"):
        read_curves(path)


def test_a_path_without_a_run_is_one_sentence(tmp_path):
    with pytest.raises(RunFolderError, match=r"no events\.jsonl and no trainer_state\.json"):
        read_curves(tmp_path)
    with pytest.raises(RunFolderError, match="no such file or folder"):
        read_curves(tmp_path / "nowhere")


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path):
    paths = [write_run(tmp_path / place, steps=25) for place in ("a/run", "b/run", "c")]
    named = distinct_names([read_curves(path) for path in paths], paths)
    assert [run.name for run in named] == [str(paths[0]), str(paths[1]), "c"]
