"""Text without audio, for language models: sentences of a grammar, or the lines of a file.

Sentences that synthetic speech of the same text holds out for `dev` and `test` (data/grammar.py) are left out.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from auricle.core.frame import Block
from auricle.data.grammar import HELD_OUT_PERCENT, Text, split_of
from auricle.data.sources import Candidate


class Config(Block):
    kind: Literal["text"] = "text"
    text: Text
    sentences: Annotated[int, Field(gt=0)] = 20_000
    """How many are drawn; what is held out of them leaves fewer."""
    seed: int = 42


def candidates(config: Config) -> Iterator[Candidate]:
    text = config.text.open()
    for number in range(config.sentences):
        sentence = text.sentence("text", config.seed, number)
        if split_of(sentence, HELD_OUT_PERCENT) == "train":
            yield Candidate(id=f"text-{number:08d}", text=sentence)
