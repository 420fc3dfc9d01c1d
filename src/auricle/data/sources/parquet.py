"""Parquet files with audio in a column, as the Hugging Face hub has data sets: read where they are, on any file system.

    hf://datasets/OWNER/NAME/FOLDER/train-*.parquet      https://HOST/FILE.parquet      s3://…      a local path

A cell of the audio column holds encoded audio: {bytes, path} or plain binary. Rows are listed from the other columns,
a small fraction of the bytes; audio is fetched by row group when its turn comes (data/row_groups.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from os.path import commonpath
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from auricle.core.errors import DataError, nearest
from auricle.core.frame import Block
from auricle.data.draws import permutation
from auricle.data.remote_files import RemoteFile, listed
from auricle.data.row_groups import CONNECTIONS, Cell, RowGroup, at_once, check_columns, footers, index
from auricle.data.sources import Candidate


class Config(Block):
    kind: Literal["parquet"] = "parquet"
    splits: dict[str, list[str]] = Field(min_length=1)
    """Split → files: paths or URLs, with `*` and `**` where the file system can list (not https)."""
    audio_column: str = "audio"
    text_column: str = "text"
    id_column: str | None = None
    """None names a row by its file and its number in it."""
    duration_column: str | None = None
    """None: lengths are read from the audio itself."""
    duration_unit: Literal["seconds", "milliseconds"] = "seconds"
    speaker_column: str | None = None
    language: str = ""
    streaming: bool | None = None
    """True trains window by window, from the first row groups on, and looks at no others; false lists all rows first;
    None is false where there is a duration column."""
    max_samples: dict[str, int] = {}
    """Split → at most so many of its rows, by whole row groups drawn at random; no others are looked at."""

    @property
    def streams(self) -> bool:
        return self.duration_column is None if self.streaming is None else self.streaming

    def files_of(self, split: str) -> list[str]:
        """Raises DataError with the splits that there are."""
        if split not in self.splits:
            raise DataError(f"parquet: no split '{split}'; {nearest(split, self.splits)}. Correct 'splits'")
        return self.splits[split]

    @property
    def index_columns(self) -> tuple[str, ...]:
        named = (self.text_column, self.id_column, self.duration_column, self.speaker_column)
        return tuple(dict.fromkeys(column for column in named if column is not None))


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A row group of a split."""

    group: RowGroup
    name: str
    """Of its file, in the names of rows."""
    first: int
    """Where it begins in its file, in rows."""
    rows: int
    """Of it, as many as are used."""
    bytes: int
    """Of the whole row group, uncompressed."""


def candidates(config: Config) -> Iterator[Candidate]:
    for split in config.splits:
        chosen = pieces(config, split)
        for start in range(0, len(chosen), CONNECTIONS):
            some = chosen[start : start + CONNECTIONS]
            for piece, rows in zip(some, at_once(lambda piece: rows_of(config, piece), some), strict=True):
                yield from _candidates(config, split, piece, rows)


def _candidates(config: Config, split: str, piece: Piece, rows: "PieceRows") -> Iterator[Candidate]:
    for number in range(piece.rows):
        yield Candidate(id=rows.ids[number], text=rows.texts[number], split=split, language=config.language,
                        audio=Cell(piece.group, config.audio_column, number), speaker=rows.speakers[number],
                        seconds=None if rows.seconds is None else float(rows.seconds[number]))


def pieces(config: Config, split: str, most: int | None = None, seed: int = 0) -> list[Piece]:
    """The row groups of a split, in the order of its files; with `most` (or `max_samples` for the split) as many, drawn
    by the seed, as hold so many rows. Raises DataError: a split, file or column that does not exist."""
    files = list(dict.fromkeys(file for some in at_once(listed, config.files_of(split)) for file in some))
    found = [piece for file, name, footer in zip(files, _names(files), footers(files), strict=True)
             for piece in _pieces(config, file, name, footer)]
    if not found:
        raise DataError(f"parquet: split '{split}' has no row in its {len(files)} files; expected at least one")
    most = config.max_samples.get(split) if most is None else most
    return found if most is None else _capped(found, most, seed)


def _pieces(config: Config, file: RemoteFile, name: str, footer: Any) -> Iterator[Piece]:
    optional = ("id_column", "duration_column", "speaker_column")
    keys = ["audio_column", "text_column", *(key for key in optional if getattr(config, key) is not None)]
    check_columns(file, footer, {key: getattr(config, key) for key in keys})
    first = 0
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        if group.num_rows:
            yield Piece(group=RowGroup(file, number), name=name, first=first, rows=group.num_rows,
                        bytes=group.total_byte_size)
        first += group.num_rows


def _capped(found: Sequence[Piece], most: int, seed: int) -> list[Piece]:
    order = permutation(len(found), seed, "cap")
    before = np.cumsum([0, *(found[place].rows for place in order)])
    left = {int(place): int(most - rows) for place, rows in zip(order, before[:-1], strict=True) if rows < most}
    return [replace(found[place], rows=min(found[place].rows, left[place])) for place in sorted(left)]


@dataclass(frozen=True, kw_only=True)
class PieceRows:
    """What the index columns tell of the rows of a piece."""

    ids: list[str]
    texts: list[str]
    speakers: list[str]
    seconds: np.ndarray | None
    """(N,) float64; None without a duration column."""


def rows_of(config: Config, piece: Piece, first: int = 0, last: int | None = None) -> PieceRows:
    """Of all rows, or of `first` up to `last`."""
    last = piece.rows if last is None else last
    table = index(piece.group.file, config.index_columns, piece.group.number).slice(first, last - first)
    ids = [f"{piece.name}-{piece.first + number}" for number in range(first, last)]
    seconds = None
    if config.duration_column is not None:
        scale = 1e-3 if config.duration_unit == "milliseconds" else 1.0
        seconds = scale * _cast(table, config.duration_column, pa.float64(), 0.0, piece).to_numpy()
    return PieceRows(
        ids=ids if config.id_column is None else _strings(table, config.id_column, piece),
        texts=_strings(table, config.text_column, piece),
        speakers=_strings(table, config.speaker_column, piece) if config.speaker_column else [""] * len(ids),
        seconds=seconds,
    )


def _strings(table: pa.Table, column: str, piece: Piece) -> list[str]:
    return _cast(table, column, pa.string(), "", piece).to_pylist()


def _cast(table: pa.Table, column: str, kind: pa.DataType, absent: Any, piece: Piece) -> pa.ChunkedArray:
    try:
        return pc.fill_null(table[column].cast(kind), absent)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise DataError(f"{piece.group.file}: column '{column}' holds {str(table[column].type)[:80]}; expected "
                        f"{'numbers' if pa.types.is_floating(kind) else 'text'}. Name another column") from None


def _names(files: Sequence[RemoteFile]) -> list[str]:
    """Each file's path without what all have in common, and without its suffix."""
    paths = [PurePosixPath("/" + file.url.rpartition("://")[2].lstrip("/")) for file in files]
    common = commonpath([path.parent for path in paths])
    return [str(path.relative_to(common).with_suffix("")) for path in paths]
