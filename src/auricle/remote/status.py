"""How the runs of many machines stand, all asked at once; a machine that does not answer is shown as it last was."""

import contextlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from auricle.core.errors import AuricleError
from auricle.remote.connection import RemoteError
from auricle.remote.look import Look, Run, look, parse
from auricle.remote.machine.job import Figures
from auricle.remote.place import Place

FIGURES = [entry.name for entry in fields(Figures)]
STATES = "states"
"""In `.auricle`: what each machine said when it last answered."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a machine answered, or why it did not and what it had said before."""

    place: Place
    found: Look | None
    error: AuricleError | None = None
    age_seconds: float = 0.0
    """Of `found`."""

    @property
    def machine(self) -> str:
        return str(self.place.connection.target)


@dataclass(frozen=True, kw_only=True)
class Row(Figures):
    """A run in plain values."""

    machine: str
    run: str | None
    state: str
    """training, stopping, ended …, guard is dead; `lost` where the machine does not answer, `no run`."""
    last_state: str | None = None
    """Of a lost machine."""
    seen_seconds_ago: float = 0.0
    error: str | None = None
    exit_code: int | None = None
    reason: str = ""
    hours: float | None = None
    event_age_seconds: float | None = None
    heartbeat_age_seconds: float | None = None
    session: str | None = None
    log: str | None = None

    def plain(self) -> dict[str, object]:
        return asdict(self)


def seen(places: Sequence[Place]) -> list[Seen]:
    """All machines, each in a thread of its own. No failure is an error here: see `Seen.error`."""
    if not places:
        return []
    with ThreadPoolExecutor(len(places)) as threads:
        return list(threads.map(see, places))


def see(place: Place) -> Seen:
    try:
        found, text = look(place)
    except RemoteError as error:
        before, age = remembered(place)
        return Seen(place=place, found=before, error=error, age_seconds=age)
    remember(place, text)
    return Seen(place=place, found=found)


def rows(machine: Seen) -> list[Row]:
    """A row a run; one row for a machine without runs."""
    runs = machine.found.runs if machine.found else []
    if not runs:
        state = "lost" if machine.error else "no run"
        return [Row(machine=machine.machine, run=None, state=state, error=_said(machine))]
    return [_row(machine, machine.found, run) for run in runs if machine.found]


def _row(machine: Seen, found: Look, run: Run) -> Row:
    state, phase = run.state, found.phase(run)
    values = {name: getattr(state, name) for name in FIGURES} if state else {}
    if state and _costs_on(found, run):
        hours = state.hours + found.heartbeat_age(run) / 3600
        values |= {"hours": hours, "cost": state.price_per_hour and state.price_per_hour * hours}
    if run.exit:
        values |= {"eta_seconds": None, "cost_to_end": None}
    event = found.clock - state.last_event + machine.age_seconds if state and state.last_event else None
    return Row(
        machine=machine.machine, run=run.name, state="lost" if machine.error else phase,
        last_state=phase if machine.error else None, seen_seconds_ago=machine.age_seconds, error=_said(machine),
        exit_code=run.exit.code if run.exit else None, reason=run.exit.reason if run.exit else "",
        event_age_seconds=event, heartbeat_age_seconds=found.heartbeat_age(run), session=run.session, log=run.log,
        **{"price_per_hour": run.job.limits.price_per_hour, **values})


def _costs_on(found: Look, run: Run) -> bool:
    """Whether its machine costs and no guard counts. Of runs that have ended, the one that was heard of last speaks for
    the machine."""
    ages = [found.heartbeat_age(other) for other in found.runs]
    return not found.is_guarded(run) and (run.exit is None or found.heartbeat_age(run) == min(ages))


def _said(machine: Seen) -> str | None:
    return str(machine.error) if machine.error else None


def remember(place: Place, text: str) -> None:
    """Notes what a machine said, for when it is gone. A disk that is full here is no reason to fail."""
    path = _path(place)
    with contextlib.suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        aside = path.with_name(f".{path.name}-{os.getpid()}")
        aside.write_text(json.dumps({"time": time.time(), "text": text}), encoding="utf-8")
        aside.replace(path)


def remembered(place: Place) -> tuple[Look | None, float]:
    """→ what it last said, and how many seconds ago."""
    try:
        known = json.loads(_path(place).read_bytes())
        return parse(known["text"]), max(0.0, time.time() - known["time"])
    except (OSError, ValueError, TypeError, KeyError):
        return None, 0.0


def _path(place: Place) -> Path:
    return place.project.folder / STATES / f"{place.connection.target.name}.json"
