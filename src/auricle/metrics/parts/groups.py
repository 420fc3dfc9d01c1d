"""Corpus counts of parts of a test set: by source, by speaker, by duration."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from typing import TypeVar

from auricle.metrics import Counts

Group = TypeVar("Group", str, int)

DURATION_EDGES = (2, 5, 10, 20)
DURATION_BUCKETS = ("0-2 s", "2-5 s", "5-10 s", "10-20 s", "20+ s")
"""An utterance as long as an edge belongs to the longer bucket."""


def by_group(scored: Iterable[tuple[Group, Counts]]) -> dict[Group, Counts]:
    """(group, counts of an utterance) pairs → group → sum, sorted by group."""
    totals: dict[Group, Counts] = defaultdict(Counts)
    for group, counts in scored:
        totals[group] += counts
    return dict(sorted(totals.items()))


def by_duration(scored: Iterable[tuple[float, Counts]]) -> dict[str, Counts]:
    """(seconds, counts of an utterance) pairs → bucket → sum, shortest first, without empty buckets."""
    totals = by_group((bisect_right(DURATION_EDGES, seconds), counts) for seconds, counts in scored)
    return {DURATION_BUCKETS[index]: counts for index, counts in totals.items()}
