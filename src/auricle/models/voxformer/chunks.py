"""How far an operation sees: the whole utterance, or chunk by chunk with all that came before.

In chunks no frame sees beyond the end of its chunk: attention looks at earlier chunks and its own (U2: Zhang et al.
2020, §3.3), a convolution at earlier frames and the rest of its chunk, with zeros beyond (dynamic chunk convolution, Li
et al. 2023, §2). One chunk as long as the utterance is the whole utterance. So the chunks of a stream can be computed
one after the other, from what each operation remembers of those before, and give the same numbers.

# B batch · F frames · D width · N chunks
"""

from collections.abc import Hashable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from auricle.models.parts.masks import attention_mask


class Memory:
    """What the operations of a stream remember, each under its own name."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, Tensor] = {}
        self._seen: dict[Hashable, int] = {}

    def extend(self, owner: Hashable, x: Tensor, keep: int | None = None) -> Tensor:
        """(B, F, …) → (B, before + F, …): with what the owner kept of earlier frames in front; keeps the last `keep`,
        or all."""
        before = self._kept.get(owner)
        x = x if before is None else torch.cat([before, x], 1)
        self._kept[owner] = x if keep is None else x[:, max(0, x.shape[1] - keep) :]
        return x

    def seen(self, owner: Hashable, frames: int) -> int:
        """Frames that the owner had before; remembers `frames` more."""
        before = self._seen.get(owner, 0)
        self._seen[owner] = before + frames
        return before


@dataclass(frozen=True)
class Chunks:
    """How far operations at one rate see."""

    size: int | None = None
    """Frames of a chunk; None is the whole utterance."""
    memory: Memory | None = None
    """Of a stream, whose chunks come one by one; then `size` is of no interest."""

    def halved(self) -> "Chunks":
        """The same at half the rate."""
        return replace(self, size=None if self.size is None else self.size // 2)

    def attention_mask(self, lengths: Tensor, frames: int) -> Tensor | None:
        """(B,) lengths → bool (B, 1, 1, F) or (B, 1, F, F), true where a frame (third) may look at another (fourth).

        None in a stream, where all that there is was before.
        """
        if self.memory is not None:
            return None
        seen = attention_mask(lengths, frames)  # (B, 1, 1, F)
        if self.size is None:
            return seen
        chunk = torch.arange(frames, device=lengths.device) // self.size  # (F,)
        return seen & (chunk <= chunk.unsqueeze(1))  # (B, 1, F, F)

    def before(self, x: Tensor, frames: int, owner: Hashable) -> Tensor:
        """(B, F, D) → (B, frames + F, D): with the frames before, which at the start are zeros."""
        length = x.shape[1]
        if self.memory is not None:
            x = self.memory.extend(owner, x, frames)
        return functional.pad(x, (0, 0, frames + length - x.shape[1], 0))

    def around(self, x: Tensor, half: int, owner: Hashable) -> Tensor:
        """(B, F, D) → (B·N, size + 2 half, D): each chunk with `half` frames before and zeros after.

        The whole utterance is one chunk. A convolution over 2 half + 1 frames without padding of its own makes each
        as long as a chunk; `joined` puts them together.
        """
        frames = x.shape[1]
        x = self.before(x, half, owner)
        if self.size is None or self.memory is not None:
            return functional.pad(x, (0, 0, 0, half))
        x = functional.pad(x, (0, 0, 0, -frames % self.size))
        windows = x.unfold(1, self.size + half, self.size)  # (B, N, D, size + half)
        return functional.pad(windows, (0, half)).flatten(0, 1).transpose(1, 2)  # (B·N, size + 2 half, D)

    def joined(self, x: Tensor, batch: int, frames: int) -> Tensor:
        """(B·N, size, D) → (B, F, D)"""
        return x.reshape(batch, -1, x.shape[-1])[:, :frames]
