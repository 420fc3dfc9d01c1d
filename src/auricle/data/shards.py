"""The part of preparation that runs in worker processes: a chunk of candidates becomes one judged shard.

A shard holds every row of its chunk, the rejected ones too: `reason` is null for rows that can be used.
"""

import hashlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from auricle.core.errors import DataError
from auricle.core.folder import find
from auricle.core.frame import Block
from auricle.data.audio import AudioProblem, Clip, decode
from auricle.data.features import Features
from auricle.data.judge import Checks, Facts, Rejection, judge, spoken_seconds
from auricle.data.manifest import AUDIO, FEATURES, SCHEMA, audio_seconds
from auricle.data.sources import Candidate

VERDICT = ("reason", "detail")
CHECKSUM = "checksum"
"""A column of sources that ask for it: xxh3-64 of the bytes of each row's file (data/verify.py)."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One chunk: rows `first` to `first + rows` of the listing."""

    number: int
    first: int
    rows: int
    config: Block
    checks: Checks
    work: Path
    columns: tuple[str, ...]

    @property
    def shard(self) -> Path:
        return self.work / "shards" / f"{self.number:06d}.arrow"

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([*SCHEMA, *((name, pa.string()) for name in (*self.columns, *VERDICT))])


Chunk = tuple[Job, list[Candidate]]


def make_shards(jobs: list[Job], candidates: Iterable[Candidate], workers: int) -> Iterator[Job]:
    """Makes the shard of each job, in any order, and yields it when it is there; `candidates` is the whole listing."""
    chunks = _chunks(jobs, iter(candidates))
    workers = min(workers, len(jobs))
    if workers <= 1:
        yield from (make_shard(job, chunk) for job, chunk in chunks)
        return
    # Spawned, not forked: the caller may hold threads and CUDA. The window bounds what waits in memory.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_enter_worker) as pool:
        try:
            yield from _in_window(pool, chunks, 3 * workers)
        except BrokenProcessPool:
            raise DataError("preparation: a worker process died, perhaps for want of memory; run the same command "
                            "again, with fewer workers: what is done stays") from None
        finally:
            pool.shutdown(cancel_futures=True)


def _chunks(jobs: list[Job], candidates: Iterator[Candidate]) -> Iterator[Chunk]:
    position = 0
    for job in jobs:
        yield job, list(islice(candidates, job.first - position, job.first - position + job.rows))
        position = job.first + job.rows


def _in_window(pool: ProcessPoolExecutor, chunks: Iterator[Chunk], window: int) -> Iterator[Job]:
    waiting: set[Future] = set()
    while True:
        waiting |= {pool.submit(make_shard, *chunk) for chunk in islice(chunks, window - len(waiting))}
        if not waiting:
            return
        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        yield from (future.result() for future in done)


def _enter_worker() -> None:
    """A worker leaves the answer to Ctrl-C to its parent, and ends when that is gone: a killed one cannot tell it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def make_shard(job: Job, chunk: list[Candidate]) -> Job:
    """Renders, decodes and judges each candidate; the shard is there when all of it is on disk."""
    source = find("data.sources", job.config.kind)
    table = pa.Table.from_pylist([_row(source, job, candidate) for candidate in chunk], job.schema)
    aside = job.shard.with_suffix(f".{os.getpid()}")
    with aside.open("wb") as file:
        with pa.ipc.new_file(file, job.schema) as writer:
            writer.write_table(table)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(job.shard)
    return job


def _row(source: Any, job: Job, candidate: Candidate) -> dict[str, Any]:
    if candidate.audio is None and not hasattr(source, "render"):
        audio, media = None, []
        facts = Facts(id=candidate.id, text=candidate.text, seconds=spoken_seconds(candidate.text))
    else:
        audio, reference = _located(source, job, candidate)
        kind = FEATURES if isinstance(audio, Features) else AUDIO
        media = [{"kind": kind, "reference": reference, "start": candidate.start, "stop": candidate.stop}]
        facts = _facts(candidate, audio)
    rejection = judge(facts, job.checks)
    return {"id": candidate.id, "text": candidate.text, "messages": None, "media": media,
            "lengths": {"seconds": facts.seconds, "tokens": None, "pixels": None},
            "speaker": candidate.speaker, "language": candidate.language, "source": job.config.kind,
            "split": candidate.split, **{name: candidate.extra.get(name) for name in job.columns},
            **({CHECKSUM: checksum(audio)} if CHECKSUM in job.columns else {}),
            "reason": rejection and rejection.reason, "detail": rejection and rejection.detail}


def _located(source: Any, job: Job, candidate: Candidate) -> tuple[Path | Clip | Features, str]:
    """The audio of a candidate and how the manifest refers to it."""
    if isinstance(candidate.audio, Features):
        found = Features(candidate.audio.path.absolute(), candidate.audio.layout)
        return found, str(found)
    if candidate.audio is not None and not isinstance(candidate.audio, Path):
        return candidate.audio, str(candidate.audio)
    if candidate.audio is not None:
        path = candidate.audio.absolute()
        return path, str(path)
    result = job.work / "result"
    path = source.render(job.config, candidate, result / "audio")
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return path, path.relative_to(result).as_posix()


def _facts(candidate: Candidate, audio: Path | Clip | Features) -> Facts:
    """What the corpus states of the candidate, or else a full decode of its audio."""
    if candidate.seconds is not None:
        return Facts(id=candidate.id, text=candidate.text, seconds=candidate.seconds)
    try:
        if isinstance(audio, Features):
            samples, rate = audio.read(candidate.start, candidate.stop), audio.layout.frame_rate
        else:
            samples, rate = decode(audio, candidate.start, candidate.stop)
    except AudioProblem as problem:
        return Facts(id=candidate.id, text=candidate.text, seconds=0.0, problem=(problem.reason, problem.detail))
    return Facts(id=candidate.id, text=candidate.text, seconds=len(samples) / rate, samples=len(samples),
                 finite=bool(np.isfinite(samples).all()))


def checksum(audio: Path | Clip | Features | None) -> str | None:
    """None for what is no file of its own, or is not there."""
    path = audio.path if isinstance(audio, Features) else audio
    if not isinstance(path, Path) or not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_64).hexdigest()


def usable(job: Job) -> bool:
    """Whether the shard is there and whole: its footer is written last."""
    try:
        _read(job.shard)
    except (OSError, pa.ArrowInvalid):
        return False
    return True


def kept_of(shard: Path) -> pa.Table:
    """The rows of a shard that can be used, as the manifest has them."""
    table = _read(shard)
    return table.filter(pc.is_null(table["reason"])).drop_columns(list(VERDICT))


def rejections_of(shard: Path) -> list[Rejection]:
    rows = _read(shard).select(["id", *VERDICT])
    return [Rejection(row["reason"], row["id"], row["detail"])
            for row in rows.filter(pc.is_valid(rows["reason"])).to_pylist()]


def seconds_of(shard: Path) -> float:
    return pc.sum(audio_seconds(kept_of(shard))).as_py() or 0.0


def _read(shard: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(shard))).read_all()
