"""What each projector is built from; `kind` names its file in models/speech_llm/projectors/.

E is the width of the encoder's frames and L the width of the language model, which both come from the models that a
projector connects. Where a width below may be left out, it follows from them. Parameters are those of the defaults at
E = 1280 (Whisper large) and L = 2048 (SmolLM3-3B).
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from auricle.core.config import Fraction, NonNegativeFloat, Positive
from auricle.core.frame import Block

Several = Annotated[int, Field(ge=2)]


class SwigluConfig(Block):
    """Frames side by side, one SwiGLU between two RMSNorms (36,704,768 parameters)."""

    kind: Literal["swiglu"] = "swiglu"
    frames_per_token: Positive = 2
    """Encoder frames that become one token."""
    hidden: Positive | None = None
    """Width inside the SwiGLU; without it 4 E."""
    dropout: Fraction = 0.0


class MlpConfig(Block):
    """Frames side by side, two linear layers, each with its RMSNorm: GLM-ASR's (14,684,160 parameters)."""

    kind: Literal["mlp"] = "mlp"
    frames_per_token: Positive = 4
    """Encoder frames that become one token."""
    hidden: Positive | None = None
    """Width between the layers; without it L."""


class ResidualConfig(Block):
    """A linear map of frames side by side, then corrections that start near zero (72,380,416 parameters)."""

    kind: Literal["residual"] = "residual"
    frames_per_token: Positive = 2
    """Encoder frames that become one token. The original's class says 4, its configuration 2; there is one value."""
    layers: Positive = 2
    hidden: Positive | None = None
    """Width inside a layer; without it 4 L."""
    dropout: Fraction = 0.0


class MoeConfig(Block):
    """MOSA: convolutions to a quarter of the frames, then a mixture of all experts (88,244,740 parameters)."""

    kind: Literal["moe"] = "moe"
    experts: Several = 4
    hidden: Positive = 4096
    """Width inside an expert."""
    router_hidden: Positive = 512
    """Width inside the router."""
    dropout: Fraction = 0.05


class SharedMoeConfig(Block):
    """A shared SwiGLU expert and the best few of several routed ones (91,760,640 parameters)."""

    kind: Literal["shared_moe"] = "shared_moe"
    frames_per_token: Positive = 2
    """Encoder frames that become one token. The original's class says 4, its configuration 2; there is one value."""
    experts: Several = 4
    """Routed experts, without the shared one."""
    experts_per_token: Several = 2
    """Of the routed ones. The weight of a single one would always be 1, and no answer could teach the router."""
    hidden: Positive | None = None
    """Width inside an expert; without it E · frames_per_token."""
    dropout: Fraction = 0.05
    balance_weight: NonNegativeFloat = 0.01
    """Of the loss that asks for evenly used experts. The original's class says 0.02, its configuration 0.01."""
    z_weight: NonNegativeFloat = 1e-3
    """Of the loss that keeps the router's logits small (Zoph et al. 2022, §3.2)."""

    @model_validator(mode="after")
    def _there_are_as_many_experts(self) -> Self:
        if self.experts_per_token > self.experts:
            raise ValueError(f"experts_per_token {self.experts_per_token} is more than experts ({self.experts})")
        return self


class QformerConfig(Block):
    """BLIP-2's Q-Former: learned queries look at one window of frames after the other (55,107,328 parameters)."""

    kind: Literal["qformer"] = "qformer"
    window_frames: Positive = 15
    """Encoder frames in a window …"""
    queries: Positive = 3
    """… and the tokens that it becomes."""
    layers: Positive = 2
    heads: Positive = 16
    hidden: Positive | None = None
    """Width of a query, a multiple of `heads`; without it E."""
    dropout: Fraction = 0.1

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.hidden and self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is no multiple of heads ({self.heads})")
        return self


ProjectorConfig = Annotated[
    SwigluConfig | MlpConfig | ResidualConfig | MoeConfig | SharedMoeConfig | QformerConfig,
    Field(discriminator="kind"),
]
"""The block of one projector."""
