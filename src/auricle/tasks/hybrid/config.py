"""How a task with a CTC head and an attention decoder weighs, spells and decodes."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Discriminator, Tag, field_validator

from auricle.core.config import Fraction, NonNegativeFloat, Positive, PositiveFloat
from auricle.core.frame import Frame
from auricle.models.voxformer.config import chunk_frames
from auricle.tasks.parts.label_config import LabelConfig

Decoder = Literal["joint", "attention_beam", "attention", "ctc_beam", "ctc"]


class WeightSchedule(Frame):
    """A weight that moves in a straight line over the first steps of a stage, and stays at its end."""

    start: Fraction
    end: Fraction
    steps: Positive
    """Optimizer steps of the stage until the end is reached."""

    def at(self, steps: int) -> float:
        return self.start + (self.end - self.start) * min(1.0, steps / self.steps)


def _kind(weight: object) -> str:
    return "schedule" if isinstance(weight, Mapping | WeightSchedule) else "number"


Weight = Annotated[Annotated[Fraction, Tag("number")] | Annotated[WeightSchedule, Tag("schedule")],
                   Discriminator(_kind)]


class Config(LabelConfig):
    """CTC and attention together (Watanabe et al. 2017): λ · CTC + (1 - λ) · cross entropy."""

    kind: Literal["hybrid"] = "hybrid"
    ctc_weight: Weight = 0.3
    """λ, or how it moves. Evaluations weigh by its last value."""
    label_smoothing_factor: Fraction = 0.0
    """Of the attention loss while training; what it adds is a term of its own."""
    decoder: Decoder = "joint"
    """The default; the others can be asked for by name."""
    beam_size: Positive = 8
    """Hypotheses that every beam keeps."""
    joint_ctc_weight: Fraction = 0.3
    """Of the CTC score in joint decoding."""
    length_penalty: NonNegativeFloat = 1.0
    """Exponent of the length by which scores of attention beams are divided; 0 prefers short texts."""
    max_new_tokens: Positive | None = None
    """A hypothesis that has no end by then is cut and counted; None is one label an encoder frame."""
    max_seconds: PositiveFloat = 28.0
    """A file that is longer is transcribed in pieces of at most this; no more than what the model was trained on."""
    chunk_seconds: PositiveFloat | None = None
    """The encoder sees chunks of this length, as in a stream; None is whole utterances."""

    @field_validator("chunk_seconds")
    @classmethod
    def _whole_frames(cls, seconds: float | None) -> float | None:
        if seconds is not None:
            chunk_frames(seconds)
        return seconds

    @property
    def ctc_schedule(self) -> WeightSchedule:
        """How λ moves; a constant one stays where it is."""
        weight = self.ctc_weight
        return weight if isinstance(weight, WeightSchedule) else WeightSchedule(start=weight, end=weight, steps=1)
