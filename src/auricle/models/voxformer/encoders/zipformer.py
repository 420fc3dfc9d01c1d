"""Zipformer (Yao et al. 2024) on three rates; the paper's fourth, 6.25 Hz, is left out.

    50 Hz    blocks ─┬─ bypass ─┬─ bypass ─┬─ bypass ─ blocks ─ the latest of each channel
    25 Hz            └─ blocks ─┘          └─ blocks ─┘
    12.5 Hz                     └─ blocks ─┘

Between stacks frames are at 50 Hz. A stack at a lower rate averages its input, repeats what it makes of it, and
combines both by a bypass (§3.1). Channels are cut off or filled up with zeros where the next stack has another width;
of what the encoder gives, each channel is from the last stack that has it.

# B batch · F frames · E frames of a lower rate (F/factor, rounded up) · D width
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from auricle.models.parts.masks import valid_frames
from auricle.models.voxformer.chunks import Chunks
from auricle.models.voxformer.config import STACKS, ZipformerConfig
from auricle.models.voxformer.encoders.parts.relative_attention import AttentionWeights, View, relative_positions
from auricle.models.voxformer.encoders.parts.zipformer_block import Bypass, ZipformerBlock

FACTORS = (1, 2, 4, 2, 1)
"""Frames at 50 Hz that a stack makes one."""
INNER = range(1, STACKS - 1)
"""The stacks at lower rates."""


class Downsample(nn.Module):
    """(B, F, D), (B,) lengths → (B, E, D): averages of `factor` frames, with the softmax of learned weights as shares.

    At an utterance's end the shares are among the frames that there are. (The paper's code repeats the last one, which
    gives the same for pairs.) None reaches beyond a chunk of a multiple of `factor` frames.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.weights = nn.Parameter(torch.zeros(factor))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, -x.shape[1] % self.factor)).unflatten(1, (-1, self.factor))  # (B, E, factor, D)
        valid = valid_frames(lengths, x.shape[1] * self.factor).unflatten(1, (-1, self.factor))  # (B, E, factor)
        # In padding all are equally far below any weight, so that nothing becomes NaN.
        shares = self.weights.masked_fill(~valid, torch.finfo(self.weights.dtype).min).softmax(-1)  # (B, E, factor)
        return (x * shares.to(x.dtype).unsqueeze(-1)).sum(2)  # (B, E, D)


def latest(outputs: Sequence[Tensor]) -> Tensor:
    """(B, F, D of each stack) → (B, F, widest D): each channel from the last output that has it."""
    full = outputs[-1]
    for x in reversed(outputs[:-1]):
        if x.shape[-1] > full.shape[-1]:
            full = torch.cat([full, x[..., full.shape[-1] :]], -1)
    return full


class Zipformer(nn.Module):
    """(B, F, D in) at 50 Hz, (B,) lengths → (B, F, D out), F at least 1."""

    def __init__(self, config: ZipformerConfig) -> None:
        super().__init__()
        self.widths, self.position_width = config.widths, config.position_width
        stacks = (stack for stack in range(STACKS) for _ in range(config.layers[stack]))
        self.layers = nn.ModuleList(_block(config, stack) for stack in stacks)
        self.borders = list(pairwise(accumulate(config.layers, initial=0)))
        self.down = nn.ModuleList(Downsample(FACTORS[stack]) for stack in INNER)
        self.bypass = nn.ModuleList(Bypass(config.widths[stack]) for stack in INNER)

    def forward(self, x: Tensor, lengths: Tensor, chunks: Chunks) -> Tensor:
        x = x.masked_fill(~valid_frames(lengths, x.shape[1]).unsqueeze(-1), 0.0)
        at_rate = {1: chunks, 2: chunks.halved(), 4: chunks.halved().halved()}
        outputs: list[Tensor] = []
        for stack, factor in enumerate(FACTORS):
            x = F.pad(x, (0, self.widths[stack] - x.shape[-1]))  # (B, F, D of the stack)
            if stack in INNER:
                x = self._at_lower_rate(stack, x, lengths, at_rate[factor])
            else:
                x = self._blocks(stack, x, lengths, chunks)
            outputs.append(x)
        return latest(outputs)

    def _at_lower_rate(self, stack: int, x: Tensor, lengths: Tensor, chunks: Chunks) -> Tensor:
        factor, inner = FACTORS[stack], INNER.index(stack)
        y = self._blocks(stack, self.down[inner](x, lengths), -(-lengths // factor), chunks)  # (B, E, D)
        return self.bypass[inner](x, y.repeat_interleave(factor, 1)[:, : x.shape[1]])  # (B, F, D)

    def _blocks(self, stack: int, x: Tensor, lengths: Tensor, chunks: Chunks) -> Tensor:
        frames = x.shape[1]
        before = chunks.memory.seen((self, stack), frames) if chunks.memory is not None else 0
        positions = relative_positions(frames, before + frames, self.position_width, x)
        padding = ~valid_frames(lengths, frames).unsqueeze(-1)
        view = View(positions, chunks.attention_mask(lengths, frames), padding, chunks)
        for layer in self.layers[slice(*self.borders[stack])]:
            x = layer(x, view)
        return x


def _block(config: ZipformerConfig, stack: int) -> ZipformerBlock:
    width = config.widths[stack]
    weights = AttentionWeights(width, config.heads[stack], config.query_head_width, config.position_head_width,
                               config.position_width)
    return ZipformerBlock(width, weights, value_width=config.value_head_width, dropout=config.dropout,
                          hidden=config.feedforward_widths[stack], kernel=config.convolution_kernels[stack])


def build(config: ZipformerConfig) -> Zipformer:
    """With fresh weights."""
    return Zipformer(config)
