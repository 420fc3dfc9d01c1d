"""The one builder of conversations, for training and for inference: what a model was asked is what it learned from.

    template(system?, user: "Transcribe: <audio>")   rendered once an instruction, up to where the answer begins
    prompt   = its ids, with <audio> as often as the projector yields tokens for this utterance
    training = prompt + answer + end of turn; labels are the answer and the end of turn, nothing else

# B conversations · S positions
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from auricle.core.errors import UsageError, nearest
from auricle.data.chat_tokenizer import AUDIO, ChatTokenizer
from auricle.models.speech_llm.model import IGNORED, Conversation


@dataclass(frozen=True)
class Turn:
    """One conversation in ids; `audio` ids stand where audio tokens go."""

    prompt: list[int]
    answer: list[int]
    """With the end of turn; empty while it is asked for."""

    @property
    def ids(self) -> list[int]:
        return self.prompt + self.answer


class Prompter:
    """Writes conversations by the tokenizer's chat template."""

    def __init__(self, tokenizer: ChatTokenizer, system_prompt: str, instructions: dict[str, str]) -> None:
        self.tokenizer, self.system_prompt, self.instructions = tokenizer, system_prompt, instructions

    @cached_property
    def _frames(self) -> dict[str, tuple[list[int], list[int]]]:
        """Instruction → ids before and behind the audio."""
        return {name: self._frame(said) for name, said in self.instructions.items()}

    def _frame(self, said: str) -> tuple[list[int], list[int]]:
        system = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        ids = self.tokenizer.encode(self.tokenizer.prompt([*system, {"role": "user", "content": said}]))
        assert ids.count(self.tokenizer.audio) == 1, f"{said!r} has {AUDIO} {ids.count(self.tokenizer.audio)} times"
        place = ids.index(self.tokenizer.audio)
        return ids[:place], ids[place + 1 :]

    def prompt(self, instruction: str, audio_tokens: int, heard: str = "") -> list[int]:
        """Up to where the answer begins. Without audio, the text `heard` stands in its place, spelled out."""
        if instruction not in self.instructions:
            raise UsageError(f"instruction: no '{instruction}'; {nearest(instruction, self.instructions)}")
        before, behind = self._frames[instruction]
        return [*before, *[self.tokenizer.audio] * audio_tokens, *self.tokenizer.spell(heard), *behind]

    def answer(self, text: str) -> list[int]:
        return [*self.tokenizer.encode(text), self.tokenizer.end]


def conversation(turns: Sequence[Turn], audio: int, *, left: bool = False) -> Conversation:
    """Rows of one length, padded on the right, or on the left (where an answer is to be continued)."""
    width = max((len(turn.ids) for turn in turns), default=0)
    ids = torch.zeros(len(turns), width, dtype=torch.long)  # (B, S)
    valid, labels = torch.zeros_like(ids, dtype=torch.bool), torch.full_like(ids, IGNORED)
    for row, turn in enumerate(turns):
        start = width - len(turn.ids) if left else 0
        stop = start + len(turn.ids)
        ids[row, start:stop] = torch.tensor(turn.ids, dtype=torch.long)
        valid[row, start:stop] = True
        labels[row, start + len(turn.prompt) : stop] = ids[row, start + len(turn.prompt) : stop]
    return Conversation(ids, valid, (ids == audio) & valid, labels)


def asked_for(talk: Conversation, prompts: Tensor) -> Conversation:
    """The first `prompts` (B,) positions of each row of a conversation that is padded on the right, padded on the left.
    """
    width = int(prompts.max()) if len(prompts) else 0
    shift = width - prompts.unsqueeze(1)  # (B, 1)
    place = torch.arange(width, device=prompts.device) - shift  # (B, S)
    valid = place >= 0
    place = place.clamp(min=0)
    ids, is_audio = talk.ids.gather(1, place), talk.is_audio.gather(1, place) & valid
    return Conversation(ids.masked_fill(~valid, 0), valid, is_audio, torch.full_like(ids, IGNORED))
