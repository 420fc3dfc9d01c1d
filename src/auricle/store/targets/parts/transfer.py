"""What targets share: names of what is not committed, and how a directory arrives here."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from auricle.core.errors import CheckpointError
from auricle.store import directory
from auricle.store.targets import MirrorError, Progress

INCOMING = ".incoming-"
GROUPS = ("checkpoints", "checkpoints/parts")
"""Folders of committed directories."""


def incoming(folder: Path, name: str) -> str:
    """Where a directory is put together before its commit: the same place when it is tried again, another one for
    another content. Raises CheckpointError when the local CHECKSUMS.json is damaged."""
    return f"{INCOMING}{name.rpartition('/')[2]}-{directory.self_hash(folder)[:8]}"


def listed(folder: Path) -> dict[str, dict]:
    """File name → {"bytes": …, "xxh3_128": …} of a published directory. Raises CheckpointError."""
    directory.self_hash(folder)
    return json.loads((folder / directory.CHECKSUMS).read_bytes())["files"]


@contextlib.contextmanager
def laid_out(checksums: bytes | None) -> Iterator[Path]:
    """A folder that holds a CHECKSUMS.json which came from elsewhere, and nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        if checksums is not None:
            (Path(folder) / directory.CHECKSUMS).write_bytes(checksums)
        yield Path(folder)


def identity(folder: Path) -> str | None:
    """The self hash of a published directory; None where its CHECKSUMS.json is missing or damaged."""
    try:
        return directory.self_hash(folder)
    except CheckpointError:
        return None


def is_committed_name(name: str) -> bool:
    """Whether an entry of one of `GROUPS` may be a committed directory."""
    return not name.startswith((".", "damaged-")) and name != "parts"


def receive(to: Path, where: str, fetch: Callable[[Path], None]) -> None:
    """Lets `fetch` fill a directory beside `to`, verifies it and renames it. A broken transfer goes on next time."""
    to.parent.mkdir(parents=True, exist_ok=True)
    aside = to.with_name(f"{INCOMING}{to.name}")
    fetch(aside)
    if wrong := directory.problems(aside):
        shutil.rmtree(aside)
        raise MirrorError(f"{where}: the copy that was fetched is damaged: {wrong[0]}")
    for path in aside.rglob("*"):
        if path.is_file():
            directory.sync_file(path)
    aside.rename(to)
    directory.sync_directory(to.parent)


def refuse_damaged(folder: Path) -> None:
    """Raises CheckpointError where the local directory is what does not verify."""
    if wrong := directory.problems(folder):
        raise CheckpointError(f"{folder.name} is damaged here ({wrong[0]}) and cannot be mirrored")


def counted(blocks: Iterable[bytes], progress: Progress, before: int = 0) -> Iterator[bytes]:
    """Passes blocks on and tells how many bytes that makes, after `before`."""
    done = before
    for block in blocks:
        yield block
        done += len(block)
        progress(done)
