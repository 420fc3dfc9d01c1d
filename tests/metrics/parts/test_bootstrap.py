"""Intervals: as wide as theory says, the same on every machine, and silent where the data say nothing."""

import tracemalloc

import numpy as np
import pytest

from auricle.core.errors import DataError
from auricle.metrics import Counts
from auricle.metrics.parts.bootstrap import interval, paired_interval


def utterances(how_many, rate, seed=0, words=10):
    """Utterances whose words are wrong independently of each other: their true rate and spread are known."""
    errors = np.random.default_rng(seed).binomial(words, rate, size=how_many)
    return [Counts(substitutions=int(wrong), reference=words) for wrong in errors]


def lessened(counts, by):
    return [Counts(substitutions=max(0, one.substitutions - by), reference=one.reference) for one in counts]


def test_the_interval_is_as_wide_as_the_binomial_says():
    counts = utterances(4000, 0.1)
    low, high = interval(counts)
    rate = sum(counts, Counts()).rate
    half = 1.96 * (0.1 * 0.9 / 40_000) ** 0.5
    assert low == pytest.approx(rate - half, abs=half / 8)
    assert high == pytest.approx(rate + half, abs=half / 8)


def test_utterances_are_resampled_whole():
    """Errors that come in bursts make the interval wider than the same errors spread evenly."""
    bursts = [Counts(substitutions=10, reference=10)] * 20 + [Counts(reference=10)] * 180
    spread = [Counts(substitutions=1, reference=10)] * 200
    low, high = interval(bursts)
    assert high - low > 0.06
    assert interval(spread) == (0.1, 0.1)


def test_the_true_rate_lies_in_most_intervals():
    intervals = [interval(utterances(150, 0.1, seed)) for seed in range(100)]
    covered = sum(low <= 0.1 <= high for low, high in intervals)
    assert 90 <= covered <= 99


def test_long_utterances_weigh_as_many_words_as_they_have():
    counts = [Counts(deletions=50, reference=100), Counts(deletions=50, reference=100), *[Counts(reference=1)] * 2]
    low, high = interval(counts)
    assert low == 0.0
    assert 0.4 < high <= 0.5


def test_the_interval_is_reproducible_and_ignores_order():
    counts = [Counts(substitutions=i % 4, reference=5 + i % 7) for i in range(200)]
    assert interval(counts) == interval(counts[::-1])
    assert interval(counts, seed=1) == interval(counts, seed=1)
    assert interval(counts, seed=1) != interval(counts, seed=2)


@pytest.mark.parametrize("counts", [[], [Counts(substitutions=1, reference=4)]])
def test_fewer_than_two_utterances_have_no_interval(counts):
    assert interval(counts) is None
    assert paired_interval(counts, counts) is None


def test_utterances_without_reference_leave_no_nan():
    silent = [Counts(), Counts()]
    babble = [Counts(insertions=2), Counts()]
    assert interval(silent) == (0.0, 0.0)
    assert interval(babble) == (0.0, float("inf"))
    assert paired_interval(silent, babble).rate == float("inf")
    assert paired_interval(silent, silent).rate == 0.0


def test_memory_grows_with_the_utterances_and_not_with_the_replicates():
    """20,000 utterances of which no two are alike; their draws in all replicates at once would take 160 MB."""
    counts = [Counts(substitutions=index % 7, reference=index) for index in range(1, 20_001)]
    tracemalloc.start()
    interval(counts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6


def test_equal_systems_do_not_differ():
    counts = utterances(50, 0.2)
    same = paired_interval(counts, counts)
    assert (same.rate, same.low, same.high, same.improvement) == (0.0, 0.0, 0.0, 0.5)


def test_a_system_that_is_better_everywhere_is_better_for_certain():
    counts = utterances(300, 0.3)
    better = paired_interval(counts, lessened(counts, 1))
    assert better.low <= better.rate <= better.high < 0
    assert better.improvement == 1.0
    worse = paired_interval(lessened(counts, 1), counts)
    assert worse.rate == -better.rate
    assert worse.low > 0
    assert worse.improvement == 0.0


def test_pairing_is_sharper_than_two_separate_intervals():
    counts = utterances(300, 0.3)
    a_few_mended = lessened(counts[:30], 1) + counts[30:]
    paired = paired_interval(counts, a_few_mended)
    low, high = interval(counts)
    assert paired.high < 0
    assert paired.high - paired.low < (high - low) / 2
    assert paired.rate == pytest.approx(sum(a_few_mended, Counts()).rate - sum(counts, Counts()).rate)


def test_systems_scored_on_other_references_cannot_be_paired():
    with pytest.raises(DataError, match="3 and 2 utterances"):
        paired_interval(utterances(3, 0.1), utterances(2, 0.1))
    with pytest.raises(DataError, match="different references"):
        paired_interval(utterances(3, 0.1), utterances(3, 0.1, words=11))
