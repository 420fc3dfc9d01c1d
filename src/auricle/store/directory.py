"""Directories that are written once and verified when read.

`publish` writes aside under a private name, syncs every file, adds CHECKSUMS.json (size and xxh3-128 of each file,
and of itself) and renames once: a directory under its final name is whole, or it is damaged and `problems` says so.
`retire` takes the name away before it deletes, so a half-deleted directory has none either.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import xxhash

from auricle.core.errors import CheckpointError

CHECKSUMS = "CHECKSUMS.json"
ASIDE, TRASH, REPLACED = ".incomplete-", ".trash-", ".replaced-"
BLOCK = 1 << 22
"""Bytes that are written or read at a time."""


def publish(target: Path, write: Callable[[Path], Mapping[str, str] | None], *, replace: bool = False) -> Path:
    """Lets `write` fill a directory beside `target` and moves it there. An existing target is left as it is.

    `write` may return the digests of files that it wrote with `write_file`. With `replace` an existing target gives
    way once the new directory is complete; a crash between the two renames is mended by `sweep`.
    """
    if target.exists() and not replace:
        return target
    _make(target.parent)
    aside = target.parent / f"{ASIDE}{target.name}-{os.getpid()}"
    replaced = target.parent / f"{REPLACED}{target.name}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        seal(aside, write(aside) or {})
        if target.exists():
            target.rename(replaced)
        aside.rename(target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        _settle(replaced)
        raise
    sync_directory(target.parent)
    _settle(replaced)
    return target


def seal(folder: Path, known: Mapping[str, str]) -> None:
    """Syncs a directory and writes its CHECKSUMS.json.

    `known`: digests by name of files that `write_file` wrote; they are synced already and not read again.
    """
    files = {}
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        if name not in known:
            sync_file(path)
        files[name] = {"bytes": path.stat().st_size, "xxh3_128": known.get(name) or digest(path)}
    write_file(folder / CHECKSUMS, [_rendered(files)])
    for inner in (*sorted(path for path in folder.rglob("*") if path.is_dir()), folder):
        sync_directory(inner)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / CHECKSUMS)


def _rendered(files: dict) -> bytes:
    """CHECKSUMS.json to the byte, so that comparing with it finds any change, in a blank or a key as well."""
    own = xxhash.xxh3_128_hexdigest(json.dumps(files, sort_keys=True).encode())
    return json.dumps({"files": files, "self": own}, indent=1).encode()


def problems(folder: Path) -> list[str]:
    """What is wrong with a published directory; empty when every byte is as it was written."""
    try:
        files = _listed(folder)["files"]
    except CheckpointError as error:
        return [str(error)]
    found = []
    for name, entry in files.items():
        path = folder / name
        try:
            size = path.stat().st_size if path.is_file() else None
            if size is None:
                found.append(f"{name} is missing")
            elif size != entry["bytes"]:
                found.append(f"{name} has {size} bytes, expected {entry['bytes']}")
            elif digest(path) != entry["xxh3_128"]:
                found.append(f"{name} does not match its hash")
        except OSError as error:  # a bad sector
            found.append(f"{name} cannot be read ({error.strerror})")
    return found


def self_hash(folder: Path) -> str:
    """The hash of what CHECKSUMS.json lists: the identity of a published directory. Raises CheckpointError."""
    return _listed(folder)["self"]


def _listed(folder: Path) -> dict:
    """CHECKSUMS.json, itself verified. Raises CheckpointError."""
    try:
        stored = (folder / CHECKSUMS).read_bytes()
        body = json.loads(stored)
        intact = stored == _rendered(body["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{CHECKSUMS} is missing or unreadable ({error})") from None
    if not intact:
        raise CheckpointError(f"{CHECKSUMS} does not match its own hash")
    return body


def retire(path: Path) -> None:
    """Removes a directory: takes its name away for good, then deletes. What a crash leaves of it, `sweep` removes."""
    trash = path.parent / f"{TRASH}{path.name}-{os.urandom(4).hex()}"
    path.rename(trash)
    sync_directory(path.parent)
    shutil.rmtree(trash, ignore_errors=True)


def sweep(parent: Path, prefix: str = "") -> None:
    """Removes what killed writers left aside, of names with `prefix`. Call it while holding the run's lock."""
    for leftover in [*parent.glob(f"{ASIDE}{prefix}*"), *parent.glob(f"{TRASH}{prefix}*")]:
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)
    for replaced in list(parent.glob(f"{REPLACED}{prefix}*")):
        _settle(replaced)


def _settle(replaced: Path) -> None:
    """Ends a replacement: the old directory comes back if no new one took its name, and goes otherwise."""
    target = replaced.with_name(replaced.name.removeprefix(REPLACED))
    if not replaced.exists():
        return
    if target.exists():
        shutil.rmtree(replaced, ignore_errors=True)
    else:
        replaced.rename(target)
        sync_directory(target.parent)


def digest(path: Path) -> str:
    hasher = xxhash.xxh3_128()
    for block in blocks(path):
        hasher.update(block)
    return hasher.hexdigest()


def blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            yield block


def write_file(path: Path, content: Iterable[bytes | memoryview]) -> str:
    """Writes a file of a directory that is being filled, durably; its digest comes from the same pass."""
    hasher = xxhash.xxh3_128()
    with path.open("wb") as stream:
        for block in content:
            hasher.update(block)
            stream.write(block)
        stream.flush()
        os.fsync(stream.fileno())
    return hasher.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Replaces a small file in one step, durably: a reader sees the old text or the new one, never a part."""
    aside = path.with_name(f"{ASIDE}{path.name}-{os.getpid()}")
    try:
        write_file(aside, [text.encode()])
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def _make(folder: Path) -> None:
    """Makes a directory and those above it, durably."""
    if not folder.exists():
        _make(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_directory(folder.parent)


def sync_file(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
