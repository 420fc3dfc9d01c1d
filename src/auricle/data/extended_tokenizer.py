"""A tokenizer with labels of its own for some words, added after a model was trained with it.

The labels there were keep their numbers; new ones follow, and the class after the last label (blank, end) moves on. A
new word is one label where it is a whole word, and is spelled as before inside of others. So whatever a text is made
of, to put the old spelling in the place of each new label gives the labels that it had before.

    old   the cat sat     ▁the ▁c at ▁s at
    new   with "cat"      ▁the ▁cat ▁s at

A character that had no label gets one too, first.

# V labels before
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, Self

from auricle.core.errors import UsageError

ADDED = "spellings"
"""Key of the saved description that tells an extended tokenizer."""


class Base(Protocol):
    """A tokenizer that can be extended."""

    @property
    def size(self) -> int: ...

    def encode(self, text: str) -> list[int]: ...

    def decode(self, labels: Sequence[int]) -> str: ...

    def unknown(self, text: str) -> str: ...

    def save(self, folder: Path) -> None: ...

    def words(self, labels: Sequence[int]) -> Iterator[slice]:
        """Where each word lies among the labels of a text; what lies between is space."""
        ...

    def with_characters(self, characters: str) -> tuple[Self, list[int]]:
        """The same with labels for these, and what label each of its own became."""
        ...


class Extended:
    """`base` with labels of whole words. It spells what the base spells."""

    def __init__(self, base: Base, spellings: Iterable[Sequence[int]]) -> None:
        self.base = base
        self.spellings = tuple(map(tuple, spellings))
        """Of each label, in labels of the base; each of those is the spelling of one."""
        self._labels = {spelling: label for label, spelling in enumerate(self.spellings)}

    @property
    def size(self) -> int:
        return len(self.spellings)

    def encode(self, text: str) -> list[int]:
        labels, found, end = self.base.encode(text), [], 0
        for word in self.base.words(labels):
            whole = self._labels.get(tuple(labels[word]))
            single = [] if whole is None else [whole]
            found += [self._labels[label,] for label in labels[end : word.start]]
            found += single or [self._labels[label,] for label in labels[word]]
            end = word.stop
        return found + [self._labels[label,] for label in labels[end:]]

    def decode(self, labels: Sequence[int]) -> str:
        return self.base.decode([inner for label in labels for inner in self.spellings[label]])

    def unknown(self, text: str) -> str:
        return self.base.unknown(text)

    def save(self, folder: Path) -> None:
        self.base.save(folder)
        path = folder / "tokenizer.json"
        described = {**json.loads(path.read_text(encoding="utf-8")), ADDED: self.spellings}
        path.write_text(json.dumps(described, ensure_ascii=False) + "\n", encoding="utf-8")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Extended) and (self.base, self.spellings) == (other.base, other.spellings)

    def __hash__(self) -> int:
        return hash((self.base, self.spellings))


def extended(tokenizer: Base | Extended, words: Iterable[str]) -> tuple[Extended, list[tuple[int, ...]]]:
    """The tokenizer with labels for these words (without spaces) and for their characters.

    Beside it, of each new label, the earlier labels that stood for it: those that spelled the word, or for a character
    that nothing spelled all of the V. Words that are one label already, or one label again and again ("oo"), get none:
    nothing would tell the new one from the old. Raises UsageError for a word that no tokenizer can have.
    """
    words = list(dict.fromkeys(words))
    for word in words:
        if any(character.isspace() or character == "\u2581" for character in word) or not word:
            raise UsageError(f"'{word}' is no word: it is empty, or holds a space or the sign \u2581; write it without")
    old = tokenizer if isinstance(tokenizer, Extended) else Extended(tokenizer, ((n,) for n in range(tokenizer.size)))
    characters = "".join(sorted(set(old.unknown("".join(words)))))
    base, renumbered = old.base.with_characters(characters)
    spellings = [tuple(renumbered[label] for label in spelling) for spelling in old.spellings]
    there = {label for spelling in spellings for label in spelling}
    spellings += [(label,) for label in range(base.size) if label not in there]
    origins = [tuple(range(old.size))] * (len(spellings) - old.size)
    with_characters = Extended(base, spellings)
    for word in words:
        before = tuple(with_characters.encode(word))
        if len(set(before)) > 1:
            spellings.append(tuple(base.encode(word)))
            origins.append(before)
    return Extended(base, spellings), origins
