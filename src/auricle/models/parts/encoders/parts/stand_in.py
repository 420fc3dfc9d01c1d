"""Batches without utterances or without frames.

# B batch · F frames · M mel bins
"""

from torch import Tensor
from torch.nn import functional as F


def with_stand_in(features: Tensor, lengths: Tensor, frames: int = 1) -> tuple[Tensor, Tensor]:
    """At least one utterance (a silent one of length 0) and at least so many frames (which do not count).

    Kernels need not take empty tensors; what stands in is cut off the result, whose graph then reaches every parameter.
    """
    absent, short = int(len(features) == 0), max(0, frames - features.shape[1])
    return F.pad(features, (0, 0, 0, short, 0, absent)), F.pad(lengths, (0, absent))
