"""From a source to a published manifest: list, then decode, judge and measure in parallel, then merge and rename.

    source ──candidates──► chunks ──worker processes──► FOLDER.preparing/shards/000000.arrow …
                                                        └──merged in order──► FOLDER.preparing/result ──rename──► FOLDER

A killed preparation goes on where it stopped, since a shard is there or is not. The same source gives the same bytes,
whatever the number of workers and kills. A published folder is never written to again.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from auricle.core.errors import DataError
from auricle.core.folder import find
from auricle.core.frame import Block
from auricle.data.judge import Checks, refuse_if_too_many
from auricle.data.manifest import SUMMARY, Manifest
from auricle.data.merge import merge, sync
from auricle.data.shards import CHECKSUM, Job, make_shards, rejections_of, seconds_of, usable
from auricle.data.sources import Candidate

LAYOUT = 1
"""Raised when the same source would be prepared differently, so that old folders are not taken for new ones."""
CHUNKS, SMALLEST_CHUNK, LARGEST_CHUNK = 512, 64, 1024
NO_LIMITS = Checks()

Progress = Callable[[int, int, float], None]
"""(rows done, rows in all, seconds of audio done)"""


def prepare(source_config: Block, folder: Path, *, workers: int | None = None, checks: Checks = NO_LIMITS,
            max_rejected: float = 0.01, progress: Progress | None = None) -> Manifest:
    """Prepares a source into `folder`, or opens what the same source prepared there before.

    Raises DataError: a folder that holds something else, a source without a usable row or with too many rejected ones
    (what is sound stays and is not made again), ids that occur twice, a place that cannot be written.
    """
    folder = Path(folder).absolute()
    identity = source_hash(source_config, checks)
    with _reporting_disk_errors(folder):
        if not _is_published(folder, identity, source_config):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _only_one(folder.with_name(f"{folder.name}.lock")):
                if not _is_published(folder, identity, source_config):  # by the process that held the lock
                    _prepare(source_config, folder, identity, workers, checks, max_rejected, progress)
        return Manifest.open(folder)


def prepared(source_config: Block, root: Path, name: str, **options: Any) -> Manifest:
    """`prepare` into a folder of `root` whose name tells the source config, so that a changed one is prepared anew."""
    return prepare(source_config, folder_of(source_config, root, name, options.get("checks", NO_LIMITS)), **options)


def folder_of(source_config: Block, root: Path, name: str, checks: Checks = NO_LIMITS) -> Path:
    """Where `prepared` puts, or has put, a source."""
    return Path(root) / f"{name}-{source_hash(source_config, checks)[:8]}"


def source_hash(source_config: Block, checks: Checks = NO_LIMITS) -> str:
    """What a preparation depends on: the config, the content of the files that it names, and the bounds of the checks.

    Audio (Parquet files hold it too) and the files within a corpus folder are not part of it.
    """
    values = source_config.model_dump(mode="json")
    limits = [checks.min_seconds, str(checks.max_seconds), checks.empty_transcript]
    hasher = xxhash.xxh3_128(json.dumps([LAYOUT, values, limits], sort_keys=True).encode())
    for text in _texts(values):
        if Path(text).is_file() and not text.endswith(".parquet"):
            with _reporting_disk_errors(Path(text)):
                hasher.update(Path(text).read_bytes())
    return hasher.hexdigest()


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(item)


def _is_published(folder: Path, identity: str, source_config: Block) -> bool:
    """False for an absent or empty folder. Raises DataError when it holds anything else than this preparation."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not (folder / SUMMARY).is_file():
        raise DataError(f"{folder}: exists and is no manifest; nothing was written. Prepare to another folder")
    summary = Manifest.open(folder).summary
    if summary["source_hash"] != identity:
        raise DataError(f"{folder}: holds another preparation ({_difference(summary['source'], source_config)}); "
                        "nothing was written. Prepare to another folder, or delete this one")
    return True


def _difference(old: dict, source_config: Block) -> str:
    new = source_config.model_dump(mode="json")
    changed = [f"{key} {json.dumps(old.get(key))}, asked for {json.dumps(new.get(key))}"
               for key in {**old, **new} if old.get(key) != new.get(key)]
    return "; ".join(changed) or "its bounds, or the files that it was made from, have changed since"


def _prepare(config: Block, folder: Path, identity: str, workers: int | None, checks: Checks, max_rejected: float,
             progress: Progress | None) -> None:
    source = find("data.sources", config.kind)
    listing = _list(source, config)
    work = folder.with_name(f"{folder.name}.preparing")
    chunk_rows = min(LARGEST_CHUNK, max(SMALLEST_CHUNK, listing.rows // CHUNKS))
    _start_or_continue(work, {"source_hash": identity, "listing": listing.digest, "chunk_rows": chunk_rows})

    jobs = [Job(number=number, config=config, checks=checks, work=work, columns=listing.columns,
                first=first, rows=min(chunk_rows, listing.rows - first))
            for number, first in enumerate(range(0, listing.rows, chunk_rows))]
    _run(jobs, source.candidates(config), listing.rows, workers, progress)

    rejections = [rejection for job in jobs for rejection in rejections_of(job.shard)]
    try:
        refuse_if_too_many(rejections, listing.rows, max_rejected, f"{config.kind}: {folder.name}")
    except DataError:
        for job in jobs:  # rows that will be mended are to be looked at again
            if any(not rejection.filtered for rejection in rejections_of(job.shard)):
                job.shard.unlink()
        raise
    summary = {"source": config.model_dump(mode="json"), "source_hash": identity}
    merge([job.shard for job in jobs], work / "result", summary)
    (work / "result").rename(folder)
    sync(folder.parent)
    shutil.rmtree(work)


@dataclass(frozen=True)
class _Listing:
    rows: int
    digest: str
    columns: tuple[str, ...]
    """Names of the columns beside those of every manifest."""


def _list(source: Any, config: Block) -> _Listing:
    """Goes through the candidates once. Raises DataError when an id occurs twice."""
    digest, seen, twice, columns = xxhash.xxh3_128(), set(), set(), set()
    for candidate in source.candidates(config):
        digest.update(repr(candidate).encode())
        short = xxhash.xxh3_64_intdigest(candidate.id.encode())
        if short in seen:
            twice.add(candidate.id)
        seen.add(short)
        columns.update(candidate.extra)
    if twice:
        raise DataError(f"{config.kind}: {len(twice)} ids occur more than once, as {', '.join(sorted(twice)[:3])}; "
                        "expected one row an id. Remove the repeated rows, or give each its own id")
    if getattr(config, "checksums", False):
        columns.add(CHECKSUM)
    return _Listing(len(seen), digest.hexdigest(), tuple(sorted(columns)))


def _start_or_continue(work: Path, state: dict) -> None:
    """Keeps the shards of the same preparation; what another one left is removed."""
    note = work / "state.json"
    if not note.is_file() or note.read_text(encoding="utf-8") != json.dumps(state):
        shutil.rmtree(work, ignore_errors=True)
        (work / "shards").mkdir(parents=True)
        (work / "result").mkdir()
        note.write_text(json.dumps(state), encoding="utf-8")


def _run(jobs: list[Job], candidates: Iterator[Candidate], total: int, workers: int | None,
         progress: Progress | None) -> None:
    """Makes the shards that are missing."""
    missing = [job for job in jobs if not usable(job)]
    numbers = {job.number for job in missing}
    made = [job for job in jobs if job.number not in numbers]
    done, seconds = sum(job.rows for job in made), sum(seconds_of(job.shard) for job in made)
    report = progress or (lambda *_: None)
    report(done, total, seconds)
    for job in make_shards(missing, candidates, workers or os.cpu_count() or 1):
        done, seconds = done + job.rows, seconds + seconds_of(job.shard)
        report(done, total, seconds)


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    """Waits until no other process prepares the same folder; the lock of a killed process is free."""
    while True:
        with lock.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(lock, file.fileno()):
                continue  # its last holder has removed it
            try:
                yield
            finally:
                lock.unlink()
            return


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@contextmanager
def _reporting_disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f"{error.filename or folder}: {error.strerror or error}"
        raise DataError(f"{what}; expected a place that can be written and files that can be read. "
                        "Run the same command again when that is mended: what is done stays") from None
