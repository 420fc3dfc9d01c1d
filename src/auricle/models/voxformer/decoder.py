"""The attention decoder: a pre-norm transformer that spells what it attends to (Vaswani et al. 2017, §3).

At the original VoxFormer's size (width 512, 4 layers, 2,000 labels) it has 23,033,856 parameters, the original
23,036,928. Ours has a class for the end symbol, which every input begins with, beside the labels (+1,024), and one
normalisation before a feed-forward module where the original has two in a row (-4,096).

What it attends to knows its time: the encoder's positions are relative, so that without the sinusoids that are added
here a phrase that comes twice could not be told apart, and the decoder would jump from one to the other.

In a search, the W hypotheses of an utterance are W queries on one set of cross keys, as they all read the same frames.
Their self keys are likewise kept side by side in the order they came, and each hypothesis sees those of its own past:
to reorder a beam is to rewrite a table of small numbers, and no key is ever moved.

# B utterances · W hypotheses (beams) of each · U tokens · E encoder frames · M their width · D width · H heads
# K head width (D/H) · P positions so far · V labels, class V is the end symbol
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from auricle.models.parts.conformer import ROTARY_BASE, rotary_angles, rotate
from auricle.models.parts.dropout import Dropout
from auricle.models.parts.masks import attention_mask, valid_frames
from auricle.models.voxformer.config import DecoderConfig
from auricle.models.voxformer.feedforward import FeedForward

Angles = tuple[Tensor, Tensor]
KeysValues = tuple[Tensor, Tensor]
FIRST_CAPACITY = 32
"""Positions that a cache has room for at first; it doubles."""


class SelfAttention(nn.Module):
    """(B, U, D) → (B, U, D), with rotary positions (Su et al. 2021, §3.2)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.project_in = nn.Linear(width, 3 * width, bias=False)
        self.project_out = nn.Linear(width, width, bias=False)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, angles: Angles, past: "Past | None") -> Tensor:
        """Without a past, each token sees itself and those before it; with one, what that says."""
        qkv = self.project_in(self.norm(x)).unflatten(-1, (3 * self.heads, -1))  # (B, U, 3H, K)
        qk, v = qkv.split([2 * self.heads, self.heads], 2)
        q, k = rotate(qk, angles).chunk(2, 2)  # (B, U, H, K)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H, U, K)
        if past is None:
            x = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            keys, values, seen = past(k, v)  # (B, H, PW, K), (B, H, PW, K), (B, 1, W, PW)
            x = F.scaled_dot_product_attention(q, keys, values, attn_mask=seen)
        return self.dropout(self.project_out(x.transpose(1, 2).flatten(2)))  # (B, U, D)


class CrossAttention(nn.Module):
    """(B, U, D) → (B, U, D), over the encoder's frames."""

    def __init__(self, width: int, memory_width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.project_query = nn.Linear(width, width, bias=False)
        self.project_memory = nn.Linear(memory_width, 2 * width, bias=False)
        self.project_out = nn.Linear(width, width, bias=False)
        self.dropout = Dropout(dropout)

    def read(self, memory: Tensor) -> KeysValues:
        """(B, E, M) → keys and values, each (B, H, E, K)."""
        both = self.project_memory(memory).unflatten(-1, (2 * self.heads, -1)).transpose(1, 2)  # (B, 2H, E, K)
        keys, values = both.contiguous().chunk(2, 1)
        return keys, values

    def forward(self, x: Tensor, memory: KeysValues, valid: Tensor) -> Tensor:
        q = self.project_query(self.norm(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, U, K)
        x = F.scaled_dot_product_attention(q, *memory, attn_mask=valid)
        return self.dropout(self.project_out(x.transpose(1, 2).flatten(2)))  # (B, U, D)


class DecoderLayer(nn.Module):
    """(B, U, D) → (B, U, D)"""

    def __init__(self, config: DecoderConfig, width: int, memory_width: int) -> None:
        super().__init__()
        self.self_attention = SelfAttention(width, config.heads, config.dropout)
        self.cross_attention = CrossAttention(width, memory_width, config.heads, config.dropout)
        self.feedforward = FeedForward(width, config.feedforward_width, config.dropout)

    def forward(self, x: Tensor, angles: Angles, memory: Tensor | KeysValues, valid: Tensor,
                past: "Past | None") -> Tensor:
        """`memory` are the encoder's frames (B, E, M), which are read here so that sharded weights are whole, or what
        was read of them before."""
        memory = self.cross_attention.read(memory) if isinstance(memory, Tensor) else memory
        x = x + self.self_attention(x, angles, past)
        x = x + self.cross_attention(x, memory, valid)
        return x + self.feedforward(x)


class Cache:
    """What a search remembers: cross keys of each utterance, self keys of each hypothesis and position.

    The search tells how the beam was reordered (`reorder`) and which utterances go on (`keep`).
    """

    def __init__(self, memory: list[KeysValues], valid: Tensor, beams: int) -> None:
        keys, _ = memory[0]
        self.memory, self.valid, self.beams, self.positions = memory, valid, beams, 0
        self.past = keys.new_empty(len(memory), 2, *keys.shape[:2], 0, keys.shape[-1])
        """(layers, 2, B, H, capacity · W, K): keys and values, of all hypotheses at position 0, at position 1, …"""
        self.path = torch.empty(len(keys), beams, 0, dtype=torch.long, device=keys.device)
        """(B, W, P): at which place of the beam a hypothesis was at each position."""
        self.angles = rotary_angles(0, keys.shape[-1], keys.device)

    def reorder(self, parents: Tensor) -> None:
        """(B, W): the hypothesis at place w goes on from the one that was at place parents[:, w]."""
        self.path = self.path.gather(1, parents.unsqueeze(-1).expand_as(self.path))

    def keep(self, utterances: Tensor) -> None:
        """(B',): the utterances that go on, by their places in the batch."""
        self.memory = [(keys[utterances], values[utterances]) for keys, values in self.memory]
        self.valid, self.path, self.past = self.valid[utterances], self.path[utterances], self.past[:, :, utterances]

    def grow(self) -> Angles:
        """Makes room for one more position and gives its angles."""
        if self.positions * self.beams == self.past.shape[4]:
            capacity = 2 * self.positions or FIRST_CAPACITY
            layers, two, utterances, heads, used, head_width = self.past.shape
            larger = self.past.new_empty(layers, two, utterances, heads, capacity * self.beams, head_width)
            larger[:, :, :, :, :used] = self.past
            self.past, self.angles = larger, rotary_angles(capacity, head_width, larger.device)
        here = torch.arange(self.beams, device=self.path.device).expand(len(self.path), -1).unsqueeze(-1)  # (B, W, 1)
        self.path = torch.cat([self.path, here], -1)  # (B, W, P+1)
        self.positions += 1
        cos, sin = self.angles
        return cos[self.positions - 1 : self.positions], sin[self.positions - 1 : self.positions]

    def seen(self) -> Tensor:
        """(B, 1, W, PW), true where a hypothesis was at that place at that position."""
        places = torch.arange(self.beams, device=self.path.device)
        return (self.path.unsqueeze(-1) == places).flatten(2).unsqueeze(1)


Past = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""One layer's: takes the newest keys and values in, gives all and what each query sees of them."""


class AttentionDecoder(nn.Module):
    """Tokens (B, U) and encoder frames (B, E, M), (B,) → logits (B, U, V+1): what follows each token.

    A stage may name decoder.top(n). B, E and single lengths may be 0; an utterance without frames attends to nothing.
    """

    def __init__(self, config: DecoderConfig, width: int, memory_width: int, vocabulary: int) -> None:
        super().__init__()
        self.end, self.scale, self.head_width = vocabulary, math.sqrt(width), width // config.heads
        self.embedding = nn.Embedding(vocabulary + 1, width)
        nn.init.normal_(self.embedding.weight, std=1 / self.scale)  # so that what enters the layers has unit variance
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(DecoderLayer(config, width, memory_width) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.project_out = nn.Linear(width, vocabulary + 1, bias=False)

    def forward(self, tokens: Tensor, memory: Tensor, lengths: Tensor) -> Tensor:
        """Teacher forcing: tokens are the end symbol, then labels, then any padding, which nothing before it sees."""
        frames, valid = _framed(memory, lengths)
        x, angles = self._embed(tokens), rotary_angles(tokens.shape[1], self.head_width, tokens.device)
        for layer in self.layers:
            x = layer(x, angles, frames, valid, None)
        return self.project_out(self.norm(x))  # (B, U, V+1)

    @torch.no_grad()
    def start(self, memory: Tensor, lengths: Tensor, beams: int = 1) -> Cache:
        """A cache for `step` with so many hypotheses an utterance, before the first token."""
        frames, valid = _framed(memory, lengths)
        return Cache([layer.cross_attention.read(frames) for layer in self.layers], valid, beams)

    @torch.no_grad()
    def step(self, tokens: Tensor, cache: Cache) -> Tensor:
        """The newest token of each hypothesis, (B, W) or flat (B·W,) → logits of what follows, (B, W, V+1) or flat."""
        x = self._embed(tokens.view(len(cache.path), cache.beams))  # (B, W, D)
        angles = cache.grow()
        seen, first = cache.seen(), (cache.positions - 1) * cache.beams
        for layer, memory, past in zip(self.layers, cache.memory, cache.past, strict=True):
            x = layer(x, angles, memory, cache.valid, _append(past, first, seen))
        return self.project_out(self.norm(x)).view(*tokens.shape, self.end + 1)

    def _embed(self, tokens: Tensor) -> Tensor:
        return self.dropout(self.embedding(tokens) * self.scale)  # (B, U, D)


def _append(past: Tensor, first: int, seen: Tensor) -> Past:
    """past: (2, B, H, capacity, K), written from place `first` on."""
    def append(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        last = first + keys.shape[2]
        past[0, :, :, first:last], past[1, :, :, first:last] = keys, values
        return past[0, :, :, :last], past[1, :, :, :last], seen
    return append


def sinusoids(frames: int, width: int, device: torch.device | None = None) -> Tensor:
    """(E, M): sines of frame · base^(-2i/M), then their cosines (Vaswani et al. 2017, §3.5)."""
    rates = ROTARY_BASE ** (-torch.arange(0, width, 2, device=device) / width)
    angles = torch.outer(torch.arange(frames, device=device), rates)  # (E, M/2)
    return torch.cat([angles.sin(), angles.cos()], -1)[:, :width]


def _framed(memory: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Frames that know when they are, with zeros for padding, at least one; and which of them may be attended to,
    (B, 1, 1, E).

    Without biases, a frame of zeros has no value: an utterance without frames attends to it and gets nothing.
    """
    if memory.shape[1] == 0:
        memory = F.pad(memory, (0, 0, 0, 1))  # (B, 1, M)
    frames = memory.shape[1]
    padding = ~valid_frames(lengths, frames).unsqueeze(-1)  # (B, E, 1)
    memory = memory + sinusoids(frames, memory.shape[-1], memory.device).to(memory.dtype)
    return memory.masked_fill(padding, 0.0), attention_mask(lengths, frames)
