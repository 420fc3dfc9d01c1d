import pytest
from hypothesis import given
from hypothesis import strategies as st

from auricle.core.extents import Extent, Progress, due


@given(st.integers(1, 1000), st.integers(0, 2000))
def test_an_extent_is_reached_when_its_fraction_is_one(amount, steps):
    extent, progress = Extent(amount, "steps"), Progress(steps=steps)
    assert extent.reached(progress) == (steps >= amount)
    assert extent.reached(progress) == (extent.fraction(progress) == 1.0)


def test_each_unit_reads_its_own_count():
    progress = Progress(steps=10, epochs=0.5, audio_hours=2.0, wall_hours=0.25)
    assert [
        Extent(amount, unit).fraction(progress)
        for amount, unit in ((20, "steps"), (1, "epochs"), (8, "audio_hours"), (1, "wall_hours"))
    ] == [0.5, 0.5, 0.25, 0.25]


def test_only_wall_clock_is_not_reproducible():
    assert [Extent(1, unit).reproducible for unit in ("steps", "epochs", "audio_hours", "wall_hours")] == [
        True,
        True,
        True,
        False,
    ]


def test_an_extent_is_positive():
    with pytest.raises(ValueError, match="positive"):
        Extent(0, "steps")


@given(st.integers(0, 500), st.integers(1, 60))
def test_due_is_every_so_many_steps_and_not_at_the_start(step, every):
    assert due(step, every) == (step > 0 and step % every == 0)
    assert not due(step, None)


def test_a_step_counts_in_the_stage_and_in_the_run():
    after = Progress(steps=3, run_steps=103, audio_hours=1.0).after_step(epochs=0.5, audio_hours=0.25, wall_hours=0.1)
    assert (after.steps, after.run_steps, after.audio_hours, after.epochs, after.wall_hours) == (4, 104, 1.25, 0.5, 0.1)
