"""Label text: what corpora write into their transcripts although nobody said it, or nobody wants it written.

    markers      "HELLO <COMMA> WORLD <PERIOD>" → "hello, world."       GigaSpeech (Chen et al. 2021)
    noises       "so <inaudible> [laughter] yes" → "so yes"             GigaSpeech, TED-LIUM, Earnings22, Switchboard
    no speech    "ignore_time_segment_in_scoring" → ""                  TED-LIUM
    clitics      "it 's what they 've said" → "it's what they've said"  TED-LIUM
    fillers      "Well, um, I think uh yes" → "Well, I think yes"       English ones only
    casing       a text without a lower-case letter becomes lower case; nothing is ever made upper case

Tags that are not known stay as they are: `<silver>` may be a word.
"""

from functools import lru_cache

import regex

SIGNS = {"comma": ",", "period": ".", "questionmark": "?", "exclamationpoint": "!"}
"""Spoken-punctuation marker, in angle brackets → the sign that it stands for."""
TAGS = ("sil", "music", "noise", "other", "inaudible", "unk", "crosstalk", "affirmative", "laugh", "laughter",
        "silence")
"""In angle brackets: a sound, or a word that nobody understood."""
NOISES = ("noise", "laughter", "laughs", "laughing", "applause", "music", "cough", "breath", "silence", "inaudible",
          "unintelligible", "crosstalk", "vocalized-noise", "blank_audio")
"""In square brackets or parentheses."""
NO_SPEECH = "ignore_time_segment_in_scoring"
"""The whole label of a segment that is not scored."""
FILLERS = ("uh", "uhh", "uhm", "um", "umm", "ah", "ahh", "er", "erm", "mm", "mmm", "hm", "hmm", "hmmm")
"""Hesitations as whole words. In other languages some of them are words (German `er`, Portuguese `um`)."""

RECENT = 4096

_SIGN = regex.compile(rf"\s*<({'|'.join(SIGNS)})>\s*", regex.IGNORECASE)
_NOISE = regex.compile(rf"<(?:{'|'.join(TAGS)})>|\[(?:{'|'.join(NOISES)})\]|\((?:{'|'.join(NOISES)})\)",
                       regex.IGNORECASE)
_CLITIC = regex.compile(r"(?<=\p{L}) +(?='(?:s|t|m|d|re|ve|ll)\b)", regex.IGNORECASE)
_ANY = "|".join(sorted({form for filler in FILLERS for form in (filler, filler.capitalize())}, key=len, reverse=True))
_FILLER = rf"(?<![\p{{L}}\p{{N}}\p{{M}}'’-])(?<!\d\s*(?=mm\b))(?:{_ANY})(?![\p{{L}}\p{{N}}\p{{M}}'’-])"
"""Lower case or capitalised: beside lower case `ER` is an abbreviation. Behind a number `mm` is a unit, and `uh-huh` is
an answer."""
_WHOLE_SENTENCE = regex.compile(rf"(^|[.?!…])\s*{_FILLER}\s*[.,;:?!…]*")
_WITHIN = regex.compile(rf"(?:,\s*)?{_FILLER}\s*$|{_FILLER}\s*,?")
_COMMA_BEFORE_SIGN = regex.compile(r",\s*(?=[.,;:?!…]+(?:\s|$))")
_LOOSE_SIGN = regex.compile(r"\s+(?=[.,;:?!…]+(?:\s|$))")
_FIRST_SIGN = regex.compile(r"^[.,;:?!…]+(?:\s+|$)")
_SAYS_SOMETHING = regex.compile(r"[\p{L}\p{N}]")


@lru_cache(maxsize=RECENT)
def corpus(text: str) -> str:
    """A corpus's transcript as a label: what was said, with punctuation where the corpus has it. Idempotent.

    Empty where nothing was said; a text of signs alone says nothing.
    """
    while (tidied := _tidied(text)) != text:  # what went may have been what another rule waited for: "um <sil>"
        text = tidied
    return text


def _tidied(text: str) -> str:
    if text.strip().lower() == NO_SPEECH:
        return ""
    text = _SIGN.sub(lambda found: f"{SIGNS[found[1].lower()]} ", text)
    text = _CLITIC.sub("", _NOISE.sub(" ", text))
    text = text.lower() if text.isupper() else text
    text = _WITHIN.sub(" ", _WHOLE_SENTENCE.sub(r"\1 ", text))
    text = _LOOSE_SIGN.sub("", _COMMA_BEFORE_SIGN.sub("", " ".join(text.split())))
    text = _FIRST_SIGN.sub("", text)
    return text if _SAYS_SOMETHING.search(text) else ""
