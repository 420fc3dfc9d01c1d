"""One run folder, one trainer: run.lock says who, and its time of change says that they are alive.

The kernel's record lock on the file decides on one machine: it belongs to the process, no forked worker inherits it,
and it ends with the process. Network file systems may not carry it to other machines: there the heartbeat decides.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import psutil

from auricle.core.errors import RunFolderError
from auricle.store.directory import ASIDE

RUN_LOCK = "run.lock"
LOCKS = (RUN_LOCK, "writer.lock")
FRESH_SECONDS = 60.0
"""A heartbeat younger than this is of a trainer that lives."""
TRIES, SECONDS_BETWEEN = 5, 0.02
"""`is_locked` of another process holds a shared lock for an instant."""


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Who holds a run folder."""

    host: str
    pid: int
    boot_id: str
    since: float
    """Unix time."""

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host} since {since}"


class Lock:
    """This process's hold of a run folder. Nothing else in the process may open run.lock: closing any descriptor of a
    file gives up the process's record locks on it."""

    def __init__(self, descriptor: int, owner: Owner) -> None:
        self._descriptor: int | None = descriptor
        status = os.fstat(descriptor)
        self._key = status.st_dev, status.st_ino
        _HELD[self._key] = owner

    def beat(self) -> None:
        """Says to other machines that this process lives. A file system that fails for a while stops nothing."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.utime(self._descriptor)

    def close(self) -> None:
        """Gives the folder up, and says so to other machines."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, 0)
            del _HELD[self._key]
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_HELD: dict[tuple[int, int], Owner] = {}
"""What this process holds, by device and inode: the kernel lets a process lock its own file again."""


def lock(folder: Path) -> Lock:
    """Takes the folder for this process. RunFolderError when another trainer has it; a dead one's is taken over."""
    path = folder / RUN_LOCK
    if mine := _held_here(path):
        raise _taken(folder, str(mine))
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise RunFolderError(
            f"run folder '{folder}': cannot be written ({error.strerror}); choose another with training.output_dir=…"
        ) from None
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, descriptor)
        _take(descriptor, folder)
        me = Owner(host=socket.gethostname(), pid=os.getpid(), boot_id=boot_id(), since=time.time())
        _refuse_living_elsewhere(descriptor, folder, me)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(asdict(me)).encode(), 0)
        os.fsync(descriptor)
        undo.pop_all()
    return Lock(descriptor, me)


def _take(descriptor: int, folder: Path) -> None:
    for _ in range(TRIES):
        try:
            return fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise RunFolderError(
                    f"run folder '{folder}': its file system cannot lock ({error.strerror}); choose a folder on "
                    "another one with training.output_dir=…, and keep copies here with mirror.targets"
                ) from None
        time.sleep(SECONDS_BETWEEN)
    raise _taken(folder, str(_content(descriptor) or "another process"))


def _refuse_living_elsewhere(descriptor: int, folder: Path, me: Owner) -> None:
    """On this machine a lock that is free has no owner; of another one only the heartbeat tells."""
    there = _content(descriptor)
    if there is None or me.host == there.host or me.boot_id == there.boot_id:
        return
    age = file_system_now(folder) - os.fstat(descriptor).st_mtime
    if abs(age) < FRESH_SECONDS:
        raise RunFolderError(
            f"run folder '{folder}': being trained by {there}, whose last sign of life is {max(0.0, age):.0f} s old; "
            f"stop it there, or, if that machine is gone, start again once this is older than {FRESH_SECONDS:.0f} s"
        )


def _taken(folder: Path, owner: str) -> RunFolderError:
    return RunFolderError(
        f"run folder '{folder}': already being trained by {owner}; wait for it, stop it, or choose another "
        "training.run_name"
    )


def _held_here(path: Path) -> Owner | None:
    try:
        status = path.stat()
    except OSError:
        return None
    owner = _HELD.get((status.st_dev, status.st_ino))
    return owner if owner and owner.pid == os.getpid() else None  # a forked child has the entry and not the lock


def _content(descriptor: int) -> Owner | None:
    """What the file says; None where it was given up, or is just being written."""
    try:
        return Owner(**json.loads(os.pread(descriptor, 4096, 0)))
    except (ValueError, TypeError):
        return None


def owner(folder: Path) -> Owner | None:
    """Who holds the folder, or held it last if they died; None where it was given up."""
    if mine := _held_here(folder / RUN_LOCK):
        return mine
    try:
        descriptor = os.open(folder / RUN_LOCK, os.O_RDONLY)
    except OSError:
        return None
    try:
        return _content(descriptor)
    finally:
        os.close(descriptor)


def is_locked(folder: Path) -> bool:
    """Whether a trainer on this machine holds the folder (on others: where the file system carries locks)."""
    if _held_here(folder / RUN_LOCK):
        return True
    try:
        descriptor = os.open(folder / RUN_LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EACCES)
    finally:
        os.close(descriptor)
    return False


def boot_id() -> str:
    """Differs after a restart of the machine, and from machine to machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:  # not Linux
        return f"{socket.gethostname()}-{psutil.boot_time():.0f}"


def file_system_now(folder: Path) -> float:
    """The file system's own clock, from a file written for it: machines' clocks need not agree. Raises OSError."""
    probe = folder / f"{ASIDE}probe-{os.getpid()}"
    try:
        probe.write_text("now", encoding="ascii")
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)
