"""One machine that is watched: whether it answers, what its runs say, their copies here.

    look    every few seconds, never waits for a transfer      ─► lost, back, guard, budget, ended, failed
    carry   in a thread of its own, as long as it takes        ─► copies ─► alarms that stand in them; rescue
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auricle.core.errors import AuricleError
from auricle.core.events import Event
from auricle.remote.connection import RemoteError, Unreachable
from auricle.remote.look import Look, Run, look
from auricle.remote.machine.job import MACHINE_EVENTS
from auricle.remote.place import Place
from auricle.remote.pull import EVENTS, KEEP, Transfer, pull, pull_files
from auricle.remote.status import remember
from auricle.remote.watching import rescue
from auricle.remote.watching.alarms import Alarm
from auricle.remote.watching.memory import Memory

ANSWER_SECONDS, PAUSE_SECONDS, AGAIN_SECONDS = 10.0, 1.0, 8.0
"""A machine is lost when it answers neither within the first nor, asked again, within the last."""
FILES_SECONDS, BLIND_SECONDS = 10.0, 30.0
"""Small files are fetched so often at most; and so often where no guard says whether there is more."""
NEVER_SEEN = "never seen"
WELL = (0, 75)
"""Exit codes of runs that ended as they should."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    to: Path
    """Where run folders go."""
    environ: Mapping[str, str]
    progress: Transfer
    keep: int = KEEP


class Watched:
    """`tell` takes alarms, `report` what is merely worth a line."""

    def __init__(self, place: Place, settings: Settings, memory: Memory, tell: Callable[[Alarm], None],
                 report: Callable[[str], None]) -> None:
        self.place, self.settings, self.memory = place, settings, memory
        self.machine = str(place.connection.target)
        self.is_ended = False
        """There is nothing to watch any more."""
        self._tell, self._report = tell, report
        self._found: Look | None = None
        self._found_at = 0.0
        self._since = memory.since
        """What happened before is no news; by the machine's clock."""
        self._copied: dict[str, int | None] = {}
        """Run → step of its newest checkpoint that is verified here …"""
        self._tried: dict[str, int | None] = {}
        """… and the one that was asked for then: a damaged one is not fetched again and again."""
        self._stamps: dict[str, tuple[Any, float]] = {}
        self._said: set[str] = set()

    # -- whether it answers ---------------------------------------------------------------------------------------

    def look(self) -> bool:
        """→ whether it answered."""
        try:
            found, text = self._asked()
        except RemoteError as error:
            self._lost(error)
            return False
        remember(self.place, text)
        self._found, self._found_at = found, time.monotonic()
        self._since = self.memory.since + found.clock - time.time()
        if self.memory.ends(self.machine, "lost"):
            self._alarm("back", f"answers again; {self._standing(found)}")
        for run in found.runs:
            self._judge(found, run)
        return True

    def _asked(self) -> tuple[Look, str]:
        try:
            return look(self.place, ANSWER_SECONDS)
        except Unreachable:
            time.sleep(PAUSE_SECONDS)
            return look(self.place, AGAIN_SECONDS)

    def _lost(self, error: RemoteError) -> None:
        if self.memory.begins(self.machine, "lost"):
            was = f"; when it last did: {self._standing(self._found)}" if self._found else ""
            said = str(error).removeprefix(f"{self.machine}: ")
            told = f"does not answer ({said.partition(';')[0]})" if isinstance(error, Unreachable) else said
            self._alarm("lost", f"{told}{was}")
        for run in self._found.runs if self._found else ():
            self._judge_cost(run, time.monotonic() - self._found_at)

    def _standing(self, found: Look) -> str:
        told = [f"{run.name} {found.phase(run)}{_progress(run)}" for run in found.runs]
        prices = [run.job.limits.price_per_hour for run in found.runs if run.job.limits.price_per_hour]
        return f"{', '.join(told) or 'no run'}{f'; it costs ${prices[-1]:.2f} an hour' if prices else ''}"

    # -- what its runs say ----------------------------------------------------------------------------------------

    def _judge(self, found: Look, run: Run) -> None:
        scope = self._scope(run)
        before, now = self.memory.get(scope, "exit", NEVER_SEEN), run.exit.time if run.exit else None
        if before != now:
            self.memory.note(scope, exit=now)
            if run.exit and (before != NEVER_SEEN or run.exit.time > self._since):
                well = run.exit.code in WELL
                what = "ended" if well else f"failed with code {run.exit.code}"
                self._alarm("ended" if well else "failed", f"{what}: {run.exit.reason}{_progress(run)}", run)
        if run.exit or found.is_guarded(run):
            if self.memory.ends(scope, "guard"):
                self._alarm("back", "its guard watches again", run)
            self.memory.ends(scope, "budget")
            return
        if self.memory.begins(scope, "guard"):
            self._alarm("guard", f"{found.phase(run)}: nobody keeps its budget and its mirror", run)
        self._judge_cost(run, found.heartbeat_age(run))

    def _judge_cost(self, run: Run, seconds: float) -> None:
        """Where no guard says what it costs: by the clock, `seconds` after one last did."""
        limits, hours = run.job.limits, (run.state.hours if run.state else 0.0) + seconds / 3600
        if run.exit or limits.max_cost is None or limits.price_per_hour is None:
            return
        spent = hours * limits.price_per_hour
        if spent > limits.max_cost and self.memory.begins(self._scope(run), "budget"):
            self._alarm("budget", f"its machine cost some ${spent:.2f} by now, more than max_cost "
                                  f"${limits.max_cost:.2f}, and nobody there ends it: auricle remote release "
                                  f"{self.machine}", run)

    # -- copies, and what stands in them --------------------------------------------------------------------------

    def carry(self) -> None:
        """Everything that may take long, for each run. A run that fails keeps no other from it."""
        found = self._found
        for run in found.runs if found else ():
            try:
                self._rescue(found, run)
                self._copy(found, run)
                self._read_alarms(run)
                self._end_machine(found, run)
            except Unreachable:
                return
            except (AuricleError, OSError, ValueError) as error:
                self._say_once(str(error))

    def _copy(self, found: Look, run: Run) -> None:
        state, (before, at) = run.state, self._stamps.get(run.key, (None, float("-inf")))
        guarded = run.exit is not None or found.is_guarded(run)
        stamp = (run.exit, state and (state.events_bytes, state.limit, state.alarms, state.saved_step, state.safe_step))
        waited = time.monotonic() - at
        if stamp == before and (guarded or waited < BLIND_SECONDS):
            return
        if run.exit is None and waited < FILES_SECONDS:
            return
        if state is None or not state.events_bytes:
            return
        folder, saved = self._folder(run), state.saved_step
        if not guarded or (saved is not None and self._tried.get(run.key) != saved):
            pulled = pull(self.place, run, folder, keep=self.settings.keep, report=self._say_once,
                          progress=self.settings.progress)
            self._copied[run.key], self._tried[run.key] = pulled.step, saved
            if pulled.arrived:
                self._report(f"{folder}: {', '.join(pulled.arrived)} verified")
        else:
            pull_files(self.place, run, folder)
        self._stamps[run.key] = stamp, time.monotonic()

    def _read_alarms(self, run: Run) -> None:
        for name in (EVENTS, MACHINE_EVENTS):
            path, scope = self._folder(run) / name, self._scope(run)
            if not path.exists():
                continue
            before = self.memory.get(scope, name)
            place, events = _new_events(path, before or 0)
            self.memory.note(scope, **{name: place})
            for event in events:
                if event.kind in ("alarm", "limit") and (before is not None or event.time > self._since):
                    self._alarm(event.kind, str(event.values.get("message", "")), run)

    def _rescue(self, found: Look, run: Run) -> None:
        """Each once for the same cause."""
        scope, beat = self._scope(run), run.state.time if run.state else run.job.created
        if rescue.needs_guard(found, run) and self.memory.get(scope, "revived") != beat:
            self.memory.note(scope, revived=beat)
            self._alarm("guard", rescue.revive(self.place), run)
        secrets = rescue.lost_secrets(run, self.settings.environ)
        if secrets and run.runner and self.memory.get(scope, "reconnected") != [run.runner.boot_id, run.runner.pid]:
            self.memory.note(scope, reconnected=[run.runner.boot_id, run.runner.pid])
            self._alarm("secrets", rescue.reconnect(self.place, run, secrets), run)

    def _end_machine(self, found: Look, run: Run) -> None:
        if not rescue.is_overdue(found, run, self._copied.get(run.key)) or run.exit is None:
            return
        if self.memory.get(self._scope(run), "machine") == run.exit.time:
            return
        self.memory.note(self._scope(run), machine=run.exit.time)
        self.is_ended, said = rescue.end_machine(self.place, run, self.settings.environ)
        if said:
            self._alarm("machine", f"{said} ({run.state.limit})" if self.is_ended and run.state else said, run)

    def _folder(self, run: Run) -> Path:
        return self.settings.to / run.name

    def _scope(self, run: Run) -> str:
        return f"{self.machine} {run.name}"

    def _alarm(self, kind: str, text: str, run: Run | None = None) -> None:
        self._tell(Alarm(machine=self.machine, kind=kind, text=text, run=run.name if run else None, time=time.time()))

    def _say_once(self, sentence: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            self._report(sentence)


def _progress(run: Run) -> str:
    state = run.state
    if state is None:
        return ""
    saved = "nothing saved" if state.saved_step is None else f"saved {state.saved_step}"
    return f" at step {state.step} ({saved}{f', safe {state.safe_step}' if state.safe_step is not None else ''})"


def _new_events(path: Path, place: int) -> tuple[int, list[Event]]:
    """Whole lines after a place in a log → (the place after them, their events). A log that shrank is read no further.
    """
    with path.open("rb") as stream:
        stream.seek(place)
        read = stream.read()
        size = stream.seek(0, 2)
    whole = read[:read.rfind(b"\n") + 1]
    return (place + len(whole) if size >= place else size), list(_decoded(whole))


def _decoded(lines: bytes) -> Iterator[Event]:
    for line in lines.splitlines():
        try:
            yield Event.from_json(line.decode("utf-8", "replace"))
        except (ValueError, TypeError, AttributeError):
            continue
