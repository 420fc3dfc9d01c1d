"""What a projector is, and how to add one.

Add a projector: one file `projectors/NAME.py` with `build(config, width_in, width_out) -> Projector`, and the class of
its block, with `kind: Literal["NAME"]`, in the union of `models/speech_llm/projector_configs.py`. Then
tests/models/speech_llm/test_projectors.py walks it, given a line there with a tiny config and its parameter count.

A projector turns the frames of an audio encoder into fewer tokens that a language model reads like embedded words. It
looks at no other utterance and at no padding, and computing changes none of its state.

# B utterances · E encoder frames · D width of the encoder · P tokens · L width of the language model
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from torch import Tensor

Length = TypeVar("Length", int, Tensor)


@dataclass(frozen=True)
class Auxiliary:
    """A loss of the projector's own. It is there while training only, so no evaluation contains it."""

    sum: Tensor
    """Over the valid tokens; their number, Σ lengths, is what it divides by. With `per_batch` the value itself."""
    weight: float
    per_batch: bool
    """It is no sum over tokens (a load balance): one number a micro-batch, to be averaged over micro-batches."""


@dataclass(frozen=True)
class Projected:
    tokens: Tensor
    """(B, P, L); P is `lengths` of the padded frames. What follows an utterance's last token is finite, but nothing."""
    lengths: Tensor
    """(B,) tokens of each utterance."""
    auxiliary: Mapping[str, Auxiliary] = field(default_factory=dict)
    """The same names for every micro-batch, an empty one included."""
    health: Mapping[str, Tensor] = field(default_factory=dict)
    """Name → () detached, over the valid tokens; NaN where there are none."""


class Projector(Protocol):
    """An `nn.Module`. Its `lengths` uses no weights: loader workers ask a copy that has none."""

    token_losses: tuple[str, ...]
    """Names of its auxiliary losses that are sums over tokens, where it has any …"""
    batch_losses: tuple[str, ...]
    """… and of those that are `per_batch`."""

    def lengths(self, frames: Length) -> Length:
        """Encoder frames → tokens that `forward` returns for them. Every frame reaches a token; none give none."""
        ...

    def __call__(self, encoded: Tensor, lengths: Tensor) -> Projected:
        """(B, E, D) frames, (B,) how many of them are valid. B and E may be 0: the graph still reaches every parameter.

        Padding may hold anything, NaN included. Frames have the type of the parameters, or autocast is on.
        """
        ...
