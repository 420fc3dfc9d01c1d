"""Transcripts in JSON lines, one object an utterance.

    {"audio": "clips/a.wav", "text": "open the gate"}

`audio` (or `audio_path`) is relative to the file that names it, or absolute. Known beside it: id, start and stop
(seconds into the file), speaker, language, prompt. A `duration` may stand there; it is measured all the same. In the
place of audio may stand features, as .mfc or .npy (data/features.py), with `width` (values a frame; 13) and
`frame_rate` (100).
"""

import json
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from auricle.core.errors import DataError
from auricle.core.frame import Block
from auricle.data.sources import Candidate
from auricle.data.sources.parts import candidate_of, existing_files, lines_of


class Config(Block):
    kind: Literal["jsonl"] = "jsonl"
    files: dict[str, str] = Field(min_length=1)
    """Split → file, as `{train: train.jsonl, dev: dev.jsonl}`."""


def candidates(config: Config) -> Iterator[Candidate]:
    for split, file in existing_files("jsonl", config.files):
        for number, line in enumerate(lines_of(file), 1):
            if line.strip():
                where = f"{file}:{number}"
                yield candidate_of(_object(line, where), file.parent, split, where)


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON ({error.msg} at column {error.colno}); expected an object a line") from None
    if not isinstance(fields, dict):
        raise DataError(f'{where}: {line.strip()[:40]} is no object; expected {{"audio": …, "text": …}}')
    return fields
