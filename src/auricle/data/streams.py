"""A data set as an endless sequence of passes over its rows, of which any piece can be had without the others.

    StreamedRows    row groups of Parquet files, shuffled whole in each pass; nothing of the others is looked at
    ListedRows      a manifest, beside which others are streamed

Row n of the sequence is row n mod N of pass n div N: a pure function of the seed.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import xxhash

from auricle.data.draws import id_hashes, permutation
from auricle.data.manifest import Manifest, Row
from auricle.data.plan import pass_order
from auricle.data.read_ahead import Audio
from auricle.data.row_groups import Cell, at_once, recordings
from auricle.data.sources import parquet
from auricle.data.sources.parquet import Piece, rows_of

TEXT_PIECES = 16
"""Row groups whose texts stand for all, for a tokenizer."""
BYTES_A_SECOND = 32_000
"""Of 16 kHz wav: what audio that is fetched is taken for where nobody knows its size."""
PASSES_KEPT = 4


@dataclass(frozen=True, kw_only=True)
class Taken:
    """Rows of a data set."""

    rows: list[Row]
    problems: list[str]
    """What is wrong with the audio of each, or empty."""
    occurrences: list[int]
    """How often each was met before: its pass."""


class Stream(Protocol):
    """What a window takes its share from."""

    mean_bytes: float
    """That fetching a row brings."""

    def __len__(self) -> int:
        """Rows of a pass."""

    def take(self, start: int, stop: int, seed: int) -> Taken:
        """Rows `start` to `stop` of the sequence, at the price of fetching what they lie in."""

    def audio(self, start: int, stop: int, seed: int) -> list[Audio]:
        """The row groups that the audio of these rows lies in; costs nothing."""

    def mean_seconds(self, seed: int) -> float:
        """Of the rows, or of the first that are trained."""

    @property
    def content(self) -> str:
        """A hash that differs where the sequence does."""


class StreamedRows:
    """The rows of a split of Parquet files; of all its row groups, or of as many as hold `most` rows."""

    def __init__(self, config: parquet.Config, split: str, most: int | None = None, seed: int = 0) -> None:
        self.config, self.split = config, split
        self.pieces = parquet.pieces(config, split, most, seed)
        self._size = sum(piece.rows for piece in self.pieces)
        self._passes: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return self._size

    def capped(self, most: int | None, seed: int) -> "StreamedRows":
        """At most `most` of the rows, by row groups drawn by the seed."""
        return self if most is None or most >= len(self) else StreamedRows(self.config, self.split, most, seed)

    @property
    def texts(self) -> list[str]:
        """Of a sample of the row groups, for a tokenizer."""
        sample = permutation(len(self.pieces), "texts")[:TEXT_PIECES]
        found = at_once(lambda place: rows_of(self.config, self.pieces[place]), np.sort(sample).tolist())
        return [text for details in found for text in details.texts]

    @property
    def mean_bytes(self) -> float:
        return sum(piece.bytes for piece in self.pieces) / len(self)

    @property
    def content(self) -> str:
        pieces = [(piece.name, piece.group.number, piece.rows, piece.bytes) for piece in self.pieces]
        return xxhash.xxh3_128_hexdigest(json.dumps(pieces).encode())

    def mean_seconds(self, seed: int) -> float:
        first = self.take(0, self.pieces[self._pass(seed, 0)[0][0]].rows, seed)
        return float(np.mean([row.seconds for row in first.rows])) or 1.0

    def take(self, start: int, stop: int, seed: int) -> Taken:
        spans = list(self._spans(start, stop, seed))
        rows, problems, occurrences = [], [], []
        parts = at_once(lambda span: self._rows(*span[:3]), spans)
        for (*_, turn), (some, wrong) in zip(spans, parts, strict=True):
            rows += some
            problems += wrong
            occurrences += [turn] * len(some)
        return Taken(rows=rows, problems=problems, occurrences=occurrences)

    def audio(self, start: int, stop: int, seed: int) -> list[Audio]:
        return [(piece.group, self.config.audio_column) for piece, *_ in self._spans(start, stop, seed)]

    def _spans(self, start: int, stop: int, seed: int) -> Iterator[tuple[Piece, int, int, int]]:
        """(row group, first row, the one after the last, pass) of each row group that the rows lie in."""
        for turn, first, last in passes(start, stop, len(self)):
            order, ends = self._pass(seed, turn)
            begins_in, ends_in = np.searchsorted(ends, first, "right"), np.searchsorted(ends, last, "left")
            for which in range(int(begins_in), int(ends_in) + 1):
                piece = self.pieces[order[which]]
                begin = int(ends[which]) - piece.rows
                yield piece, max(0, first - begin), min(piece.rows, last - begin), turn

    def _pass(self, seed: int, turn: int) -> tuple[np.ndarray, np.ndarray]:
        """(row groups in the order of a pass, where each ends in it)"""
        if (seed, turn) not in self._passes:
            if len(self._passes) >= PASSES_KEPT:
                self._passes.clear()
            order = permutation(len(self.pieces), seed, "row groups", turn)
            self._passes[seed, turn] = order, np.cumsum([self.pieces[place].rows for place in order])
        return self._passes[seed, turn]

    def _rows(self, piece: Piece, first: int, last: int) -> tuple[list[Row], list[str]]:
        config, size = self.config, last - first
        details = rows_of(config, piece, first, last)
        seconds, problems = details.seconds, [""] * size
        if seconds is None:
            table = recordings(piece.group, config.audio_column).slice(first, size)
            seconds, problems = table["seconds"].to_numpy(), table["problem"].to_pylist()
        cells = [Cell(piece.group, config.audio_column, row) for row in range(first, last)]
        rows = [Row(id=identity, audio=cell, start=None, stop=None, text=text, seconds=length, speaker=speaker,
                    language=config.language, source=config.kind, split=self.split)
                for identity, cell, text, length, speaker in
                zip(details.ids, cells, details.texts, seconds.tolist(), details.speakers, strict=True)]
        return rows, problems


class ListedRows:
    """The rows of a manifest."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self._passes: dict[tuple[int, int], np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.manifest)

    @property
    def mean_bytes(self) -> float:
        return 0.0 if self.manifest.groups is None else BYTES_A_SECOND * float(self.manifest.seconds.mean())

    @property
    def content(self) -> str:
        hasher = xxhash.xxh3_128(id_hashes(self.manifest.ids).astype("<u8").tobytes())
        hasher.update(np.ascontiguousarray(self.manifest.seconds, "<f8").tobytes())
        return hasher.hexdigest()

    def mean_seconds(self, _seed: int) -> float:
        return float(self.manifest.seconds.mean())

    def take(self, start: int, stop: int, seed: int) -> Taken:
        places = list(self._places(start, stop, seed))
        rows = [row for _, numbers in places for row in self.manifest.rows_at(numbers)]
        occurrences = [turn for turn, numbers in places for _ in numbers]
        return Taken(rows=rows, problems=[""] * len(rows), occurrences=occurrences)

    def audio(self, start: int, stop: int, seed: int) -> list[Audio]:
        if self.manifest.groups is None:
            return []
        numbers = np.concatenate([numbers for _, numbers in self._places(start, stop, seed)])
        _, first = np.unique(self.manifest.groups[numbers], return_index=True)
        rows = self.manifest.rows_at(numbers[np.sort(first)])
        return [(row.audio.group, row.audio.column) for row in rows if isinstance(row.audio, Cell)]

    def _places(self, start: int, stop: int, seed: int) -> Iterator[tuple[int, np.ndarray]]:
        for turn, first, last in passes(start, stop, len(self)):
            if (seed, turn) not in self._passes:
                self._passes.clear()
                self._passes[seed, turn] = pass_order(len(self), self.manifest.groups, seed, "rows", turn)
            yield turn, self._passes[seed, turn][first:last]


def passes(start: int, stop: int, size: int) -> Iterator[tuple[int, int, int]]:
    """(pass, first row in it, the one after the last) of each pass over `size` rows that the rows lie in."""
    while start < stop:
        turn, first = divmod(start, size)
        last = min(size, first + stop - start)
        yield turn, first, last
        start += last - first
