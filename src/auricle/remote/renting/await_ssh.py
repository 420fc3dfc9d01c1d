"""From a machine that was just rented to one that answers over SSH."""

import subprocess
import time
from collections.abc import Callable
from dataclasses import replace

from auricle.remote.connection import Connection, Refused, RemoteError
from auricle.remote.project import Project
from auricle.remote.providers import Provider, ProviderError, Rented
from auricle.remote.target import Target, parse

UP_SECONDS = 15 * 60.0
"""An image of several GB is loaded in this time, or never."""
POLL_SECONDS, TELL_SECONDS, KNOCK_SECONDS = 5.0, 30.0, 20.0
REFUSED_SECONDS = 90.0
"""A machine may let a key in only some time after its server is up."""
MISSES = 3
"""A list may lack a machine that is there; so many times in a row it is gone."""
ENDED = ("stopped", "gone", "error", "exited", "offline", "unhealthy")
"""States from which a machine does not come up."""

Say = Callable[[str], None]


class Down(ProviderError):
    """The machine is gone, or does not come up."""


def await_ssh(provider: Provider, rented: Rented, project: Project, say: Say, *, is_new: bool,
              jump: Target | None = None) -> Target:
    """→ where it answers, through the jump. Raises Down; Refused where it does not let us in."""
    progress = Progress(say)
    misses, refused_since, cleared = 0, None, None
    while progress.seconds < UP_SECONDS:
        there = _look(provider, rented, progress)
        misses = misses + 1 if there is None else 0
        if misses == MISSES:
            raise Down(f"{rented.id}: has disappeared from {provider.name} after {clock(progress.seconds)}")
        if there and there.state in ENDED:
            raise Down(f"{rented.id}: is {there.state} at {provider.name} after {clock(progress.seconds)}")
        if there and there.address:
            target = replace(parse(there.address), jump=jump)
            if is_new and target != cleared:
                forget_pin(target, project)
                cleared = target
            try:
                Connection(target, project, is_new=is_new).run("true", timeout=KNOCK_SECONDS)
                say(f"{target}: answers after {clock(progress.seconds)}")
                return target
            except Refused:
                refused_since = refused_since or time.monotonic()
                if time.monotonic() - refused_since > REFUSED_SECONDS or not is_new:
                    raise
            except RemoteError:
                progress.tell(f"{target} does not answer yet")
        elif there:
            progress.tell(there.state)
        time.sleep(POLL_SECONDS)
    raise Down(f"{rented.id}: did not come up at {provider.name} within {clock(UP_SECONDS)}")


class Progress:
    """A line when something changes, and every half minute."""

    def __init__(self, say: Say) -> None:
        self._say, self._began = say, time.monotonic()
        self._last, self._told = "", 0.0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def tell(self, how: str) -> None:
        if how != self._last or self.seconds - self._told >= TELL_SECONDS:
            self._say(f"waiting for ssh: {how} ({clock(self.seconds)})")
            self._last, self._told = how, self.seconds


def _look(provider: Provider, rented: Rented, progress: Progress) -> Rented | None:
    """None where it is not listed; as it was where the provider cannot be asked now."""
    try:
        return next((machine for machine in provider.find(rented.run) if machine.id == rented.id), None)
    except ProviderError as error:
        progress.tell(str(error))
        return rented


def forget_pin(target: Target, project: Project) -> None:
    """A rented address and port had another machine before: its pinned key is no longer the one."""
    name = f"[{target.host}]:{target.port}" if target.port not in (None, 22) else target.host
    if project.known_hosts.exists():
        subprocess.run(["ssh-keygen", "-R", name, "-f", str(project.known_hosts)], stdin=subprocess.DEVNULL,
                       capture_output=True, check=False)


def clock(seconds: float) -> str:
    """
    >>> clock(75)
    '1:15'
    """
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
