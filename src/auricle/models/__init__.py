"""What a model is, and how to add one.

Add a model: make `models/NAME/` with
    config.py   `class Config(Block)`, importable without torch, and
    model.py    `build(config: Config, vocabulary: int) -> Model`.
Then `model: {kind: NAME}` in YAML finds it, and tests/contracts/test_models.py walks it: components cover all
parameters, output lengths are the real ones, padding changes nothing, saving and loading is the identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # every config.py below imports this page, and must not need torch
    from torch import Tensor, nn


class Model(Protocol):
    """An `nn.Module` that tells its parts and its lengths.

    One that has `summary() -> list[str]` besides is described by these lines when a stage has frozen what it freezes.
    """

    frontend: nn.Module
    """(T,) samples at `frontend.sample_rate` → (F, M) features; runs in loader workers, one utterance at a time."""

    def components(self) -> Mapping[str, nn.Module]:
        """The named parts that a stage may train; together they hold every parameter."""
        ...

    def output_lengths(self, samples: Tensor) -> Tensor:
        """(…) audio samples → (…) encoder frames, exactly what `forward` returns for that much audio."""
        ...
