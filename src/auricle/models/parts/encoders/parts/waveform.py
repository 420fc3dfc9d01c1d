"""The waveform itself as features, for encoders that begin with convolutions over it.

# T samples
"""

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

Length = TypeVar("Length", int, Tensor)

SAMPLE_RATE = 16_000
VARIANCE_FLOOR = 1e-7


class Waveform(nn.Module):
    """(T,) float samples → (T, 1) float32; with `normalize` of mean 0 and variance 1, as Wav2Vec2FeatureExtractor."""

    sample_rate, n_mels = SAMPLE_RATE, 1

    def __init__(self, normalize: bool) -> None:
        super().__init__()
        self.normalize = normalize

    def lengths(self, samples: Length) -> Length:
        """Samples → feature frames: the same."""
        return samples

    def forward(self, samples: np.ndarray | Tensor) -> Tensor:
        if isinstance(samples, np.ndarray):
            samples = torch.from_numpy(np.require(samples, np.float32, "CW"))
        samples = samples.float()
        if self.normalize and len(samples):
            samples = (samples - samples.mean()) / (samples.var(correction=0) + VARIANCE_FLOOR).sqrt()
        return samples.unsqueeze(-1)  # (T, 1)

    def extra_repr(self) -> str:
        return f"normalize={self.normalize}"
