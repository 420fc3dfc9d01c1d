import json
import multiprocessing

import pytest

from auricle.core.config import DataConfig, DatasetConfig, ExperimentConfig, TrainingConfig
from auricle.core.errors import RunFolderError
from auricle.models.conformer.config import Config as Conformer
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
    assert again == json.loads((tmp_path / "run.json").read_text())
    assert again["world"] == first["world"] == 2
    assert set(again["versions"]) >= {"python", "auricle", "torch"}


def test_what_only_steers_may_change(tmp_path):
    run_folder.begin(tmp_path, experiment())
    run_folder.begin(tmp_path, experiment(max_steps=20, logging_steps=1, dataloader_num_workers=0, price_per_hour=0.4))


@pytest.mark.parametrize(("changed", "said"), [
    ({"learning_rate": 0.5}, r"training\.learning_rate was 0\.001, is 0\.5"),
    ({"seed": 7}, r"training\.seed was 42, is 7"),
    ({"model_width": 32}, r"model\.width was 16, is 32"),
    ({"batch_seconds": 20.0}, r"training\.batch_seconds was 10\.0, is 20\.0"),
])
def test_another_experiment_is_refused_by_the_names_of_its_keys(tmp_path, changed, said):
    run_folder.begin(tmp_path, experiment())
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(RunFolderError, match=said):
        run_folder.begin(tmp_path, experiment(**changed))
    assert (tmp_path / "run.json").read_bytes() == before


def test_a_folder_with_other_files_is_not_taken(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunFolderError, match=r"holds thesis\.txt but no run\.json"):
        run_folder.begin(tmp_path, experiment())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def hold(folder, ready, done):
    held = run_folder.lock(folder)
    ready.set()
    done.wait(60)
    held.close()


def test_a_second_trainer_is_refused_and_a_dead_one_holds_nothing(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path, ready, done))
    other.start()
    assert ready.wait(60)
    with pytest.raises(RunFolderError, match=rf"already being trained by process {other.pid} on"):
        run_folder.lock(tmp_path)
    other.kill()
    other.join()
    run_folder.lock(tmp_path).close()


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


def test_the_folder_is_named_by_output_dir_then_run_name_then_experiment():
    assert str(run_folder.location(experiment(output_dir="./outputs/x", run_name="y"), "z")) == "outputs/x"
    assert str(run_folder.location(experiment(run_name="y"), "z")) == "outputs/y"
    assert str(run_folder.location(experiment(), "z")) == "outputs/z"
