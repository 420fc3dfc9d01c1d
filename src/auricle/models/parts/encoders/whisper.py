"""Whisper's encoder (Radford et al. 2022, §2.2) on what there is of the utterance, or on its whole window.

    full      as it was trained: zeros up to 30 s of audio, which it attends to; their frames are then dropped
    trimmed   the utterance alone: masks in attention, zeros around it in the convolutions

A longer clip is cut into windows of 30 s, whose frames follow each other. The modules and weights are those of
transformers, whose own forward wants 3000 frames and knows no mask. Its layerdrop is off: every trained parameter takes
part in every micro-batch. The sinusoids of its positions are a buffer here, as in the original: no stage trains them.

# B batch · F feature frames · M mel bins · W windows of a clip · N windows of the batch · S frames of a window
# E encoder frames · D width
"""

import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from auricle.core.errors import ConfigError
from auricle.models.parts.encoders.parts.config import EncoderConfig
from auricle.models.parts.encoders.parts.pretrained import configuration, load
from auricle.models.parts.encoders.parts.stand_in import with_stand_in
from auricle.models.parts.logmel import WHISPER_FLOOR, LogMel
from auricle.models.parts.masks import attention_mask, valid_frames

Length = TypeVar("Length", int, Tensor)

ENCODER_IN_CHECKPOINT = {r"^(model\.)?encoder\.": ""}
"""Of WhisperModel and WhisperForConditionalGeneration, whose decoder is not loaded."""
DYNAMIC_RANGE = 2.0
"""Eight decades, as LogMel scales them: the lowest value of a clip is that much below its highest."""
SILENCE = (math.log10(WHISPER_FLOOR) + 4.0) / 4.0
"""What LogMel makes of digital silence."""


def halved(frames: Length) -> Length:
    """The second convolution's frames."""
    return (frames + 1) // 2


class PaddedLogMel(LogMel):
    """The features of a clip as if zeros followed it to the end of its window, up to the last that differs from theirs.

    `lengths` counts the frames of the clip itself. Those that follow (`tail`) still see its last samples, and the
    highest value of all sets the floor, so the encoder needs them; what comes after is floor, which it fills in.
    """

    def __init__(self, n_mels: int, window: int) -> None:
        super().__init__(n_mels=n_mels)
        self.window = window

    def tail(self, frames: Length) -> Length:
        """Frames of a clip → frames that follow them; none beyond its last window."""
        reach = (self.fft_points // 2 + 2 * self.hop_samples - 2) // self.hop_samples
        room = -frames % self.window
        return room.clamp(max=reach) if isinstance(room, Tensor) else min(room, reach)

    def _whisper(self, samples: Tensor) -> Tensor:
        frames = self.lengths(len(samples))
        whole = (frames + self.tail(frames)) * self.hop_samples
        return super()._whisper(functional.pad(samples, (0, whole - len(samples))))  # (F + tail, M)


class Whisper(nn.Module):
    """(B, F, M) features, (B,) lengths → (B, E, D), (B,) lengths."""

    def __init__(self, model: WhisperEncoder, *, full: bool, commit: str | None) -> None:
        super().__init__()
        config = model.config
        self.full, self.width, self.commit = full, config.d_model, commit
        self.configuration = configuration(model)
        self.window = 2 * config.max_source_positions
        self.frontend = PaddedLogMel(config.num_mel_bins, self.window) if full else LogMel(n_mels=config.num_mel_bins)
        self.conv1, self.conv2 = model.conv1, model.conv2
        self.register_buffer("positions", model.embed_positions.weight.detach())
        self.dropout = nn.Dropout(config.dropout)
        self.layers, self.layer_norm = model.layers, model.layer_norm

    def lengths(self, samples: Length) -> Length:
        return halved(self.frontend.lengths(samples))

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        batch = len(features)
        features, lengths = with_stand_in(features, lengths)
        frames = features.shape[1]
        size = self.window if self.full or frames > self.window else frames
        whole = functional.pad(features, (0, 0, 0, -frames % size))  # (B, W·S, M)
        whole = self._to_the_floor(whole, lengths) if self.full else whole
        x = self._in_windows(whole.unflatten(1, (-1, size)), lengths)
        return x[:batch, :halved(frames)], halved(lengths)[:batch]

    def _to_the_floor(self, features: Tensor, lengths: Tensor) -> Tensor:
        """(B, F, M) → (B, F, M) with what a clip's zeros give after its tail."""
        valid = valid_frames(lengths + self.frontend.tail(lengths), features.shape[1]).unsqueeze(-1)  # (B, F, 1)
        highest = features.masked_fill(~valid, -torch.inf).amax((1, 2), keepdim=True)  # (B, 1, 1)
        return torch.where(valid, features, (highest - DYNAMIC_RANGE).clamp(min=SILENCE))

    def _in_windows(self, windows: Tensor, lengths: Tensor) -> Tensor:
        """(B, W, S, M) → (B, W·E, D). Only windows with frames of a clip are computed, and the first of each clip."""
        count, size = windows.shape[1:3]
        if count == 1:
            return self._encoded(windows[:, 0], lengths)
        starts = torch.arange(count, device=lengths.device) * size
        lengths = (lengths.unsqueeze(1) - starts).clamp(0, size)  # (B, W)
        needed = (lengths > 0) | (starts == 0)
        encoded = self._encoded(windows[needed], lengths[needed])  # (N, E, D)
        x = encoded.new_zeros(*needed.shape, *encoded.shape[1:])
        x[needed] = encoded
        return x.flatten(1, 2)

    def _encoded(self, windows: Tensor, lengths: Tensor) -> Tensor:
        """(N, S, M) features, (N,) lengths → (N, E, D)."""
        x = self._masked(windows, lengths).to(self.conv1.weight.dtype)
        x = functional.gelu(self.conv1(x.transpose(1, 2))).transpose(1, 2)  # (N, S, D)
        x = functional.gelu(self.conv2(self._masked(x, lengths).transpose(1, 2))).transpose(1, 2)  # (N, E, D)
        x = self.dropout(x + self.positions[:x.shape[1]])
        mask = None if self.full else attention_mask(halved(lengths), x.shape[1])
        for layer in self.layers:
            x = layer(x, mask)
        return self.layer_norm(x)

    def _masked(self, x: Tensor, lengths: Tensor) -> Tensor:
        """The convolutions see zeros after an utterance's end, unless the whole window counts."""
        return x if self.full else x.masked_fill(~valid_frames(lengths, x.shape[1]).unsqueeze(-1), 0.0)


def build(config: EncoderConfig) -> Whisper:
    """Raises ConfigError and ModelError."""
    if config.normalize is not None:
        raise ConfigError(f"encoder.normalize is {str(config.normalize).lower()}, and Whisper takes log-mel features; "
                          "remove it: it is for encoders that take the waveform")
    model, commit = load(config, WhisperEncoder, off=("encoder_layerdrop",), key_mapping=ENCODER_IN_CHECKPOINT)
    return Whisper(model, full=config.window == "full", commit=commit)
