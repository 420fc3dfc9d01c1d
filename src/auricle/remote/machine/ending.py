"""Ends a run of this machine so that nothing is lost, and starts it again with secrets that it lacks."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from auricle.core.errors import RunFolderError, UsageError, nearest
from auricle.core.events import Newest
from auricle.remote.machine import launch, views
from auricle.remote.machine.job import AGAIN, EXIT, JOB, STOP, Exit, Job, Runner, Stop, folder_of
from auricle.remote.machine.processes import ask_run_to_end, jobs, runner_of, secrets_of, trains
from auricle.remote.machine.starting import comes_true

SAVING_SECONDS = 90.0
"""While `start` waits for its answer."""
TRAINER_SECONDS = 10.0
"""A runner is without a trainer for less than this."""


def find(project: Path, run: str) -> tuple[Path, Job]:
    """The folder and the job of a run, by its name. Raises UsageError with near names."""
    folder = folder_of(project, run)
    if job := Job.read(folder / JOB):
        return folder, job
    names = [job.run for _, job in jobs(project)]
    raise UsageError(f"run '{run}': none of that name was started on this machine; {nearest(run, names)}")


def stop(project: Path, run: str, *, reason: str, seconds: float) -> dict[str, Any]:
    """Asks a run to save and end, and waits for it. Does nothing to one that has ended.

    Raises UsageError where there is no such run, RunFolderError where it takes longer than `seconds`.
    """
    folder, job = find(project, run)
    if trains(project, folder, job) and not (folder / STOP).exists():
        Stop(reason=reason, time=time.time()).leave(folder / STOP)
    _end(project, folder, job, seconds)
    return _stands(project, folder, job)


def _end(project: Path, folder: Path, job: Job, seconds: float) -> None:
    ask_run_to_end(project, folder, job)
    if not comes_true(lambda: not trains(project, folder, job), seconds=seconds):
        raise RunFolderError(f"run '{job.run}': is still saving after {seconds:.0f} s, and goes on ending by itself; "
                             "`auricle remote status` shows when it has")


def _stands(project: Path, folder: Path, job: Job) -> dict[str, Any]:
    newest, end = Newest(project / job.run_folder / "events.jsonl"), Exit.read(folder / EXIT)
    newest.update()
    return {"run": job.run, "code": end.code if end else AGAIN, "reason": end.reason if end else "has no process",
            "step": views.figures(newest)["step"],
            "saved_step": views.mirrored(project / job.run_folder, 0.0).saved_step}


def reconnect(project: Path, run: str, secrets: Mapping[str, str], seconds: float) -> str:
    """Hands secrets to a run that a restart of the machine left without: it saves, ends, and goes on with them.

    Those that it has stay. → what was done, as a sentence. Raises UsageError where there is no such run, or a secret
    that it needs is not given, RunFolderError where it does not end.
    """
    folder, job = find(project, run)
    runner = runner_of(folder)
    if runner is None:
        return f"run '{run}' does not run; `auricle remote start` starts it with its secrets"
    lacks = set(job.secrets) - set(runner.secrets)
    if not lacks:
        return f"run '{run}' has its secrets already"
    if missing := sorted(lacks - set(secrets)):
        raise UsageError(f"run '{run}': lacks {', '.join(missing)}, which is not set on your side either")
    _restart(project, folder, job, {**_held(folder, runner), **secrets}, seconds)
    return f"run '{run}' goes on with {', '.join(sorted(lacks))}"


def start(project: Path, job: Job, secrets: Mapping[str, str]) -> dict[str, Any]:
    """Starts a job, as `launch` does and with its errors; a run that goes on without secrets which are given now is
    ended, and the job started with them, as by `reconnect`. → what `start` is told"""
    folder = folder_of(project, job.run)
    runner, known = runner_of(folder), Job.read(folder / JOB)
    lacks = set(known.secrets) - set(runner.secrets) if runner and known else set()
    if runner and known and lacks and lacks <= set(secrets):
        launch.refuse_spent(project, job)
        secrets = {**_held(folder, runner), **secrets}
        launch.refuse_written_down(job, secrets)
        job = replace(job, secrets=sorted(secrets), created=known.created)
        return _restart(project, folder, job, secrets, SAVING_SECONDS)
    return launch.launch(project, job, secrets)


def _held(folder: Path, runner: Runner) -> dict[str, str]:
    """The secrets of a runner. Raises RunFolderError where it does not show all: it would go on without them."""
    found: dict[str, str] = {}

    def shows_all() -> bool:
        nonlocal found
        found = secrets_of(runner_of(folder) or runner)
        return found.keys() >= set(runner.secrets)

    if not comes_true(shows_all, seconds=TRAINER_SECONDS):
        raise RunFolderError(f"run '{folder.name}': has no trainer of which it could keep "
                             f"{', '.join(sorted(set(runner.secrets) - found.keys()))}; try again, or end it with "
                             "`auricle remote stop` and start it anew")
    return found


def _restart(project: Path, folder: Path, job: Job, secrets: Mapping[str, str], seconds: float) -> dict[str, Any]:
    _end(project, folder, job, seconds)
    _end_pusher(project / job.run_folder)
    return launch.again(project, folder, job, secrets)


def _end_pusher(run_folder: Path) -> None:
    """The process that mirrors has no secrets either; the guard starts another, which finds out anew what to do."""
    words = ["mirror", "push", str(run_folder.resolve())]
    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [])[-4:-1] == words:
            process.kill()
