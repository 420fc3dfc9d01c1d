"""What the boot hook runs: runs that a restart of the machine broke off go on, and those that lost their guard get one.
Where nothing trains the newest run's guard watches the machine, which costs all the same."""

import os
from collections.abc import Callable
from pathlib import Path

from auricle.core.errors import AuricleError
from auricle.remote.machine import launch
from auricle.remote.machine.job import AGAIN, EXIT, GUARD_LOCK, STOP, Exit, Job
from auricle.remote.machine.journal import quiet
from auricle.remote.machine.processes import holder, jobs, trains


def boot(project: Path, report: Callable[[str], None]) -> None:
    """Starts again what was broken off, with those of its secrets that this process has. One that does not start keeps
    no other from starting."""
    known, alive, report = list(jobs(project)), False, quiet(report)
    for folder, job in known:
        if trains(project, folder, job):
            alive = True
            if holder(folder / GUARD_LOCK) is None:
                launch.watch_again(project, folder, idle_only=False)
                report(f"{job.run}: trains, and is watched over again")
        elif _was_broken_off(folder):
            alive = _go_on(project, folder, job, report) or alive
    idle = max(known, key=lambda entry: entry[1].created, default=None)
    if idle and not alive and holder(idle[0] / GUARD_LOCK) is None:
        launch.watch_again(project, idle[0], idle_only=True)
        report(f"{idle[1].run}: nothing to go on with; its guard watches the machine")


def _go_on(project: Path, folder: Path, job: Job, report: Callable[[str], None]) -> bool:
    """→ whether it does"""
    secrets = {name: value for name in job.secrets if (value := os.environ.get(name))}
    try:
        launch.again(project, folder, job, secrets)
    except AuricleError as error:
        report(str(error))
        return False
    report(f"{job.run}: goes on")
    return True


def _was_broken_off(folder: Path) -> bool:
    """By the machine's own end: a run that a person or a limit stopped has a stop.json."""
    end = Exit.read(folder / EXIT)
    return not (folder / STOP).exists() and (end is None or end.code == AGAIN)
