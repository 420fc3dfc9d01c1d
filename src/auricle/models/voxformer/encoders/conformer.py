"""The U-Net of Conformer blocks of the original VoxFormer, made sound.

    50 Hz    blocks ─┬──────────────── skip ────────────────┬─ fuse ─ blocks ─ norm
    25 Hz          down ─ blocks ─┬──── skip ────┬─ fuse ─ blocks ─ up
    12.5 Hz                     down ─ blocks ─ up

Where it differs from the original, and why: attention has the norm before it that every other module has; convolution
modules normalise each frame (LayerNorm) and not the batch; padding is zero wherever a neighbour sees it; a frame that
goes down sees its pair and what came before, one that goes up what came before, so that chunks of a multiple of four
frames never see the next (voxformer/chunks.py). The blocks are those of Gulati et al. 2020, §2.4, with gated
feed-forward modules (Shazeer 2020, §2, SwiGLU) and rotary positions.

# B batch · F frames at the rate of the stack · D width · H heads · K head width (D/H) · N chunks
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from auricle.models.parts.conformer import rotary_angles, rotate
from auricle.models.parts.dropout import Dropout
from auricle.models.parts.masks import valid_frames
from auricle.models.voxformer.chunks import Chunks
from auricle.models.voxformer.config import STACKS, ConformerConfig
from auricle.models.voxformer.feedforward import FeedForward

LEVELS = STACKS // 2
"""Of stacks that go down, and of those that go up."""


class View(NamedTuple):
    """What the blocks of one rate must know of the frames around one."""

    angles: tuple[Tensor, Tensor]
    """Rotary ones, (F, 1, K) each."""
    mask: Tensor | None
    """(B, 1, 1 or F, F) bool, true where a frame may look."""
    padding: Tensor
    """(B, F, 1) bool, true after an utterance's end."""
    chunks: Chunks


class SelfAttention(nn.Module):
    """(B, F, D) → (B, F, D)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.project_in = nn.Linear(width, 3 * width, bias=False)
        self.project_out = nn.Linear(width, width, bias=False)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, view: View) -> Tensor:
        qkv = self.project_in(self.norm(x)).unflatten(-1, (3 * self.heads, -1))  # (B, F, 3H, K)
        qk, v = qkv.split([2 * self.heads, self.heads], 2)
        q, k = rotate(qk, view.angles).chunk(2, 2)  # (B, F, H, K)
        if view.chunks.memory is not None:
            k, v = view.chunks.memory.extend(self, torch.cat([k, v], 2)).chunk(2, 2)  # (B, before + F, H, K)
        q, k, v = (one.transpose(1, 2) for one in (q, k, v))
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=view.mask)  # (B, H, F, K)
        return self.dropout(self.project_out(x.transpose(1, 2).flatten(2)))  # (B, F, D)


class Convolution(nn.Module):
    """(B, F, D) → (B, F, D): sees kernel // 2 frames to either side, and padding as zeros."""

    def __init__(self, width: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.norm_in = nn.LayerNorm(width)
        self.project_in = nn.Linear(width, 2 * width, bias=False)
        # One over (B, D, F, 1) with D innermost in memory: on a CPU several times as fast as nn.Conv1d.
        self.depthwise = nn.Conv2d(width, width, (kernel, 1), groups=width, bias=False)
        self.norm_out = nn.LayerNorm(width)
        self.project_out = nn.Linear(width, width, bias=False)
        self.dropout = Dropout(dropout)
        self.half = kernel // 2

    def forward(self, x: Tensor, view: View) -> Tensor:
        batch, frames, _ = x.shape
        x = F.glu(self.project_in(self.norm_in(x))).masked_fill(view.padding, 0.0)
        x = view.chunks.around(x, self.half, self)  # (B·N, size + 2 half, D)
        x = self.depthwise(x.unsqueeze(2).permute(0, 3, 1, 2))  # (B·N, D, size, 1)
        x = view.chunks.joined(x.permute(0, 2, 3, 1).squeeze(2), batch, frames)  # (B, F, D)
        return self.dropout(self.project_out(F.silu(self.norm_out(x))))


class Block(nn.Module):
    """(B, F, D) → (B, F, D)."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        width, dropout = config.width, config.dropout
        self.feedforward_in = FeedForward(width, config.feedforward_width, dropout)
        self.attention = SelfAttention(width, config.heads, dropout)
        self.convolution = Convolution(width, config.convolution_kernel, dropout)
        self.feedforward_out = FeedForward(width, config.feedforward_width, dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, view: View) -> Tensor:
        x = torch.add(x, self.feedforward_in(x), alpha=0.5)
        x = x + self.attention(x, view)
        x = x + self.convolution(x, view)
        return self.norm(torch.add(x, self.feedforward_out(x), alpha=0.5))


class Halving(nn.Module):
    """(B, F, D) → (B, F/2, D), rounded up: a convolution over each pair and the frame before it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(3 * width, width, bias=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, view: View) -> Tensor:
        x = view.chunks.before(x.masked_fill(view.padding, 0.0), 1, self)  # (B, 1 + F, D)
        x = F.pad(x, (0, 0, 0, 1)).unfold(1, 3, 2)  # (B, F/2, D, 3): a last one without a pair has zeros
        return self.norm(self.project(x.flatten(2)))


class Doubling(nn.Module):
    """(B, F, D) → (B, 2F, D): a transposed convolution of three, of which frames see their past alone.

    out[2i] = A x[i] + B x[i-1], out[2i+1] = C x[i].
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.even = nn.Linear(2 * width, width, bias=False)
        self.odd = nn.Linear(width, width, bias=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, chunks: Chunks) -> Tensor:
        before = chunks.before(x, 1, self)[:, :-1]  # (B, F, D)
        even, odd = self.even(torch.cat([x, before], -1)), self.odd(x)
        return self.norm(torch.stack([even, odd], 2).flatten(1, 2))  # (B, 2F, D)


class ConformerUNet(nn.Module):
    """(B, F, D) at 50 Hz, (B,) lengths → (B, F, D)."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.depth, self.head_width = config.layers, config.width // config.heads
        self.layers = nn.ModuleList(Block(config) for _ in range(STACKS * config.layers))
        self.down = nn.ModuleList(Halving(config.width) for _ in range(LEVELS))
        self.up = nn.ModuleList(Doubling(config.width) for _ in range(LEVELS))
        self.fuse = nn.ModuleList(nn.Linear(2 * config.width, config.width) for _ in range(LEVELS))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, x: Tensor, lengths: Tensor, chunks: Chunks) -> Tensor:
        skipped: list[tuple[Tensor, View]] = []
        for level in range(LEVELS):
            view = self._view(level, x, lengths, chunks)
            x = self._stack(level, x, view)
            skipped.append((x, view))
            x, lengths, chunks = self.down[level](x, view), (lengths + 1) // 2, chunks.halved()  # (B, F/2, D)
        x = self._stack(LEVELS, x, self._view(LEVELS, x, lengths, chunks))
        for level in range(LEVELS):
            skip, view = skipped.pop()
            x = self.up[level](x, chunks)[:, : skip.shape[1]]  # (B, F, D)
            x = self._stack(LEVELS + 1 + level, self.fuse[level](torch.cat([x, skip], -1)), view)
        return self.norm(x)

    def _stack(self, number: int, x: Tensor, view: View) -> Tensor:
        for layer in self.layers[number * self.depth : (number + 1) * self.depth]:
            x = layer(x, view)
        return x

    def _view(self, level: int, x: Tensor, lengths: Tensor, chunks: Chunks) -> View:
        frames = x.shape[1]
        before = chunks.memory.seen((self, level), frames) if chunks.memory is not None else 0
        cos, sin = rotary_angles(before + frames, self.head_width, x.device)
        padding = ~valid_frames(lengths, frames).unsqueeze(-1)  # (B, F, 1)
        return View((cos[before:], sin[before:]), chunks.attention_mask(lengths, frames), padding, chunks)


def build(config: ConformerConfig) -> ConformerUNet:
    """With fresh weights."""
    return ConformerUNet(config)
