"""Starts a run on this machine: its guard first, then its runner. Of two starts at once exactly one wins.

A start that fails leaves the guard: the machine costs all the same.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from auricle.core.errors import RunFolderError, UsageError
from auricle.remote.machine import boot, budget, starting
from auricle.remote.machine.handover import written_down
from auricle.remote.machine.job import (
    EXIT,
    GUARD_LOCK,
    JOB,
    LAUNCH_LOCK,
    MEMORY,
    RUNNER,
    STATE,
    STOP,
    Exit,
    Job,
    folder_of,
)
from auricle.remote.machine.meter import Memory, hours_so_far, remembered, up_seconds
from auricle.remote.machine.processes import hold, holder, runner_of
from auricle.store import run_lock, steps

GUARD_ENDS_SECONDS = 10.0


def launch(project: Path, job: Job, secrets: Mapping[str, str]) -> dict[str, Any]:
    """Starts a job with its secrets. → what `start` is told.

    Raises UsageError for a budget that is spent and for a secret among what is written down, RunFolderError where the
    run runs already or does not start.
    """
    secrets = {name: value for name in job.secrets if (value := os.environ.get(name))} | dict(secrets)
    refuse_written_down(job, secrets)
    folder = folder_of(project, job.run)
    with _alone(folder, job):
        _refuse_running(project, folder, job)
        refuse_spent(project, job)
        job = replace(job, secrets=sorted(secrets), created=job.created or time.time())
        try:
            return _start(project, folder, job, secrets)
        except (RunFolderError, OSError) as error:  # whoever typed it is told: nothing starts it again by itself
            with contextlib.suppress(OSError):
                Exit(code=1, reason=f"did not start: {error}", time=time.time()).write(folder / EXIT)
            raise


def again(project: Path, folder: Path, job: Job, secrets: Mapping[str, str]) -> dict[str, Any]:
    """Starts a job of this machine once more, perhaps without its secrets, whose names stay known."""
    with _alone(folder, job):
        _refuse_running(project, folder, job)
        memory = Memory.read(folder / MEMORY)
        return _start(project, folder, job, secrets, revivals=memory.revivals if memory else 0)


def watch_again(project: Path, folder: Path, *, idle_only: bool) -> None:
    """A guard alone: of a run that lost it, or for a machine that was started and trains nothing."""
    _forget_limit(folder, idle_only=idle_only)
    starting.start_guard(project, folder, {})


def _start(project: Path, folder: Path, job: Job, secrets: Mapping[str, str], *, revivals: int = 0) -> dict[str, Any]:
    end_guard(folder)
    try:
        return _start_both(project, folder, job, secrets, revivals)
    except (RunFolderError, OSError):
        _guard_all_the_same(project, folder, secrets)
        raise


def _start_both(project: Path, folder: Path, job: Job, secrets: Mapping[str, str],
                revivals: int) -> dict[str, Any]:
    resumed = bool(steps.all_steps(project / job.run_folder))
    for name in (STOP, EXIT, STATE, RUNNER):
        (folder / name).unlink(missing_ok=True)
    _forget_limit(folder, revivals=revivals)
    job.write(folder / JOB)
    hook = boot.install(project)
    starting.wait_for_guard(folder, starting.start_guard(project, folder, secrets))
    session = starting.start_runner(project, folder, job, secrets)
    runner = runner_of(folder)
    return {"run": job.run, "session": session, "pid": runner.pid if runner else None, "boot_hook": hook,
            "resumed": resumed}


def _guard_all_the_same(project: Path, folder: Path, secrets: Mapping[str, str]) -> None:
    """After a start that failed, if it was before its guard."""
    if holder(folder / GUARD_LOCK) is not None or Job.read(folder / JOB) is None:
        return
    with contextlib.suppress(OSError):
        guard = starting.start_guard(project, folder, secrets)
        starting.comes_true(lambda: holder(folder / GUARD_LOCK) is not None, lambda: guard.poll() is None)


@contextlib.contextmanager
def _alone(folder: Path, job: Job) -> Iterator[None]:
    """Raises RunFolderError where another start is under way, and for what the disk does not let happen."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = hold(folder / LAUNCH_LOCK)
        if lock is None:
            raise RunFolderError(f"run '{job.run}': another start of it is under way (process "
                                 f"{holder(folder / LAUNCH_LOCK)}); `auricle remote status` shows when it runs")
        with lock:
            yield
    except OSError as error:
        raise RunFolderError(f"run '{job.run}': cannot be started: {error.strerror} ({error.filename}); is the disk "
                             "full or read-only?") from None


def _refuse_running(project: Path, folder: Path, job: Job) -> None:
    then = ("look at it with `auricle remote attach` or `logs`, end it with `auricle remote stop`, or choose another "
            "training.run_name")
    if runner := runner_of(folder):
        where = f" in tmux {runner.session}" if runner.session else ""
        raise RunFolderError(f"run '{job.run}': runs already, process {runner.pid}{where}; {then}")
    if run_lock.is_locked(project / job.run_folder):
        raise RunFolderError(f"run '{job.run}': is being trained already by "
                             f"{run_lock.owner(project / job.run_folder) or 'another process'}; {then}")


def refuse_written_down(job: Job, secrets: Mapping[str, str]) -> None:
    """Raises UsageError for a secret whose value is among what is written down."""
    if name := written_down(job, secrets):
        raise UsageError(f"run '{job.run}': the value of {name} is among its words or variables, which are written "
                         "down; leave it out there, it is handed over by itself")


def refuse_spent(project: Path, job: Job) -> None:
    """Raises UsageError for a budget that is spent."""
    hours = hours_so_far(job.limits, remembered(project, job.limits), time.time(), up_seconds())
    if limit := budget.reached(job.limits, budget.Seen(hours=hours)):
        spent = budget.cost(job.limits, hours)
        raise UsageError(f"run '{job.run}': {limit}: this machine has run for {hours:.2f} h"
                         f"{'' if spent is None else f' and cost {spent:.2f}'}; raise the limit to go on")


def _forget_limit(folder: Path, **kept: Any) -> None:
    """The hours stay, and `kept`. A full disk keeps nobody from being watched over."""
    if memory := Memory.read(folder / MEMORY):
        with contextlib.suppress(OSError):
            Memory(time=memory.time, hours=memory.hours, **kept).write(folder / MEMORY)


def end_guard(folder: Path) -> None:
    """A guard of before; the hours that it counted are in guard.json."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not (pid := holder(folder / GUARD_LOCK)):
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        starting.comes_true(lambda: holder(folder / GUARD_LOCK) is None, seconds=GUARD_ENDS_SECONDS)

