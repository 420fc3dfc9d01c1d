"""LibriSpeech as its archives are unpacked (Panayotov et al. 2015): read English books, 16 kHz.

    FOLDER/SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER-UTTERANCE.flac
                                  SPEAKER-CHAPTER.trans.txt       one line an utterance: id, space, TEXT

An archive that was not unpacked whole is noticed: a recording without a transcript and a transcript without a recording
are rejected, so is what does not decode (FLAC has check sums of its own), and `complete` counts the utterances.
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
    complete: bool = False
    """Refuse a subset that has not as many utterances as its archive."""
    checksums: bool = True
    """Keep one of each file, for `auricle data inspect --verify`."""


UTTERANCES = {"dev-clean": 2703, "dev-other": 2864, "test-clean": 2620, "test-other": 2939,
              "train-clean-100": 28_539, "train-clean-360": 104_014, "train-other-500": 148_688}


def candidates(config: Config) -> Iterator[Candidate]:
    folder = existing_folder("librispeech", config.folder, "subsets as train-clean-100")
    for split, subsets in config.splits.items():
        for subset in subsets:
            found = 0
            for candidate in _subset(folder, subset, split):
                found += 1
                yield candidate
            if config.complete and found != UTTERANCES.get(subset, found):
                raise DataError(f"librispeech: {found} utterances in {folder / subset}; expected "
                                f"{UTTERANCES[subset]}. Unpack its archive again, or set complete=false")


def _subset(folder: Path, subset: str, split: str) -> Iterator[Candidate]:
    chapters = sorted(path for path in (folder / subset).glob("*/*") if path.is_dir())
    if not any(path.glob("*.trans.txt") for path in chapters):
        there = [path.name for path in folder.iterdir() if path.is_dir()]
        raise DataError(f"librispeech: no SPEAKER/CHAPTER/*.trans.txt in {folder / subset}; {nearest(subset, there)}. "
                        "Correct 'splits'")
    for chapter in chapters:
        texts = {path.stem: "" for path in chapter.glob("*.flac")}
        for path in sorted(chapter.glob("*.trans.txt")):
            texts |= {name: text for name, _, text in (line.strip().partition(" ") for line in lines_of(path)) if name}
        for name, text in sorted(texts.items()):
            yield Candidate(id=name, text=text, audio=chapter / f"{name}.flac", language="en",
                            speaker=name.partition("-")[0], split=split)
