"""Fewer, wider frames: a stack of convolutions with stride 2 in time and in frequency.

The first is a full 3×3 convolution, the others are depthwise-separable, which is what makes the subsampling of Fast
Conformer cheap (Rekesh et al. 2023, §2). Channels lie innermost in memory, (B, F, M, C): on a CPU that is several times
faster than PyTorch's default, and it is how the encoder wants its frames.

# B batch · F frames · M mel bins · C channels · D width
"""

from typing import TypeVar

from torch import Tensor, nn
from torch.nn import functional as F

from auricle.models.parts.masks import valid_frames

Length = TypeVar("Length", int, Tensor)


class ConvSubsampling(nn.Module):
    """(B, F, M) features, (B,) lengths → (B, F/factor, D), (B,) lengths, rounded up. `factor` is a power of 2.

    Each utterance goes on for factor - 1 frames of zeros, whatever its batch holds there. That is as far as its last
    output frame sees, so nothing that comes later can leak into it, and no mask is needed between the layers.
    """

    def __init__(self, n_mels: int, width: int, factor: int, channels: int) -> None:
        super().__init__()
        self.factor = factor
        self.first = nn.Linear(3 * 3, channels)
        self.others = nn.ModuleList(SeparableHalving(channels) for _ in range(factor.bit_length() - 2))
        self.project = nn.Linear(-(-n_mels // factor) * channels, width)

    def lengths(self, frames: Length) -> Length:
        """Feature frames → frames that `forward` returns for them."""
        return (frames + self.factor - 1) // self.factor

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        frames = features.shape[1]
        x = features.masked_fill(~valid_frames(lengths, frames).unsqueeze(-1), 0.0)
        patches = F.pad(x, (1, 1, 1, self.factor - 1)).unfold(1, 3, 2).unfold(2, 3, 2)  # (B, F/2, M/2, 3, 3)
        x = F.relu(self.first(patches.flatten(3)))  # (B, F/2, M/2, C)
        for halving in self.others:
            x = halving(x)
        return self.project(x[:, :self.lengths(frames)].flatten(2)), self.lengths(lengths)  # (B, F/factor, D)


class SeparableHalving(nn.Module):
    """(B, F, M, C) → (B, F/2, M/2, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels)
        self.pointwise = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # (B, F/2, M/2, C)
        return F.relu(self.pointwise(x))
