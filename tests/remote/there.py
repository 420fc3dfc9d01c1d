"""Runs on a machine as its guard and runner leave them, written by hand."""

import time
from pathlib import Path

from auricle.remote.connection import Connection
from auricle.remote.machine import job
from auricle.remote.machine.job import Budget, Exit, Job, Runner, State
from auricle.remote.place import Place
from auricle.remote.project import Project
from tests.hosts import Host

BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def add_run(project: Path, run: str = "voxformer", *, age: float = 0.0, exit_code: int | None = None,
            reason: str = "", runner: dict | None = None, budget: dict | None = None, secrets: list[str] | None = None,
            guarded: bool = True, **state) -> Path:
    """The files of a run in a project there; `age`: of its heartbeat. → its folder of files."""
    folder = job.folder_of(project, run)
    folder.mkdir(parents=True, exist_ok=True)
    now = time.time()
    limits = vars(Budget(**{"price_per_hour": 0.5, "since": now - 3600, **(budget or {})}))
    Job(run=run, run_folder=f"outputs/{run}", train=["+experiments=x"], budget=limits, created=now - 3600 - age,
        secrets=secrets or []).write(folder / job.JOB)
    session = job.session_of(project, run)
    Runner(**{"pid": 7, "trainer": 8, "boot_id": BOOT, "starts": 1, "session": session,
              **(runner or {})}).write(folder / job.RUNNER)
    if guarded:
        beat(folder, run, age=age, **state)
    (folder / job.EXIT).unlink(missing_ok=True)
    if exit_code is not None:
        Exit(code=exit_code, reason=reason, time=now).write(folder / job.EXIT)
    return folder


def beat(folder: Path, run: str = "voxformer", *, age: float = 0.0, **state) -> None:
    now = time.time() - age
    State(**{"time": now, "run": run, "phase": "training", "step": 500, "total_steps": 2000, "loss": 1.25, "wer": 0.321,
             "eta_seconds": 5400.0, "saved_step": 500, "safe_step": 400, "hours": 1.0, "price_per_hour": 0.5,
             "cost": 0.5, "cost_to_end": 1.25, "last_event": now - 3, "boot_id": BOOT, **state}
          ).write(folder / job.STATE)


def place(machine: Host, laptop: Project) -> Place:
    return Place(Connection(machine.target, laptop), laptop, str(machine.project("speech")))
