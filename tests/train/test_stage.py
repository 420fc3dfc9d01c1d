import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auricle.core.config import TrainingConfig
from auricle.data.plan import Plan, micro_batches, plan
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


@pytest.mark.parametrize("per_device", [1, 4, 8])
def test_a_step_of_64_utterances_is_the_same_on_1_2_and_8_gpus(per_device):
    """The published command for eight GPUs: the batch stays 64, and each of them accumulates less."""
    settings, lengths = config(per_device_train_batch_size=per_device, effective_batch_size=64), np.linspace(1, 20, 320)
    accumulation: dict[int, int] = {}
    steps: dict[int, list[list[int]]] = {}
    for world in (1, 2, 8):
        made = plan(lengths, seed=1, epoch=0, budget=budget(settings, world, 10.0))
        ranks = [_first_epoch(made, rank, world) for rank in range(world)]
        accumulation[world] = max(len(parts) for rank in ranks for parts in rank)
        steps[world] = [sorted(row for rank in ranks for part in rank[step] for row in part) for step in range(5)]
    assert accumulation == {1: 64 // per_device, 2: 32 // per_device, 8: 8 // per_device}
    assert steps[1] == steps[2] == steps[8]
    assert [len(rows) for rows in steps[8]] == [64] * 5


def _first_epoch(made: Plan, rank: int, world: int) -> list[list[tuple[int, ...]]]:
    """Step → the rows of each micro-batch of a rank."""
    steps: list[list[tuple[int, ...]]] = [[]]
    for part in micro_batches(lambda _: made, (0, 0), rank, world):
        steps[-1].append(part.rows)
        if part.last and len(steps) == made.steps:
            return steps
        steps += [[]] if part.last else []
    return steps
