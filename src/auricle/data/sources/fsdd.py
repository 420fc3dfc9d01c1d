"""The Free Spoken Digit Dataset (github.com/Jakobovski/free-spoken-digit-dataset): ten English digits, 8 kHz.

    FOLDER/recordings/{digit}_{speaker}_{n}.wav      n is the number of the recording, 0 to 49

Its official split tests on recordings 0 to 4 of every speaker.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from auricle.core.errors import DataError
from auricle.core.frame import Block
from auricle.data.sources import Candidate
from auricle.data.sources.parts import existing_folder

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
OFFICIAL_TEST = range(5)


class Config(Block):
    kind: Literal["fsdd"] = "fsdd"
    folder: str
    """The folder that holds `recordings`."""
    test_speakers: list[str] = []
    """When given, all recordings of these speakers are the test set and all others train; else the official split."""
    dev_recordings: list[int] = []
    """Recording numbers that are taken from training for the split `dev`."""


def candidates(config: Config) -> Iterator[Candidate]:
    folder = existing_folder("fsdd", config.folder, "the folder that holds recordings/0_jackson_0.wav …")
    recordings = folder / "recordings"
    found = [(path, *_parsed(path)) for path in sorted(recordings.glob("*.wav"))]
    if absent := set(config.test_speakers) - {speaker for _, _, speaker, _ in found}:
        raise DataError(f"fsdd: no recording by {', '.join(sorted(absent))} in {recordings}; correct 'test_speakers'")
    for path, digit, speaker, number in found:
        yield Candidate(id=path.stem, text=digit, audio=path, speaker=speaker, language="en",
                        split=_split(config, speaker, number))


def _parsed(path: Path) -> tuple[str, str, int]:
    digit, _, rest = path.stem.partition("_")
    speaker, _, number = rest.rpartition("_")
    if not (digit.isdecimal() and int(digit) < len(DIGITS) and speaker and number.isdecimal()):
        raise DataError(f"fsdd: {path} is not named DIGIT_SPEAKER_NUMBER.wav, as 7_jackson_32.wav; rename or remove it")
    return DIGITS[int(digit)], speaker, int(number)


def _split(config: Config, speaker: str, number: int) -> str:
    is_test = speaker in config.test_speakers if config.test_speakers else number in OFFICIAL_TEST
    return "test" if is_test else "dev" if number in config.dev_recordings else "train"
