"""Which frames are real. Padding never changes a result: every layer that looks beyond its own frame uses these.

# B batch · F frames
"""

import torch
from torch import Tensor


def valid_frames(lengths: Tensor, frames: int) -> Tensor:
    """(B,) lengths → (B, F) bool, true where a frame belongs to its utterance."""
    return torch.arange(frames, device=lengths.device) < lengths.unsqueeze(1)


def attention_mask(lengths: Tensor, frames: int) -> Tensor:
    """(B,) lengths → (B, 1, 1, F) bool, true where a key may be looked at.

    An utterance without frames may look at the first key: a softmax over nothing would be NaN, and NaN times the weight
    0 that such an utterance has in the loss is still NaN.
    """
    return valid_frames(lengths.clamp(min=1), frames)[:, None, None]  # (B, 1, 1, F)
