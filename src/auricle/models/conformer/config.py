"""What a Conformer is built from."""

from typing import Literal, Self

from pydantic import model_validator

from auricle.core.config import Fraction, Positive
from auricle.core.frame import Block, Frame


class FrontendConfig(Frame):
    """Log-mel features (models/parts/logmel.py)."""

    style: Literal["whisper", "kaldi"] = "whisper"
    sample_rate: Positive = 16_000
    """Hertz; audio of any rate is resampled to it."""
    n_mels: Positive = 80
    normalize: Literal["none", "mean", "mean_variance"] = "none"
    """Of each mel bin over the utterance."""


class Config(Block):
    """Conformer encoder with a CTC head (Gulati et al. 2020). The defaults are its "S", with half the layers."""

    kind: Literal["conformer"] = "conformer"
    frontend: FrontendConfig = FrontendConfig()
    width: Positive = 144
    layers: Positive = 8
    heads: Positive = 4
    feedforward_factor: Positive = 4
    """Width inside a feed-forward module, as a multiple of `width`."""
    convolution_kernel: Positive = 15
    """Encoder frames that a convolution module sees; odd."""
    subsampling: Literal[2, 4, 8] = 4
    """Feature frames (10 ms) an encoder frame."""
    subsampling_channels: Positive = 64
    dropout: Fraction = 0.1

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} is no multiple of 2 · heads ({2 * self.heads}); a head's is even")
        if self.convolution_kernel % 2 == 0:
            raise ValueError(f"convolution_kernel {self.convolution_kernel} is even; an odd one has a middle")
        return self
