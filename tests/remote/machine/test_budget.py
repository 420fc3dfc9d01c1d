import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from auricle.remote.machine.budget import (
    GRACE_SECONDS,
    HUNG_SECONDS,
    OVERRUN,
    Copied,
    Move,
    Seen,
    decide,
    idle_limit,
    is_settled,
    reached,
)
from auricle.remote.machine.job import Budget

LIMIT = "max_cost 5 is reached"
POWER = {"can_stop": True, "can_release": True}

limits = st.builds(Budget, price_per_hour=st.sampled_from([None, 0.5, 2.0]), max_cost=st.sampled_from([None, 5.0]),
                   max_hours=st.sampled_from([None, 8.0]), idle_minutes=st.sampled_from([None, 30.0]),
                   on_limit=st.sampled_from(["stop", "release", "keep"]))
others = st.builds(Copied, run=st.just("other"), has_mirror=st.booleans(), is_safe=st.booleans(),
                   is_complete=st.booleans())
sights = st.builds(Seen, hours=st.floats(0, 30), idle_minutes=st.none() | st.floats(0, 100), trains=st.booleans(),
                   others_train=st.booleans(), asked_seconds=st.none() | st.floats(0, 600),
                   silent_seconds=st.floats(0, 600), has_mirror=st.booleans(), is_safe=st.booleans(),
                   is_complete=st.booleans(), can_stop=st.booleans(), can_release=st.booleans(),
                   others=st.lists(others, max_size=2).map(tuple))
ENDINGS = (Move.STOP, Move.RELEASE)


@given(limits, sights)
def test_nothing_is_ended_before_a_limit_is_reached(budget, seen):
    assert decide(budget, seen, "").move is Move.GO_ON


@given(limits, sights)
def test_a_machine_is_never_ended_while_something_trains_on_it(budget, seen):
    if seen.trains or seen.others_train:
        assert decide(budget, seen, LIMIT).move not in ENDINGS


@given(limits, sights)
def test_a_disk_is_deleted_only_on_request_and_when_all_of_it_is_elsewhere(budget, seen):
    if decide(budget, seen, LIMIT).move is Move.RELEASE:
        assert budget.on_limit == "release"
        assert seen.can_release
        for run in (seen, *seen.others):
            assert run.is_safe
            assert run.is_complete or not run.has_mirror


@given(limits, sights)
def test_a_machine_that_should_be_kept_is(budget, seen):
    if budget.on_limit == "keep":
        assert decide(budget, seen, LIMIT).move not in ENDINGS


@given(limits, sights)
def test_it_is_stopped_before_the_mirror_is_there_at_the_overrun_alone(budget, seen):
    decision = decide(budget, seen, LIMIT)
    if decision.move is Move.STOP and any(run.has_mirror and not run.is_safe for run in (seen, *seen.others)):
        assert budget.price_per_hour * seen.hours >= OVERRUN * budget.max_cost
        assert decision.alarm


@given(limits, sights)
def test_at_the_overrun_a_machine_that_can_be_stopped_is_not_waited_for(budget, seen):
    spent = None if None in (budget.price_per_hour, budget.max_cost) else budget.price_per_hour * seen.hours
    if spent is None or spent < OVERRUN * budget.max_cost or seen.others_train or budget.on_limit == "keep":
        return
    move = decide(budget, seen, LIMIT).move
    if not seen.trains and seen.can_stop:
        assert move in ENDINGS
    if seen.trains:
        assert move in (Move.ASK, Move.KILL)


@given(limits, sights)
def test_a_machine_that_goes_on_costing_is_told_of(budget, seen):
    decision = decide(budget, seen, LIMIT)
    if not seen.trains and decision.move in (Move.WAIT, Move.LEAVE) and budget.on_limit != "keep":
        assert decision.alarm


@given(limits, sights)
def test_only_what_the_machine_can_do_is_asked_of_it(budget, seen):
    move = decide(budget, seen, LIMIT).move
    assert move is not Move.STOP or seen.can_stop
    assert move is not Move.RELEASE or seen.can_release


@given(st.floats(0.01, 10), st.floats(0.1, 100), st.floats(0, 300))
@example(price=0.5, most=5.0, hours=10.0)
@example(price=0.5, most=5.0, hours=9.999)
@example(price=0.5, most=5.0, hours=10.001)
def test_cost_is_reached_at_it_and_not_before(price, most, hours):
    budget = Budget(price_per_hour=price, max_cost=most)
    assert bool(reached(budget, Seen(hours=hours))) == (price * hours >= most)


@pytest.mark.parametrize(("budget", "hours"), [
    (Budget(max_cost=5.0), 1000.0),  # no price
    (Budget(price_per_hour=3.0), 1000.0),
    (Budget(max_hours=8.0), 7.99),
])
def test_what_is_not_limited_is_not_reached(budget, hours):
    assert reached(budget, Seen(hours=hours)) == ""


def test_hours_are_reached():
    assert reached(Budget(max_hours=8.0), Seen(hours=8.0)) == "max_hours 8 is reached"


@pytest.mark.parametrize(("seen", "ends"), [
    (Seen(hours=1, idle_minutes=30.0), True),
    (Seen(hours=1, idle_minutes=29.9), False),
    (Seen(hours=1, idle_minutes=31.0, trains=True), False),
    (Seen(hours=1, idle_minutes=31.0, others_train=True), False),
    (Seen(hours=1, idle_minutes=None), False),
])
def test_idleness(seen, ends):
    assert bool(idle_limit(Budget(idle_minutes=30.0), seen)) == ends
    assert idle_limit(Budget(), seen) == ""


@pytest.mark.parametrize(("asked", "silent", "move"), [
    (None, 0.0, Move.ASK),
    (0.0, 500.0, Move.WAIT),  # it was silent before it was asked: it gets its time all the same
    (HUNG_SECONDS - 1, 500.0, Move.WAIT),
    (HUNG_SECONDS, 500.0, Move.KILL),
    (HUNG_SECONDS + 50, 10.0, Move.WAIT),  # it lives, and saves
    (GRACE_SECONDS, 10.0, Move.KILL),
])
def test_a_run_is_asked_once_and_then_killed(asked, silent, move):
    seen = Seen(hours=10.0, trains=True, asked_seconds=asked, silent_seconds=silent, **POWER)
    assert decide(Budget(price_per_hour=0.5, max_cost=5.0), seen, LIMIT).move is move


@pytest.mark.parametrize(("on_limit", "seen", "move", "alarm"), [
    ("stop", {}, Move.STOP, ""),
    ("stop", {"has_mirror": True, "is_safe": False}, Move.WAIT, "no mirror holds the newest checkpoint"),
    ("stop", {"has_mirror": True, "is_complete": False}, Move.STOP, ""),  # its logs are on the disk that is kept
    ("stop", {"can_stop": False}, Move.LEAVE, "released with its disk and not stopped"),
    ("stop", {"can_stop": False, "can_release": False}, Move.LEAVE, "cannot be ended from inside"),
    ("release", {}, Move.RELEASE, ""),
    ("release", {"has_mirror": True, "is_complete": False}, Move.WAIT, "not released"),
    ("release", {"has_mirror": True, "is_safe": False}, Move.WAIT, "not released"),
    ("release", {"has_mirror": True, "is_safe": False, "can_stop": False}, Move.WAIT, "not released"),
    ("release", {"is_safe": False}, Move.STOP, "on this machine alone"),
    ("release", {"is_safe": False, "can_stop": False}, Move.LEAVE, "on this machine alone"),
    ("release", {"can_release": False}, Move.STOP, "cannot release itself"),
    ("stop", {"others": (Copied(run="b", has_mirror=True, is_safe=False),)}, Move.WAIT,
     "no mirror holds the newest checkpoint of the run 'b' yet"),
    ("stop", {"others": (Copied(run="b", has_mirror=True, is_complete=False),)}, Move.STOP, ""),
    ("stop", {"others": (Copied(run="b", is_safe=False),)}, Move.STOP, ""),
    ("release", {"others": (Copied(run="b", has_mirror=True, is_complete=False),)}, Move.WAIT,
     "no mirror holds all of the run 'b' yet"),
    ("release", {"others": (Copied(run="b", is_safe=False),)}, Move.STOP,
     "the newest checkpoint of the run 'b' is on this machine alone"),
    ("release", {"others": (Copied(run="b", is_safe=False),), "can_stop": False}, Move.LEAVE, "run 'b' is on this"),
    ("release", {"has_mirror": True, "is_complete": False, "others": (Copied(run="b", is_safe=False),)}, Move.STOP,
     "run 'b' is on this machine alone"),  # what is stopped keeps the logs
    ("release", {"has_mirror": True, "others": (Copied(run="b", has_mirror=True), Copied(run="c"))}, Move.RELEASE, ""),
    ("keep", {}, Move.LEAVE, ""),
    ("stop", {"others_train": True}, Move.WAIT, "another run trains"),
])
def test_what_follows_of_a_limit(on_limit, seen, move, alarm):
    budget = Budget(price_per_hour=0.5, max_cost=5.0, on_limit=on_limit)
    decision = decide(budget, Seen(hours=10.0, **{**POWER, **seen}), LIMIT)
    assert decision.move is move
    assert alarm in decision.alarm
    assert bool(alarm) == bool(decision.alarm)


@pytest.mark.parametrize("on_limit", ["stop", "release"])
@pytest.mark.parametrize(("hours", "can_stop", "move"), [
    (11.9, True, Move.WAIT), (12.0, True, Move.STOP), (12.0, False, None)])
def test_at_one_fifth_more_than_max_cost_it_is_stopped_whatever_the_mirror_says(on_limit, hours, can_stop, move):
    seen = Seen(hours=hours, has_mirror=True, is_safe=False, is_complete=False, can_stop=can_stop, can_release=True)
    budget = Budget(price_per_hour=0.5, max_cost=5.0, on_limit=on_limit)
    expected = move or (Move.LEAVE if on_limit == "stop" else Move.WAIT)
    assert decide(budget, seen, LIMIT).move is expected


@pytest.mark.parametrize(("budget", "can_end", "settled"), [
    (Budget(idle_minutes=30.0), True, False),
    (Budget(idle_minutes=30.0), False, True),
    (Budget(idle_minutes=30.0, on_limit="keep"), True, True),
    (Budget(), True, True),
    (Budget(max_cost=5.0), True, True),  # no price
    (Budget(max_cost=5.0, price_per_hour=1.0), True, False),
    (Budget(max_hours=5.0), True, False),
])
def test_a_guard_stays_while_there_is_something_to_enforce(budget, can_end, settled):
    assert is_settled(budget, can_end=can_end) == settled
