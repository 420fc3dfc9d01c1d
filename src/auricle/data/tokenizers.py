"""Text to labels and back.

Labels run from 0 to size - 1. Neither padding nor the CTC blank is among them: padding is told by lengths, the blank is
the class `size` that the model adds. What a tokenizer cannot spell has no label either: `unknown` tells it, judging
rejects such rows before training, and `encode` leaves it out where a row is only evaluated.
"""

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol, Self

import sentencepiece

from auricle.core.errors import ConfigError, DataError, ModelError
from auricle.data.chat_tokenizer import ChatTokenizer
from auricle.data.extended_tokenizer import ADDED, Extended

SPACE = "\u2581"
"""How SentencePiece writes a space: a text that has the sign itself would come back with a space."""
DESCRIPTION, PIECES = "tokenizer.json", "tokenizer.model"
LONGEST_TEXT_BYTES = 1 << 20
"""SentencePiece leaves out longer training texts without a word; its own default is 4192."""


class Tokenizer(Protocol):
    @property
    def size(self) -> int:
        """Number of labels."""
        ...

    def encode(self, text: str) -> list[int]: ...

    def decode(self, labels: Sequence[int]) -> str: ...

    def unknown(self, text: str) -> str:
        """The characters of the text that no label spells, each once; "" if `decode(encode(text))` is the text."""
        ...

    def save(self, folder: Path) -> None:
        """Writes what `load_tokenizer` needs."""
        ...


class Characters:
    """One label a character."""

    def __init__(self, alphabet: Iterable[str]) -> None:
        self.alphabet = "".join(sorted(set(alphabet)))
        self._labels = {character: label for label, character in enumerate(self.alphabet)}

    @classmethod
    def train(cls, texts: Iterable[str]) -> Self:
        return cls(character for text in texts for character in text)

    @property
    def size(self) -> int:
        return len(self.alphabet)

    def encode(self, text: str) -> list[int]:
        return [self._labels[character] for character in text if character in self._labels]

    def decode(self, labels: Sequence[int]) -> str:
        return "".join(self.alphabet[label] for label in labels)

    def unknown(self, text: str) -> str:
        return "".join(character for character in dict.fromkeys(text) if character not in self._labels)

    def save(self, folder: Path) -> None:
        _describe(folder, kind="characters", alphabet=self.alphabet)

    def words(self, labels: Sequence[int]) -> Iterator[slice]:
        """Where each word lies among the labels of a text."""
        ends = [-1, *(place for place, label in enumerate(labels) if self.alphabet[label] == " "), len(labels)]
        return (slice(before + 1, after) for before, after in pairwise(ends))

    def with_characters(self, characters: str) -> tuple[Self, list[int]]:
        """The same with labels for these, and what label each of its own became."""
        more = type(self)(self.alphabet + characters)
        return more, more.encode(self.alphabet)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Characters) and self.alphabet == other.alphabet

    def __hash__(self) -> int:
        return hash(self.alphabet)


class SentencePiece:
    """Pieces of words (byte pairs: Sennrich et al. 2016), with nothing normalised: `decode(encode(text)) == text`."""

    def __init__(self, model: bytes) -> None:
        self.model = model
        self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary_size: int) -> Self:
        """At most `vocabulary_size` pieces, fewer where the texts have no more. ConfigError if it is too small."""
        written = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts), model_writer=written, model_type="bpe", vocab_size=vocabulary_size,
                hard_vocab_limit=False, character_coverage=1.0, normalization_rule_name="identity",
                remove_extra_whitespaces=False, bos_id=-1, eos_id=-1, pad_id=-1,
                max_sentence_length=LONGEST_TEXT_BYTES, minloglevel=2)
        except RuntimeError as error:
            raise ConfigError(f"task.tokenizer.vocabulary_size: SentencePiece cannot make {vocabulary_size} pieces of "
                              f"the training transcripts: {str(error).strip().splitlines()[-1]}") from None
        return cls(written.getvalue())

    @property
    def size(self) -> int:
        return self._pieces.get_piece_size()

    def encode(self, text: str) -> list[int]:
        return [label for label in self._pieces.encode_as_ids(text) if not self._pieces.is_unknown(label)]

    def decode(self, labels: Sequence[int]) -> str:
        return self._pieces.decode([label for label in labels if not self._pieces.is_unknown(label)])

    def unknown(self, text: str) -> str:
        pieces = zip(self._pieces.encode_as_pieces(text), self._pieces.encode_as_ids(text), strict=True)
        unknown = [character for piece, label in pieces if self._pieces.is_unknown(label) for character in piece]
        return "".join(dict.fromkeys(unknown + [SPACE] * (SPACE in text)))

    def save(self, folder: Path) -> None:
        (folder / PIECES).write_bytes(self.model)
        _describe(folder, kind="sentencepiece")

    def words(self, labels: Sequence[int]) -> Iterator[slice]:
        """Where each word lies among the labels of a text: it begins with a piece that brings a space along."""
        begins = [place for place, label in enumerate(labels) if self._pieces.id_to_piece(label).startswith(SPACE)]
        return (slice(start, stop) for start, stop in pairwise([*begins, len(labels)]))

    def with_characters(self, characters: str) -> tuple[Self, list[int]]:
        """The same with labels for these, and what label each of its own became.

        A piece is an entry of a repeated field of the model, and such fields are joined where messages are (Protocol
        Buffers, encoding): field 1 of the model, whose field 1 is the piece's text.
        """
        pieces = [b"\x0a%c%b" % (len(text), text) for text in (character.encode() for character in characters)]
        entries = b"".join(b"\x0a%c%b" % (len(piece), piece) for piece in pieces)
        return type(self)(self.model + entries), list(range(self.size))

    def __reduce__(self) -> tuple:
        return SentencePiece, (self.model,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SentencePiece) and self.model == other.model

    def __hash__(self) -> int:
        return hash(self.model)


def train_tokenizer(kind: str, texts: Iterable[str], vocabulary_size: int | None = None) -> Tokenizer:
    """A tokenizer that spells every one of the texts. Raises DataError if they hold no character."""
    texts = [text for text in texts if text]
    if not texts:
        raise DataError("tokenizer: the training transcripts are empty; expected at least one character to learn")
    if kind == "characters":
        return Characters.train(texts)
    assert kind == "sentencepiece", kind
    assert vocabulary_size is not None
    return SentencePiece.train(texts, vocabulary_size)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer that was saved in a model folder. Raises ModelError."""
    path = folder / DESCRIPTION
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        if "kind" not in saved and "model" in saved:  # as transformers saves one
            return ChatTokenizer.saved(folder)
        if saved["kind"] in ("characters", "sentencepiece"):
            characters = saved["kind"] == "characters"
            base = Characters(saved["alphabet"]) if characters else SentencePiece((folder / PIECES).read_bytes())
            return Extended(base, saved[ADDED]) if ADDED in saved else base
    except FileNotFoundError as error:
        missing = Path(error.filename).name
        raise ModelError(f"{folder}: no {missing}; expected a model folder that Auricle wrote") from None
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ModelError(f"{path}: not a tokenizer that Auricle saved ({error!r}); save the model again") from None
    raise ModelError(f"{path}: tokenizer of kind '{saved['kind']}'; expected characters or sentencepiece")


def _describe(folder: Path, **values: str) -> None:
    (folder / DESCRIPTION).write_text(json.dumps(values, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
