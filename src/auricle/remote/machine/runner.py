"""Keeps the trainer of a run going: what tmux shows.

    tmux ─► run KEY ─► auricle train … (a process group of its own) ─► its output to the terminal and console.log

A trainer that was preempted or hung (exit 75) without being asked to end is started again. Ctrl-C in the terminal, and
SIGTERM and SIGHUP to this process, ask the trainer to save and end; the run is not started again then.
"""

import contextlib
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from auricle.core.events import Newest
from auricle.remote.machine.console import Console
from auricle.remote.machine.job import (
    AGAIN,
    CONSOLE,
    EXIT,
    GUARD_LOCK,
    RUNNER,
    STOP,
    Exit,
    Job,
    Runner,
    Stop,
    session_of,
)
from auricle.remote.machine.processes import holder
from auricle.remote.machine.starting import start_guard
from auricle.store.run_lock import boot_id

ENDED_BY_REQUEST = (AGAIN, -signal.SIGTERM, -signal.SIGINT, -signal.SIGKILL, 128 + signal.SIGTERM,
                    128 + signal.SIGINT)
"""A trainer that is asked before it can listen, or twice, ends by the signal itself; one that does not end is killed.
"""
MOST_STARTS = 3
"""At one step; a run that ends there again will not get further."""
SECONDS_BETWEEN_STARTS = 2.0
LONG_SECONDS = 1200.0
"""Machines wait for each other for less than this."""
WRITES = 30
GUARD_SECONDS = 5.0
PAUSED = ("training.report_to=[]", "training.hub_model_id=null")
"""Trackers and the hub need secrets; a run whose secrets were lost goes on without them."""


def train_command(job: Job, secrets: Mapping[str, str]) -> list[str]:
    many = ["--nproc", str(job.nproc)] if job.nproc > 1 else []
    if job.nnodes > 1:
        many += ["--nnodes", str(job.nnodes), "--node-rank", str(job.node_rank), "--rendezvous", job.rendezvous or ""]
    paused = PAUSED if set(job.secrets) - set(secrets) and "--from" not in job.train else ()
    return [sys.executable, "-m", "auricle", "train", *many, *job.train, *paused]


def open_many_files() -> None:
    """As many at once as the machine lets us: loaders pass tensors as open files."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Supervisor:
    """One run, from its first trainer to the end of its last one."""

    def __init__(self, project: Path, folder: Path, job: Job, secrets: Mapping[str, str],
                 terminal: int | None = 1) -> None:
        self.project, self.folder, self.job, self.secrets = project, folder, job, secrets
        self.console = Console(folder / CONSOLE, terminal)
        self._signals, self._wake = os.pipe()
        self._asked: list[int] = []
        self._guard: subprocess.Popen[bytes] | None = None
        self._looked_at_guard = time.monotonic()
        self._events = Newest(project / job.run_folder / "events.jsonl")
        session = session_of(project, job.run)
        self.runner = Runner(pid=os.getpid(), trainer=None, boot_id=boot_id(), starts=0, secrets=sorted(secrets),
                             session=session if f"/{session}," in os.environ.get("TMUX", "") else None)

    def run(self) -> Exit:
        """Returns when the run has ended, and exit.json says how."""
        self._note()
        tries: dict[int, int] = {}
        with self._listening():
            while True:
                began = time.time()
                code = self._train()
                self._note(trainer=None)
                tries = self._counted(tries, time.time() - began)
                if not self._goes_on(code, tries[self._step()]):
                    return self._end(code, began, tries[self._step()])
                self._say(f"the trainer ended at step {self._step()} with all saved; it is started again")

    def _counted(self, tries: dict[int, int], lived: float) -> dict[int, int]:
        """Starts by the step at which they ended. Of several machines one alone has events: on the others it counts
        that the ranks met."""
        self._events.update()
        before = {} if not self._events.bytes and lived > LONG_SECONDS else tries
        return before | {self._step(): before.get(self._step(), 0) + 1}

    def _end(self, code: int, began: float, tries: int) -> Exit:
        end = Exit(code=self._code(code), reason=self._reason(code, began, tries), time=time.time())
        self._say(f"{self.job.run}: {end.reason} (code {end.code})")
        self.console.close()
        for _ in range(WRITES):  # a full disk may get room
            with contextlib.suppress(OSError):
                end.write(self.folder / EXIT)
                break
            time.sleep(SECONDS_BETWEEN_STARTS)
        return end

    def _train(self) -> int:
        """Runs the trainer once. → its exit code"""
        if self._was_asked():
            return AGAIN
        environment = {**os.environ, **self.job.environment, **self.secrets, "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(train_command(self.job, self.secrets), cwd=self.project, env=environment,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   start_new_session=True)
        self._note(trainer=process.pid, starts=self.runner.starts + 1)
        assert process.stdout is not None
        with process.stdout as printed:
            self._follow(process, printed.fileno())
        return process.wait()

    def _follow(self, process: "subprocess.Popen[bytes]", printed: int) -> None:
        """Until the trainer has ended and its last words are shown. What it started may hold the pipe for longer."""
        sources = [printed, self._signals]
        while True:
            ended = process.poll() is not None
            ready = select.select(sources, [], [], 0.0 if ended else 1.0)[0]
            if self._signals in ready:
                for number in os.read(self._signals, 64):
                    self._ask(number, process)
            block = os.read(printed, 1 << 16) if printed in ready else b""
            if block:
                self.console.write(block)
            elif printed in ready:
                sources.remove(printed)
            elif ended:
                return
            if not self._asked and (self.folder / STOP).exists():
                self._ask(signal.SIGTERM, process)  # whoever wrote it may have been killed before telling us
            self._keep_guard()

    def _ask(self, number: int, trainer: "subprocess.Popen[bytes]") -> None:
        """The trainer alone is told, not its group: it tells its ranks itself. A second Ctrl-C ends it at once, as it
        does without us; other requests may be repeated."""
        if not self._asked or number == signal.SIGINT:
            trainer.send_signal(signal.SIGTERM)
        self._asked.append(number)
        if number == signal.SIGINT and not (self.folder / STOP).exists():
            Stop(reason="Ctrl-C in its terminal", time=time.time()).leave(self.folder / STOP)

    def _was_asked(self) -> bool:
        """Also by what came while no trainer ran."""
        while select.select([self._signals], [], [], 0.0)[0]:
            self._asked += os.read(self._signals, 64)
        return bool(self._asked) or (self.folder / STOP).exists()

    def _goes_on(self, code: int, tries: int) -> bool:
        if code != AGAIN or tries > MOST_STARTS or self._was_asked():
            return False
        select.select([self._signals], [], [], SECONDS_BETWEEN_STARTS)
        return not self._was_asked()

    def _code(self, code: int) -> int:
        return AGAIN if self._was_asked() and code in ENDED_BY_REQUEST else code

    def _reason(self, code: int, began: float, tries: int) -> str:
        if code == 0:
            return f"done, {self._step()} steps"
        if self._was_asked() and code in ENDED_BY_REQUEST:
            stop = Stop.read(self.folder / STOP)
            asked = signal.Signals(self._asked[0]).name if self._asked else STOP
            by = stop.reason if stop else f"asked by {asked}"
            return f"stopped ({by}) at step {self._step()}; the same start goes on"
        told = self._events["end"]
        message = told.values.get("message") if told and told.time >= began else None
        if code == AGAIN and tries > MOST_STARTS:
            return f"ended {tries} times at step {self._step()}, so it is not started again: {message or 'see the log'}"
        killed = f"was ended by {signal.Signals(-code).name}" if code < 0 else "failed"
        return f"{killed}: {message or f'the reason is at the end of {CONSOLE}'}"

    def _step(self) -> int:
        found = [event.step for kind in ("train", "save", "resume", "end") if (event := self._events[kind])]
        return max(found, default=0)

    def _note(self, **changes: object) -> None:
        self.runner = replace(self.runner, **changes)  # pyright: ignore[reportArgumentType]
        with contextlib.suppress(OSError):  # a full disk ends no training
            self.runner.write(self.folder / RUNNER)

    def _say(self, sentence: str) -> None:
        self.console.write(f"\r\n{sentence}\r\n".encode())

    def _keep_guard(self) -> None:
        """A guard that was killed is started again: without one nothing ends this machine."""
        if time.monotonic() - self._looked_at_guard < GUARD_SECONDS:
            return
        self._looked_at_guard = time.monotonic()
        if self._guard and self._guard.poll() is None:
            return
        if holder(self.folder / GUARD_LOCK) is None:
            with contextlib.suppress(OSError):
                self._guard = start_guard(self.project, self.folder, self.secrets)

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """Signals arrive as bytes of a pipe, so that none is lost and none interrupts."""
        os.set_blocking(self._wake, False)
        handlers: dict[int, Callable | int | None] = {}
        wake = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            handlers[number] = signal.signal(number, lambda *_: None)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wake)
            for number, handler in handlers.items():
                signal.signal(number, handler)
