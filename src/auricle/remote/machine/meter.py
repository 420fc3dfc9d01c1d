"""What a machine has cost: hours that only grow, whatever its wall clock does and however often its guard starts.

While a guard lives a clock that nobody sets counts. Over the time between two guards the wall clock decides, but no
more is counted than the machine has been up since: one that was stopped cost next to nothing.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from auricle.remote.machine.job import MEMORY, Budget, Record
from auricle.remote.machine.processes import jobs


@dataclass(frozen=True, kw_only=True)
class Memory(Record):
    """guard.json: what a guard must know of the guards before it."""

    time: float
    """Unix time of writing."""
    hours: float
    limit: str = ""
    """That was reached."""
    ending: str = ""
    """`asked` while the provider is being told to end this machine, `done` when it has agreed."""
    tries: int = 0
    again: float = 0.0
    """Unix time before which it is not told again."""
    error: str = ""
    """What it answered the last time."""
    revivals: int = 0
    """How often the run was lost and started again by its guard."""
    idle_only: bool = False
    """Of a machine that was started again after its run had ended: cost and hours would stop it before anybody is in.
    """


def steady() -> float:
    """Seconds of a clock that nobody sets and that goes on while a machine sleeps: it costs then, too."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


@dataclass(frozen=True, kw_only=True)
class Clocks:
    """What a guard tells time by; tests have their own."""

    wall: Callable[[], float] = time.time
    """Unix time, which may jump."""
    steady: Callable[[], float] = steady
    sleep: Callable[[float], None] = time.sleep


class Meter:
    """Hours that the machine has cost so far."""

    def __init__(self, hours: float, steady: Callable[[], float]) -> None:
        self._hours, self._steady, self._began = hours, steady, steady()

    @property
    def hours(self) -> float:
        return self._hours + (self._steady() - self._began) / 3600


class Notebook:
    """guard.json, kept up to date. A full disk loses what is new, and stops nothing."""

    def __init__(self, path: Path, meter: Meter, wall: Callable[[], float]) -> None:
        self._path, self._meter, self._wall = path, meter, wall
        self.memory = Memory.read(path) or Memory(time=wall(), hours=0.0)

    def note(self, **changes: Any) -> None:
        self.memory = replace(self.memory, time=self._wall(), hours=self._meter.hours, **changes)
        with contextlib.suppress(OSError):
            self.memory.write(self._path)


def remembered(project: Path, budget: Budget) -> Memory | None:
    """The newest memory of this machine, of whichever run."""
    found = (Memory.read(folder / MEMORY) for folder, job in jobs(project) if job.limits.since == budget.since)
    return max(filter(None, found), key=lambda memory: memory.time, default=None)


def hours_so_far(budget: Budget, memory: Memory | None, now: float, up_seconds: float) -> float:
    """`now` is Unix time, `up_seconds` how long the machine has been up.

    >>> hours_so_far(Budget(since=1000.0), Memory(time=4600.0, hours=1.0), now=90000.0, up_seconds=1800.0)
    1.5
    """
    if memory is None:
        return max(0.0, now - budget.since) / 3600 if budget.since else 0.0
    return memory.hours + min(max(0.0, now - memory.time), up_seconds) / 3600


def up_seconds() -> float:
    """Since the machine, or the container that it is, was started."""
    try:
        return max(0.0, time.time() - psutil.Process(1).create_time())
    except psutil.Error:
        return max(0.0, time.time() - psutil.boot_time())
