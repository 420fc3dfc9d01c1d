"""The wav2vec 2.0 family (Baevski et al. 2020, §2; HuBERT: Hsu et al. 2021): convolutions over the waveform, a
convolution for positions, transformer blocks. The modules and weights are those of transformers; what is ours:

- Padding changes nothing. `feat_extract_norm: group` normalises each channel of the first convolution over time; here
  over the clip's own frames, so that a clip alone equals the original and a clip in a batch equals the clip alone.
- No SpecAugment and no layerdrop inside: augmentation is data's (its draws must not depend on a worker's or a
  rank's random state), and every trained parameter takes part in every micro-batch.

# B batch · T samples · F frames of a convolution · C channels · E encoder frames · D width
"""

from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from auricle.core.errors import ModelError
from auricle.models.parts.encoders.parts.config import EncoderConfig
from auricle.models.parts.encoders.parts.pretrained import audio_settings, configuration, load
from auricle.models.parts.encoders.parts.stand_in import with_stand_in
from auricle.models.parts.encoders.parts.waveform import SAMPLE_RATE, Waveform
from auricle.models.parts.masks import attention_mask, valid_frames

Length = TypeVar("Length", int, Tensor)

OFF = ("layerdrop", "mask_time_prob", "mask_feature_prob")
REFUSED = {"conv_pos_batch_norm": "it normalises over the batch, so that a clip would depend on its neighbours",
           "add_adapter": "it shortens the encoder's frames once more, which a projector does here"}


class WaveEncoder(nn.Module):
    """(B, T, 1) samples, (B,) lengths → (B, E, D), (B,) lengths."""

    def __init__(self, model: PreTrainedModel, frontend: Waveform, commit: str | None) -> None:
        super().__init__()
        config = model.config
        self.frontend, self.width, self.commit = frontend, config.hidden_size, commit
        self.configuration = configuration(model)
        self.kernels_and_strides = list(zip(config.conv_kernel, config.conv_stride, strict=True))
        self.norm_comes_last = config.do_stable_layer_norm
        self.convolutions = model.feature_extractor.conv_layers
        self.projection = model.feature_projection
        self.positions = model.encoder.pos_conv_embed
        self.norm, self.dropout = model.encoder.layer_norm, model.encoder.dropout
        self.layers = model.encoder.layers

    def lengths(self, samples: Length) -> Length:
        """Windows that lie in the signal: for each convolution floor((length - kernel) / stride) + 1, or 0."""
        for kernel, stride in self.kernels_and_strides:
            samples = (samples - kernel) // stride + 1
        return samples.clamp(min=0) if isinstance(samples, Tensor) else max(samples, 0)

    @property
    def receptive_field(self) -> int:
        """Samples that one encoder frame sees."""
        samples = 1
        for kernel, stride in reversed(self.kernels_and_strides):
            samples = (samples - 1) * stride + kernel
        return samples

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x, lengths, mask = self._embedded(*with_stand_in(features, lengths, self.receptive_field))
        for y in self.transformed(x, mask):
            x = y
        x = self.norm(x) if self.norm_comes_last else x
        return x[: len(features)], lengths[: len(features)]

    def all_layers(self, features: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor]:
        """(B, T, 1), (B,) → what each block gives, (B, E, D) each; (B,) lengths.

        They are transformers' `hidden_states` without the first, which enters the blocks; and the last is as `forward`
        gives it, with its norm where one comes last, so that every parameter takes part.
        """
        x, lengths, mask = self._embedded(*with_stand_in(features, lengths, self.receptive_field))
        *others, last = self.transformed(x, mask)
        last = self.norm(last) if self.norm_comes_last else last
        return [x[: len(features)] for x in (*others, last)], lengths[: len(features)]

    def _embedded(self, features: Tensor, samples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, 1), (B,) → what enters the blocks, (B, E, D); (B,) frames; (B, 1, 1, E), true where to attend."""
        lengths = self.lengths(samples)
        x = self._convolved(features, samples)  # (B, E, C)
        x = self.projection(x)
        x = x[0] if isinstance(x, tuple) else x  # (B, E, D)
        x = x.masked_fill(~valid_frames(lengths, x.shape[1]).unsqueeze(-1), 0.0)
        x = x + self.positions(x)
        x = self.dropout(x if self.norm_comes_last else self.norm(x))
        return x, lengths, attention_mask(lengths, x.shape[1])

    def _convolved(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, 1) → (B, E, C). A frame that counts sees no sample after its clip's end, so one mask will do."""
        x = features.masked_fill(~valid_frames(lengths, features.shape[1]).unsqueeze(-1), 0.0)
        x = x.transpose(1, 2).to(self.convolutions[0].conv.weight.dtype)  # (B, 1, T)
        for layer, (kernel, stride) in zip(self.convolutions, self.kernels_and_strides, strict=True):
            lengths = (lengths - kernel) // stride + 1
            if isinstance(getattr(layer, "layer_norm", None), nn.GroupNorm):
                x = layer.activation(normalized_over_time(layer.conv(x), lengths, layer.layer_norm))
            else:
                x = layer(x)  # (B, C, F)
        return x.transpose(1, 2)

    def transformed(self, x: Tensor, mask: Tensor) -> Iterator[Tensor]:
        """(B, E, D) after each of the blocks, which attend where the mask (B, 1, 1, E) is true."""
        for layer in self.layers:
            x = layer(x, attention_mask=mask)
            yield x


def normalized_over_time(x: Tensor, lengths: Tensor, norm: nn.GroupNorm) -> Tensor:
    """(B, C, F) → (B, C, F): what `norm` with a group a channel does, over the first `lengths` frames of each clip."""
    with torch.autocast(x.device.type, enabled=False):
        precise = x.to(torch.promote_types(x.dtype, torch.float32))
        valid = valid_frames(lengths, x.shape[-1]).unsqueeze(-1)  # (B, F, 1)
        share = valid.to(precise.dtype) / lengths.clamp(min=1)[:, None, None]
        mean = precise @ share  # (B, C, 1)
        variance = (precise - mean).square() @ share
        scale = (variance + norm.eps).rsqrt() * norm.weight[:, None]
        return torch.addcmul(norm.bias[:, None] - mean * scale, precise, scale).to(x.dtype)


def build_wave(config: EncoderConfig, model_class: type[PreTrainedModel],
               encoder_class: type[WaveEncoder] = WaveEncoder) -> WaveEncoder:
    """Raises ConfigError and ModelError."""
    model, commit = load(config, model_class, off=OFF)
    for key, reason in REFUSED.items():
        if getattr(model.config, key, False):
            raise ModelError(f"encoder '{config.pretrained or config.kind}': {key} is true, which is not supported: "
                             f"{reason}. Choose another checkpoint")
    return encoder_class(model, Waveform(_normalizes(config, commit)), commit)


def _normalizes(config: EncoderConfig, commit: str | None) -> bool:
    settings = audio_settings(config.pretrained, commit) if config.pretrained and config.normalize is None else {}
    if (rate := settings.get("sampling_rate", SAMPLE_RATE)) != SAMPLE_RATE:
        raise ModelError(f"encoder '{config.pretrained}': takes audio of {rate} Hz; expected {SAMPLE_RATE}. Choose "
                         "another checkpoint")
    if config.normalize is not None:
        return config.normalize
    return settings.get("do_normalize", bool(settings))  # Wav2Vec2FeatureExtractor normalises unless told otherwise
