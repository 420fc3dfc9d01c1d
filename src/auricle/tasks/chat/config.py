"""How a conversation about audio is written, learned and answered."""

from typing import Literal, Self

from pydantic import model_validator

from auricle.core.config import Fraction, Positive, PositiveFloat
from auricle.core.errors import nearest
from auricle.core.frame import Block
from auricle.core.text import NORMALIZERS, unknown_part
from auricle.data.chat_tokenizer import AUDIO

INSTRUCTIONS = {
    "transcribe": f"Transcribe: {AUDIO}",
    "continue": f"Continue: {AUDIO}",
    "describe": f"Describe: {AUDIO}",
    "emotion": f"Emotion: {AUDIO}",
}


class Config(Block):
    """Answers in a conversation, by a language model that hears."""

    kind: Literal["chat"] = "chat"
    instruction: str = "transcribe"
    """What is asked about rows whose data set says nothing else, and about files that are transcribed."""
    instructions: dict[str, str] = {}
    """Name → what the user says, with `<audio>` where the audio goes; beside transcribe, continue, describe, emotion.
    """
    normalizer: str = "corpus"
    """Of the answers, before they become labels (core/text.py; `a+b` is one after the other); references are kept as
    they are."""
    label_smoothing_factor: Fraction = 0.0
    """Of the training loss; what it adds is a term of its own."""
    max_new_tokens: Positive = 256
    """An answer that has no end by then is cut."""
    max_seconds: PositiveFloat = 28.0
    """A file that is longer is transcribed in pieces of at most this; no more than what the model was trained on."""
    decoder: Literal["greedy", "beam"] = "greedy"
    """The default; the other one can be asked for by name."""
    beam_size: Positive = 4

    @model_validator(mode="after")
    def _instructions_are_usable(self) -> Self:
        for name, said in self.instructions.items():
            if said.count(AUDIO) != 1:
                raise ValueError(f"instructions.{name} is '{said}'; expected {AUDIO} in it once")
        if (part := unknown_part(self.normalizer)) is not None:
            raise ValueError(f"normalizer: no normaliser '{part}'; {nearest(part, NORMALIZERS)}")
        if self.instruction not in self.asked:
            raise ValueError(f"instruction: no '{self.instruction}'; {nearest(self.instruction, self.asked)}")
        return self

    @property
    def asked(self) -> dict[str, str]:
        """All instructions by name."""
        return {**INSTRUCTIONS, **self.instructions}
