"""Augmentation of training audio, drawn from hash(seed, epoch, occurrence, id) and from nothing else.

Speed is drawn for whole epochs at once, because it changes lengths and the plan must know them; gain, noise and
masks are drawn utterance by utterance in the loader's workers.

# T samples · F frames · M mel bins, or other values a frame
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
import soxr

from auricle.core.config import AugmentConfig, NoiseConfig, SpecAugmentConfig, TextNoiseConfig
from auricle.core.errors import DataError
from auricle.data.audio import read_audio
from auricle.data.draws import generator, uniforms

NOISE_SUFFIXES = {".wav", ".flac", ".ogg", ".mp3"}


class Augment:
    """The configured augmentation of one run; plain values only, so that it travels to worker processes."""

    def __init__(self, config: AugmentConfig, seed: int, sample_rate: int) -> None:
        self.config, self.seed, self.sample_rate = config, seed, sample_rate
        self.speeds = np.asarray(config.speeds or [1.0])
        self.noises = noise_files(config.noise) if config.noise else []

    @property
    def changes_audio(self) -> bool:
        return len(self.config.speeds) > 0 or self.config.gain_db is not None or bool(self.noises)

    def speed_factors(self, epoch: int, hashes: np.ndarray, occurrences: np.ndarray) -> np.ndarray:
        """The speed of each utterance in an epoch; its length becomes seconds / speed. (N,)"""
        drawn = uniforms(hashes, occurrences, self.seed, "speed", epoch)
        return self.speeds[(drawn * len(self.speeds)).astype(np.int64)]

    def audio(self, audio: np.ndarray, speed: float, rng: np.random.Generator) -> np.ndarray:
        """(T,) → (T / speed,) float32 with gain and noise."""
        if speed != 1.0:
            audio = soxr.resample(audio, self.sample_rate * speed, self.sample_rate, quality="MQ")
        if self.config.gain_db is not None:
            audio = audio * np.float32(10 ** (rng.uniform(*self.config.gain_db) / 20))
        if self.noises and rng.random() < self.config.noise.probability:
            noise = _read_noise(self.noises[rng.integers(len(self.noises))], self.sample_rate)
            audio = add_noise(audio, noise, rng.uniform(*self.config.noise.snr_db), rng)
        return audio.astype(np.float32, copy=False)

    def signal(self, signal: np.ndarray, speed: float, rng: np.random.Generator) -> np.ndarray:
        """(T,) samples as `audio` makes them, or (F, M) features at that speed."""
        return stretched(signal, speed) if signal.ndim == 2 else self.audio(signal, speed, rng)

    def garbled(self, text: str, rng: np.random.Generator) -> str:
        return GarbledText(self.config.text, rng)(text) if self.config.text else text

    def generator(self, epoch: int, occurrence: int, utterance: str) -> np.random.Generator:
        return generator(self.seed, "augment", epoch, occurrence, utterance)


def stretched(features: np.ndarray, speed: float) -> np.ndarray:
    """(F, M) → (⌈F / speed - ½⌉, M) float32, at least one frame of some: linear interpolation between frames, whose
    middles keep their places. The length is the one that a plan reckons with (F / speed, rounded)."""
    frames = len(features)
    if speed == 1.0 or not frames:
        return features
    wanted = max(1, int(np.ceil(frames / speed - 0.5)))
    places = np.clip((np.arange(wanted) + 0.5) * speed - 0.5, 0, frames - 1)  # (F / speed,)
    before = places.astype(np.int64)
    after, share = np.minimum(before + 1, frames - 1), (places - before)[:, None]
    return (features[before] * (1 - share) + features[after] * share).astype(np.float32)  # (F / speed, M)


def noise_files(config: NoiseConfig) -> list[Path]:
    """All recordings below the folder, sorted; DataError when there are none."""
    found = sorted(path for path in Path(config.folder).rglob("*") if path.suffix.lower() in NOISE_SUFFIXES)
    if not found:
        raise DataError(
            f"data.augment.noise.folder: no recording below '{config.folder}'; expected files ending in "
            f"{', '.join(sorted(NOISE_SUFFIXES))}. Correct the folder, or set data.augment.noise to null"
        )
    return found


@lru_cache(maxsize=64)
def _read_noise(path: Path, sample_rate: int) -> np.ndarray:
    return read_audio(path, sample_rate)


def add_noise(audio: np.ndarray, noise: np.ndarray, snr_db: float, rng: np.random.Generator) -> np.ndarray:
    """Adds a random stretch of the noise (repeated if short) at a signal-to-noise ratio of mean powers. (T,)"""
    if not len(audio) or not len(noise):
        return audio
    start = int(rng.integers(len(noise)))
    stretch = np.take(noise, np.arange(start, start + len(audio)), mode="wrap")
    signal, power = float(np.mean(audio**2)), float(np.mean(stretch**2))
    if signal == 0 or power == 0:
        return audio
    return audio + stretch * np.float32(np.sqrt(signal / power) * 10 ** (-snr_db / 20))


class FeatureMasks:
    """SpecAugment for one utterance: masks filled with its mean, so that no mask looks like silence."""

    def __init__(self, config: SpecAugmentConfig, rng: np.random.Generator) -> None:
        self.config, self.rng = config, rng

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """(F, M) → (F, M), a copy."""
        frames, bins = features.shape
        if not frames:
            return features
        masked, mean = features.copy(), features.mean()
        for _ in range(self.config.frequency_masks):
            start, stop = _span(self.rng, bins, min(self.config.frequency_width, bins))
            masked[:, start:stop] = mean
        widest = min(self.config.time_width, int(frames * self.config.time_fraction))
        for _ in range(self.config.time_masks):
            start, stop = _span(self.rng, frames, widest)
            masked[start:stop] = mean
        return masked


class GarbledText:
    """A text as frames of a recogniser might spell it: stretched, with characters lost, mistaken and made up.

    How badly is drawn for the whole text, evenly from not at all to the probabilities that are asked for: a model
    learns to copy from what is clean, and to repair from what is not.
    """

    def __init__(self, config: TextNoiseConfig, rng: np.random.Generator) -> None:
        self.config, self.rng = config, rng

    def __call__(self, text: str) -> str:
        if not text:
            return text
        severity = self.rng.random()
        draws, others = self.rng.random((len(text), 3)), self.rng.integers(len(text), size=(len(text), 2))
        times = self.rng.integers(self.config.stretch[0], self.config.stretch[1] + 1, size=len(text))
        said = []
        for character, (lost, wrong, more), (other, another), count in zip(text, draws, others, times, strict=True):
            if lost >= severity * self.config.delete:
                wrongly = wrong < severity * self.config.substitute
                said.append((text[other] if wrongly else character) * int(count))
            if more < severity * self.config.insert:
                said.append(text[another])
        return "".join(said)


def _span(rng: np.random.Generator, size: int, widest: int) -> tuple[int, int]:
    width = int(rng.integers(0, widest + 1))
    start = int(rng.integers(0, size - width + 1))
    return start, start + width
