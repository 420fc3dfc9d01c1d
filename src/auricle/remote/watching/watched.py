"""One machine that is watched: whether it answers, what its runs say, their copies here.

    look    every few seconds, never waits for a transfer      ─► lost, back, guard, budget, ended, failed
    carry   in a thread of its own, as long as it takes        ─► copies ─► alarms that stand in them; rescue

What was done for a run is noted when it has worked; what failed is told once and tried again.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auricle.core.errors import AuricleError
from auricle.core.events import Event
from auricle.remote.connection import RemoteError, Unreachable
from auricle.remote.look import Look, Run, look
from auricle.remote.machine.budget import is_settled
from auricle.remote.machine.job import MACHINE_EVENTS
from auricle.remote.place import Place
from auricle.remote.pull import EVENTS, KEEP, Transfer, pull, pull_files
from auricle.remote.status import remember, remembered
from auricle.remote.watching import rescue
from auricle.remote.watching.alarms import Alarm
from auricle.remote.watching.memory import Memory

ANSWER_SECONDS, PAUSE_SECONDS, AGAIN_SECONDS = 10.0, 1.0, 8.0
"""A machine is lost when it answers neither within the first nor, asked again, within the last."""
FILES_SECONDS, BLIND_SECONDS = 10.0, 30.0
"""Small files are fetched so often at most; and so often where no guard says whether there is more."""
RETRY_SECONDS = 300.0
"""What failed is tried again after this."""
NEVER_SEEN = "never seen"


@dataclass(frozen=True, kw_only=True)
class Settings:
    to: Path
    """Where run folders go."""
    environ: Mapping[str, str]
    progress: Transfer
    keep: int = KEEP


class Watched:
    """`tell` takes alarms, `report` what is merely worth a line; neither raises anything."""

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
        self._copy_after: dict[str, float] = {}
        """Run → when its copy, which fails, is tried again."""
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
        if was_lost := self.memory.ends(self.machine, "lost"):
            self._alarm("back", f"answers again; {self._standing(found)}")
        if was_lost or any(run.exit is None for run in found.runs):
            self.memory.ends(self.machine, "stopped")
        for run in found.runs:
            self._judge(found, run)
        return True

    def failed(self, work: str, error: Exception) -> None:
        """Tells once of what nobody expected. `work`: look or carry."""
        if self.memory.begins(self.machine, f"{work} failed"):
            self._alarm("failed", f"is not watched as it should be: {type(error).__name__}: {error} (in {work}); it is "
                                  "tried again")

    def worked(self, work: str) -> None:
        self.memory.ends(self.machine, f"{work} failed")

    def _asked(self) -> tuple[Look, str]:
        try:
            return look(self.place, ANSWER_SECONDS)
        except Unreachable:
            time.sleep(PAUSE_SECONDS)
            return look(self.place, AGAIN_SECONDS)

    def _lost(self, error: RemoteError) -> None:
        found, age = (self._found, time.monotonic() - self._found_at) if self._found else remembered(self.place)
        if self.memory.begins(self.machine, "lost") and not self.memory.holds(self.machine, "stopped"):
            was = f"; when it last did: {self._standing(found)}" if found else ""
            said = str(error).removeprefix(f"{self.machine}: ")
            told = f"does not answer ({said.partition(';')[0]})" if isinstance(error, Unreachable) else said
            self._alarm("lost", f"{told}{was}")
        if found:
            for run in found.runs:
                self._judge_cost(run, found.heartbeat_age(run) + age, "if it still runs")

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
                well = run.exit.is_well
                what = "ended" if well else f"failed with code {run.exit.code}"
                self._alarm("ended" if well else "failed", f"{what}: {run.exit.reason}{_progress(run)}", run)
        self._hear(found, run)
        if found.is_guarded(run) or (run.exit and not self._bills_on(found, run)):
            if self.memory.ends(scope, "guard") and found.is_guarded(run):
                self._alarm("back", "its guard watches again", run)
            self.memory.ends(scope, "budget")
            return
        if self.memory.begins(scope, "guard"):
            lacks = (f"no guard is left there to end the machine, which costs on: auricle remote release {self.machine}"
                     if run.exit else "nobody keeps its budget and its mirror")
            self._alarm("guard", f"{found.phase(run)}: {lacks}", run)
        self._judge_cost(run, found.heartbeat_age(run), "and nobody there ends it")

    def _bills_on(self, found: Look, run: Run) -> bool:
        """Whether a limit was to end the machine after its newest run, which has ended, and nobody there looks. One
        that is reached is enforced from here."""
        newest = max(found.runs, key=lambda other: other.job.created)
        if run is not newest or is_settled(run.job.limits, can_end=True) or (run.state and run.state.limit):
            return False
        if not all(other.exit and not found.is_guarded(other) for other in found.runs):
            return False
        return self.place.project.machine(self.place.connection.target).id is not None

    def _hear(self, found: Look, run: Run) -> None:
        """What its guard warns of, where no copy here says so: before its first event, on the further machines of a
        run, and while copying fails. A sentence that differs in its numbers alone is none that is new."""
        state, scope = run.state, self._scope(run)
        if state is None or (state.events_bytes and not self.memory.holds(scope, "copy")):
            return
        if not found.is_guarded(run) and state.time <= self._since:
            return
        heard = self._heard(run)
        for kind, sentence in [*(("alarm", alarm) for alarm in state.alarms), ("limit", state.limit)]:
            if sentence and _without_numbers(sentence) not in heard:
                heard = [*heard, _without_numbers(sentence)]
                self._alarm(kind, sentence, run)
        self.memory.note(scope, heard=[run.job.created, heard])

    def _heard(self, run: Run) -> list[str]:
        """Since this start of it."""
        of, heard = self.memory.get(self._scope(run), "heard", [None, []])
        return heard if of == run.job.created else []

    def _judge_cost(self, run: Run, seconds: float, remark: str) -> None:
        """Where no guard says what it costs: by the clock, `seconds` after one last did."""
        limits, hours = run.job.limits, (run.state.hours if run.state else 0.0) + seconds / 3600
        if run.exit or limits.max_cost is None or limits.price_per_hour is None:
            return
        spent = hours * limits.price_per_hour
        if spent > limits.max_cost and self.memory.begins(self._scope(run), "budget"):
            self._alarm("budget", f"its machine cost some ${spent:.2f} by now, more than max_cost "
                                  f"${limits.max_cost:.2f}, {remark}: auricle remote release {self.machine}", run)

    # -- copies, and what stands in them --------------------------------------------------------------------------

    def carry(self) -> None:
        """Everything that may take long, for each run. A run that fails keeps no other from it; a machine that does not
        answer ends the round. A machine is ended when all of its runs were copied."""
        if (found := self._found) is None:
            return
        for run in found.runs:
            try:
                self._rescue(found, run)
                self._copy(found, run)
                self._read_alarms(run)
            except Unreachable:
                return
            except (AuricleError, OSError, ValueError) as error:
                self._say_once(str(error))
        self._end_machine(found)

    def _copy(self, found: Look, run: Run) -> None:
        state, (before, at) = run.state, self._stamps.get(run.key, (None, float("-inf")))
        guarded = rescue.is_all_told(run) if run.exit else found.is_guarded(run)
        stamp = (run.exit, state and (state.events_bytes, state.limit, state.alarms, state.saved_step, state.safe_step))
        waited = time.monotonic() - at
        if stamp == before and (run.exit or guarded or waited < BLIND_SECONDS):
            return
        if run.exit is None and waited < FILES_SECONDS:
            return
        if state is None or not state.events_bytes or time.monotonic() < self._copy_after.get(run.key, 0.0):
            return
        try:
            self._fetch(run, in_full=not guarded or self._tried.get(run.key) != state.saved_step)
        except Unreachable:
            raise
        except (AuricleError, OSError, ValueError) as error:
            self._not_copied(run, error)
            return
        self._stamps[run.key] = stamp, time.monotonic()
        self.memory.ends(self._scope(run), "copy failed once")
        if self.memory.ends(self._scope(run), "copy"):
            self._alarm("back", "it is copied here again", run)

    def _not_copied(self, run: Run, error: Exception) -> None:
        """The first time it may be the link's mood."""
        if self.memory.begins(self._scope(run), "copy failed once"):
            self._say_once(str(error))
            return
        self._copy_after[run.key] = time.monotonic() + RETRY_SECONDS
        if self.memory.begins(self._scope(run), "copy"):
            self._alarm("copy", f"it is not copied here: {error}", run)

    def _fetch(self, run: Run, *, in_full: bool) -> None:
        folder, saved = self._folder(run), run.state.saved_step if run.state else None
        if in_full:
            self._copied.pop(run.key, None)
            self._tried.pop(run.key, None)
            pulled = pull(self.place, run, folder, keep=self.settings.keep, report=self._say_once,
                          progress=self.settings.progress)
            self._copied[run.key], self._tried[run.key] = pulled.step, saved
            if pulled.arrived:
                self._report(f"{folder}: {', '.join(pulled.arrived)} verified")
        else:
            pull_files(self.place, run, folder)

    def _read_alarms(self, run: Run) -> None:
        """Of the machine that writes the events: several that train one run share its folder here."""
        if run.state is None or not run.state.events_bytes:
            return
        for name in (EVENTS, MACHINE_EVENTS):
            path, scope = self._folder(run) / name, self._scope(run)
            if not path.exists():
                continue
            before = self.memory.get(scope, name)
            place, events = _new_events(path, before or 0)
            self.memory.note(scope, **{name: place})
            for event in events:
                if event.kind in ("alarm", "limit") and (before is not None or event.time > self._since):
                    self._read_alarm(event.kind, str(event.values.get("message", "")), run)

    def _read_alarm(self, kind: str, message: str, run: Run) -> None:
        heard = self._heard(run)
        if (known := _without_numbers(message)) in heard:  # its guard said so before there was a copy
            self.memory.note(self._scope(run), heard=[run.job.created, [each for each in heard if each != known]])
        else:
            self._alarm(kind, message, run)

    # -- what is done for it --------------------------------------------------------------------------------------

    def _rescue(self, found: Look, run: Run) -> None:
        beat = run.state.time if run.state else run.job.created
        if rescue.needs_guard(found, run):
            self._once(run, "guard", "revived", beat, lambda: rescue.revive(self.place))
        secrets = rescue.lost_secrets(run, self.settings.environ)
        if secrets and run.runner:
            self._once(run, "secrets", "reconnected", [run.runner.boot_id, run.runner.pid],
                       lambda: rescue.reconnect(self.place, run, secrets))

    def _end_machine(self, found: Look) -> None:
        if self.memory.holds(self.machine, "stopped"):
            return
        for run in found.runs:
            if run.exit and rescue.is_overdue(found, run):
                self._once(run, "machine", "machine", run.exit.time, lambda key=run.key: self._end(key))
                if self.is_ended or self.memory.holds(self.machine, "stopped"):
                    return

    def _end(self, key: str) -> tuple[bool, str]:
        """Copying may have taken long: what the machine says now decides. → (whether it was ended, what came of it)"""
        found, _ = self._asked()
        run = next((one for one in found.runs if one.key == key), None)
        if run is None or run.state is None or not rescue.is_overdue(found, run):
            return False, ""
        is_done, told = rescue.end_machine(self.place, found, run, self._copied, self.settings.environ)
        if not is_done:
            return False, told
        self.is_ended = run.job.limits.on_limit == "release"
        if not self.is_ended:
            self.memory.begins(self.machine, "stopped")
        for one in found.runs:  # who starts it again is not stopped for another's limit
            self.memory.note(self._scope(one), machine=one.exit.time if one.exit else None)
        return True, f"{told} ({run.state.limit})"

    def _once(self, run: Run, kind: str, name: str, cause: Any, act: Callable[[], tuple[bool, str]]) -> None:
        """Does something once for the same cause. What fails is told once, and tried again after a while."""
        scope, now = self._scope(run), time.time()
        if self.memory.get(scope, name) == cause:
            return
        before, at, told = self.memory.get(scope, f"{name} failed", [None, 0.0, []])
        told = told if before == cause else []
        if before == cause and 0 <= now - at < RETRY_SECONDS:
            return
        try:
            is_done, said = act()
        except AuricleError as error:
            is_done, said = False, f"help from here failed, and is tried again: {error}"
        if said and said not in told:
            self._alarm(kind, said, run)
        if is_done:
            self.memory.note(scope, **{name: cause})
        else:
            self.memory.note(scope, **{f"{name} failed": [cause, now, [*told, said]]})

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


def _without_numbers(sentence: str) -> str:
    """
    >>> _without_numbers("the disk has 4.9 GB left")
    'the disk has # GB left'
    """
    return re.sub(r"\d+(\.\d+)?", "#", sentence)


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
