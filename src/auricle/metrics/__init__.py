"""What a metric is, and how to add one.

Add a metric: one file `metrics/NAME.py` with `score(reference, hypothesis) -> Counts` of one utterance (normalised
text). Counts add, over utterances and ranks; a rate is made once, at the end (never a mean of utterance rates).
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Counts:
    """Errors of an alignment, in the metric's units (words, characters)."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    reference: int = 0
    """Units in the reference."""

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.substitutions + other.substitutions, self.deletions + other.deletions,
                      self.insertions + other.insertions, self.reference + other.reference)

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors per reference unit (0–1 and above). Without reference units: 0 if nothing was said, else infinite."""
        if self.reference:
            return self.errors / self.reference
        return float("inf") if self.errors else 0.0


class Metric(Protocol):
    """What a module of this room offers."""

    def score(self, reference: str, hypothesis: str) -> Counts: ...
