"""A pretrained encoder of the waveform: what its layers hear, weighed, and projected.

# B batch · T samples · E encoder frames · L layers · M their width · D width
"""

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from auricle.core.errors import ModelError
from auricle.models.parts.dropout import Dropout
from auricle.models.parts.encoders.parts.build import build as build_encoder
from auricle.models.parts.encoders.parts.wave import WaveEncoder
from auricle.models.voxformer.chunks import Chunks
from auricle.models.voxformer.config import WaveConfig

Length = TypeVar("Length", int, Tensor)


class Adapter(nn.Module):
    """L of (B, E, M) → (B, E, D): their sum with learned weights, a softmax (Yang et al. 2021, SUPERB, §3), and two
    layers."""

    def __init__(self, layers: int, width_in: int, width: int, dropout: float) -> None:
        super().__init__()
        self.layer_weights = nn.Parameter(torch.zeros(layers))
        self.norm = nn.LayerNorm(width_in)
        self.project_in, self.project_out = nn.Linear(width_in, width), nn.Linear(width, width)
        self.dropout = Dropout(dropout)

    def forward(self, layers: list[Tensor]) -> Tensor:
        weights = self.layer_weights.softmax(0)  # (L,)
        x = sum(weight * layer.to(weight.dtype) for weight, layer in zip(weights, layers, strict=True))  # (B, E, M)
        x = nn.functional.gelu(self.project_in(self.norm(x)))  # (B, E, D)
        return self.project_out(self.dropout(x))


class Wave(nn.Module):
    """(B, T, 1) samples, (B,) lengths → (B, E, D), (B,) lengths."""

    def __init__(self, encoder: WaveEncoder, width: int, dropout: float) -> None:
        super().__init__()
        self.frontend, self.encoder = encoder.frontend, encoder
        self.adapter = Adapter(len(encoder.layers), encoder.width, width, dropout)

    def components(self) -> Mapping[str, nn.Module]:
        return {"frontend": self.encoder, "adapter": self.adapter}

    def lengths(self, samples: Length) -> Length:
        """Audio samples → frames."""
        return self.encoder.lengths(samples)

    def forward(self, features: Tensor, lengths: Tensor, chunks: Chunks) -> tuple[Tensor, Tensor]:
        """Raises ModelError where it may not see the whole utterance."""
        if chunks.size is not None or chunks.memory is not None:
            raise ModelError("model.frontend: a pretrained encoder of the waveform attends to the whole utterance and "
                             "cannot hear it chunk by chunk; expected kind logmel or features. Leave the chunks out")
        layers, lengths = self.encoder.all_layers(features, lengths)
        return self.adapter(layers), lengths


def build(config: WaveConfig, width: int) -> Wave:
    """The encoder is fetched, or has fresh weights. Raises ConfigError and ModelError."""
    encoder = build_encoder(config.encoder)
    if not isinstance(encoder, WaveEncoder):
        raise ModelError(f"model.frontend.encoder: kind {config.encoder.kind} has no layers to weigh; expected one "
                         "that takes the waveform, as wavlm, hubert or wav2vec2")
    return Wave(encoder, width, config.dropout)
