"""What a speech encoder is, and how to add one.

Add an encoder: make `encoders/NAME.py` with `build(config: EncoderConfig) -> Encoder`. Then `kind: NAME` finds it
(`encoders/parts/build.py`), and tests/models/parts/encoders/test_contract.py walks it: lengths are the real ones,
padding changes nothing whatever stands in it, an empty batch reaches every parameter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:  # parts/config.py imports this page, and must not need torch
    from torch import Tensor, nn

    Length = TypeVar("Length", int, Tensor)


class Encoder(Protocol):
    """An `nn.Module` from the features of its front end to encoder frames. A stage may name its `top(n)` layers."""

    width: int
    """D of an encoder frame."""

    frontend: nn.Module
    """(T,) samples at `frontend.sample_rate` → (F, `frontend.n_mels`) features, one utterance at a time, in loader
    workers; no parameters, small when pickled. `frontend.lengths(samples)` counts the feature frames that `forward`
    below takes as lengths. There may be more of them: Whisper's tail (encoders/whisper.py)."""

    layers: nn.ModuleList
    """The transformer blocks, so that their parameters are `layers.N.…`."""

    configuration: dict[str, Any]
    """Plain values from which `build(EncoderConfig(kind=…, config=configuration))` makes the same architecture with
    fresh weights."""

    commit: str | None
    """The commit of the hub that the weights came from; None for fresh ones and those of a folder."""

    def lengths(self, samples: Length) -> Length:
        """Audio samples → encoder frames, exactly; for an int or an integer tensor of any shape. 0 for too few."""
        ...

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F, M) features with anything after an utterance's end, (B,) feature frames → (B, E, D), (B,) frames.

        E is at least the longest of the lengths; frames after an utterance's end are finite and mean nothing. B and F
        may be 0: the result is empty or of length 0, and its graph still reaches every parameter.
        """
        ...
