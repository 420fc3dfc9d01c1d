"""A folder as a target: another disk, or a network file system that is mounted."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from auricle.core.errors import CheckpointError
from auricle.store import directory
from auricle.store.targets import MirrorError, Progress
from auricle.store.targets.parts import transfer
from auricle.store.targets.parts.disks import is_own_disk

PRIVATE = (transfer.INCOMING, directory.ASIDE, directory.TRASH)


def connect(url: str) -> "Folder":
    return Folder(Path(url.removeprefix("file://")).expanduser())


class Folder:
    """Copies are verified by reading them back after they were synced."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)

    @property
    def is_own_disk(self) -> bool:
        """As it is now: what was mounted there may be gone, and its mount point stays."""
        return is_own_disk(self.root)

    def probe(self) -> None:
        with self._reported():
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / f"{directory.ASIDE}probe-{os.urandom(4).hex()}"
            probe.write_text("")
            probe.unlink()

    def held(self) -> dict[str, str | None]:
        with self._reported():
            return {f"{group}/{path.name}": transfer.identity(path) for group in transfer.GROUPS
                    for path in sorted((self.root / group).glob("*"))
                    if path.is_dir() and transfer.is_committed_name(path.name)}

    def put(self, folder: Path, name: str, progress: Progress) -> None:
        target = self.root / name
        aside = target.with_name(transfer.incoming(folder, name))
        with self._reported():
            self._clean(target.parent)
            _copy(folder, aside, progress)
            if wrong := directory.problems(aside):
                shutil.rmtree(aside)
                transfer.refuse_damaged(folder)
                raise MirrorError(f"{self.url}: the copy of {name} is damaged there: {wrong[0]}")
            replaced = target.with_name(f"{directory.REPLACED}{target.name}")
            if target.exists():
                target.rename(replaced)
            aside.rename(target)
            directory.sync_directory(target.parent)
            shutil.rmtree(replaced, ignore_errors=True)

    def _clean(self, parent: Path) -> None:
        """Removes what a killed upload left, and ends a replacement that it had begun."""
        parent.mkdir(parents=True, exist_ok=True)
        for leftover in parent.glob(f"{transfer.INCOMING}*"):
            shutil.rmtree(leftover)
        directory.sweep(parent)

    def get(self, name: str, to: Path, progress: Progress) -> None:
        with self._reported():
            transfer.receive(to, self.url, lambda aside: _copy(self.root / name, aside, progress))

    def problems(self, name: str) -> list[str]:
        return directory.problems(self.root / name)

    def remove(self, name: str) -> None:
        with self._reported():
            directory.retire(self.root / name)

    def put_files(self, folder: Path, names: Sequence[str]) -> None:
        for name in names:
            with self._reported():
                _replace(folder / name, self.root / name)

    def get_files(self, to: Path) -> None:
        with self._reported():
            for path in sorted(self.root.rglob("*")):
                inside = path.relative_to(self.root)
                if path.is_file() and inside.parts[0] != "checkpoints" and not path.name.startswith(PRIVATE):
                    _replace(path, to / inside)

    def read(self, name: str) -> bytes | None:
        with self._reported():
            path = self.root / name
            return path.read_bytes() if path.is_file() else None

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise MirrorError(f"{self.url}: {error.strerror or error}") from None


def _copy(folder: Path, aside: Path, progress: Progress) -> None:
    """Copies the files that CHECKSUMS.json lists, and itself."""
    try:
        names = [*transfer.listed(folder), directory.CHECKSUMS]
    except CheckpointError as error:
        raise MirrorError(f"{folder}: {error}") from None
    done = 0
    for name in names:
        target = aside / name
        target.parent.mkdir(parents=True, exist_ok=True)
        directory.write_file(target, transfer.counted(directory.blocks(folder / name), progress, done))
        done += target.stat().st_size
    for inner in (*(path for path in aside.rglob("*") if path.is_dir()), aside):
        directory.sync_directory(inner)


def _replace(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f"{directory.ASIDE}{target.name}-{os.getpid()}")
    directory.write_file(aside, directory.blocks(source))
    aside.replace(target)
