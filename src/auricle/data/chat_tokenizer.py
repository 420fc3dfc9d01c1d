"""The tokenizer of a language model, with a template that writes conversations.

It comes with the pretrained model, or is trained on texts: bytes and frequent pairs of them (Sennrich et al. 2016), so
that it can spell anything, with a template in which each role is one token.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from auricle.core.errors import ConfigError, ModelError

AUDIO = "<audio>"
"""Where audio goes in a conversation; one entry of every chat tokenizer, which no model embeds."""
END, PADDING = "<|end|>", "<|pad|>"
ROLES = ("system", "user", "assistant")
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


class ChatTokenizer:
    """A tokenizer of transformers whose chat template is known to work. Raises ModelError where it has none."""

    def __init__(self, backend: Any, where: str) -> None:
        if not getattr(backend, "chat_template", None):
            raise ModelError(f"{where}: its tokenizer has no chat template; expected an instruction-tuned model, whose "
                             "template says how a conversation is written (such as SmolLM3-3B or Qwen3)")
        self.backend, self._spelling = backend, {}
        if backend.convert_tokens_to_ids(AUDIO) in (None, backend.unk_token_id):
            backend.add_tokens([AUDIO], special_tokens=True)
        self.audio = backend.convert_tokens_to_ids(AUDIO)
        self.end = self._end(where)

    @classmethod
    def train(cls, texts: Iterable[str], size: int) -> Self:
        """At most `size` entries, 256 bytes and the special tokens among them. Raises ConfigError if it is too small.
        """
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
        from transformers import PreTrainedTokenizerFast

        special = [PADDING, END, AUDIO, *(f"<|{role}|>" for role in ROLES)]
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        if size < (least := len(special) + len(alphabet)):
            raise ConfigError(f"model.decoder.tokenizer_size is {size}; expected at least {least}, {len(special)} "
                              f"special tokens and {len(alphabet)} bytes")
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator(texts, trainer)
        backend = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PADDING, eos_token=END)
        backend.chat_template = TEMPLATE
        return cls(backend, "the trained tokenizer")

    @classmethod
    def load(cls, name: str, revision: str | None = None) -> Self:
        """Of a folder or of a model of the hub. Raises ModelError."""
        from transformers import AutoTokenizer

        try:
            backend = AutoTokenizer.from_pretrained(name, revision=revision)
        except (OSError, ValueError) as error:
            said = (str(error).strip() or repr(error)).splitlines()[0].rstrip(" .")
            raise ModelError(f"'{name}': no tokenizer that transformers can read ({said}); expected a folder or a "
                             "model of the hub that has one, or a cache that holds it") from None
        return cls(backend, f"'{name}'")

    @classmethod
    def saved(cls, folder: Path) -> Self:
        """What `save` wrote."""
        from transformers import PreTrainedTokenizerFast

        return cls(PreTrainedTokenizerFast.from_pretrained(folder), str(folder))

    @property
    def size(self) -> int:
        return len(self.backend)

    def encode(self, text: str) -> list[int]:
        return self.backend.encode(text, add_special_tokens=False)

    def spell(self, text: str) -> list[int]:
        """Character by character, as it is heard: nothing is taken together into words."""
        return [label for character in text for label in self._spelled(character)]

    def _spelled(self, character: str) -> list[int]:
        if character not in self._spelling:
            self._spelling[character] = self.encode(character)
        return self._spelling[character]

    def decode(self, labels: Sequence[int]) -> str:
        return self.backend.decode(labels, skip_special_tokens=True)

    def unknown(self, text: str) -> str:
        """Characters that come out as the unknown token; tokenizers of bytes have none."""
        if self.backend.unk_token_id is None:
            return ""
        return "".join(one for one in dict.fromkeys(text) if self.backend.unk_token_id in self.encode(one))

    def prompt(self, messages: Sequence[dict[str, str]]) -> str:
        """The conversation up to where the answer begins, thinking aloud switched off where the template knows that."""
        return self.backend.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True, enable_thinking=False)

    def save(self, folder: Path) -> None:
        self.backend.save_pretrained(folder)

    def _end(self, where: str) -> int:
        """The token that the template writes behind an answer."""
        answer = "quite so"
        messages = [{"role": "user", "content": "well?"}, {"role": "assistant", "content": answer}]
        written = self.backend.apply_chat_template(messages, tokenize=False, enable_thinking=False)
        behind = self.encode(written.rpartition(answer)[2])
        if answer not in written or not behind:
            raise ModelError(f"{where}: its chat template writes nothing behind an answer, so a model could never "
                             "learn where to stop; expected a token such as <|im_end|>")
        return behind[0]
