"""Ends this machine through its provider, with the key that the provider put into it: once, and again where that fails.

It is on record before and after, so that a guard that was killed meanwhile does not do it again needlessly.
"""

from collections.abc import Callable

from auricle.core.errors import AuricleError
from auricle.remote.machine.meter import Notebook
from auricle.remote.providers import ProviderError
from auricle.remote.renting.inside import Power

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 15.0, 300.0
LINGERS_SECONDS = 600.0
"""A machine that still runs so long after it was ended is ended again."""


class Ender:
    """What can be done to this machine from inside, and whether it was done."""

    def __init__(self, find: Callable[[], Power | None], notes: Notebook, wall: Callable[[], float]) -> None:
        self._notes, self._wall = notes, wall
        self._power: Power | None = None
        self._no_power = ""
        try:
            self._power = find()
        except AuricleError as error:
            self._no_power = str(error)

    @property
    def can_stop(self) -> bool:
        return bool(self._power and self._power.inside.can_stop and self._power.provider.can_stop)

    @property
    def can_release(self) -> bool:
        return bool(self._power and self._power.inside.can_release)

    def is_due(self) -> bool:
        memory = self._notes.memory
        return not (memory.ending and 0.0 < memory.again - self._wall() <= LINGERS_SECONDS)

    def end(self, *, keep_disk: bool) -> None:
        """Call it when it `is_due`."""
        if self._power is None:
            return
        tries = self._notes.memory.tries + 1
        wait = min(FIRST_WAIT_SECONDS * 2 ** (tries - 1), LONGEST_WAIT_SECONDS)
        self._notes.note(ending="asked", tries=tries, again=self._wall() + wait)
        try:
            self._power.end(keep_disk=keep_disk)
        except ProviderError as error:
            self._notes.note(error=str(error))
        else:
            self._notes.note(ending="done", error="", again=self._wall() + LINGERS_SECONDS)

    @property
    def alarm(self) -> str:
        """What the user must know; empty where all is well."""
        memory = self._notes.memory
        if memory.error:
            return f"this machine could not be ended, is tried again, and costs: {memory.error}"
        if memory.ending == "done" and memory.again < self._wall():
            return "this machine was ended and still runs; it is ended again. Is its provider stuck?"
        return self._no_power
