"""Small corpora on disk: tones that stand for speech, in the layout of real corpora, and the real one where it is."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from auricle.data.manifest import Manifest
from auricle.data.prepare import prepare
from auricle.data.sources import fsdd
from tests.paths import DATA

FSDD = DATA / "fsdd"


def tone(seconds: float, rate: int = 16000, pitch: float = 220.0, channels: int = 1) -> np.ndarray:
    """(T,) or (T, C) float32: a tone with harmonics and an envelope, each channel of its own loudness."""
    time = np.arange(round(seconds * rate)) / rate
    wave = sum(np.sin(2 * np.pi * pitch * harmonic * time) / harmonic for harmonic in (1, 2, 3))
    audio = (0.2 * wave * np.hanning(len(time) + 2)[1:-1]).astype(np.float32)
    return audio if channels == 1 else audio[:, None] * np.linspace(0.5, 1.0, channels, dtype=np.float32)


def write_audio(path: Path, seconds: float = 0.5, rate: int = 16000, channels: int = 1, pitch: float = 220.0,
                **options: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(seconds, rate, pitch, channels), rate, **options)
    return path


def write_digits(folder: Path, speakers: Sequence[str] = ("anna", "ben"), recordings: int = 7) -> Path:
    """A corpus in the layout of FSDD: each digit is a tone of its own pitch, each speaker of an own length."""
    for number, speaker in enumerate(speakers):
        for digit in range(10):
            for recording in range(recordings):
                write_audio(folder / "recordings" / f"{digit}_{speaker}_{recording}.wav", rate=8000,
                            seconds=0.2 + 0.05 * number + 0.01 * recording, pitch=120.0 + 40 * digit)
    return folder


def digits(folder: Path) -> Path:
    """FSDD where it is, else tones in its place."""
    return FSDD if FSDD.is_dir() else write_digits(folder)


def digits_manifest(folder: Path, **options: int) -> Manifest:
    """A prepared manifest of tones with the splits train and test."""
    return prepare(fsdd.Config(folder=str(write_digits(folder / "corpus", **options))), folder / "manifest", workers=1)
