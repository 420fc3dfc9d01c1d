"""Directories that are written once and verified when read.

`publish` writes aside under a private name, syncs every file, adds CHECKSUMS.json (size and xxh3-128 of each file,
and of itself) and renames once: a directory under its final name is whole, or it is damaged and `problems` says so.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import xxhash

CHECKSUMS = "CHECKSUMS.json"
ASIDE = ".incomplete-"


def publish(target: Path, write: Callable[[Path], None]) -> Path:
    """Lets `write` fill a directory beside `target` and moves it there. An existing target is left as it is."""
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.parent / f"{ASIDE}{target.name}-{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        write(aside)
        _seal(aside)
        aside.rename(target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    sync_directory(target.parent)
    return target


def _seal(folder: Path) -> None:
    entries = {}
    for path in _files(folder):
        sync_file(path)
        entries[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "xxh3_128": digest(path)}
    body = {"files": entries}
    body["self"] = _own_digest(body)
    (folder / CHECKSUMS).write_text(json.dumps(body, indent=1), encoding="utf-8")
    sync_file(folder / CHECKSUMS)
    for inner in (*sorted(path for path in folder.rglob("*") if path.is_dir()), folder):
        sync_directory(inner)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != CHECKSUMS)


def _own_digest(body: dict) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(body["files"], sort_keys=True).encode())


def problems(folder: Path) -> list[str]:
    """What is wrong with a published directory; empty when every byte is as it was written."""
    try:
        body = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        if body["self"] != _own_digest(body):
            return [f"{CHECKSUMS} does not match its own hash"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"{CHECKSUMS} is missing or unreadable ({error})"]
    found = []
    for name, entry in body["files"].items():
        path = folder / name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif path.stat().st_size != entry["bytes"]:
            found.append(f"{name} has {path.stat().st_size} bytes, expected {entry['bytes']}")
        elif digest(path) != entry["xxh3_128"]:
            found.append(f"{name} does not match its hash")
    return found


def sweep(parent: Path) -> None:
    """Removes what killed writers left aside. Call it while holding the run's lock."""
    for leftover in parent.glob(f"{ASIDE}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def digest(path: Path) -> str:
    hasher = xxhash.xxh3_128()
    with path.open("rb") as stream:
        while block := stream.read(1 << 22):
            hasher.update(block)
    return hasher.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Replaces a small file in one step: a reader sees the old text or the new one, never a part."""
    aside = path.with_name(f"{ASIDE}{path.name}-{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    sync_file(aside)
    aside.replace(path)


def sync_file(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
