"""Whether a recogniser got stuck: the same words again and again, which no one said.

An error rate hides it among other insertions, so it is a figure of its own.
"""

from collections.abc import Sequence

LONGEST, TIMES = 4, 3


def loops(reference: str, hypothesis: str) -> bool:
    """Whether one to four words stand three times or more in a row in the hypothesis, and not in the reference.

    >>> loops("you are here", "you are you are you are here")
    True
    >>> loops("no no no", "no no no")
    False
    """
    return bool(_repeated(hypothesis.split()) - _repeated(reference.split()))


def _repeated(words: Sequence[str]) -> set[tuple[str, ...]]:
    """What is repeated, whichever of its words comes first: of `b a b a b a` and `a b a b a b` it is (a, b)."""
    found = set()
    for size in range(1, LONGEST + 1):
        same = 0  # words in a row that are the ones `size` before them
        for place in range(size, len(words)):
            same = same + 1 if words[place] == words[place - size] else 0
            if same >= size * (TIMES - 1):
                last = words[place + 1 - size : place + 1]
                found.add(min(tuple(last[turn:] + last[:turn]) for turn in range(size)))
    return found
