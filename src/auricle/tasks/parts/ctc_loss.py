"""The CTC loss (Graves et al. 2006), and which rows it can be asked for.

# B utterances · E encoder frames · V labels, class V is the blank
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from auricle.tasks.parts.labels import LabelledBatch


@dataclass(frozen=True)
class EncoderFrames:
    """(N,) seconds → (N,) encoder frames of so much audio, for judging rows."""

    sample_rate: int
    output_lengths: Callable[[Tensor], Tensor]

    def __call__(self, seconds: np.ndarray) -> np.ndarray:
        """Resampling rounds half a sample either way: we count the shorter clip."""
        samples = np.ceil(seconds * self.sample_rate - 0.5).astype(np.int64)
        return self.output_lengths(torch.from_numpy(samples)).numpy()


def log_softmax(logits: Tensor) -> Tensor:
    """Log probabilities in at least fp32, whatever autocast made of the logits."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def ctc_loss(logits: Tensor, lengths: Tensor, batch: LabelledBatch, *, forgiving: bool) -> Tensor:
    """(B, E, V+1), (B,) → () the sum over utterances of -log p(labels | audio).

    It is infinite for an utterance with fewer frames than labels and repeats; `forgiving` makes that 0.
    """
    log_probs = log_softmax(logits)
    if not batch.ids:
        return log_probs.sum()  # nothing to add up, and yet a graph that gives every parameter its zeros
    return functional.ctc_loss(log_probs.transpose(0, 1), batch.labels, lengths, batch.label_lengths,
                               blank=logits.shape[-1] - 1, reduction="sum", zero_infinity=forgiving)
