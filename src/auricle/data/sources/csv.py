"""Transcripts in comma-separated (.csv) or tab-separated (.tsv, .txt) files, one row an utterance.

    wav,text,speaker            a header names the columns, in any order; others are passed over
    clips/a.wav,open the gate,anna

Columns: audio, audio_path, wav or path (relative to the file, or absolute), text; id, start and stop (seconds into the
audio), speaker, language, prompt. In the place of audio may stand features, as .mfc or .npy (data/features.py), with
width (values a frame; 13) and frame_rate (100). Two columns without a header will do, when one of them is audio that
exists.
"""

import csv
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Literal

from pydantic import Field

from auricle.core.errors import DataError
from auricle.core.frame import Block
from auricle.data.sources import Candidate
from auricle.data.sources.parts import AUDIO_FIELDS, candidate_of, existing_files, lines_of


class Config(Block):
    kind: Literal["csv"] = "csv"
    files: dict[str, str] = Field(min_length=1)
    """Split → file, as `{train: train.csv, dev: dev.tsv}`."""


def candidates(config: Config) -> Iterator[Candidate]:
    for split, file in existing_files("csv", config.files):
        for number, fields in _rows(file):
            yield candidate_of(fields, file.parent, split, f"{file}:{number}")


def _rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, column → value) of each row."""
    lines = lines_of(file)
    # Quotes are plain characters in tab-separated transcripts: texts begin with them.
    is_csv = file.suffix.lower() == ".csv"
    rows = csv.reader(lines) if is_csv else csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    first = next(rows, None)
    if first is None:
        return
    columns, is_header = _columns(first, file)
    for row in rows if is_header else chain([first], rows):
        if row:
            if len(row) != len(columns):
                raise DataError(f"{file}:{rows.line_num}: {len(row)} columns; expected {len(columns)} "
                                f"({', '.join(columns)}). Quote a text that holds the separator")
            yield rows.line_num, dict(zip(columns, row, strict=True))


def _columns(first: list[str], file: Path) -> tuple[list[str], bool]:
    """The names of the columns, and whether the first row is the header that gives them."""
    names = [name.strip().lower() for name in first]
    if "text" in names and any(name in names for name in AUDIO_FIELDS):
        return names, True
    if len(first) == 2:
        for columns, audio in ((["audio", "text"], first[0]), (["text", "audio"], first[1])):
            if (file.parent / audio).is_file():
                return columns, False
    raise DataError(f"{file}:1: no header and no audio that exists: {', '.join(first)[:80]}; expected a header with "
                    f"'text' and one of {', '.join(AUDIO_FIELDS)}")
