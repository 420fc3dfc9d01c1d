"""Groups: every utterance in one, their sum the corpus."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auricle.metrics import Counts
from auricle.metrics.parts.groups import DURATION_BUCKETS, by_duration, by_group

COUNTS = st.builds(Counts, *[st.integers(0, 20)] * 4)


@given(scored=st.lists(st.tuples(st.floats(0, 60), COUNTS)))
def test_duration_buckets_sum_to_the_corpus(scored):
    buckets = by_duration(scored)
    assert sum(buckets.values(), Counts()) == sum((counts for _, counts in scored), Counts())
    assert list(buckets) == [name for name in DURATION_BUCKETS if name in buckets]


@pytest.mark.parametrize(("seconds", "bucket"), [
    (0.0, "0-2 s"), (1.99, "0-2 s"), (2.0, "2-5 s"), (5.0, "5-10 s"), (10.0, "10-20 s"), (20.0, "20+ s")
])
def test_an_edge_belongs_to_the_longer_bucket(seconds, bucket):
    assert list(by_duration([(seconds, Counts())])) == [bucket]


def test_a_groups_rate_is_of_sums_and_no_mean_of_rates():
    scored = [("fsdd", Counts(deletions=1, reference=1)), ("an4", Counts(reference=3)), ("fsdd", Counts(reference=9))]
    groups = by_group(scored)
    assert list(groups) == ["an4", "fsdd"]
    assert groups["fsdd"].rate == 0.1
