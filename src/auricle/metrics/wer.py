"""Word error rate: words are what white space parts."""

from auricle.metrics import Counts
from auricle.metrics.parts.alignment import align


def score(reference: str, hypothesis: str) -> Counts:
    return align(reference.split(), hypothesis.split())
