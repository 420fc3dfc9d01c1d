"""Watches over a run and its machine: the heartbeat, the budget, the mirror. It outlives the trainer and the login.

    every 2 s: look ─► rules (budget.py) ─► act ─► state.json
                                             ├─ stop.json, SIGTERM; later SIGKILL, of the runner too
                                             ├─ the mirror's process, where none runs
                                             └─ the provider: stop or release this machine, once

What must not be forgotten when the guard itself is killed is in guard.json.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil

from auricle.core.errors import AuricleError
from auricle.remote.machine import budget as rules
from auricle.remote.machine import concerns, processes, views
from auricle.remote.machine.alarms import Alarms
from auricle.remote.machine.budget import Copied, Move, Seen
from auricle.remote.machine.ender import Ender
from auricle.remote.machine.job import (
    AGAIN,
    EXIT,
    GUARD_LOCK,
    HEARTBEAT_SECONDS,
    JOB,
    MEMORY,
    STATE,
    STOP,
    Exit,
    Job,
    Phase,
    State,
    Stop,
)
from auricle.remote.machine.journal import Journal, quiet
from auricle.remote.machine.meter import Clocks, Meter, Notebook, hours_so_far, remembered, up_seconds
from auricle.remote.machine.starting import start_boot
from auricle.remote.renting.inside import Power
from auricle.remote.renting.inside import power as power_inside
from auricle.store.mirror_pusher import start_pusher
from auricle.store.run_lock import boot_id

LOST_SECONDS = 20.0
"""A run that has no process for so long, and no end, was lost: it is started again …"""
MOST_REVIVALS = 3
"""… so often."""
RUNNER_SECONDS = 30.0
"""A runner that has not ended so long after its trainer was killed is killed too."""
EVENT_SECONDS = 60.0
PUSHER_SECONDS = 30.0
IDLE_PERCENT = 5.0
"""A GPU that is busier than this is being used, by whomever."""


class Guard:
    """Of one run. `look` is one heartbeat."""

    def __init__(self, project: Path, folder: Path, job: Job, *, report: Callable[[str], None],
                 power: Callable[[], Power | None] = power_inside, clocks: Clocks | None = None) -> None:
        self.project, self.folder, self.job, self.budget = project, folder, job, job.limits
        self.run_folder = project / job.run_folder
        self.clocks = clocks or Clocks()
        self.journal = Journal(self.run_folder, report)
        self.alarms = Alarms(lambda sentence: self.journal.write("alarm", self._step, message=sentence))
        before = remembered(project, self.budget)
        self.meter = Meter(hours_so_far(self.budget, before, self.clocks.wall(), up_seconds()), self.clocks.steady)
        self.notes = Notebook(folder / MEMORY, self.meter, self.clocks.wall)
        self.ender = Ender(power, self.notes, self.clocks.wall)
        if self.notes.memory.idle_only:
            self.budget = replace(self.budget, max_cost=None, max_hours=None)
        self._growth = views.Growth(self.run_folder / "events.jsonl", self.clocks.steady)
        self._lag, self._gpus, self._step, self._limit = views.Lag(), views.Gpus(), 0, self.notes.memory.limit
        began = self.clocks.steady()
        self._trained_at = self._alive_at = self._fed_at = began
        self._asked_at: float | None = None
        self._killing_since: float | None = None
        self._others_fed_at: dict[Path, float] = {}
        self._told_at = self._pushed_at = float("-inf")

    def look(self) -> bool:
        """One heartbeat. → whether there is still something to watch over"""
        mirror, silent = views.mirrored(self.run_folder, self._ended_at(self.folder)), self._growth.look()
        gpu, vram = self._gpus.look()
        seen = self._seen(mirror, silent, gpu)
        self._judge(seen)
        if self._limit:
            seen = replace(seen, others=tuple(self._others()))
        decision = rules.decide(self.budget, seen, self._limit)
        self._act(decision.move)
        self._keep_mirroring(mirror, seen)
        self._revive(mirror, seen)
        self.alarms.update(self._concerns(mirror, seen, decision.alarm), self.clocks.steady())
        self._tell(mirror, seen, gpu, vram)
        done = self._phase(mirror, seen) in ("ended", "failed")
        return not done or not rules.is_settled(self.budget, can_end=self.ender.can_stop or self.ender.can_release)

    # -- what it sees ---------------------------------------------------------------------------------------------

    def _seen(self, mirror: views.Mirrored, silent: float, gpu: float | None) -> Seen:
        now, trains = self.clocks.steady(), processes.trains(self.project, self.folder, self.job)
        others = any(processes.trains(self.project, folder, job) for folder, job in processes.jobs(self.project)
                     if folder != self.folder)
        if trains:
            self._alive_at = now
        asked_at = self._asked_at or (now if (self.folder / STOP).exists() else None)
        self._asked_at = asked_at if trains else None
        if trains or others or (gpu or 0.0) >= IDLE_PERCENT or not self._is_copied(mirror):
            self._trained_at = now
        return Seen(
            hours=self.meter.hours, idle_minutes=(now - self._trained_at) / 60, trains=trains, others_train=others,
            asked_seconds=None if self._asked_at is None else now - self._asked_at, silent_seconds=silent,
            has_mirror=self.job.has_mirror and mirror.is_elsewhere, is_safe=mirror.is_safe,
            is_complete=self._is_mirrored(mirror), can_stop=self.ender.can_stop, can_release=self.ender.can_release)

    def _is_mirrored(self, mirror: views.Mirrored) -> bool:
        safe = mirror.is_safe or not mirror.is_elsewhere
        return not self.job.has_mirror or (safe and mirror.is_complete)

    def _is_copied(self, mirror: views.Mirrored) -> bool:
        """Enough to be idle: a target that fails, or is none of this run any more, must not keep a machine for ever."""
        return not (self.job.has_mirror and mirror.is_elsewhere) or mirror.is_safe or mirror.has_copy

    def _ended_at(self, folder: Path) -> float:
        end = Exit.read(folder / EXIT)
        return min(end.time, self.clocks.wall()) if end else 0.0

    def _others(self) -> Iterator[Copied]:
        """The project's other runs, which lie on this disk too."""
        for folder, job in processes.jobs(self.project):
            if folder == self.folder:
                continue
            mirror = views.mirrored(self.project / job.run_folder, self._ended_at(folder))
            other = Copied(run=job.run, has_mirror=job.has_mirror and mirror.is_elsewhere, is_safe=mirror.is_safe,
                           is_complete=mirror.is_complete)
            if other.has_mirror and not (other.is_safe and other.is_complete):
                self._feed_other(folder, job)
            yield other

    def _phase(self, mirror: views.Mirrored, seen: Seen) -> Phase:
        end = Exit.read(self.folder / EXIT)
        if seen.trains:
            if (self.folder / STOP).exists():
                return "stopping"
            return "training" if self._has_begun() else "starting"
        if end is None:
            alone = self.clocks.steady() - self._alive_at
            return "lost" if alone > LOST_SECONDS else "starting"
        if not self._is_mirrored(mirror):
            return "saving elsewhere"
        return "ended" if end.is_well else "failed"

    def _has_begun(self) -> bool:
        """Whether the newest start of the trainer has made a step."""
        train, start = self._growth.newest["train"], self._growth.newest["run"]
        return train is not None and (start is None or train.time >= start.time)

    # -- what it does ---------------------------------------------------------------------------------------------

    def _judge(self, seen: Seen) -> None:
        """Which limit is reached; one that was is on record at once."""
        if not self.notes.memory.limit and (limit := rules.reached(self.budget, seen)):
            self.notes.note(limit=limit)
        limit = self.notes.memory.limit or rules.idle_limit(self.budget, seen)
        if limit and limit != self._limit:
            self._limit = limit
            self.journal.write("limit", self._step, message=self._limit_line())
        self._limit = limit

    def _act(self, move: Move) -> None:
        if move is Move.ASK:
            self._asked_at = self.clocks.steady()
            Stop(reason=self._limit, time=self.clocks.wall()).leave(self.folder / STOP)
            processes.ask_run_to_end(self.project, self.folder, self.job)
        elif move is Move.KILL:
            self._kill()
        elif move in (Move.STOP, Move.RELEASE) and self.ender.is_due():
            self.journal.write("limit", self._step, message=f"{self._limit}: {move.value}")
            self.ender.end(keep_disk=move is Move.STOP)
        if move is not Move.KILL:
            self._killing_since = None

    def _kill(self) -> None:
        """The trainer; later the runner too, where something holds it, and its exit.json is written for it."""
        now = self.clocks.steady()
        self._killing_since = now if self._killing_since is None else self._killing_since
        processes.kill_trainer(self.project, self.folder, self.job)
        if now - self._killing_since >= RUNNER_SECONDS and processes.kill_runner(self.folder):
            end = Exit(code=AGAIN, time=self.clocks.wall(),
                       reason=f"killed with its runner, which hung ({self._limit}); the same start goes on")
            with contextlib.suppress(OSError):
                end.write(self.folder / EXIT)

    def _keep_mirroring(self, mirror: views.Mirrored, seen: Seen) -> None:
        """What waits goes over also when the trainer, which starts that process too, has died."""
        now, wanted = self.clocks.steady(), self.job.has_mirror and (self.run_folder / "config.yaml").exists()
        wanted = wanted and (seen.trains or not self._is_mirrored(mirror))
        if not wanted or views.is_mirroring(self.run_folder):
            self._fed_at = now
        elif now - max(self._pushed_at, self._fed_at if seen.trains else 0.0) >= PUSHER_SECONDS:
            self._pushed_at = now
            start_pusher(self.run_folder)

    def _feed_other(self, folder: Path, job: Job) -> None:
        """What this machine waits for goes over also where that run's own guard is dead."""
        now, run_folder = self.clocks.steady(), self.project / job.run_folder
        if processes.trains(self.project, folder, job) or views.is_mirroring(run_folder):
            self._others_fed_at[folder] = now
        elif now - self._others_fed_at.setdefault(folder, now) >= PUSHER_SECONDS:
            self._others_fed_at[folder] = now
            with contextlib.suppress(OSError):
                start_pusher(run_folder)

    def _revive(self, mirror: views.Mirrored, seen: Seen) -> None:
        """A run whose runner and trainer were killed goes on, as after a restart of the machine."""
        if (self._phase(mirror, seen) != "lost" or self._limit or (self.folder / STOP).exists()
                or self.notes.memory.revivals >= MOST_REVIVALS):
            return
        self._alive_at = self.clocks.steady()
        self.notes.note(revivals=self.notes.memory.revivals + 1)
        self.journal.write("alarm", self._step, message="the run was killed, and is started again")
        start_boot(self.project, self.folder)

    def _concerns(self, mirror: views.Mirrored, seen: Seen, decided: str) -> dict[str, str]:
        """Subject → sentence."""
        is_lost = self._phase(mirror, seen) == "lost"
        behind = self._lag.periods(mirror, self.clocks.steady()) if seen.has_mirror else 0.0
        found = {"limit": decided, "provider": self.ender.alarm, **concerns.of_budget(self.budget),
                 **concerns.of_trainer(seen, has_begun=self._has_begun(), is_lost=is_lost),
                 **concerns.of_disk(self.project, self.run_folder), **concerns.of_mirrors(mirror, behind),
                 **concerns.of_secrets(self.folder, self.job)}
        return {about: sentence for about, sentence in found.items() if sentence}

    # -- what it tells --------------------------------------------------------------------------------------------

    def _limit_line(self) -> str:
        then = {"stop": "the machine is stopped", "release": "the machine is released", "keep": "the machine goes on"}
        return f"{self._limit}: the run is saved and ends, then {then[self.budget.on_limit]}"

    def _tell(self, mirror: views.Mirrored, seen: Seen, gpu: float | None, vram: float | None) -> None:
        """state.json and guard.json, and an event a minute."""
        told, price, end = views.figures(self._growth.newest), self.budget.price_per_hour, Exit.read(self.folder / EXIT)
        spent, left = rules.cost(self.budget, seen.hours), told["eta_seconds"] if seen.trains else 0.0
        both = {"hours": seen.hours, "price_per_hour": price, "cost": spent, "safe_step": mirror.safe_step,
                "cost_to_end": None if spent is None or left is None else spent + (price or 0.0) * left / 3600,
                "gpu_percent": gpu, "vram_gb": vram, "disk_free_gb": round(views.free_bytes(self.project) / 1e9, 2)}
        self._step = told["step"]
        State(time=self.clocks.wall(), run=self.job.run, phase=self._phase(mirror, seen), boot_id=boot_id(),
              saved_step=mirror.saved_step, limit=self._limit_line() if self._limit else "", alarms=self.alarms.shown,
              exit_code=end.code if end and not seen.trains else None, **both, **told).write(self.folder / STATE)
        self.notes.note()
        self.journal.flush()
        if seen.trains and self.clocks.steady() - self._told_at >= EVENT_SECONDS:
            self._told_at = self.clocks.steady()
            self.journal.write("machine", self._step, **both)


def guard(project: Path, folder: Path, *, report: Callable[[str], None]) -> None:
    """Watches until nothing is left to watch over. A failing disk is tried again at the next heartbeat."""
    job, report = Job.read(folder / JOB), quiet(report)
    held = processes.hold(folder / GUARD_LOCK)
    if job is None or held is None:
        report("nothing to watch over here, or another guard does")
        return
    _survive()
    with held:
        watch = Guard(project, folder, job, report=report)
        report(f"watching over {job.run}, which cost {watch.meter.hours:.2f} h of this machine so far")
        goes_on = True
        while goes_on:
            try:
                goes_on = watch.look()
            except (OSError, ValueError, TypeError, KeyError, psutil.Error, AuricleError) as error:
                report(f"{type(error).__name__}: {error}")
            _bury()
            watch.clocks.sleep(HEARTBEAT_SECONDS)
    report("the run has ended, and nothing is left to enforce")


def _bury() -> None:
    """Processes that mirrored, and have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _survive() -> None:
    """The kernel looks for others first when memory runs out, where it lets us ask for that."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("-500", encoding="ascii")
