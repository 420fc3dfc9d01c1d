import math

import pytest
import torch

from auricle.models.speech_llm.projectors.parts.load import load_health


@pytest.mark.parametrize(("load", "entropy", "dead", "largest"), [
    ([0.25, 0.25, 0.25, 0.25], 1.0, 0, 0.25), ([0.5, 0.5, 0.0, 0.0], 0.5, 2, 0.5), ([1.0, 0.0, 0.0, 0.0], 0.0, 3, 1.0),
    ([0.7, 0.3], -(0.7 * math.log2(0.7) + 0.3 * math.log2(0.3)), 0, 0.7)])
def test_load_is_told_by_its_entropy_its_dead_and_its_largest(load, entropy, dead, largest):
    load = torch.tensor(load)
    health = load_health(load, dead=load == 0)
    assert {name: value.item() for name, value in health.items()} == pytest.approx(
        {"load_entropy": entropy, "dead_experts": dead, "max_load": largest})


def test_of_nothing_nothing_is_known():
    load = torch.zeros(4) / 0
    assert all(value.isnan() for value in load_health(load, dead=load == 0).values())
