"""What a VoxFormer is built from: a front end, an encoder and a decoder, each a block with a `kind`.

    frontend   logmel | wave | features      → frames at 50 Hz
    encoder    conformer | zipformer         a U-Net over 50, 25 and 12.5 Hz, back at 50 Hz
    decoder    attention

The defaults have the size of the original VoxFormer.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from auricle.core.config import Fraction, NonNegative, Positive, PositiveFloat
from auricle.core.frame import Block, Frame
from auricle.models.parts.encoders.parts.config import EncoderConfig

FRAME_SECONDS = 0.02
"""Of a frame at the encoder's first and last rate."""
COARSEST = 4
"""Frames there that are one at the lowest rate, so that a chunk is a multiple of them."""
STACKS = 5
"""Two going down, one at the bottom, two going up."""


class LogMelConfig(Frame):
    """Log-mel features (models/parts/logmel.py), halved to 50 Hz by a convolution; for training from nothing."""

    kind: Literal["logmel"] = "logmel"
    style: Literal["whisper", "kaldi"] = "kaldi"
    """Streaming needs kaldi without `normalize`: whisper's features depend on the loudest moment of the clip."""
    sample_rate: Positive = 16_000
    """Hertz; audio of any rate is resampled to it."""
    n_mels: Positive = 80
    normalize: Literal["none", "mean", "mean_variance"] = "none"
    """Of each mel bin over the utterance."""
    channels: Positive = 64
    """Of the convolution."""

    @property
    def clipwise(self) -> str | None:
        """What of it looks at the whole utterance, which a stream never has."""
        if self.style == "whisper":
            return "style whisper"
        return None if self.normalize == "none" else f"normalize {self.normalize}"


class WaveConfig(Frame):
    """A pretrained encoder of the waveform with an adapter: a learned weighted sum of its layers (SUPERB, Yang et al.
    2021, §3), normalised and projected."""

    kind: Literal["wave"] = "wave"
    encoder: EncoderConfig = EncoderConfig(kind="wavlm", pretrained="microsoft/wavlm-base")
    dropout: Fraction = 0.1
    """Between the two projections."""

    @field_validator("encoder")
    @classmethod
    def _takes_the_waveform(cls, encoder: EncoderConfig) -> EncoderConfig:
        if encoder.kind in ("whisper", "conformer"):
            raise ValueError(f"encoder.kind is {encoder.kind}; expected one that takes the waveform at 50 frames a "
                             "second, as wavlm, hubert or wav2vec2")
        return encoder

    @property
    def clipwise(self) -> str | None:
        """What of it looks at the whole utterance, which a stream never has."""
        return "kind wave"


class FeaturesConfig(Frame):
    """Features that the corpus brings (models/parts/precomputed.py), halved to 50 Hz by a convolution."""

    kind: Literal["features"] = "features"
    width: Positive = 13
    frame_rate: Positive = 100
    """Frames a second."""
    deltas: NonNegative = 2
    """Orders of differences in time that are added."""
    normalize: Literal["none", "mean", "mean_variance"] = "mean_variance"
    """Of each feature over the utterance."""
    channels: Positive = 64
    """Of the convolution."""

    @field_validator("frame_rate")
    @classmethod
    def _halves_to_the_encoder_s(cls, rate: int) -> int:
        factor = round(rate * FRAME_SECONDS)
        if factor < 2 or factor & (factor - 1) or factor != rate * FRAME_SECONDS:
            raise ValueError(f"a frame rate of {rate}; expected 100, 200 or 400, which can be halved to "
                             f"{1 / FRAME_SECONDS:.0f}")
        return rate

    @property
    def factor(self) -> int:
        """Frames that the convolution makes one."""
        return round(self.frame_rate * FRAME_SECONDS)

    @property
    def clipwise(self) -> str | None:
        """What of it looks at the whole utterance, which a stream never has."""
        return None if self.normalize == "none" else f"normalize {self.normalize}"


FrontendConfig = Annotated[LogMelConfig | WaveConfig | FeaturesConfig, Field(discriminator="kind")]


class ConformerConfig(Frame):
    """Conformer blocks (Gulati et al. 2020) at one width."""

    kind: Literal["conformer"] = "conformer"
    width: Positive = 512
    layers: Positive = 2
    """A stack; there are five stacks."""
    heads: Positive = 8
    feedforward_width: Positive = 2048
    convolution_kernel: Positive = 31
    """Frames of the stack's rate that a convolution module sees; odd."""
    dropout: Fraction = 0.1

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} is no multiple of 2 · heads ({2 * self.heads}); a head's is even")
        if self.convolution_kernel % 2 == 0:
            raise ValueError(f"convolution_kernel {self.convolution_kernel} is even; an odd one has a middle")
        return self

    @property
    def width_in(self) -> int:
        return self.width

    @property
    def width_out(self) -> int:
        return self.width


class ZipformerConfig(Frame):
    """Zipformer (Yao et al. 2024) without its fourth rate; each list has a value a stack, at 50, 25, 12.5, 25, 50 Hz.

    The defaults are the first, second and fourth stack of its M, and the first two again.
    """

    kind: Literal["zipformer"] = "zipformer"
    widths: list[Positive] = [192, 256, 512, 256, 192]
    layers: list[Positive] = [2, 2, 4, 2, 2]
    heads: list[Positive] = [4, 4, 8, 4, 4]
    feedforward_widths: list[Positive] = [512, 768, 1536, 768, 512]
    """Of a block's middle feed-forward module; its first has 3/4 of it, its last 5/4."""
    convolution_kernels: list[Positive] = [31, 31, 15, 31, 31]
    """Frames of the stack's rate that a convolution module sees; odd."""
    query_head_width: Positive = 32
    value_head_width: Positive = 12
    position_head_width: Positive = 4
    position_width: Positive = 48
    """Numbers that describe the distance of two frames."""
    dropout: Fraction = 0.1

    @model_validator(mode="after")
    def _a_value_a_stack(self) -> Self:
        for name in ("widths", "layers", "heads", "feedforward_widths", "convolution_kernels"):
            values = getattr(self, name)
            if len(values) != STACKS:
                raise ValueError(f"{name} has {len(values)} values; expected one for each of the {STACKS} stacks")
        for name in ("widths", "feedforward_widths"):
            if odd := [width for width in getattr(self, name) if width % 4]:
                raise ValueError(f"{name}: {odd[0]} is no multiple of 4; modules are 3/4 and 5/4 as wide")
        if even := [kernel for kernel in self.convolution_kernels if kernel % 2 == 0]:
            raise ValueError(f"convolution_kernels: {even[0]} is even; an odd one has a middle")
        if self.position_width % 2:
            raise ValueError(f"position_width {self.position_width} is odd; it holds pairs of cosine and sine")
        return self

    @property
    def width_in(self) -> int:
        return self.widths[0]

    @property
    def width_out(self) -> int:
        return max(self.widths)


UNetConfig = Annotated[ConformerConfig | ZipformerConfig, Field(discriminator="kind")]


class DecoderConfig(Frame):
    """A transformer that spells what it attends to (Vaswani et al. 2017), as wide as what the encoder gives."""

    layers: Positive = 4
    heads: Positive = 8
    feedforward_width: Positive = 2048
    dropout: Fraction = 0.1


class StreamingConfig(Frame):
    """Training for streams: in each micro-batch the encoder sees whole utterances or draws a length of chunks, and then
    no frame sees beyond its chunk (Zhang et al. 2020, U2, §3.3)."""

    chunk_seconds: list[PositiveFloat] = Field(default=[0.32, 0.64, 1.28], min_length=1)
    whole: Fraction = 0.5
    """Share of micro-batches that see whole utterances."""

    @field_validator("chunk_seconds")
    @classmethod
    def _whole_frames(cls, seconds: list[float]) -> list[float]:
        for one in seconds:
            chunk_frames(one)
        return seconds


class Config(Block):
    """CTC head and attention decoder on one encoder (Watanabe et al. 2017)."""

    kind: Literal["voxformer"] = "voxformer"
    frontend: FrontendConfig = WaveConfig()
    encoder: UNetConfig = ConformerConfig()
    decoder: DecoderConfig = DecoderConfig()
    streaming: StreamingConfig | None = None
    """None trains on whole utterances alone."""

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        if self.streaming and self.frontend.clipwise:
            raise ValueError(f"streaming: the front end has {self.frontend.clipwise}, which looks at the whole "
                             "utterance; expected kind logmel with style kaldi and normalize none. Change it, or leave "
                             "streaming out")
        if self.encoder.width_out % (2 * self.decoder.heads):
            raise ValueError(f"decoder.heads is {self.decoder.heads}; the encoder gives frames of width "
                             f"{self.encoder.width_out}, expected a multiple of 2 · heads")
        return self


def chunk_frames(seconds: float) -> int:
    """Seconds of a chunk → its frames at 50 Hz. Raises ValueError where they are no whole frames at the lowest rate.

    >>> chunk_frames(0.64)
    32
    """
    coarse = seconds / (COARSEST * FRAME_SECONDS)
    if round(coarse) < 1 or abs(coarse - round(coarse)) > 1e-6:
        raise ValueError(f"a chunk of {seconds} s; expected a multiple of {COARSEST * FRAME_SECONDS} s, a frame of the "
                         f"lowest rate, as {max(1, round(coarse)) * COARSEST * FRAME_SECONDS:.2f}")
    return round(coarse) * COARSEST
