import pytest
from hypothesis import given
from hypothesis import strategies as st

from auricle.core.config import TrainingConfig
from auricle.train.stage import budget


def config(**keys) -> TrainingConfig:
    return TrainingConfig(max_steps=10, **keys)


@given(st.integers(1, 64), st.integers(1, 64), st.sampled_from([1, 2, 8]))
def test_an_effective_batch_does_not_depend_on_the_world(size, effective, world):
    made = budget(config(per_device_train_batch_size=size, effective_batch_size=effective), world, 5.0)
    assert made == budget(config(per_device_train_batch_size=size, effective_batch_size=effective), 1, 5.0)
    assert made.utterances <= size
    assert effective <= made.micro_batches * made.utterances < effective + made.micro_batches


def test_seconds_are_filled_by_micro_batches_of_their_budget():
    assert budget(config(batch_seconds=60.0, effective_batch_seconds=240.0), 2, 5.0).micro_batches == 4
    assert budget(config(batch_seconds=60.0, effective_batch_size=48), 1, 5.0).micro_batches == 4


def test_accumulation_alone_counts_per_rank():
    made = budget(config(per_device_train_batch_size=8, gradient_accumulation_steps=4), 2, 5.0)
    assert (made.micro_batches, made.utterances) == (8, 8)


def test_both_caps_hold():
    made = budget(config(per_device_train_batch_size=8, batch_seconds=60.0), 1, 5.0)
    assert (made.utterances, made.seconds) == (8, 60.0)


def test_a_configuration_without_an_end_or_a_batch_is_refused():
    with pytest.raises(ValueError, match="no end"):
        TrainingConfig(batch_seconds=1.0)
    with pytest.raises(ValueError, match="no batch"):
        TrainingConfig(max_steps=1)
