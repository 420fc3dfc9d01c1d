"""What every projector begins with: zeros in the padding, and several frames side by side.

# B utterances · E encoder frames · D width of the encoder · P tokens
"""

from torch import Tensor
from torch.nn import functional as F

from auricle.models.parts.masks import valid_frames


def silenced(encoded: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """(B, E, D), (B,) → the same with zeros in the padding, for at least one utterance and at least one frame.

    Kernels need not take empty tensors, so a silent utterance stands in for none, and a frame that does not count for
    no frames; the projector cuts what it made of them away.
    """
    utterances, frames, _ = encoded.shape
    if utterances == 0 or frames == 0:
        stand_ins = int(utterances == 0)
        encoded = F.pad(encoded, (0, 0, 0, int(frames == 0), 0, stand_ins))
        lengths = F.pad(lengths, (0, stand_ins))
    padding = ~valid_frames(lengths, encoded.shape[1]).unsqueeze(-1)
    return encoded.masked_fill(padding, 0.0), lengths


def whole_groups(frames: Tensor, size: int) -> Tensor:
    """(B, E, …) → (B, P, size, …), E/size rounded up; the last group is filled up with zeros."""
    missing = -frames.shape[1] % size
    return F.pad(frames, (0, 0, 0, missing)).unflatten(1, (-1, size))


def side_by_side(encoded: Tensor, lengths: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """(B, E, D), (B,) → (B, P, size · D), (B,): groups of frames, each flattened into one, with zeros for missing ones.

    As `silenced`, at least one utterance of one token.
    """
    encoded, lengths = silenced(encoded, lengths)
    return whole_groups(encoded, size).flatten(2), -(-lengths // size)  # (B, P, size · D)
