"""What a machine keeps of each run that was started on it, in PROJECT/.auricle/runs/KEY/.

    job.json      what to run and within which budget; written by `launch`, no secret in it
    runner.json   the processes of the run: written by `run`, which starts the trainer again where that makes sense
    exit.json     how it ended; absent while it goes on
    stop.json     that it was asked to end, and by whom
    state.json    the heartbeat: how the run stands and what it costs; written by `guard` every two seconds
    guard.json    what the guard must know when it is started again: hours, the limit that was reached
    console.log   what the run printed        guard.log   what the guard did
    guard.lock    held by the guard           launch.lock   held while starting

Each JSON file is one line, replaced in one step, so that a shell can send it and a reader never sees half of it. On a
full disk one that is there is written in place, and a stop.json that is not stays empty.
"""

import contextlib
import errno
import json
import os
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self

import xxhash

from auricle.core.errors import Preempted

RUNS = ".auricle/runs"
JOB, RUNNER, EXIT, STOP, STATE = "job.json", "runner.json", "exit.json", "stop.json", "state.json"
MEMORY = "guard.json"
CONSOLE, GUARD_LOG, GUARD_LOCK, LAUNCH_LOCK = "console.log", "guard.log", "guard.lock", "launch.lock"
FULL = (errno.ENOSPC, errno.EDQUOT)
AGAIN = Preempted.exit_code
"""Exit code of a run that was stopped or broken from outside, with all saved: the same start goes on with it."""
HEARTBEAT_SECONDS = 2.0
STALE_SECONDS = 20.0
"""A heartbeat older than this is of a guard that is dead."""
MACHINE_EVENTS = "machine.jsonl"
"""In the run folder beside events.jsonl: what the guard did and warned of, as events."""

Phase = Literal["starting", "training", "stopping", "saving elsewhere", "ended", "failed", "lost"]
OnLimit = Literal["stop", "release", "keep"]


@dataclass(frozen=True, kw_only=True)
class Record:
    """A value that is one of these files."""

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """None where there is none that can be read."""
        try:
            return cls.from_json(path.read_bytes())
        except (OSError, ValueError, TypeError):
            return None

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Keys of a newer version are passed over. Raises ValueError, TypeError."""
        known, told = {entry.name for entry in fields(cls)}, json.loads(text)
        if not isinstance(told, dict):
            raise TypeError("expected a JSON object")
        return cls(**{key: value for key, value in told.items() if key in known})

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    def write(self, path: Path) -> None:
        """In one step. Raises OSError."""
        aside, line = path.with_name(f".{path.name}-{os.getpid()}"), f"{self.to_json()}\n".encode()
        try:
            aside.write_bytes(line)
            aside.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)
            if error.errno not in FULL or not _write_in_place(path, line):
                raise


def _write_in_place(path: Path, line: bytes) -> bool:
    """Into the blocks that a file has already; the rest of a longer one becomes blanks. → whether they were enough

    Raises OSError.
    """
    if not path.is_file() or path.stat().st_blocks * 512 < len(line):
        return False
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        line = line.ljust(os.fstat(file).st_size)
        return os.pwrite(file, line, 0) == len(line)
    finally:
        os.close(file)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """When to end, and how. Money is in the unit of `price_per_hour`."""

    price_per_hour: float | None = None
    since: float = 0.0
    """Unix time from which the machine costs."""
    max_cost: float | None = None
    max_hours: float | None = None
    idle_minutes: float | None = None
    on_limit: OnLimit = "stop"


@dataclass(frozen=True, kw_only=True)
class Job(Record):
    run: str
    run_folder: str
    """Relative to the project's folder there."""
    train: list[str]
    """The words after `auricle train`."""
    nproc: int = 1
    nnodes: int = 1
    node_rank: int = 0
    rendezvous: str | None = None
    """HOST:PORT of the first of several machines."""
    environment: dict[str, str] = field(default_factory=dict)
    secrets: list[str] = field(default_factory=list)
    """Names of variables that are handed over and never written."""
    has_mirror: bool = False
    budget: dict[str, Any] = field(default_factory=dict)
    """A `Budget`."""
    created: float = 0.0

    @property
    def limits(self) -> Budget:
        return Budget(**self.budget)


@dataclass(frozen=True, kw_only=True)
class Runner(Record):
    """runner.json"""

    pid: int
    trainer: int | None
    """Process group of the trainer; None between two starts of it."""
    boot_id: str
    starts: int
    session: str | None
    """Name of its tmux server (`tmux -L NAME`); None without tmux."""
    secrets: list[str] = field(default_factory=list)
    """Names of those that it holds."""


@dataclass(frozen=True, kw_only=True)
class Exit(Record):
    """exit.json"""

    code: int
    reason: str
    time: float

    @property
    def is_well(self) -> bool:
        """Done, or stopped with all saved."""
        return self.code in (0, AGAIN)


@dataclass(frozen=True, kw_only=True)
class Stop(Record):
    """stop.json"""

    reason: str
    time: float

    def leave(self, path: Path) -> None:
        """Writes it; a full disk may take an empty file at least, which says as much as nobody may pass over."""
        try:
            self.write(path)
        except OSError:
            with contextlib.suppress(OSError):
                path.touch()


@dataclass(frozen=True, kw_only=True)
class Figures:
    """How a run stands; what is not known is None."""

    stage: str = ""
    step: int = 0
    total_steps: int | None = None
    loss: float | None = None
    wer: float | None = None
    eta_seconds: float | None = None
    saved_step: int | None = None
    safe_step: int | None = None
    """Of the newest checkpoint that a mirror was verified to hold."""
    hours: float = 0.0
    """That the machine has cost so far."""
    price_per_hour: float | None = None
    cost: float | None = None
    cost_to_end: float | None = None
    """In all, when the run is done, at this speed."""
    gpu_percent: float | None = None
    vram_gb: float | None = None
    disk_free_gb: float | None = None
    limit: str = ""
    """The limit that was reached, and what follows of it."""
    alarms: list[str] = field(default_factory=list)
    """The newest few, oldest first."""


@dataclass(frozen=True, kw_only=True)
class State(Figures, Record):
    """state.json"""

    time: float
    """Unix time of the heartbeat, by the machine's clock."""
    run: str
    phase: str
    boot_id: str = ""
    last_event: float | None = None
    """Unix time of the run's newest event."""
    exit_code: int | None = None
    events_bytes: int = 0
    """Of events.jsonl: who follows it knows whether there is more."""


def key_of(run: str) -> str:
    """The folder of a run: its name, where that is safe in a shell, else a part of it and a hash.

    >>> key_of("voxformer_tiny")
    'voxformer_tiny'
    """
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", run).strip("-.")[:40]
    return run if safe == run else f"{safe}-{xxhash.xxh3_64_hexdigest(run.encode())[:8]}"


def folder_of(project: Path, run: str) -> Path:
    return project / RUNS / key_of(run)


def session_of(project: Path, run: str) -> str:
    """The name of the run's tmux server: another one for each run and folder, and never the user's own."""
    return f"auricle-{key_of(run)}-{xxhash.xxh3_64_hexdigest(str(project.resolve()).encode())[:6]}"
