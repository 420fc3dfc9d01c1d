"""A folder of audio with transcripts beside it: `clip.wav` is transcribed by `clip.txt`, at any depth.

The first folder below it that is called train, dev or test is the split; all else is `train`. Audio without a
transcript is rejected as `empty_transcript`, so that it is counted and not overlooked.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from auricle.core.frame import Block
from auricle.data.sources import Candidate
from auricle.data.sources.parts import AUDIO_SUFFIXES, existing_folder, lines_of

SPLITS = frozenset({"train", "dev", "test"})


class Config(Block):
    kind: Literal["folder"] = "folder"
    folder: str
    """The folder that is searched with its subfolders."""
    language: str = ""


def candidates(config: Config) -> Iterator[Candidate]:
    folder = existing_folder("folder", config.folder, "audio files with .txt files of the same name")
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file():
            inside = path.relative_to(folder)
            yield Candidate(id=inside.with_suffix("").as_posix(), text=_text(path), audio=path,
                            language=config.language, split=inside.parts[0] if inside.parts[0] in SPLITS else "train")


def _text(audio: Path) -> str:
    transcript = audio.with_suffix(".txt")
    return "".join(lines_of(transcript)).strip() if transcript.exists() else ""
