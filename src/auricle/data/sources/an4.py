"""AN4, CMU's census corpus, in the layout that Sphinx trains on: names spelled, numbers, dates, a few commands.

    FOLDER/etc/an4_train.fileids         an4_clstk/fash/an251-fash-b      the speaker is the last folder's name
    FOLDER/etc/an4_train.transcription   YES (an251-fash-b)               the same utterances in the same order
    FOLDER/feat/FILEID.mfc               13 cepstra, 100 frames a second (data/features.py)
    FOLDER/wav/FILEID.wav or .sph        the audio, where the corpus comes with it

`an4_test` is the split `test`, where it is there. Its speakers are others than those of `an4_train`.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from auricle.core.config import Fraction
from auricle.core.errors import DataError
from auricle.core.frame import Block
from auricle.data.draws import key
from auricle.data.features import Features, Layout
from auricle.data.sources import Candidate
from auricle.data.sources.parts import existing_folder, lines_of

TRANSCRIPT = re.compile(r"(?:<s>)?\s*(?P<text>.*?)\s*(?:</s>)?\s*\((?P<id>\S+)\)")


class Config(Block):
    kind: Literal["an4"] = "an4"
    folder: str
    """The folder that holds `etc` and `feat` or `wav`."""
    signal: Literal["features", "audio"] = "features"
    held_out: Fraction = 0.1
    """Of the training speakers: the split `dev`, the same ones each time; at least one speaker unless it is 0."""


def candidates(config: Config) -> Iterator[Candidate]:
    folder = existing_folder("an4", config.folder, "etc/an4_train.fileids …")
    listed = list(_listed(folder, "an4_train"))
    dev = _held_out({_speaker(fileid) for fileid, _ in listed}, config.held_out)
    for fileid, text in listed:
        yield _candidate(config, folder, fileid, text, "dev" if _speaker(fileid) in dev else "train")
    if (folder / "etc" / "an4_test.fileids").is_file():
        for fileid, text in _listed(folder, "an4_test"):
            yield _candidate(config, folder, fileid, text, "test")


def _candidate(config: Config, folder: Path, fileid: str, text: str, split: str) -> Candidate:
    if config.signal == "features":
        signal = Features(folder / "feat" / f"{fileid}.mfc", Layout())
    else:
        sphere, wav = (folder / "wav" / f"{fileid}{suffix}" for suffix in (".sph", ".wav"))
        signal = sphere if sphere.is_file() else wav
    return Candidate(id=fileid, text=text, audio=signal, speaker=_speaker(fileid), language="en", split=split)


def _listed(folder: Path, name: str) -> Iterator[tuple[str, str]]:
    """(file id, text) of each utterance. Raises DataError where the two lists do not go together."""
    paths = [folder / "etc" / f"{name}.{suffix}" for suffix in ("fileids", "transcription")]
    for path in paths:
        if not path.is_file():
            raise DataError(f"an4: no file '{path}'; expected the folder that holds etc/{path.name}. Correct 'folder'")
    fileids, transcripts = ([line.strip() for line in lines_of(path) if line.strip()] for path in paths)
    if len(fileids) != len(transcripts):
        raise DataError(f"an4: {paths[0]} has {len(fileids)} lines and {paths[1]} {len(transcripts)}; expected as many")
    for fileid, line in zip(fileids, transcripts, strict=True):
        found = TRANSCRIPT.fullmatch(line)
        if found is None or found["id"] not in (fileid, fileid.rpartition("/")[2]):
            raise DataError(f"{paths[1]}: '{line}' is no transcript of {fileid}; expected 'TEXT (id)' in the order of "
                            f"{paths[0].name}")
        yield fileid, found["text"]


def _held_out(speakers: Iterable[str], fraction: float) -> set[str]:
    by_hash = sorted(speakers, key=lambda speaker: key("held out", speaker))
    return set(by_hash[: max(1, round(fraction * len(by_hash)))]) if fraction else set()


def _speaker(fileid: str) -> str:
    return fileid.split("/")[-2] if "/" in fileid else ""
