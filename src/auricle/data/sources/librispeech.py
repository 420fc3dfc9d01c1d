"""LibriSpeech as openslr.org/12 unpacks it (Panayotov et al. 2015): read English books, 16 kHz.

    FOLDER/SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER-UTTERANCE.flac
                                  SPEAKER-CHAPTER.trans.txt       one line an utterance: id, space, TEXT
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from auricle.core.errors import DataError, nearest
from auricle.core.frame import Block
from auricle.data.sources import Candidate
from auricle.data.sources.parts import existing_folder, lines_of


class Config(Block):
    kind: Literal["librispeech"] = "librispeech"
    folder: str
    """The folder that holds the subsets, `LibriSpeech` of the archive."""
    splits: dict[str, list[str]] = {"train": ["train-clean-100"], "dev": ["dev-clean"], "test": ["test-clean"]}
    """Split → the subsets that it is made of."""


def candidates(config: Config) -> Iterator[Candidate]:
    folder = existing_folder("librispeech", config.folder, "subsets as train-clean-100")
    for split, subsets in config.splits.items():
        for subset in subsets:
            yield from _subset(folder, subset, split)


def _subset(folder: Path, subset: str, split: str) -> Iterator[Candidate]:
    transcripts = sorted((folder / subset).glob("*/*/*.trans.txt"))
    if not transcripts:
        there = [path.name for path in folder.iterdir() if path.is_dir()]
        raise DataError(f"librispeech: no SPEAKER/CHAPTER/*.trans.txt in {folder / subset}; {nearest(subset, there)}. "
                        "Correct 'splits'")
    for path in transcripts:
        for line in lines_of(path):
            name, _, text = line.strip().partition(" ")
            if name:
                yield Candidate(id=name, text=text, audio=path.parent / f"{name}.flac", language="en",
                                speaker=name.partition("-")[0], split=split)
