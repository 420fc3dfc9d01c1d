"""Our own Conformer (models/conformer) as an encoder, under the names of its weights in that model's `encoder`.

# B batch · F feature frames · M mel bins · E encoder frames · D width
"""

from typing import TypeVar

import torch
from torch import Tensor

from auricle.core.decode import decode_model
from auricle.core.errors import ConfigError
from auricle.models.conformer.config import Config
from auricle.models.parts.conformer import ConformerEncoder
from auricle.models.parts.encoders.parts.config import EncoderConfig
from auricle.models.parts.encoders.parts.stand_in import with_stand_in
from auricle.models.parts.logmel import LogMel
from auricle.models.parts.subsampling import ConvSubsampling

Length = TypeVar("Length", int, Tensor)


class Conformer(ConformerEncoder):
    """(B, F, M) features, (B,) lengths → (B, E, D), (B,) lengths."""

    commit = None

    def __init__(self, config: Config) -> None:
        frontend = LogMel(**config.frontend.model_dump())
        super().__init__(
            ConvSubsampling(frontend.n_mels, config.width, config.subsampling, config.subsampling_channels),
            width=config.width, layers=config.layers, heads=config.heads, dropout=config.dropout,
            feedforward_factor=config.feedforward_factor, kernel=config.convolution_kernel)
        self.frontend, self.width = frontend, config.width
        self.configuration = config.model_dump(mode="json", exclude={"kind"})

    def lengths(self, samples: Length) -> Length:
        return self.subsampling.lengths(self.frontend.lengths(samples))

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        batch, features = len(features), features.to(self.subsampling.first.weight.dtype)
        x, lengths = super().forward(*with_stand_in(features, lengths))  # (B, E, D)
        return x[:batch], lengths[:batch]


def build(config: EncoderConfig) -> Conformer:
    """Raises ConfigError."""
    if config.pretrained or config.normalize is not None:
        key = "pretrained" if config.pretrained else "normalize"
        raise ConfigError(f"encoder.{key}: not for kind 'conformer', which starts with fresh weights; remove it. "
                          "A trained encoder comes in by training.pretrained_model_path")
    keys = decode_model(Config, {"kind": "conformer", **config.config}, "encoder.config")
    return Conformer(keys).to(dtype=getattr(torch, config.dtype))
