"""What a source of data is, and how to add one.

Add a source: one file `data/sources/NAME.py` with
    class Config(Block)                       where the corpus lies and what of it is wanted; imports no torch
    candidates(config) -> Iterable[Candidate] the utterances, listed without decoding any audio, in a stable order
    render(config, candidate, folder) -> Path only for sources that make their audio (runs in worker processes)
A candidate without audio, of a source without `render`, is a row of text.
and `tests/data/sources/test_NAME.py` with `sample(folder) -> Config`: a few utterances for the contract test.
Preparation (`data/prepare.py`) decodes, judges and measures each candidate in parallel and publishes a manifest.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from auricle.core.frame import Block
from auricle.data.audio import Clip
from auricle.data.features import Features


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One utterance as the corpus lists it. `audio` is None where the source renders it, or has text alone; features
    may stand in its place."""

    id: str
    text: str
    audio: Path | Clip | Features | None = None
    start: float | None = None
    """Seconds into the file; None is its start."""
    stop: float | None = None
    seconds: float | None = None
    """Length, where the corpus states it: its audio is then not decoded before training."""
    speaker: str = ""
    language: str = ""
    split: str = "train"
    extra: Mapping[str, str] = field(default_factory=dict)
    """Further columns (prompt …); a rendering source keeps its parameters here."""


class Source(Protocol):
    """What a module of this room offers."""

    Config: type[Block]

    def candidates(self, config: Block) -> Iterable[Candidate]: ...
