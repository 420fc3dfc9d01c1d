"""Attention weights from contents and distances, computed once for all modules of a block that use them.

A distance is described by few numbers, in which near frames are told apart exactly and far ones roughly: offsets are
squeezed into (-π/2, π/2), and cosines and sines of multiples of that angle are the description. Yao et al. 2024 leave
the formula to their code (icefall, class CompactRelPositionalEncoding); here it is without its last, constant entry,
which adds the same to all keys of a query and so nothing to a softmax.

# B batch · F frames of queries · K frames of keys · D width · H heads · Q width of a query · P of a position
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from auricle.models.voxformer.chunks import Chunks


class View(NamedTuple):
    """What the blocks of one rate must know of the frames around one."""

    positions: Tensor
    """(K + F, position width), see `relative_positions`."""
    mask: Tensor | None
    """(B, 1, 1 or F, K) bool, true where a frame may look; None where it may look everywhere."""
    padding: Tensor
    """(B, F, 1) bool, true after an utterance's end."""
    chunks: Chunks

    def so_far(self, x: Tensor, owner: nn.Module) -> Tensor:
        """(B, F, …) → (B, K, …): with what the owner had of the earlier chunks of a stream."""
        return x if self.chunks.memory is None else self.chunks.memory.extend(owner, x)


def relative_positions(frames: int, keys: int, width: int, like: Tensor) -> Tensor:
    """Descriptions of the offsets (key - query) from 1 - K to F, in order: (K + F, width).

    With w the width and o an offset: angle a = atan(sign(o) √w ln(1 + |o| / √w) · 2π / w); cos(n a), sin(n a) for n
    from 1 to w / 2. The last `frames` of the keys are those of the queries. On the device of `like`.
    """
    kind = torch.promote_types(like.dtype, torch.float32)
    offsets = torch.arange(1 - keys, frames + 1, device=like.device, dtype=kind)  # (K + F,)
    root = math.sqrt(width)
    squeezed = offsets.sign() * root * torch.log1p(offsets.abs() / root)
    multiples = torch.arange(1, width // 2 + 1, device=like.device, dtype=kind)
    angles = torch.outer(torch.atan(squeezed * (2 * math.pi / width)), multiples)  # (K + F, width / 2)
    return torch.cat([angles.cos(), angles.sin()], 1)


def by_key(scores: Tensor, keys: int) -> Tensor:
    """(…, F, K + F) scores by offset, from 1 - K on → (…, F, K) by key, as a view: query i has key j at offset j - i,
    counted from the first query, so each row begins one further left than the one before."""
    frames, offsets = scores.shape[-2:]
    rows = scores.flatten(-2)[..., frames - 1 : frames - 1 + frames * (offsets - 1)]
    return rows.unflatten(-1, (frames, offsets - 1))[..., :keys]


class AttentionWeights(nn.Module):
    """(B, F, D) → (B, H, F, K): softmax over keys of q·k / √Q + p·(W r), r the description of their distance.

    The keys have no bias: it would add the same to all of them.
    """

    def __init__(self, width: int, heads: int, query_width: int, position_head_width: int, position_width: int) -> None:
        super().__init__()
        self.heads, self.query_width, self.position_head_width = heads, query_width, position_head_width
        self.project_queries = nn.Linear(width, heads * (query_width + position_head_width))
        self.project_keys = nn.Linear(width, heads * query_width, bias=False)
        self.project_positions = nn.Linear(position_width, heads * position_head_width, bias=False)

    def forward(self, x: Tensor, view: View) -> Tensor:
        queries = self.project_queries(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, F, Q + P)
        q, p = queries.split([self.query_width, self.position_head_width], -1)
        k = view.so_far(self.project_keys(x), self).unflatten(-1, (self.heads, -1))  # (B, K, H, Q)
        positions = self.project_positions(view.positions.to(p.dtype)).unflatten(-1, (self.heads, -1))  # (K + F, H, P)
        by_offset = p @ positions.permute(1, 2, 0)  # (B, H, F, K + F)
        content = (q / math.sqrt(self.query_width)) @ k.permute(0, 2, 3, 1)  # (B, H, F, K)
        scores = content.add_(by_key(by_offset, k.shape[1]))
        if view.mask is not None:
            scores = scores.masked_fill_(~view.mask, -math.inf)
        return scores.softmax(-1)
