"""Character error rate: code points, the spaces between words included (as in jiwer), those at the ends not."""

from auricle.metrics import Counts
from auricle.metrics.parts.alignment import align


def score(reference: str, hypothesis: str) -> Counts:
    return align(reference.strip(), hypothesis.strip())
