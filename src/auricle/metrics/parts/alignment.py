"""The alignment behind every error rate."""

from collections import Counter
from collections.abc import Hashable, Sequence

from rapidfuzz.distance import Levenshtein

from auricle.metrics import Counts


def align(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> Counts:
    """Fewest substitutions, deletions and insertions that turn reference into hypothesis (Levenshtein 1966).

    Their sum is unique; how it splits is not, and is rapidfuzz's choice here (as in jiwer). An empty reference costs
    an insertion a unit of the hypothesis, an empty hypothesis a deletion a unit of the reference.
    """
    edits = Counter(edit.tag for edit in Levenshtein.editops(reference, hypothesis))
    return Counts(edits["replace"], edits["delete"], edits["insert"], len(reference))
