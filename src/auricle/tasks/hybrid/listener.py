"""Text of audio that is still being spoken: greedy CTC labels as chunks come, and the task's own decoder at each pause.

# E encoder frames · D width · V labels, class V is the blank
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from auricle.models.voxformer.config import FRAME_SECONDS, chunk_frames
from auricle.models.voxformer.model import VoxFormer

if TYPE_CHECKING:
    from auricle.tasks.hybrid.task import HybridTask

PAUSE_SECONDS = 0.8
"""So long without a label ends what was said …"""
MAX_SECONDS = 20.0
"""… and so much audio does in any case; training has seen no longer utterances."""


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What was understood of a stretch of the stream, in seconds from its beginning."""

    text: str
    start: float
    stop: float
    final: bool
    """Whether the stretch is over, and the text that of the whole stretch; otherwise more may follow it."""


class Listener:
    """One stream. What it says while chunks come only grows; what it says at the end of a stretch is decoded anew."""

    def __init__(self, task: "HybridTask", model: VoxFormer, chunk_seconds: float) -> None:
        """Raises ModelError for a model that cannot hear in chunks."""
        self._task, self._model = task, model
        rate, window, hop = task.frontend.sample_rate, task.frontend.window_samples, task.frontend.hop_samples
        self._step = round(chunk_frames(chunk_seconds) * FRAME_SECONDS * rate)
        self._ahead = window - hop
        """Samples of the last window that lie in the next chunk."""
        self._samples = np.zeros(0, np.float32)
        self._begin(0.0)

    def _begin(self, second: float) -> None:
        self._memory = self._model.stream()
        self._start = self._stop = second
        self._encoded: list[Tensor] = []
        self._labels: list[int] = []
        self._last, self._silent_frames = self._task.blank, 0

    def feed(self, samples: np.ndarray) -> Iterator[Heard]:
        """(T,) float32, the next ones, of any number → what they changed."""
        self._samples = np.concatenate([self._samples, samples])
        while len(self._samples) >= self._step + self._ahead:
            chunk, self._samples = self._samples[: self._step + self._ahead], self._samples[self._step :]
            yield from self._hear(chunk, self._step)

    def finish(self) -> Iterator[Heard]:
        """The stream is over."""
        rest, self._samples = self._samples, self._samples[:0]
        yield from self._hear(rest, len(rest))
        if self._labels:
            yield self._final()

    @torch.inference_mode()
    def _hear(self, samples: np.ndarray, step: int) -> Iterator[Heard]:
        device = self._model.ctc_head.weight.device
        encoded = self._model.encode_chunk(self._task.frontend(samples).unsqueeze(0).to(device), self._memory)
        self._encoded.append(encoded)  # (1, E, D)
        self._stop += step / self._task.frontend.sample_rate
        before = len(self._labels)
        for label in self._model.ctc_head(encoded)[0].argmax(-1).tolist():
            if label not in (self._last, self._task.blank):
                self._labels.append(label)
            self._silent_frames = self._silent_frames + 1 if label == self._task.blank else 0
            self._last = label
        paused = self._silent_frames * FRAME_SECONDS >= PAUSE_SECONDS
        if self._labels and (paused or self._stop - self._start >= MAX_SECONDS):
            yield self._final()
            self._begin(self._stop)
        elif len(self._labels) > before:
            yield Heard(text=self._task.tokenizer.decode(self._labels), start=self._start, stop=self._stop, final=False)
        elif not self._labels and self._stop - self._start >= MAX_SECONDS:
            self._begin(self._stop)

    def _final(self) -> Heard:
        encoded = torch.cat(self._encoded, 1)  # (1, E, D)
        lengths = torch.tensor([encoded.shape[1]], device=encoded.device)
        (labels, _), = self._task.spelled(self._model, encoded, lengths)
        return Heard(text=self._task.tokenizer.decode(labels), start=self._start, stop=self._stop, final=True)
