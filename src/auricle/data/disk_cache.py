"""A bounded folder of files that can be made again: shared by all processes of a host, least recently used go first.

    get(key, make)   there? ── yes ──► its time is now
                       └── no: one process makes it, aside, the others wait; renamed; the oldest go until it fits

Files are whole or absent. One that is removed while it is mapped stays readable to whoever maps it.
"""

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from auricle.core.errors import DataError, UsageError

FOLDER, LIMIT = "AURICLE_CACHE", "AURICLE_CACHE_GB"
DEFAULT_LIMIT_GB = 8.0
ROOM = 0.9
"""What remains after removing, as a fraction of the limit: so that not every new file removes one."""
ABANDONED_SECONDS = 6 * 3600.0
"""A file aside that nobody has written to for so long belongs to a killed process."""
LOCKS = 256


def cache_folder() -> Path:
    """$AURICLE_CACHE, or ~/.cache/auricle."""
    return Path(os.environ.get(FOLDER) or "~/.cache/auricle").expanduser()


def cache_bytes() -> int:
    """The bound: $AURICLE_CACHE_GB (10⁹ bytes), or 8. Raises UsageError when that is no positive number."""
    text = os.environ.get(LIMIT) or str(DEFAULT_LIMIT_GB)
    try:
        if (gigabytes := float(text)) > 0:
            return int(gigabytes * 1e9)
    except ValueError:
        pass
    raise UsageError(f"{LIMIT} is '{text}'; expected a number of gigabytes above 0, as {DEFAULT_LIMIT_GB:g}")


class DiskCache:
    """Files by key (letters and digits) in `folder`, `limit` bytes of them in all."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit

    def get(self, key: str, make: Callable[[Path], None]) -> Path:
        """The file of a key; where there is none `make` writes it to the path that it is given.

        `make` may not ask for another key. Raises DataError where the disk has no room for it.
        """
        path = self._path(key)
        if _touched(path):
            return path
        with self._locked(f"{int(key, 36) % LOCKS:02x}"):
            if not _touched(path):  # by the process that held the lock
                self._make(path, make)
        return path

    def has(self, key: str) -> bool:
        return self._path(key).exists()

    def remove(self, key: str) -> None:
        """For a file that turned out to be damaged."""
        self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.folder / "files" / key[:2] / key

    def _make(self, path: Path, make: Callable[[Path], None]) -> None:
        aside = self.folder / "aside" / f"{path.name}.{os.getpid()}.{threading.get_ident()}"
        try:
            aside.parent.mkdir(parents=True, exist_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            make(aside)
            with aside.open("rb") as file:
                os.fsync(file.fileno())
            size = aside.stat().st_size
            with self._locked("size"):
                self._make_room(size)
                aside.replace(path)
        except OSError as error:
            raise DataError(f"cache {self.folder}: {error.strerror or error}; expected {self.limit / 1e9:g} GB that "
                            f"can be written. Lower {LIMIT}, or name another folder in {FOLDER}") from error
        finally:
            aside.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        """Counts `size` bytes in, and removes the oldest files when that is too much. Needs the lock "size"."""
        note = self.folder / "bytes"
        total = _number(note) + size
        if total > self.limit or not note.exists():
            total = self._pruned(max(0.0, self.limit * ROOM - size)) + size
        note.write_text(str(total), encoding="utf-8")

    def _pruned(self, most: float) -> int:
        """Removes the least recently used files until at most `most` bytes are left, and counts these."""
        for path in (self.folder / "aside").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < time.time() - ABANDONED_SECONDS:
                    path.unlink()
        found = []
        for path in (self.folder / "files").glob("*/*"):
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                found.append((stat.st_mtime_ns, stat.st_size, path))
        left = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if left <= most:
                break
            path.unlink(missing_ok=True)
            left -= size
        return left

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Among processes and threads; the lock of a killed process is free. Lock files stay: there are few."""
        path = self.folder / "locks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def shared_cache() -> DiskCache:
    """The cache of this host, as the environment says."""
    return DiskCache(cache_folder(), cache_bytes())


def _touched(path: Path) -> bool:
    """Whether the file is there; if so it is now the most recently used."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _number(note: Path) -> int:
    try:
        return int(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0
