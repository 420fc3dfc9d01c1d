"""A verified copy of a run folder elsewhere. What is to do follows from comparing the two: there is no queue to lose.

    run folder                          target/RUN
    checkpoints/step-…, parts/…  ──►    the newest first, then the best, then older ones; parts before what names them
    run.json, events.jsonl, eval/, order/ … ──►  small files, when they changed

What a target holds is written to mirrors/<name>.json after each pass; "safe" means listed there as verified.
"""

import contextlib
import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import xxhash

from auricle.core.errors import CheckpointError
from auricle.store import directory, steps
from auricle.store.mirror_target import connect, home_of, without_password
from auricle.store.targets import MirrorError, Target
from auricle.store.targets.parts import transfer

SMALL_FILES = ("run.json", "changes.json", "config.yaml", "split.json", "trainer_state.json", "trainer_log.txt",
               "events.jsonl", "machine.jsonl", "latest.json", "best.json")
SMALL_FOLDERS = ("eval", "order")
CHECKPOINTS, BEST = "checkpoints", "best.json"
FILES_SECONDS = 30.0
"""Small files are compared so often, and whenever a checkpoint went over."""
AT_A_TIME = 2
"""Checkpoints that go over before looking again what is newest: with two, neither the newest nor the best starves."""

Stamp = tuple[int, int]
"""Size and time of change of a file."""
Report = Callable[[str], None]
Transfer = Callable[[str, int, int], None]
"""Told (what, bytes done, bytes in all) while a directory goes over."""


@dataclass(kw_only=True)
class Record:
    """mirrors/<name>.json."""

    target: str
    verified: dict[str, str] = field(default_factory=dict)
    """Checkpoints that the target holds, with their parts → self hash."""
    own_disk: bool = False
    """Whether the target is lost with this machine."""
    pending: list[str] = field(default_factory=list)
    """Checkpoints that wait."""
    tries: int = 0
    """Failures in a row."""
    error: str | None = None
    time: float = 0.0
    """Unix time of the last pass that ended well; 0 is never."""


class Mirror:
    """The copy of one run at one target. One process uses it, from one thread (see `mirror_pusher`)."""

    def __init__(self, run_folder: Path, base: str, *, keep: int, report: Report, progress: Transfer) -> None:
        """`base`: the URL or path in which the run gets its folder. `keep`: newest checkpoints that stay there.

        Raises UsageError for a URL that names no target.
        """
        self.run_folder, self.base, self.keep = run_folder, base, keep
        self.shown = connect(base).url
        self.path = record_path(run_folder, base)
        self._report, self._progress = report, progress
        self._target: Target | None = None
        self._held: dict[str, str | None] = {}
        self._is_known = False
        """Whether `_held` is what the target holds: not at the start, nor after a failure."""
        self._damaged: set[str] = set()
        """Self hashes of what does not verify here."""
        self._named: dict[str, set[str]] = {}
        self._sent: dict[str, Stamp] = {}
        self._looked_at_files = float("-inf")
        self._record = read_record(self.path) or Record(target=self.shown)

    def push(self, *, hurry: bool = False) -> None:
        """One pass: at most `AT_A_TIME` checkpoints, then old ones there go, then small files if it is time for them.

        `hurry`: it is time. Raises MirrorError when the target fails, once that is on record.
        """
        try:
            asked = not self._is_known
            target = self._ask() if asked or self._target is None else self._target
            if waiting := self.waiting():
                self._note()
            sent = [self._send_checkpoint(target, path) for path in waiting[:AT_A_TIME]]
            if asked or sent:
                self._remove_old(target)
            if asked or sent or hurry or time.monotonic() - self._looked_at_files > FILES_SECONDS:
                self._send_files(target)
                self._note(tries=0, error=None, time=time.time())
        except MirrorError as error:
            self._is_known = False
            self._note(tries=self._record.tries + 1, error=str(error))
            raise

    def is_complete(self) -> bool:
        """Whether the target held all that is here when it was last asked."""
        return self._is_known and not self.waiting() and not self._changed_files()

    def waiting(self) -> list[Path]:
        """Checkpoints here that belong there and are not, in the order in which they should go."""
        return [path for path in self._wanted() if not self._is_there(path)]

    def _ask(self) -> Target:
        target = self._target or home_of(self.base, self.run_folder)
        self._held = target.held()
        self._target, self._is_known = target, True
        return target

    def _wanted(self) -> list[Path]:
        """The newest checkpoint, the best one, then older ones of the newest `keep`; none that is damaged."""
        found = list(reversed(steps.all_steps(self.run_folder)))
        best = best_of(_read(self.run_folder / BEST))
        order = dict.fromkeys([*found[:1], *(path for path in found if path.name == best), *found[: self.keep]])
        return [path for path in order if (own := transfer.identity(path)) and own not in self._damaged]

    def _is_there(self, checkpoint: Path) -> bool:
        return all(self._held.get(name) == transfer.identity(folder) for name, folder in _with_parts(checkpoint))

    def _send_checkpoint(self, target: Target, checkpoint: Path) -> bool:
        """→ whether it is there now. One that is pruned here meanwhile, or damaged, is passed over."""
        try:
            for name, folder in _with_parts(checkpoint):
                identity = transfer.identity(folder)
                if self._held.get(name) != identity:
                    self._send(target, name, folder)
                    self._held[name] = identity
        except (CheckpointError, MirrorError) as error:
            if not checkpoint.is_dir():
                return False
            if isinstance(error, MirrorError):
                raise
            self._damaged.add(transfer.identity(checkpoint) or "")
            self._report(str(error))
            return False
        self._note()
        return True

    def _send(self, target: Target, name: str, folder: Path) -> None:
        """Raises CheckpointError where the folder is damaged or went away, MirrorError where the target fails."""
        began = time.monotonic()
        with held(folder, self.path.with_suffix(".held")) as copy:
            size = sum(path.stat().st_size for path in copy.rglob("*") if path.is_file())
            target.put(copy, name, lambda done: self._progress(name, done, size))
        self._report(f"{name}: {size / 1e6:,.1f} MB verified at {target.url} in {time.monotonic() - began:.0f} s")

    def _remove_old(self, target: Target) -> None:
        """Waits until the best one is there; what is wanted here is never removed there."""
        wanted = {f"{CHECKPOINTS}/{path.name}" for path in self._wanted()}
        best = f"{CHECKPOINTS}/{best_of(_read(self.run_folder / BEST))}"
        if best in wanted and best not in self._held:
            return
        there = sorted((name for name in self._held if is_checkpoint(name)), reverse=True)
        kept = {*[name for name in there if self._held[name]][: self.keep], *wanted}
        self._remove(target, [name for name in there if name not in kept])
        self._remove_parts(target, [name for name in kept if name in self._held])

    def _remove_parts(self, target: Target, checkpoints: list[str]) -> None:
        """Removes parts there that none of these checkpoints there names."""
        if parts := [name for name in self._held if not is_checkpoint(name)]:
            named = {part for name in checkpoints for part in self._parts_of(target, name)}
            self._remove(target, [name for name in parts if name not in named])

    def _parts_of(self, target: Target, name: str) -> set[str]:
        """What a checkpoint there names, asked once."""
        key = f"{name} {self._held[name]}"
        if key not in self._named:
            self._named[key] = parts_at(target, name)
        return self._named[key]

    def _remove(self, target: Target, names: list[str]) -> None:
        """Off the record first, so that it never vouches for what is not there."""
        for name in names:
            del self._held[name]
        if names:
            self._note()
        for name in names:
            target.remove(name)

    def _send_files(self, target: Target) -> None:
        changed = self._changed_files()
        if changed:
            target.put_files(self.run_folder, list(changed))
        self._sent |= changed
        self._looked_at_files = time.monotonic()

    def _changed_files(self) -> dict[str, Stamp]:
        """Those that differ from what was sent → size and time of change."""
        files = [self.run_folder / name for name in SMALL_FILES]
        for folder in SMALL_FOLDERS:
            files += [path for path in (self.run_folder / folder).rglob("*") if not path.name.startswith(".")]
        stamps = {path.relative_to(self.run_folder).as_posix(): _stamp(path) for path in files if path.is_file()}
        return {name: stamp for name, stamp in stamps.items() if self._sent.get(name) != stamp}

    def _note(self, **changes: Any) -> None:
        """Writes the record."""
        if self._target:
            changes |= {"target": self._target.url, "own_disk": self._target.is_own_disk}
        if self._is_known:
            here = {name: folder for path in self._wanted() for name, folder in _with_parts(path)}
            changes["verified"] = {
                name.rpartition("/")[2]: identity for name, identity in self._held.items()
                if is_checkpoint(name) and identity and (name not in here or self._is_there(here[name]))}
        changes["pending"] = [path.name for path in self.waiting()]
        self._record = replace(self._record, **changes)
        self.path.parent.mkdir(exist_ok=True)
        directory.write_text(self.path, json.dumps(asdict(self._record), indent=1))


def record_path(run_folder: Path, base: str) -> Path:
    """mirrors/<name>.json of a target: its URL as a file name, with a hash that keeps two apart."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", without_password(base)).strip("-")[-60:]
    return run_folder / "mirrors" / f"{readable}-{xxhash.xxh3_64_hexdigest(base.encode())[:6]}.json"


def read_record(path: Path) -> Record | None:
    """None where there is none that can be read."""
    try:
        return Record(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def is_checkpoint(name: str) -> bool:
    """Whether a directory of a target is a checkpoint; otherwise it is a part."""
    return name.startswith(f"{CHECKPOINTS}/{steps.PREFIX}")


def best_of(hint: bytes | None) -> str | None:
    """The name of the best checkpoint that a best.json tells of."""
    try:
        return steps.name_of(json.loads(hint or b"{}")["step"])
    except (ValueError, KeyError, TypeError):
        return None


def parts_at(target: Target, checkpoint: str) -> set[str]:
    """Directories of a target that a checkpoint there needs beside its own."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / steps.CONFIG).write_bytes(target.read(f"{checkpoint}/{steps.CONFIG}") or b"{}")
        return {f"{CHECKPOINTS}/parts/{part}" for part in steps.named_parts(Path(folder))}


def _with_parts(checkpoint: Path) -> list[tuple[str, Path]]:
    """What a checkpoint consists of → where it is here: its parts, then itself."""
    try:
        parts = sorted(steps.named_parts(checkpoint))
    except (OSError, ValueError):
        parts = []
    found = [(f"{CHECKPOINTS}/parts/{part}", checkpoint.parent / "parts" / part) for part in parts]
    return [*found, (f"{CHECKPOINTS}/{checkpoint.name}", checkpoint)]


@contextlib.contextmanager
def held(folder: Path, parent: Path) -> Iterator[Path]:
    """Hard links to a directory's files, so that an upload that takes longer than the directory lives can end.

    Where the file system has none, the directory itself. Raises CheckpointError when it went away.
    """
    copy = parent / folder.name
    shutil.rmtree(parent, ignore_errors=True)
    try:
        yield _linked(folder, copy)
    finally:
        shutil.rmtree(parent, ignore_errors=True)


def _linked(folder: Path, copy: Path) -> Path:
    try:
        names = {directory.CHECKSUMS: None, **transfer.listed(folder)}
        for name, entry in names.items():
            target = copy / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(folder / name)
            if entry and target.stat().st_size != entry["bytes"]:
                transfer.refuse_damaged(folder)
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder.name}: {error.filename} is gone; it cannot be mirrored") from None
    except OSError:
        return folder
    return copy


def _stamp(path: Path) -> Stamp:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
