"""How a task that learns to spell makes its labels; imports without torch."""

from typing import Literal, Self

from pydantic import model_validator

from auricle.core.config import NonNegativeFloat, Positive
from auricle.core.frame import Block, Frame


class TokenizerConfig(Frame):
    """What a label is; trained on the transcripts of the training split."""

    kind: Literal["characters", "sentencepiece"] = "characters"
    vocabulary_size: Positive | None = None
    """At most so many pieces; sentencepiece only, the alphabet has the size that it has."""

    alphabet: str | None = None
    """The characters that labels may be, after normalising; rows with others are rejected. Without it every character
    of the training transcripts is one, those of a stray line in another script too. Characters only."""

    @model_validator(mode="after")
    def _size_belongs_to_pieces(self) -> Self:
        if (self.vocabulary_size is None) == (self.kind == "sentencepiece"):
            raise ValueError("vocabulary_size: sentencepiece needs it, characters has no use for it")
        if self.alphabet is not None and self.kind == "sentencepiece":
            raise ValueError("alphabet: belongs to characters, sentencepiece makes its own")
        return self


class LabelConfig(Block):
    """What tasks share that learn to spell."""

    tokenizer: TokenizerConfig = TokenizerConfig()
    normalizer: str = "basic"
    """Of the transcripts, before they become labels (core/text.py); references are kept as they are."""
    hotwords: list[str] = []
    """Phrases that every beam prefers, normalised as transcripts are."""
    hotword_bonus: NonNegativeFloat = 2.0
    """What each label of a whole phrase adds to the log probability of a hypothesis."""
