"""Text normalisers: what is forgiven when a hypothesis is compared with its reference.

A rate means nothing without the normaliser behind it, so its name and version are recorded beside each one. `version`
changes whenever a text could come out differently.

    none              the text as it stands
    basic             words of letters, marks and digits, in lower case; for any language that parts words by spaces
    hebrew            basic without niqqud, cantillation, geresh and gershayim
    whisper_english   OpenAI's English rules (Radford et al. 2022, appendix C): numbers, contractions, US spelling
    corpus            what corpora write into transcripts becomes punctuation or goes (core/labels.py)

All but `whisper_english` are idempotent. Joined by `+` they apply from left to right (`corpus+whisper_english`); what
is joined need not be idempotent.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, lru_cache
from unicodedata import normalize

import regex

from auricle.core.errors import ConfigError, nearest
from auricle.core.labels import corpus

_INVISIBLE = regex.compile(r"\p{Default_Ignorable_Code_Point}+")
"""Bidi controls, joiners, soft hyphen, variation selectors."""
_RESPELLED = str.maketrans(dict.fromkeys("‘’‛ʼ´`", "'") | {"ŉ": "'n", "\u200b": " "})
"""Apostrophes as they are typed (ŉ has one inside); the zero-width space, which is invisible and yet parts words."""
_LETTERS = r"[\p{L}\p{N}][\p{L}\p{N}\p{Mn}\p{Mc}]*"
_WORD = regex.compile(rf"{_LETTERS}(?:'{_LETTERS})*")
_HEBREW_POINTS = regex.compile(r"(?=\p{Hebrew})\p{M}")
"""By category: in the same block stand maqaf, paseq and sof pasuq, and without them words would be glued together."""
_HEBREW_QUOTES = regex.compile(r"""(?<=\p{Hebrew})["'“”״׳]+(?=\p{Hebrew})""")

RECENT = 4096
"""Texts whose normal form is kept: judging a row asks for it three times, evaluating for references again and again."""


@dataclass(frozen=True)
class Normalizer:
    """Called with a text, gives the text that is scored."""

    name: str
    version: str
    rules: Callable[[str], str] = field(repr=False)

    def __call__(self, text: str) -> str:
        return self.rules(text)


@lru_cache(maxsize=RECENT)
def basic(text: str) -> str:
    """Words in lower case, one space apart, every character in its compatibility form (NFKC).

    Punctuation and symbols part words (`3.5 %` → `3 5`), but an apostrophe inside a word stays (`don’t` → `don't`).
    Accents and vowel signs stay; what cannot be seen (bidi controls, joiners, soft hyphens) goes.
    """
    return _words(_folded(text))


@lru_cache(maxsize=RECENT)
def hebrew(text: str) -> str:
    """As `basic`, without points and accents; `צה״ל` and `צה"ל` are spelt `צהל`.

    Maqaf, paseq and sof pasuq part words, as all punctuation does: `עַל־פְּנֵ֣י` → `על פני`.
    """
    return _words(_HEBREW_QUOTES.sub("", _HEBREW_POINTS.sub("", _folded(text))))


def _folded(text: str) -> str:
    visible = _INVISIBLE.sub("", text.translate(_RESPELLED))
    return normalize("NFKC", normalize("NFKC", visible).lower())


def _words(text: str) -> str:
    return " ".join(_WORD.findall(text))


@cache
def _whisper_english() -> Normalizer:
    from importlib.metadata import version  # slow to import, and needed here alone

    from whisper_normalizer.english import EnglishTextNormalizer

    package = "whisper-normalizer"
    return Normalizer("whisper_english", f"{package} {version(package)}", EnglishTextNormalizer())


@dataclass(frozen=True)
class _Chain:
    """Rules one after the other; a class, because loader workers are sent it."""

    parts: tuple[Normalizer, ...]

    def __call__(self, text: str) -> str:
        for part in self.parts:
            text = part(text)
        return text


_OWN = {one.name: one for one in (Normalizer("none", "1", str), Normalizer("basic", "1", basic),
                                  Normalizer("hebrew", "1", hebrew), Normalizer("corpus", "1", corpus))}
NORMALIZERS = (*_OWN, "whisper_english")


def unknown_part(name: str) -> str | None:
    """The first part of a name, as `corpus+basic`, that is no normaliser; None where all are. Loads none of them."""
    return next((part for part in _parts(name) if part not in NORMALIZERS), None)


def normalizer(name: str) -> Normalizer:
    """The normaliser of that name, or of several names joined by `+`, whose versions are then joined, too.

    Raises ConfigError with the nearest name.
    """
    if (unknown := unknown_part(name)) is not None:
        raise ConfigError(f"no normaliser '{unknown}'; {nearest(unknown, NORMALIZERS)}")
    parts = tuple(_whisper_english() if part == "whisper_english" else _OWN[part] for part in _parts(name))
    if len(parts) == 1:
        return parts[0]
    return Normalizer("+".join(part.name for part in parts), "+".join(part.version for part in parts), _Chain(parts))


def _parts(name: str) -> list[str]:
    return [part.strip() for part in name.split("+")]
