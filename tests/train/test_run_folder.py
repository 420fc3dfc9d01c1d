import json

import pytest

from auricle.core.config import DataConfig, DatasetConfig, ExperimentConfig, TrainingConfig
from auricle.core.errors import RunFolderError
from auricle.core.extents import Progress
from auricle.models.conformer.config import Config as Conformer
from auricle.store.run_lock import lock
from auricle.tasks.ctc.config import Config as Ctc
from auricle.train import run_folder


def experiment(model_width: int = 16, **training) -> ExperimentConfig:
    return ExperimentConfig(
        model=Conformer(kind="conformer", width=model_width), task=Ctc(kind="ctc"),
        data=DataConfig(datasets={"digits": DatasetConfig(manifest="data/digits")}),
        training=TrainingConfig(**{"max_steps": 10, "batch_seconds": 10.0, **training}))


def test_the_first_start_writes_the_record_and_the_next_one_reads_it(tmp_path):
    first = run_folder.begin(tmp_path, experiment(), world=2)
    again = run_folder.begin(tmp_path, experiment(), world=1)
    assert again == json.loads((tmp_path / "run.json").read_text()) | {"replan": False}
    assert again["world"] == first["world"] == 2
    assert set(again["versions"]) >= {"python", "auricle", "torch"}


def test_what_only_steers_may_change(tmp_path):
    run_folder.begin(tmp_path, experiment())
    run_folder.begin(tmp_path, experiment(max_steps=20, logging_steps=1, dataloader_num_workers=0, price_per_hour=0.4))


@pytest.mark.parametrize(("changed", "said"), [
    ({"learning_rate": 0.5}, r"training\.learning_rate was 0\.001, is 0\.5"),
    ({"seed": 7}, r"training\.seed was 42, is 7"),
    ({"model_width": 32}, r"model\.width was 16, is 32"),
    ({"batch_seconds": 20.0}, r"training\.batch_seconds was 10\.0, is 20\.0: the steps .* --allow-replan"),
])
def test_another_experiment_is_refused_by_the_names_of_its_keys(tmp_path, changed, said):
    run_folder.begin(tmp_path, experiment())
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(RunFolderError, match=said):
        run_folder.begin(tmp_path, experiment(**changed))
    assert (tmp_path / "run.json").read_bytes() == before
    assert not (tmp_path / "changes.json").exists()


def reached(steps: int) -> Progress:
    return Progress(steps=steps, run_steps=steps)


def test_another_end_of_a_falling_rate_shows_the_jump_and_is_taken_when_asked_for(tmp_path):
    run_folder.begin(tmp_path, experiment())
    longer = experiment(max_steps=20)
    with pytest.raises(RunFolderError, match=r"training\.max_steps was 10, is 20: at step 5 the rate would jump from "
                                             r"0\.0005 to 0\.000854 \(cosine\).*--extend"):
        run_folder.begin(tmp_path, longer, progress=reached(5))
    run_folder.begin(tmp_path, longer, progress=reached(5), extend=True)
    run_folder.begin(tmp_path, longer, progress=reached(8))  # what was accepted is what the next start compares with
    with pytest.raises(RunFolderError, match=r"training\.max_steps was 20, is 10"):
        run_folder.begin(tmp_path, experiment(), progress=reached(8))


def test_another_end_of_a_constant_rate_or_before_the_first_checkpoint_is_free(tmp_path):
    constant = {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 3}
    run_folder.begin(tmp_path, experiment(**constant))
    run_folder.begin(tmp_path, experiment(max_steps=20, **constant), progress=reached(5))
    (tmp_path / "other").mkdir()
    run_folder.begin(tmp_path / "other", experiment())
    run_folder.begin(tmp_path / "other", experiment(max_steps=20))


def test_a_replan_is_due_until_a_checkpoint_was_made_after_it(tmp_path):
    assert not run_folder.begin(tmp_path, experiment())["replan"]
    wider = experiment(batch_seconds=20.0)
    assert run_folder.begin(tmp_path, wider, progress=reached(5), allow_replan=True)["replan"]
    assert run_folder.begin(tmp_path, wider, progress=reached(5))["replan"]  # killed before its first checkpoint
    assert run_folder.begin(tmp_path, wider, progress=reached(4))["replan"]  # the checkpoint of step 5 is damaged
    assert not run_folder.begin(tmp_path, wider, progress=reached(6))["replan"]
    assert not run_folder.begin(tmp_path, wider)["replan"]
    accepted = json.loads((tmp_path / "changes.json").read_text())
    assert [(entry["step"], entry["changes"]) for entry in accepted] == [(5, {"training.batch_seconds": [10.0, 20.0]})]


def test_allowing_what_was_not_changed_records_nothing(tmp_path):
    run_folder.begin(tmp_path, experiment())
    again = experiment(logging_steps=3)
    assert not run_folder.begin(tmp_path, again, progress=reached(5), extend=True, allow_replan=True)["replan"]
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_start_killed_before_its_record_is_no_stranger(tmp_path):
    for left in ("run.lock", ".incomplete-run.json-17"):
        (tmp_path / left).write_text("")
    run_folder.begin(tmp_path, experiment())


def test_a_folder_with_other_files_is_not_taken(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunFolderError, match=r"holds thesis\.txt but no run\.json"):
        run_folder.begin(tmp_path, experiment())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"cannot be written .*training\.output_dir"):
        run_folder.make(tmp_path / "file" / "run")


def test_a_fresh_start_renames_and_keeps(tmp_path):
    for number in (1, 2):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "kept").write_text(str(number))
        run_folder.set_aside(tmp_path / "run")
    assert (tmp_path / "run.old-1" / "kept").read_text() == "1"
    assert (tmp_path / "run.old-2" / "kept").read_text() == "2"
    assert run_folder.set_aside(tmp_path / "run") is None


def test_a_fresh_start_does_not_rename_the_folder_of_a_living_trainer(tmp_path):
    with lock(tmp_path), pytest.raises(RunFolderError, match="already being trained"):
        run_folder.set_aside(tmp_path)
    assert tmp_path.is_dir()


def test_the_folder_is_named_by_output_dir_then_run_name_then_experiment():
    assert str(run_folder.location(experiment(output_dir="./outputs/x", run_name="y"), "z")) == "outputs/x"
    assert str(run_folder.location(experiment(run_name="y"), "z")) == "outputs/y"
    assert str(run_folder.location(experiment(), "z")) == "outputs/z"
