"""The processes of a run on this machine: whether they live, how they are asked to end, how they are ended."""

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import psutil

from auricle.remote.machine.job import JOB, RUNNER, RUNS, Job, Runner
from auricle.store.run_lock import boot_id, is_locked, owner

TRIES, SECONDS_BETWEEN = 10, 0.05
"""Whoever asks who holds a lock holds it for an instant."""


def runner_of(folder: Path) -> Runner | None:
    """The living runner of a run's folder in .auricle; a number that another process bears now is none."""
    runner = Runner.read(folder / RUNNER)
    if runner is None or runner.boot_id != boot_id():
        return None
    return runner if _words(runner.pid)[-3:-1] == ["run", folder.name] else None


def _words(pid: int) -> list[str]:
    """The command line of a process; empty where there is none, or it only waits to be buried."""
    try:
        return psutil.Process(pid).cmdline()
    except psutil.Error:
        return []


def trains(project: Path, folder: Path, job: Job) -> bool:
    """Whether the run of a folder in .auricle is alive: its runner, or a trainer that lost it."""
    return runner_of(folder) is not None or is_locked(project / job.run_folder)


def jobs(project: Path) -> Iterator[tuple[Path, Job]]:
    """What was ever started in this project."""
    for path in sorted((project / RUNS).glob(f"*/{JOB}")):
        if job := Job.read(path):
            yield path.parent, job


def ask_run_to_end(project: Path, folder: Path, job: Job) -> None:
    """Asks a run to save and end, by way of its runner where one lives."""
    runner, trainer = runner_of(folder), owner(project / job.run_folder)
    with contextlib.suppress(ProcessLookupError):
        if runner:
            os.kill(runner.pid, signal.SIGTERM)
        elif trainer and is_locked(project / job.run_folder):
            os.kill(trainer.pid, signal.SIGTERM)


def kill_trainer(project: Path, folder: Path, job: Job) -> None:
    """Ends the trainer and its ranks at once. What writes its last checkpoint, and what mirrors, are let be."""
    runner, trainer = runner_of(folder), owner(project / job.run_folder)
    leaders = [runner.trainer] if runner and runner.trainer else []
    if trainer and is_locked(project / job.run_folder):
        leaders.append(trainer.pid)
    for group in {group for leader in leaders for group in _groups(leader)}:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def kill_runner(folder: Path) -> bool:
    """Ends a runner that does not end though its trainer is dead. → whether there was one"""
    runner = runner_of(folder)
    if runner is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(runner.pid, signal.SIGKILL)
    return True


def secrets_of(runner: Runner) -> dict[str, str]:
    """Those that a runner holds, as its trainer has them; none where no trainer lives at the moment."""
    try:
        there = psutil.Process(runner.trainer).environ() if runner.trainer else {}
    except psutil.Error:
        return {}
    return {name: there[name] for name in runner.secrets if name in there}


def _groups(leader: int) -> set[int]:
    """Process groups of a trainer: its own, and those of its ranks."""
    try:
        ranks = [child.pid for child in psutil.Process(leader).children() if "train" in _words(child.pid)]
        return {os.getpgid(pid) for pid in (leader, *ranks)}
    except (psutil.Error, ProcessLookupError):
        return {leader}


def hold(path: Path) -> IO[str] | None:
    """Takes a lock file for this process, and writes its number into it; None where another process has it.

    The number is as long as the one before, so that a full disk takes it; a new file stays without one there.
    """
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+", encoding="ascii")
    for _ in range(TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(SECONDS_BETWEEN)
            continue
        with contextlib.suppress(OSError):
            os.pwrite(file.fileno(), f"{os.getpid():<15}\n".encode("ascii"), 0)
        return file
    file.close()
    return None


def holder(path: Path) -> int | None:
    """The process that holds a lock file; None where it is free, 0 where its number is not yet written."""
    try:
        with path.open("r+", encoding="ascii") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return int(file.read().strip() or 0)
    except (OSError, ValueError):
        return None
    return None
