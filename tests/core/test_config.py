"""The frame: its defaults, its stages, its ends."""

import pytest
from pydantic import ValidationError

from auricle.core.config import DatasetConfig, ExperimentConfig, TrainingConfig
from auricle.core.frame import Block


def experiment(**training) -> ExperimentConfig:
    stages = training.pop("stages", {})
    return ExperimentConfig.model_validate({
        "model": Block(kind="m"), "task": Block(kind="t"), "data": {"datasets": {"d": {"manifest": "data/d"}}},
        "training": {"max_steps": 10, "batch_seconds": 60, **training}, "stages": stages})


def test_a_configuration_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        experiment().training.max_steps = 3


def test_without_stages_there_is_one_called_main():
    config = experiment(learning_rate=0.5)
    assert config.stage_configs() == {"main": config.training}


def test_each_stage_inherits_training_in_the_order_of_the_file():
    config = experiment(seed=7, learning_rate=0.5, stages={"warm": {"learning_rate": 0.1}, "all": {"max_steps": 3}})
    stages = config.stage_configs()
    assert list(stages) == ["warm", "all"]
    assert (stages["warm"].learning_rate, stages["warm"].max_steps, stages["warm"].seed) == (0.1, 10, 7)
    assert (stages["all"].learning_rate, stages["all"].max_steps, stages["all"].seed) == (0.5, 3, 7)


def test_a_stage_with_an_unknown_key_is_refused():
    with pytest.raises(ValidationError, match="learnig_rate"):
        experiment(stages={"warm": {"learnig_rate": 1.0}})


def test_all_given_ends_count_in_their_own_unit():
    config = TrainingConfig(max_steps=5, num_train_epochs=2.5, max_wall_hours=1, batch_seconds=1)
    assert [str(extent) for extent in config.extents] == ["5 steps", "2.5 epochs", "1 wall hours"]


@pytest.mark.parametrize("given", [{"max_steps": 1}, {"num_train_epochs": 0.5}, {"max_audio_hours": 3},
                                   {"max_wall_hours": 1}])
def test_one_end_and_one_cap_of_the_batch_are_enough(given):
    assert TrainingConfig(per_device_train_batch_size=1, **given).extents
    assert TrainingConfig(batch_seconds=1, per_device_train_batch_size=1, **given).extents


def test_training_without_an_end_or_without_a_batch_is_refused():
    with pytest.raises(ValidationError, match="no end: give max_steps"):
        TrainingConfig(batch_seconds=1)
    with pytest.raises(ValidationError, match="no batch: give batch_seconds"):
        TrainingConfig(max_steps=1)


def test_a_data_set_has_exactly_one_origin():
    assert DatasetConfig(manifest="x").source is None
    assert DatasetConfig(source=Block(kind="synth")).manifest is None
    for both in ({}, {"manifest": "x", "source": Block(kind="synth")}):
        with pytest.raises(ValidationError, match="give either 'manifest'"):
            DatasetConfig(**both)
