"""The front end of a model whose input was computed before: cepstra or other features, with their deltas.

# F frames · M features · θ frames to either side
"""

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from auricle.models.parts.logmel import Normalize, normalized

Length = TypeVar("Length", int, Tensor)
WINDOW = 2
"""Frames to either side that a delta is fitted to, as in HTK and Kaldi."""


class PrecomputedFeatures(nn.Module):
    """(F, M) features → (F, M · (1 + deltas)) float32, one utterance at a time; runs in loader workers, on the CPU.

    It stands where `LogMel` does and has no parameters: a frame is its sample, so `sample_rate` is the frame rate.
    Each column is normalised over the utterance, after the deltas were appended.
    """

    takes = "features"

    def __init__(self, width: int = 13, frame_rate: float = 100.0, deltas: int = 2,
                 normalize: Normalize = "mean_variance") -> None:
        super().__init__()
        self.width, self.sample_rate, self.deltas, self.normalize = width, frame_rate, deltas, normalize

    @property
    def n_mels(self) -> int:
        """Features that come out."""
        return self.width * (1 + self.deltas)

    def lengths(self, frames: Length) -> Length:
        """One frame a frame."""
        return frames

    def forward(self, features: np.ndarray | Tensor) -> Tensor:
        if isinstance(features, np.ndarray):
            features = torch.from_numpy(np.require(features, np.float32, "CW"))
        if not len(features):
            return torch.zeros(0, self.n_mels)
        orders = [features]
        for _ in range(self.deltas):
            orders.append(delta(orders[-1]))
        return normalized(torch.cat(orders, 1), self.normalize)  # (F, M · (1 + deltas))


def delta(features: Tensor) -> Tensor:
    """(F, M) → (F, M): the slope of a line fitted to each frame and the two on either side (Furui 1986; The HTK Book,
    §5.9), d_t = Σ_θ θ (c_{t+θ} - c_{t-θ}) / (2 Σ_θ θ²) for θ of 1 and 2. The first and last frame go on at the ends.
    """
    frames = len(features)
    around = functional.pad(features.T[None], (WINDOW, WINDOW), mode="replicate")[0].T  # (F + 4, M)
    fitted = sum(theta * (around[WINDOW + theta :][:frames] - around[WINDOW - theta :][:frames])
                 for theta in range(1, WINDOW + 1))
    return fitted / (2 * sum(theta**2 for theta in range(1, WINDOW + 1)))
