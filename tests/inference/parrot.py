"""A task that says how long what it heard was: the text tells which samples reached it, and in which batch."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
from torch import nn

from auricle.tasks import Hypothesis

RATE = 8000


@dataclass
class ParrotBatch:
    ids: tuple[str, ...]
    samples: list[np.ndarray]

    def to(self, device):
        return self


@dataclass
class Parrot:
    """With `max_seconds`, which it offers as a task whose model is limited does."""

    max_seconds: float = 5.0
    decoders = ("greedy",)
    frontend = SimpleNamespace(sample_rate=RATE)
    batches: list[list[int]] = field(default_factory=list)
    """Samples of each utterance of each batch so far."""

    def collate(self, utterances):
        return ParrotBatch(tuple(one.id for one in utterances), [one.audio for one in utterances])

    def predict(self, model, batch, decoder=""):
        self.batches.append([len(one) for one in batch.samples])
        return [Hypothesis(id=name, text=said(one), reference="") for name, one in zip(batch.ids, batch.samples,
                                                                                     strict=True)]


class StreamingParrot(Parrot):
    """Says the same, one character after the other."""

    def stream(self, model, batch):
        [samples] = batch.samples
        yield from said(samples)


def said(samples: np.ndarray) -> str:
    return f"{len(samples)} samples"


def parrot(**settings) -> SimpleNamespace:
    return _assembly(Parrot(**settings))


def streaming_parrot(**settings) -> SimpleNamespace:
    return _assembly(StreamingParrot(**settings))


def _assembly(task) -> SimpleNamespace:
    return SimpleNamespace(task=task, model=nn.Linear(1, 1), task_config=SimpleNamespace(kind="parrot"),
                           model_config=SimpleNamespace(kind="linear"))


def bursts(*pattern: tuple[float, float], rate: int = RATE, pitch: float = 440.0) -> np.ndarray:
    """(T,) float32: for each (seconds of tone, seconds of silence after it); no tone begins with silence."""
    parts = []
    for tone, silence in pattern:
        time = np.arange(round(tone * rate)) / rate
        parts += [0.3 * np.sin(2 * np.pi * pitch * time), np.zeros(round(silence * rate))]
    return np.concatenate(parts).astype(np.float32)
