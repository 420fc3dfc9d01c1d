"""What a learning problem is, and how to add one.

Add a task: make `tasks/NAME/` with
    config.py   `class Config(Block)`, importable without torch, and
    task.py     `build(config, model, tokenizer) -> Task`.
A task is where data meets a model: it turns utterances into batches, batches into losses and hypotheses.

# B utterances · F frames · M mel bins · U label tokens
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:  # every config.py below imports this page, and must not need torch
    import torch
    from torch import Tensor, nn

    from auricle.data.judge import Checks, Rejection
    from auricle.data.loader import Utterance


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Frozen tensors with what the loop must know of them. A task adds its own tensor fields in a subclass."""

    ids: tuple[str, ...]
    references: tuple[str, ...]
    seconds: float
    """Audio in the batch without padding."""
    counts: Mapping[str, float]
    """What each loss term divides by: known before the first forward, summed over micro-batches and ranks."""
    frames: int = 0
    """Feature frames without padding …"""
    padded_frames: int = 0
    """… and with it."""
    rejections: tuple[Rejection, ...] = ()
    """Rows that turned out to be unreadable when they were loaded."""

    def to(self, device: torch.device) -> Self:
        from torch import Tensor

        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}
        return replace(self, **moved)


@dataclass(frozen=True, kw_only=True)
class Term:
    """A sum over units (tokens, frames) and how many units there were. Terms add; means do not.

    `per_batch` marks a term that is no sum over units (a load balance): it is averaged over micro-batches.
    """

    sum: Tensor
    count: float
    weight: float = 1.0
    per_batch: bool = False


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The objective of a step is Σ weight · Σ sum / Σ count, counts over all its micro-batches and ranks."""

    terms: Mapping[str, Term]
    health: Mapping[str, Tensor] = field(default_factory=dict)
    """Name → (), what the model tells of itself (the load of experts …); averaged over micro-batches, never trained."""


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """What the model said about one utterance."""

    id: str
    text: str
    reference: str
    seconds: float = 0.0
    scores: Mapping[str, float] = field(default_factory=dict)


class Task(Protocol):
    """One learning problem.

    A task may have more: `weights(steps)`, the weights of its terms after so many optimizer steps of a stage, where
    they move (`loss` then gives the last ones); `floors`, the lowest values that its losses can reach, by name;
    `beams`, decoders that prefer hotwords; `encode(model, batch)` and `decode(model, batch, encoded, decoder)`, the two
    halves of `predict`, so that several decoders share the first; `instructions`; `max_seconds`; `stream`; `listener`.
    """

    metrics: tuple[str, ...]
    """Entries of the metrics room, the first is what `best` means by default."""
    decoders: tuple[str, ...]
    """Names that `predict` knows, the default first."""
    tokenizer: object
    frontend: nn.Module

    def checks(self) -> Checks:
        """The limits and callables that judging a row needs."""
        ...

    def collate(self, utterances: Sequence[Utterance]) -> Batch:
        """Runs in a loader worker. An empty sequence gives a batch with count 0 that still passes through the model."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> Loss: ...

    def predict(self, model: nn.Module, batch: Batch, decoder: str = "") -> list[Hypothesis]:
        """One hypothesis an id, in the order of the ids; the result does not depend on the batch."""
        ...
