"""From frame probabilities to labels. Every utterance is decoded by itself, up to its own length.

# B batch · F frames · V labels; class V is usually the blank
"""

import math

import numpy as np
import torch
from torch import Tensor

from auricle.tasks.parts.hotwords import Hotwords

Beam = list[tuple[tuple[int, ...], float]]
"""(labels, log probability), the likeliest first."""

LOG_ZERO = -math.inf
LEAST_LOG_PROBABILITY = math.log(1e-4)
"""A label less likely than this in a frame starts no new prefix there, which spares most of the search."""


def greedy(log_probs: Tensor, lengths: Tensor, blank: int) -> list[list[int]]:
    """(B, F, V+1), (B,) → labels of each best path: repeats merged, then blanks removed (Graves et al. 2006, §3.2)."""
    paths = log_probs.argmax(-1).cpu()  # (B, F)
    return [[label for label in torch.unique_consecutive(path[:length]).tolist() if label != blank]
            for path, length in zip(paths, lengths.tolist(), strict=True)]


def prefix_beam(log_probs: Tensor, lengths: Tensor, blank: int, beam_size: int,
                hotwords: Hotwords | None = None) -> list[Beam]:
    """(B, F, V+1), (B,) → the likeliest label sequences, each summed over its alignments.

    Hannun et al. 2014, algorithm 1, with hotwords in the place of a language model: they are ordered by log probability
    plus what hotwords add, and returned with their log probability alone. Hotwords take the blank to be class V.
    """
    rows = log_probs.double().cpu().numpy()
    return [_search(frames[:length], blank, beam_size, _Earnings(hotwords))
            for frames, length in zip(rows, lengths.tolist(), strict=True)]


class _Earnings:
    """What hotwords add to prefixes, from their state, which is known for those that were in the beam."""

    def __init__(self, hotwords: Hotwords | None) -> None:
        self.hotwords = hotwords
        self._known: dict[tuple[int, ...], tuple[int, float]] = {(): (hotwords.start if hotwords else 0, 0.0)}

    def __call__(self, prefix: tuple[int, ...]) -> float:
        return self._of(prefix)[1] if self.hotwords else 0.0

    def ended(self, prefix: tuple[int, ...]) -> float:
        """The same for a text that ends there."""
        if not self.hotwords:
            return 0.0
        state, earned = self._of(prefix)
        return earned + self.hotwords.step(state, self.hotwords.end)[1]

    def _of(self, prefix: tuple[int, ...]) -> tuple[int, float]:
        if prefix not in self._known:
            state, earned = self._of(prefix[:-1])
            after, more = self.hotwords.step(state, prefix[-1])
            self._known[prefix] = after, earned + more
        return self._known[prefix]


def _search(frames: np.ndarray, blank: int, beam_size: int, earned: _Earnings) -> Beam:
    """(F, V+1) → beam. Prefix → (log p of its alignments that end in blank, of those that end in its last label)."""
    beam: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, LOG_ZERO)}
    for frame in frames:
        grown: dict[tuple[int, ...], list[float]] = {}
        candidates = np.flatnonzero(frame > LEAST_LOG_PROBABILITY).tolist()
        likely = [(label, float(frame[label])) for label in candidates if label != blank]
        for prefix, (in_blank, in_label) in beam.items():
            _extend(grown, prefix, in_blank, in_label, frame, likely, blank)
        best = sorted(grown.items(), key=lambda item: _add(*item[1]) + earned(item[0]), reverse=True)[:beam_size]
        beam = {prefix: (in_blank, in_label) for prefix, (in_blank, in_label) in best}
    found = [(prefix, _add(*ends)) for prefix, ends in beam.items()]
    return sorted(found, key=lambda one: one[1] + earned.ended(one[0]), reverse=True)


def _extend(grown: dict[tuple[int, ...], list[float]], prefix: tuple[int, ...], in_blank: float, in_label: float,
            frame: np.ndarray, likely: list[tuple[int, float]], blank: int) -> None:
    """Adds what one more frame makes of a prefix: itself, and itself with each likely label."""
    total, last = _add(in_blank, in_label), prefix[-1] if prefix else None
    same = grown.setdefault(prefix, [LOG_ZERO, LOG_ZERO])
    same[0] = _add(same[0], total + float(frame[blank]))
    if last is not None:
        same[1] = _add(same[1], in_label + float(frame[last]))
    for label, log_p in likely:
        before = in_blank if label == last else total  # a label that repeats the last one is new only after a blank
        if before > LOG_ZERO:
            longer = grown.setdefault((*prefix, label), [LOG_ZERO, LOG_ZERO])
            longer[1] = _add(longer[1], before + log_p)


def _add(a: float, b: float) -> float:
    """log(e^a + e^b)"""
    if a < b:
        a, b = b, a
    return a if b == LOG_ZERO else a + math.log1p(math.exp(b - a))
