"""Features of a fixed rate, brought to 50 Hz by a convolution.

# B batch · F feature frames · M features a frame · E frames at 50 Hz · D width
"""

from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, nn

from auricle.models.parts.subsampling import ConvSubsampling
from auricle.models.voxformer.chunks import Chunks

Length = TypeVar("Length", int, Tensor)


class Convolved(nn.Module):
    """(B, F, M), (B,) lengths → (B, E, D), (B,) lengths; a frame sees no feature after its own `factor`."""

    def __init__(self, frontend: nn.Module, width: int, factor: int, channels: int) -> None:
        super().__init__()
        self.frontend, self.factor = frontend, factor
        self.adapter = ConvSubsampling(frontend.n_mels, width, factor, channels)

    def components(self) -> Mapping[str, nn.Module]:
        return {"adapter": self.adapter}

    def lengths(self, samples: Length) -> Length:
        """Audio samples → frames at 50 Hz."""
        return self.adapter.lengths(self.frontend.lengths(samples))

    def forward(self, features: Tensor, lengths: Tensor, chunks: Chunks) -> tuple[Tensor, Tensor]:
        """The frames that were before stand in front while the first is made, which is then left out: a whole one, for
        the sake of the pairs."""
        x = chunks.before(features, self.factor, self)  # (B, factor + F, M)
        x, lengths = self.adapter(x, lengths + self.factor)  # (B, 1 + E, D)
        return x[:, 1:], lengths - 1
