"""The rules by which a machine ends its run and itself, as functions of what is seen: no clock, no file, no network.

    limit reached ─► save and end the run ─► (grace over: kill it) ─► its newest checkpoint is on a mirror ─► on_limit

max_cost and max_hours stay reached; idleness ends. Money is in the unit of the price.
"""

from dataclasses import dataclass
from enum import Enum

from auricle.remote.machine.job import Budget

GRACE_SECONDS = 300.0
"""A trainer that was asked to end gets so long to save …"""
HUNG_SECONDS = 60.0
"""… or so long since it was asked and since its last event: one that gives no sign of life is not saving."""
OVERRUN = 1.2
"""At so many times max_cost the machine is stopped though the mirror is behind."""


class Move(Enum):
    GO_ON = "nothing is to be done"
    ASK = "the run is asked to save and end"
    KILL = "the run did not end and is killed"
    WAIT = "the machine is not ended yet"
    STOP = "the machine is stopped, its disk is kept"
    RELEASE = "the machine is released, its disk is deleted"
    LEAVE = "the machine goes on"


@dataclass(frozen=True, kw_only=True)
class Copied:
    """How far a run is elsewhere."""

    run: str = ""
    """The name of another run; empty for the guard's own."""
    has_mirror: bool = False
    """One that is not lost with this machine."""
    is_safe: bool = True
    """A mirror was verified to hold the newest checkpoint, or there is none …"""
    is_complete: bool = True
    """… and all else that belongs there, too."""


@dataclass(frozen=True, kw_only=True)
class Seen(Copied):
    """What the rules look at."""

    hours: float
    """That the machine has cost so far."""
    idle_minutes: float | None = None
    """Since anything trained here; None while something does, or is still being mirrored."""
    trains: bool = False
    """This run."""
    others_train: bool = False
    """Other runs of the project."""
    asked_seconds: float | None = None
    """Since the run was asked to end; None where it was not."""
    silent_seconds: float = 0.0
    """Since its newest event."""
    others: tuple[Copied, ...] = ()
    """Other runs whose disk this is, whether they train or not."""
    can_stop: bool = False
    """From inside this machine, keeping its disk …"""
    can_release: bool = False
    """… or deleting it."""


@dataclass(frozen=True)
class Decision:
    move: Move
    alarm: str = ""
    """What the user must know; empty where all is well."""


def cost(budget: Budget, hours: float) -> float | None:
    """
    >>> cost(Budget(price_per_hour=0.5), 3.0)
    1.5
    """
    return None if budget.price_per_hour is None else budget.price_per_hour * hours


def reached(budget: Budget, seen: Seen) -> str:
    """The limit that is reached for good, as a sentence; empty where none is."""
    spent = cost(budget, seen.hours)
    if budget.max_cost is not None and spent is not None and spent >= budget.max_cost:
        return f"max_cost {budget.max_cost:g} is reached"
    if budget.max_hours is not None and seen.hours >= budget.max_hours:
        return f"max_hours {budget.max_hours:g} is reached"
    return ""


def idle_limit(budget: Budget, seen: Seen) -> str:
    """The same for idle_minutes, which training takes back."""
    idle = None if seen.trains or seen.others_train else seen.idle_minutes
    if budget.idle_minutes is not None and idle is not None and idle >= budget.idle_minutes:
        return f"nothing trained for {budget.idle_minutes:g} minutes"
    return ""


def decide(budget: Budget, seen: Seen, limit: str) -> Decision:
    """What is to be done now. `limit`: the one that was reached, now or earlier; empty where none was."""
    if not limit:
        return Decision(Move.GO_ON)
    if seen.trains:
        return _end_run(budget, seen)
    if budget.on_limit == "keep":
        return Decision(Move.LEAVE)
    if seen.others_train:
        return Decision(Move.WAIT, "another run trains on this machine, which is not ended before that one has ended")
    if not (seen.can_stop or seen.can_release):
        return Decision(Move.LEAVE, "this machine cannot be ended from inside: it goes on and costs. End it at its "
                                    "provider, or with `auricle remote release`")
    return _stop(budget, seen) if budget.on_limit == "stop" else _release(budget, seen)


def is_settled(budget: Budget, *, can_end: bool) -> bool:
    """Whether nothing is left to enforce, once the run has ended."""
    limits = (budget.max_cost if budget.price_per_hour is not None else None, budget.max_hours, budget.idle_minutes)
    return not can_end or budget.on_limit == "keep" or limits == (None, None, None)


def _end_run(budget: Budget, seen: Seen) -> Decision:
    if seen.asked_seconds is None:
        return Decision(Move.ASK)
    hung = min(seen.asked_seconds, seen.silent_seconds) >= HUNG_SECONDS
    if hung or seen.asked_seconds >= GRACE_SECONDS or _is_overrun(budget, seen):
        return Decision(Move.KILL, "the run did not end when it was asked to, and was killed: it goes on from its "
                                   "newest checkpoint")
    return Decision(Move.WAIT)


def _stop(budget: Budget, seen: Seen) -> Decision:
    if not seen.can_stop:
        return Decision(Move.LEAVE, "this machine can be released with its disk and not stopped, and on_limit is stop: "
                                    "it goes on and costs. Release it when its run is elsewhere")
    behind = next((run for run in (seen, *seen.others) if run.has_mirror and not run.is_safe), None)
    if behind is None:
        return Decision(Move.STOP)
    return _overrun_stop(budget, seen) or Decision(
        Move.WAIT, f"no mirror holds the newest checkpoint{_whose(behind)} yet: this machine goes on and costs until "
                   "one does")


def _release(budget: Budget, seen: Seen) -> Decision:
    """A disk is never deleted while it alone holds the newest checkpoint of a run, be it another one's."""
    runs = (seen, *seen.others)
    alone = next((run for run in runs if not run.has_mirror and not run.is_safe), None)
    behind = next((run for run in runs if run.has_mirror and not (run.is_safe and (run.is_complete or alone))), None)
    if behind:
        return _overrun_stop(budget, seen) or Decision(
            Move.WAIT, f"no mirror holds all of the run{_named(behind)} yet: this machine is not released, and costs, "
                       "until one does")
    if alone is None and seen.can_release:
        return Decision(Move.RELEASE)
    if alone is None:
        return Decision(Move.STOP, "this machine cannot release itself; it is stopped, and its disk goes on costing")
    only = f"the newest checkpoint{_whose(alone)} is on this machine alone (no mirror is elsewhere)"
    if seen.can_stop:
        return Decision(Move.STOP, f"{only}: it is stopped and not released, and its disk goes on costing")
    return Decision(Move.LEAVE, f"{only}: it is not released, goes on and costs. Copy the run with `auricle remote "
                                "pull`, then release it")


def _whose(run: Copied) -> str:
    return f" of the run{_named(run)}" if run.run else ""


def _named(run: Copied) -> str:
    return f" '{run.run}'" if run.run else ""


def _overrun_stop(budget: Budget, seen: Seen) -> Decision | None:
    if _is_overrun(budget, seen) and seen.can_stop:
        return Decision(Move.STOP, f"{OVERRUN:g} times max_cost is reached and the mirror is behind: the machine is "
                                   "stopped, and what is not mirrored is on its disk")
    return None


def _is_overrun(budget: Budget, seen: Seen) -> bool:
    spent = cost(budget, seen.hours)
    return budget.max_cost is not None and spent is not None and spent >= OVERRUN * budget.max_cost
