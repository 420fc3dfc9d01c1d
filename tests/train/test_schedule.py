from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auricle.core.config import TrainingConfig
from auricle.core.extents import Progress
from auricle.train.schedule import DECAYS, factor, fraction_done, warmup_steps

KINDS = sorted(DECAYS)


def config(kind: str, **keys) -> TrainingConfig:
    return TrainingConfig(batch_seconds=10.0, lr_scheduler_type=kind, **{"max_steps": 100, **keys})


def curve(settings: TrainingConfig, steps: int = 100) -> list[float]:
    return [factor(settings, Progress(steps=step), steps) for step in range(steps)]


def eden(**keys) -> TrainingConfig:
    return config("eden", **{"max_steps": 10_000, "eden_steps": 300.0, "eden_epochs": 2.0, **keys})


@pytest.mark.parametrize("kind", KINDS)
@given(warmup=st.integers(0, 60), steps=st.integers(1, 400))
def test_the_first_step_never_has_rate_zero_and_none_exceeds_the_base_rate(kind, warmup, steps):
    rates = curve(config(kind, warmup_steps=warmup, max_steps=steps), steps)
    assert rates[0] > 0
    assert max(rates) <= 1 + 1e-12
    assert min(rates) >= 0


@pytest.mark.parametrize("kind", KINDS)
def test_warm_up_rises_to_the_base_rate_and_then_the_rate_never_rises_again(kind):
    rates = curve(config(kind, warmup_steps=20))
    assert all(a < b for a, b in pairwise(rates[:20]))
    assert rates[19] == pytest.approx(1.0)
    assert rates[20] == pytest.approx(1.0)
    assert all(a >= b for a, b in pairwise(rates[20:]))


def test_each_schedule_ends_where_it_should():
    last = {kind: curve(config(kind))[-1] for kind in KINDS}
    assert last["cosine"] < 0.001
    assert last["one_cycle"] < 0.001
    assert last["linear"] == pytest.approx(0.01)
    assert last["cosine_with_min_lr"] == pytest.approx(0.1, abs=0.001)
    assert last["constant_with_warmup"] == 1.0


def test_cosine_is_half_way_down_in_the_middle():
    assert factor(config("cosine"), Progress(steps=50), 100) == pytest.approx(0.5)


def test_one_cycle_rises_for_thirty_percent_from_a_twenty_fifth():
    rates = curve(config("one_cycle"))
    assert rates[0] == pytest.approx(1 / 25 + 24 / 25 / 30)
    assert rates.index(max(rates)) in (29, 30)


def test_a_ratio_is_a_share_of_the_stage():
    assert curve(config("linear", warmup_ratio=0.2)) == curve(config("linear", warmup_steps=20))


def test_the_nearest_end_counts():
    settings = config("cosine", max_steps=100, num_train_epochs=2.0)
    assert fraction_done(settings, Progress(steps=10, epochs=1.5)) == 0.75
    assert fraction_done(settings, Progress(steps=90, epochs=1.5)) == 0.9
    assert fraction_done(settings, Progress(steps=10, epochs=2.5)) == 1.0


@given(st.integers(0, 5000), st.floats(0, 20), st.integers(1, 800))
def test_eden_is_the_papers_formula(steps, epochs, warmup):
    settings = eden(warmup_steps=warmup)
    rise = min(1.0, 0.5 + 0.5 * (steps + 1) / warmup)
    expected = ((steps**2 + 300**2) / 300**2) ** -0.25 * ((epochs**2 + 2**2) / 2**2) ** -0.25 * rise
    assert factor(settings, Progress(steps=steps, epochs=epochs), 10_000) == pytest.approx(expected)


def test_eden_warms_up_for_500_steps_unless_told_otherwise():
    assert warmup_steps(eden(), 10_000) == 500
    assert warmup_steps(eden(warmup_steps=20), 10_000) == 20
    assert warmup_steps(eden(warmup_ratio=0.1), 10_000) == 1000
    slow = eden(eden_steps=1e9)
    assert factor(slow, Progress(steps=0), 10_000) == pytest.approx(0.501)
    assert factor(slow, Progress(steps=499), 10_000) == pytest.approx(1.0)


def test_eden_knows_nothing_of_the_end():
    for other in (20, 100_000):
        assert factor(eden(), Progress(steps=19), 10_000) == factor(eden(max_steps=other), Progress(steps=19), other)
