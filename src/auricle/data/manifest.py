"""The table of a corpus: one folder, opened in no time at any size, read from disk as rows are asked for.

    manifest.parquet     the table, for people and tools; its hash is the fingerprint
    manifest.arrow       the same table uncompressed, because Parquet cannot be memory-mapped row by row
    rejections.parquet   id, reason, detail of the candidates that are not in the table
    summary.json         hours, splits, lengths, languages, alphabet, counts by reason, source, fingerprint, file sizes
    audio/               only where the source makes its audio
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from auricle.core.errors import DataError, nearest
from auricle.data.features import Features, Layout
from auricle.data.judge import Rejection
from auricle.data.row_groups import Cell, cell_groups

PARQUET, ARROW, REJECTIONS, SUMMARY = "manifest.parquet", "manifest.arrow", "rejections.parquet", "summary.json"

SCHEMA = pa.schema([
    ("id", pa.string()),
    ("media", pa.list_(pa.struct([("kind", pa.string()), ("reference", pa.string()),
                                  ("start", pa.float64()), ("stop", pa.float64())]))),
    ("text", pa.string()),
    ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
    ("lengths", pa.struct([("seconds", pa.float64()), ("tokens", pa.int64()), ("pixels", pa.int64())])),
    ("speaker", pa.string()),
    ("language", pa.string()),
    ("source", pa.string()),
    ("split", pa.string()),
])
"""The columns of every manifest; others are free. A reference is relative to the manifest's folder, or absolute, or
names a cell of a Parquet file (data/row_groups.py). Of kind "features" it names a file of features
(data/features.py)."""

AUDIO, FEATURES = "audio", "features"
"""Kinds of media."""

NO_AUDIO = {"kind": None, "reference": None, "start": None, "stop": None}


@dataclass(frozen=True, slots=True)
class Row:
    """One utterance. `start` and `stop` are seconds into the file; None is its start and its end."""

    id: str
    audio: Path | Cell | Features | None
    """A file, a cell of a Parquet file, features in the place of audio, or None for a row of text alone."""
    start: float | None
    stop: float | None
    text: str
    seconds: float
    speaker: str
    language: str
    source: str
    split: str
    prompt: str = ""


class Manifest:
    """The rows of a prepared folder, or a selection of them. A worker process that is sent one maps the file anew."""

    def __init__(self, folder: Path, summary: dict, table: pa.Table, selection: np.ndarray | None = None) -> None:
        self.folder, self.summary = folder, summary
        self._table, self._selection = table, selection

    @classmethod
    def open(cls, path: Path) -> "Manifest":
        """The whole manifest of a prepared folder. Raises DataError when it is missing, cut or no manifest."""
        folder = Path(path).absolute()
        summary = _read_summary(folder)
        for name, size in summary["bytes"].items():
            found = (folder / name).stat().st_size if (folder / name).exists() else 0
            if found != size:
                raise _damaged(folder / name, f"{found} bytes, expected {size}")
        return cls(folder, summary, _map(folder / ARROW))

    def __reduce__(self) -> tuple:
        return _reopened, (self.folder, self._selection)

    def __len__(self) -> int:
        return self._table.num_rows if self._selection is None else len(self._selection)

    @property
    def rows(self) -> np.ndarray:
        """(N,) int64, where each row of this view stands in the file."""
        return np.arange(self._table.num_rows) if self._selection is None else self._selection

    @cached_property
    def fingerprint(self) -> str:
        """xxh3-128 of the Parquet file, and of the selection where there is one."""
        if self._selection is None:
            return self.summary["fingerprint"]
        selected = np.ascontiguousarray(self._selection, "<i8").tobytes()
        return xxhash.xxh3_128_hexdigest(self.summary["fingerprint"].encode() + selected)

    @cached_property
    def seconds(self) -> np.ndarray:
        """(N,) float64"""
        seconds = pc.struct_field(self._table.column("lengths"), "seconds").to_numpy()
        return seconds if self._selection is None else seconds[self._selection]

    @cached_property
    def has_audio(self) -> np.ndarray:
        """(N,) bool; `seconds` of the other rows are what speaking them would take."""
        counted = has_audio(self._table).to_numpy()
        return counted if self._selection is None else counted[self._selection]

    @cached_property
    def layouts(self) -> frozenset[Layout | None]:
        """Of the rows that are features; None stands for rows with audio."""
        media = self._column("media").combine_chunks().flatten()
        kinds, references = pc.struct_field(media, "kind"), pc.struct_field(media, "reference")
        features = references.filter(pc.equal(kinds, FEATURES))
        endings = pc.replace_substring_regex(features, r".*#width=", "#width=").unique().to_pylist()
        found = {Features.parse(f"_{ending}").layout for ending in endings}
        return frozenset(found | ({None} if len(features) < len(media) else set()))

    @cached_property
    def groups(self) -> np.ndarray | None:
        """(N,) int64, equal for rows whose audio lies in the same row group of a Parquet file; None where none does."""
        return cell_groups(self._column("media"))

    @property
    def ids(self) -> list[str]:
        return self.column("id")

    @property
    def texts(self) -> list[str]:
        return self.column("text")

    @property
    def columns(self) -> list[str]:
        return self._table.column_names

    def column(self, name: str) -> list:
        """The values of a column as Python objects. Raises DataError with the nearest name."""
        return self._column(name).to_pylist()

    def _column(self, name: str) -> pa.ChunkedArray:
        if name not in self.columns:
            raise DataError(f"{self.folder}: no column '{name}'; {nearest(name, self.columns)}")
        column = self._table.column(name)
        return column if self._selection is None else column.take(pa.array(self._selection))

    def row(self, i: int) -> Row:
        position = i if self._selection is None else int(self._selection[i])
        return self._row(self._table.slice(position, 1).to_pylist()[0])

    def rows_at(self, numbers: np.ndarray) -> list[Row]:
        """Many rows, faster than one by one."""
        return [self._row(fields) for fields in self._table.take(self.rows[numbers]).to_pylist()]

    def _row(self, fields: dict) -> Row:
        audio = fields["media"][0] if fields["media"] else NO_AUDIO
        return Row(id=fields["id"], audio=self._located(audio), start=audio["start"], stop=audio["stop"],
                   text=fields["text"], seconds=fields["lengths"]["seconds"], speaker=fields["speaker"],
                   language=fields["language"], source=fields["source"], split=fields["split"],
                   prompt=fields.get("prompt") or "")

    def _located(self, audio: Mapping[str, Any]) -> Path | Cell | Features | None:
        reference = audio["reference"]
        if audio["kind"] == FEATURES:
            found = Features.parse(reference)
            return Features(self.folder / found.path, found.layout)
        return reference and (Cell.parse(reference) or self.folder / reference)

    def where(self, split: str | None = None, rows: Sequence[int] | np.ndarray | None = None) -> "Manifest":
        """A view without a copy: `rows` of this view (in their order), of these the ones in `split`."""
        view = self if rows is None else self._selected(self.rows[np.asarray(rows, np.int64)])
        if split is None:
            return view
        return view._selected(view.rows[pc.equal(view._column("split"), split).to_numpy()])

    def _selected(self, selection: np.ndarray) -> "Manifest":
        return Manifest(self.folder, self.summary, self._table, selection)

    @cached_property
    def rejections(self) -> list[Rejection]:
        """What preparation filtered and rejected, in the order of the source."""
        rows = pq.read_table(self.folder / REJECTIONS).to_pylist()
        return [Rejection(reason=row["reason"], id=row["id"], detail=row["detail"]) for row in rows]


def has_audio(table: pa.Table) -> pa.ChunkedArray:
    """(N,) bool, false for rows of text alone."""
    return pc.greater(pc.list_value_length(table["media"]), 0)


def audio_seconds(table: pa.Table) -> pa.ChunkedArray:
    """(N,) seconds of audio: 0 for rows of text, whose `lengths` hold what speaking them would take."""
    return pc.if_else(has_audio(table), pc.struct_field(table["lengths"], "seconds"), 0.0)


def _reopened(folder: Path, selection: np.ndarray | None) -> Manifest:
    whole = Manifest.open(folder)
    return whole if selection is None else whole.where(rows=selection)


def _read_summary(folder: Path) -> dict:
    try:
        return json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{folder}: no manifest ({SUMMARY} is missing); expected a folder made by "
                        "`auricle data prepare SOURCE … --to FOLDER`") from None
    except (OSError, ValueError) as error:
        raise _damaged(folder / SUMMARY, str(error)) from None


def _map(path: Path) -> pa.Table:
    try:
        return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise _damaged(path, str(error)) from None


def _damaged(path: Path, what: str) -> DataError:
    return DataError(f"{path}: damaged ({what}); delete {path.parent} and prepare it again")
