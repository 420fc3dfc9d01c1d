"""Audio files to mono float32 samples: wav, flac, ogg and mp3 by libsndfile, resampled by soxr."""

# T samples · C channels

import io
import re
from pathlib import Path
from typing import Protocol

import numpy as np
import soundfile
import soxr

from auricle.core.errors import DataError
from auricle.data.judge import Reason

LOSSY_TAIL = 3 * 1152
"""Samples by which an mp3's own count may exceed what decodes: the encoder's delay and padding, whole MPEG frames."""

STREAMED = 0x7FFF0000
"""Writers into a pipe cannot know a wav's size and write a number above this one."""


class Clip(Protocol):
    """Encoded audio that is no file of its own."""

    def read(self) -> bytes:
        """Raises AudioProblem where there is none."""


class AudioProblem(DataError):
    """Audio that cannot be used; `reason` and `detail` are those of a Rejection."""

    def __init__(self, path: Path | Clip, reason: Reason, detail: str, expected: str = "wav, flac, ogg or mp3") -> None:
        super().__init__(f"{path}: {reason.replace('_', ' ')} ({detail}); "
                         f"expected {expected}. Replace the file or leave it out of the data")
        self.path, self.reason, self.detail, self.expected = path, reason, detail, expected

    def __reduce__(self) -> tuple:
        return AudioProblem, (self.path, self.reason, self.detail, self.expected)


def read_audio(
    path: Path | Clip, sample_rate: int, start: float | None = None, stop: float | None = None
) -> np.ndarray:
    """(T,) float32 mono at `sample_rate`: the whole, or its seconds `start` to `stop`. Raises AudioProblem."""
    audio, rate = decode(path, start, stop)
    return resample(audio, rate, sample_rate)


def resample(audio: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """(T,) float32 → (⌈T · to_rate / from_rate⌉ ± 1,) float32 by soxr's HQ filter."""
    if from_rate == to_rate or not len(audio):
        return audio
    return soxr.resample(audio, from_rate, to_rate, quality="HQ")


def decode(path: Path | Clip, start: float | None = None, stop: float | None = None) -> tuple[np.ndarray, int]:
    """((T,) float32 mono, sample rate of the file). Channels are averaged. Raises AudioProblem."""
    source = path if isinstance(path, Path) else io.BytesIO(path.read())
    try:
        with soundfile.SoundFile(source) as file:
            first, last = _span(file, start, stop)
            if first:
                file.seek(first)
            audio = file.read(last - first, dtype="float32")  # (T,) or (T, C)
            _check_complete(path, file, last - first - len(audio))
            return audio if audio.ndim == 1 else audio.mean(axis=1, dtype=np.float32), file.samplerate
    except soundfile.LibsndfileError as error:
        if isinstance(path, Path) and not path.exists():
            raise AudioProblem(path, "missing_file", "no such file") from None
        raise AudioProblem(path, "unreadable", error.error_string.strip(" .")) from None


def probe(encoded: bytes) -> tuple[float, str]:
    """(seconds that the header tells, "") of audio in memory, or (0, what is wrong with it)."""
    try:
        with soundfile.SoundFile(io.BytesIO(encoded)) as file:
            return file.frames / file.samplerate, ""
    except soundfile.LibsndfileError as error:
        return 0.0, error.error_string.strip(" .")


def _span(file: soundfile.SoundFile, start: float | None, stop: float | None) -> tuple[int, int]:
    """First sample and the one after the last, both within the file."""
    frames, rate = file.frames, file.samplerate
    last = frames if stop is None else min(round(stop * rate), frames)
    return min(round((start or 0.0) * rate), last), last


def _check_complete(path: Path | Clip, file: soundfile.SoundFile, missing: int) -> None:
    """libsndfile reads a cut file without a word; the header says how long it was."""
    if missing > (LOSSY_TAIL if file.format in ("MP3", "MPEG") else 0):
        raise AudioProblem(path, "unreadable", f"truncated: {missing} samples fewer than the header says")
    if file.format in ("WAV", "WAVEX"):
        shorter = re.search(r"^data : (\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE)
        if shorter and int(shorter[2]) < int(shorter[1]) < STREAMED:
            raise AudioProblem(path, "unreadable", f"truncated: {shorter[2]} of {shorter[1]} bytes of samples")
