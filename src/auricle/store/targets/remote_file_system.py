"""Anything that fsspec knows as a target: s3://, gs://, sftp://, hf://buckets/… (each may need its own package).

Object stores cannot rename: a directory is committed by its CHECKSUMS.json, which comes last and goes first. A copy is
verified by the store's own hash of it where it gives a usable one, and by reading it back otherwise.
"""

import base64
import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
import xxhash

from auricle.core.errors import AuricleError, CheckpointError, UsageError
from auricle.store import directory
from auricle.store.targets import MirrorError, Progress
from auricle.store.targets.parts import transfer
from auricle.store.targets.parts.urls import without_password


def connect(url: str) -> "RemoteFileSystem":
    """Raises UsageError for a scheme that fsspec does not know, or whose package is missing."""
    try:
        file_system, root = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise UsageError(f"mirror target '{without_password(url)}': {error}; expected a folder, ssh://host/folder or a "
                         "URL that fsspec can open (pip install s3fs for s3://, gcsfs for gs://)") from None
    return RemoteFileSystem(file_system, root.rstrip("/"), url)


class RemoteFileSystem:
    def __init__(self, file_system: fsspec.AbstractFileSystem, root: str, url: str) -> None:
        self._fs, self._root = file_system, root
        self.url = without_password(url)
        self.is_own_disk = _is_local(file_system)

    def probe(self) -> None:
        with self._reported():
            self._fs.makedirs(self._root, exist_ok=True)
            probe = self._at(f".probe-{os.urandom(4).hex()}")
            self._fs.pipe_file(probe, b"probe")
            self._fs.rm_file(probe)

    def held(self) -> dict[str, str | None]:
        with self._reported():
            self._fs.invalidate_cache()
            return {f"{group}/{name}": self._identity(f"{group}/{name}")
                    for group in transfer.GROUPS for name in sorted(self._directories(group))
                    if transfer.is_committed_name(name)}

    def _identity(self, name: str) -> str | None:
        with transfer.laid_out(self._bytes(f"{name}/{directory.CHECKSUMS}")) as folder:
            return transfer.identity(folder)

    def _directories(self, group: str) -> set[str]:
        try:
            entries = self._fs.ls(self._at(group), detail=True)
        except FileNotFoundError:
            return set()
        return {entry["name"].rstrip("/").rpartition("/")[2] for entry in entries if entry["type"] == "directory"}

    def put(self, folder: Path, name: str, progress: Progress) -> None:
        files = transfer.listed(folder)
        done = 0
        with self._reported():
            self._fs.invalidate_cache()
            self._uncommit(name)
            for file in files:
                self._send(folder / file, f"{name}/{file}", progress, done)
                done += files[file]["bytes"]
            for file, entry in files.items():
                if not self._arrived(folder / file, f"{name}/{file}", entry["xxh3_128"]):
                    transfer.refuse_damaged(folder)
                    raise MirrorError(f"{self.url}: the copy of {name} is damaged there: {file}")
            self._fs.pipe_file(self._at(f"{name}/{directory.CHECKSUMS}"), (folder / directory.CHECKSUMS).read_bytes())

    def _send(self, path: Path, name: str, progress: Progress, done: int) -> None:
        self._fs.makedirs(self._at(name.rpartition("/")[0]), exist_ok=True)
        with self._fs.open(self._at(name), "wb") as stream:
            for block in transfer.counted(directory.blocks(path), progress, done):
                stream.write(block)

    def _arrived(self, path: Path, name: str, digest: str) -> bool:
        claimed = _store_hashes(self._fs.info(self._at(name)))
        return any(_hash_of(path, kind) in claimed for kind in _kinds(claimed)) or self._digest(name) == digest

    def _digest(self, name: str) -> str:
        hasher = xxhash.xxh3_128()
        with self._fs.open(self._at(name), "rb") as stream:
            while block := stream.read(directory.BLOCK):
                hasher.update(block)
        return hasher.hexdigest()

    def _uncommit(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._at(f"{name}/{directory.CHECKSUMS}"))

    def get(self, name: str, to: Path, progress: Progress) -> None:
        def fetch(aside: Path) -> None:
            done = 0
            with self._reported():
                self._fs.invalidate_cache()
                for path in self._files(name):
                    target = aside / path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with self._fs.open(self._at(f"{name}/{path}"), "rb") as stream:
                        blocks = iter(lambda stream=stream: stream.read(directory.BLOCK), b"")
                        directory.write_file(target, transfer.counted(blocks, progress, done))
                    done += target.stat().st_size

        transfer.receive(to, self.url, fetch)

    def _files(self, name: str) -> list[str]:
        base = self._at(name).lstrip("/")
        return [path.lstrip("/").removeprefix(f"{base}/") for path in self._fs.find(self._at(name))]

    def problems(self, name: str) -> list[str]:
        with self._reported():
            self._fs.invalidate_cache()
            with transfer.laid_out(self._bytes(f"{name}/{directory.CHECKSUMS}")) as folder:
                try:
                    files = transfer.listed(folder)
                except CheckpointError as error:
                    return [str(error)]
            there = set(self._files(name))
            return [f"{file} is missing" if file not in there else f"{file} does not match its hash"
                    for file, entry in files.items()
                    if file not in there or self._digest(f"{name}/{file}") != entry["xxh3_128"]]

    def remove(self, name: str) -> None:
        with self._reported():
            self._uncommit(name)
            self._fs.rm(self._at(name), recursive=True)

    def put_files(self, folder: Path, names: Sequence[str]) -> None:
        for name in names:
            with self._reported():
                self._fs.makedirs(self._at(name).rpartition("/")[0], exist_ok=True)
                self._fs.pipe_file(self._at(name), (folder / name).read_bytes())

    def get_files(self, to: Path) -> None:
        with self._reported():
            self._fs.invalidate_cache()
            for name in self._files(""):
                if not name.startswith(("checkpoints/", ".")):
                    (to / name).parent.mkdir(parents=True, exist_ok=True)
                    directory.write_file(to / name, [self._fs.cat_file(self._at(name))])

    def read(self, name: str) -> bytes | None:
        with self._reported():
            return self._bytes(name)

    def _bytes(self, name: str) -> bytes | None:
        try:
            return self._fs.cat_file(self._at(name))
        except FileNotFoundError:
            return None

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        """Each file system raises what its own library does, so all of it counts as the target's failure."""
        try:
            yield
        except AuricleError:
            raise
        except Exception as error:
            raise MirrorError(f"{self.url}: {error or type(error).__name__}") from error


def _is_local(file_system: Any) -> bool:
    """Whether it is this machine's, also below a cache or a folder (fsspec's chains: `dir::file:///…`)."""
    while (inner := getattr(file_system, "fs", None)) is not None:
        file_system = inner
    protocol = file_system.protocol
    return "file" in ((protocol,) if isinstance(protocol, str) else protocol)


def _store_hashes(info: dict[str, Any]) -> set[str]:
    """Hashes in hex that the store may have of a file's content: S3's ETag (where it is one), GCS's MD5, the hub's LFS.

    One that equals the local file's proves the copy; any other says nothing, as an ETag need not be a hash.
    """
    found = {str(info.get("ETag", "")).strip('"'), str((info.get("lfs") or {}).get("sha256", ""))}
    if md5 := info.get("md5Hash"):
        found.add(base64.b64decode(md5).hex())
    return found


def _kinds(claimed: set[str]) -> list[str]:
    sizes = {32: "md5", 64: "sha256"}
    return [sizes[len(claim)] for claim in claimed if len(claim) in sizes]


def _hash_of(path: Path, kind: str) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, kind).hexdigest()
