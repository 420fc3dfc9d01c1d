from dataclasses import asdict

from hypothesis import given
from hypothesis import strategies as st

from auricle.remote.machine.job import Budget
from auricle.remote.machine.meter import Memory, Meter, hours_so_far, remembered
from tests.remote.machine.trainers import job, written


@given(st.floats(0, 1e6), st.floats(-1e9, 1e9), st.floats(0, 1e6))
def test_hours_never_fall_whatever_the_wall_clock_does(hours, jump, up):
    memory = Memory(time=1e9, hours=hours)
    found = hours_so_far(Budget(since=1.0), memory, now=1e9 + jump, up_seconds=up)
    assert hours <= found <= hours + up / 3600


def test_a_clock_that_was_set_back_between_two_guards_counts_nothing():
    assert hours_so_far(Budget(since=1.0), Memory(time=9000.0, hours=2.0), now=1800.0, up_seconds=1e6) == 2.0


def test_the_first_guard_counts_from_when_the_machine_was_rented():
    assert hours_so_far(Budget(since=1000.0), None, now=4600.0, up_seconds=10.0) == 1.0
    assert hours_so_far(Budget(since=9000.0), None, now=4600.0, up_seconds=10.0) == 0.0
    assert hours_so_far(Budget(), None, now=4600.0, up_seconds=10.0) == 0.0


def test_a_meter_counts_with_a_clock_that_nobody_sets():
    seconds = iter([100.0, 100.0 + 7200])
    assert Meter(1.5, lambda: next(seconds)).hours == 3.5


def test_what_a_machine_cost_under_another_run_counts_for_the_next(tmp_path):
    for run, since, time, hours in (("a", 5.0, 10.0, 1.0), ("b", 5.0, 20.0, 3.0), ("c", 6.0, 30.0, 9.0)):
        folder = written(tmp_path, job(tmp_path, run=run, budget=Budget(since=since)))
        Memory(time=time, hours=hours).write(folder / "guard.json")
    assert asdict(remembered(tmp_path, Budget(since=5.0)))["hours"] == 3.0
    assert remembered(tmp_path, Budget(since=7.0)) is None
