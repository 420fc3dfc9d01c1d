"""What users call a GPU, among the names that a provider has for its GPUs."""

import re
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher

from auricle.remote.providers import ProviderError

OTHERS = frozenset({"ti", "super", "laptop", "mobile", "d", "ada", "pro", "nvl"})
"""Words that make another GPU of a name: who asks for a 3090 means no 3090 Ti, where there is one."""
SHOWN = 6


def named(gpu: str, known: Mapping[str, str], provider: str) -> list[str]:
    """The keys of those whose names have all the words. `known`: key → name. Raises ProviderError with near names.

    >>> named("rtx 4090", {"a": "NVIDIA GeForce RTX 4090", "b": "RTX 4090 Ti", "c": "L4"}, "RunPod")
    ['a']
    """
    words = _words(gpu)
    found = [key for key, name in known.items() if words and words <= _words(name)]
    if not found and words:  # as in RTX4090, or the 6000Ada of one provider
        found = [key for key, name in known.items() if _joined(gpu) in _joined(name)]
    other = {word for word in OTHERS if word not in _joined(gpu)}
    plain = [key for key in found if not (_words(known[key]) - words) & other]
    if not found:
        raise ProviderError(f"{provider}: has no GPU '{gpu}'; nearest there: {_nearest(gpu, known.values())}")
    return plain or found


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", name.lower()))


def _joined(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _nearest(gpu: str, names: Iterable[str]) -> str:
    def likeness(name: str) -> float:
        parts = [_joined(name), *_words(name)]
        return max(SequenceMatcher(None, _joined(gpu), part).ratio() for part in parts)

    return ", ".join(sorted(set(names), key=lambda name: (-likeness(name), name))[:SHOWN]) or "none at all"
