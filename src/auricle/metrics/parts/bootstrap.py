"""How far a corpus rate could be off: bootstrap over utterances (Bisani & Ney 2004).

Utterances are drawn with replacement, as many as there are, and the corpus rate is taken of each such replicate.
Utterances with equal counts are interchangeable, so a replicate is one multinomial draw over the distinct counts:
memory grows with those alone, and the order of the utterances changes nothing.

# N utterances · K distinct rows of counts · R replicates
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from auricle.core.errors import DataError
from auricle.metrics import Counts

REPLICATES = 1000
PERCENTILES = (0.025, 0.975)


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Rate of system B minus rate of system A on the same utterances: below 0, B is better."""

    rate: float
    low: float
    high: float
    """95 % interval of the difference; one that holds 0 proves no difference."""
    improvement: float
    """Share of replicates in which B makes fewer errors, ties counted half (the paper's probability of improvement)."""


def interval(counts: Sequence[Counts], seed: int = 0) -> tuple[float, float] | None:
    """95 % interval (low, high) of the corpus rate.

    None for fewer than two utterances, which tell nothing of the spread. Where no utterance has an error the interval
    is (0, 0): a resample cannot show an error that the test set does not have.
    """
    if len(counts) < 2:
        return None
    errors, reference = _replicates([(one.errors, one.reference) for one in counts], seed).T  # 2 × (R,)
    return _percentiles(_rates(errors, reference))


def paired_interval(a: Sequence[Counts], b: Sequence[Counts], seed: int = 0) -> Difference | None:
    """95 % interval of rate(b) − rate(a), both taken of the same resampled utterances. None for fewer than two.

    Raises DataError where the two do not score the same references in the same order.
    """
    if [one.reference for one in a] != [one.reference for one in b]:
        raise DataError(f"paired comparison: the systems were scored on different references ({len(a)} and {len(b)} "
                        "utterances); expected the same utterances in the same order; keep the ids that both have")
    if len(a) < 2:
        return None
    table = [(two.errors - one.errors, one.reference) for one, two in zip(a, b, strict=True)]
    more_errors, reference = _replicates(table, seed).T  # 2 × (R,)
    low, high = _percentiles(_rates(more_errors, reference))
    rate = float(_rates(*np.sum(table, axis=0)))
    improvement = float(np.heaviside(-more_errors, 0.5).mean())
    return Difference(rate=rate, low=low, high=high, improvement=improvement)


def _replicates(table: Sequence[tuple[int, int]], seed: int) -> np.ndarray:
    """(N, 2) rows of utterances → (R, 2) their sums in each replicate."""
    draw = np.random.default_rng(seed)
    rows, times = np.unique(np.array(table), axis=0, return_counts=True)  # (K, 2), (K,)
    share = times / len(table)
    return np.array([draw.multinomial(len(table), share) @ rows for _ in range(REPLICATES)])  # (R, 2)


def _rates(errors: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """As `Counts.rate`: without reference units 0 where there are no errors, else infinite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(errors / reference, nan=0.0, posinf=np.inf, neginf=-np.inf)


def _percentiles(rates: np.ndarray) -> tuple[float, float]:
    """Order statistics, not interpolated between: an infinite rate would make that NaN."""
    low, high = np.quantile(rates, PERCENTILES, method="inverted_cdf")
    return float(low), float(high)
