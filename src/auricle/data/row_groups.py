"""Row groups of Parquet files, each fetched once a host: the index columns apart from the audio, which is most of it.

    footer(file)                       what columns and row groups there are
    index(file, columns, number)       texts, ids, durations …: a small fraction of the bytes
    recordings(group, column)          (audio, seconds, problem) of each row, memory-mapped from the cache
    Cell(group, column, row)           one recording as a manifest refers to it

An audio cell is encoded audio: the struct {bytes, path} that Hugging Face writes, or plain binary.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from auricle.core.errors import DataError, nearest
from auricle.data.audio import AudioProblem, probe
from auricle.data.disk_cache import shared_cache
from auricle.data.remote_files import BLOCK, Outcome, Ranges, RemoteFile, changed

LAYOUT = 1
"""Raised when what is kept in the cache changes its form."""
BATCH_ROWS = 32
CONNECTIONS = 16
"""Requests at once of one process."""
NO_BYTES = "the cell holds no bytes"
RECORDINGS = pa.schema([("audio", pa.large_binary()), ("seconds", pa.float64()), ("problem", pa.string())])
REFERENCE = re.compile(r"(?P<url>.+)#bytes=(?P<bytes>\d+)&version=(?P<version>\w*)&column=(?P<column>.+)"
                       r"&row_group=(?P<number>\d+)&row=(?P<row>\d+)")


@dataclass(frozen=True, slots=True, order=True)
class RowGroup:
    """Row group `number` of a file."""

    file: RemoteFile
    number: int


@dataclass(frozen=True, slots=True)
class Cell:
    """The recording in row `row` of a row group."""

    group: RowGroup
    column: str
    row: int

    def read(self) -> bytes:
        """The encoded audio. Raises AudioProblem where the cell holds none."""
        found = recordings(self.group, self.column)["audio"][self.row].as_py()
        if found is None:
            raise AudioProblem(self, "missing_file", NO_BYTES)
        return found

    def __str__(self) -> str:
        file = self.group.file
        return (f"{file.url}#bytes={file.bytes}&version={file.version}&column={self.column}"
                f"&row_group={self.group.number}&row={self.row}")

    @classmethod
    def parse(cls, reference: str) -> "Cell | None":
        """None for a reference that is a path."""
        found = REFERENCE.fullmatch(reference)
        if found is None:
            return None
        file = RemoteFile(found["url"], int(found["bytes"]), found["version"])
        return cls(RowGroup(file, int(found["number"])), found["column"], int(found["row"]))


def cell_groups(media: pa.ChunkedArray) -> np.ndarray | None:
    """(N,) int64 of a manifest's column `media`: equal for rows whose recordings lie in the same row group, another
    number for each row without a cell; None where no row has one."""
    media = media.combine_chunks()
    references = pc.struct_field(media.flatten(), "reference")
    is_cell = pc.match_substring_regex(references, r"#bytes=\d+&version=.*&row=\d+$").to_numpy(zero_copy_only=False)
    if not is_cell.any():
        return None
    owners = pc.list_parent_indices(media).to_numpy()
    groups = np.arange(len(media))
    without_row = pc.replace_substring_regex(references, r"&row=\d+$", "").dictionary_encode().indices.to_numpy()
    groups[owners[is_cell]] = len(media) + without_row[is_cell]
    return groups


def footers(files: Sequence[RemoteFile]) -> list[pq.FileMetaData]:
    """The footer of each file, many at once."""
    return at_once(footer, files)


def at_once(call: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """`call` of each item, in their order, with several requests at once."""
    items, numbers = list(items), itertools.count()
    found: list[Any] = [None] * len(items)

    def work() -> None:
        while (number := next(numbers)) < len(items):
            found[number] = call(items[number])

    for outcome in [Outcome.of(work) for _ in range(min(CONNECTIONS, len(items)))]:
        outcome.wait()
    return found


@lru_cache(maxsize=128)
def footer(file: RemoteFile) -> pq.FileMetaData:
    """Raises DataError where the file ends early or is no Parquet file."""

    def fetch(path: Path) -> None:
        with _opened(file) as source, _whole(file):
            pq.read_metadata(source).write_metadata_file(path)

    return _cached(_key("footer", file), fetch, pq.read_metadata)


def check_columns(file: RemoteFile, whole: pq.FileMetaData, wanted: dict[str, str]) -> None:
    """Raises DataError for the first column that the file does not have; `wanted` is config key → column."""
    there = whole.schema.to_arrow_schema().names
    for key, column in wanted.items():
        if column not in there:
            raise DataError(f"{file}: no column '{column}'; {nearest(column, there)}. Correct '{key}'")


def index(file: RemoteFile, columns: Sequence[str], number: int | None = None) -> pa.Table:
    """Some columns, none of them audio, of one row group or of the whole file."""
    whole = footer(file)  # before anything is fetched: what fills the cache may not ask it for more
    numbers = list(range(whole.num_row_groups)) if number is None else [number]

    def fetch(path: Path) -> None:
        with _reader(file, whole, pre_buffer=True) as reader:
            table = reader.read_row_groups(numbers, columns=list(columns), use_threads=False)
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)

    return _cached(_key("index", file, number, *columns), fetch, _mapped)


def recordings(group: RowGroup, column: str) -> pa.Table:
    """The audio of a row group by the schema RECORDINGS. `seconds` is what the header of the audio says, 0 where
    `problem` is not empty."""

    whole = footer(group.file)

    def fetch(path: Path) -> None:
        with _reader(group.file, whole) as reader, pa.ipc.new_file(str(path), RECORDINGS) as writer:
            for batch in reader.iter_batches(BATCH_ROWS, [group.number], [column], use_threads=False):
                writer.write_batch(_measured(_bytes_of(batch.column(0), column, group.file)))

    return _cached(_key("audio", group.file, group.number, column), fetch, _mapped)


def is_here(group: RowGroup, column: str) -> bool:
    """Whether `recordings` need not fetch anything."""
    return shared_cache().has(_key("audio", group.file, group.number, column))


def _measured(audio: pa.LargeBinaryArray) -> pa.RecordBatch:
    found = [probe(cell.as_py()) if cell.is_valid else (0.0, NO_BYTES) for cell in audio]
    seconds, problems = pa.array([s for s, _ in found], pa.float64()), pa.array([p for _, p in found], pa.string())
    return pa.record_batch([audio, seconds, problems], RECORDINGS)


def _bytes_of(cells: pa.Array, column: str, file: RemoteFile) -> pa.LargeBinaryArray:
    if pa.types.is_struct(cells.type) and "bytes" in [field.name for field in cells.type]:
        cells = pc.struct_field(cells, "bytes")
    if not (pa.types.is_binary(cells.type) or pa.types.is_large_binary(cells.type)):
        raise DataError(f"{file}: column '{column}' holds {str(cells.type)[:80]}; expected encoded audio, as "
                        "struct<bytes: binary, path: string> or binary. Name another 'audio_column'")
    return cells.cast(pa.large_binary())


@contextmanager
def _reader(file: RemoteFile, whole: pq.FileMetaData, *, pre_buffer: bool = False) -> Iterator[pq.ParquetFile]:
    """Reads column chunks in blocks, so that memory is bounded however large a row group is; with `pre_buffer` as few
    times as possible, for what is small."""
    with _opened(file) as source, _whole(file):
        yield pq.ParquetFile(source, metadata=whole, buffer_size=BLOCK, pre_buffer=pre_buffer)


@contextmanager
def _opened(file: RemoteFile) -> Iterator[Any]:
    if not file.is_local:
        yield Ranges(file)
        return
    path = Path(file.url)
    size = path.stat().st_size if path.is_file() else None
    if size != file.bytes:
        raise changed(file, size)
    with path.open("rb") as stream:
        yield stream


@contextmanager
def _whole(file: RemoteFile) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        if getattr(error, "errno", None):  # the disk's, not the format's
            raise
        raise DataError(f"{file}: no whole Parquet file ({str(error).strip().splitlines()[0][:120]}); all its "
                        f"{file.bytes:,} bytes were there to be read: it ends early, or is of another format. Copy it "
                        "again from where it comes from, or leave it out of 'splits'") from None


def _cached(key: str, fetch: Callable[[Path], None], read: Callable[[Path], Any]) -> Any:
    """What `read` makes of a file of the cache; one that a power cut has damaged is fetched again."""
    cache, damaged = shared_cache(), False
    while True:
        path = cache.get(key, fetch)
        try:
            return read(path)
        except FileNotFoundError:  # removed to make room for others, this moment
            continue
        except pa.ArrowInvalid:
            if damaged:
                raise
            cache.remove(key)
            damaged = True


def _mapped(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _key(*parts: Any) -> str:
    return xxhash.xxh3_128_hexdigest(repr((LAYOUT, *parts)).encode())
