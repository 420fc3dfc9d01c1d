"""What every metric of the room promises, whoever wrote it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auricle.core.folder import find, names
from auricle.metrics import Counts

TEXTS = st.text("ab cש'", max_size=12).map(lambda text: " ".join(text.split()))
PAIRS = st.lists(st.tuples(TEXTS, TEXTS), max_size=6)

NAMES = names("metrics")
every_metric = pytest.mark.parametrize("score", [find("metrics", name).score for name in NAMES], ids=NAMES)


def test_the_room_has_the_metrics_of_a_recogniser():
    assert {"wer", "cer"} <= set(NAMES)


@every_metric
@given(text=TEXTS)
def test_a_perfect_answer_has_no_error(score, text):
    counts = score(text, text)
    assert counts.errors == 0
    assert counts.rate == 0.0


@every_metric
@given(first=PAIRS, second=PAIRS)
def test_counts_add(score, first, second):
    whole, head, tail = (sum((score(*pair) for pair in pairs), Counts()) for pairs in (first + second, first, second))
    assert head + tail == whole == tail + head
    assert whole.errors == head.errors + tail.errors


@every_metric
@given(pairs=PAIRS, order=st.randoms())
def test_the_order_of_utterances_does_not_matter(score, pairs, order):
    shuffled = order.sample(pairs, len(pairs))
    assert sum((score(*pair) for pair in shuffled), Counts()) == sum((score(*pair) for pair in pairs), Counts())


@every_metric
@given(text=TEXTS.filter(bool))
def test_an_empty_reference_costs_insertions_and_an_empty_hypothesis_deletions(score, text):
    invented, missed = score("", text), score(text, "")
    assert invented == Counts(insertions=invented.insertions)
    assert invented.rate == float("inf")
    assert missed == Counts(deletions=missed.reference, reference=missed.reference)
    assert missed.rate == 1.0
    assert missed.deletions == invented.insertions > 0


@every_metric
@given(reference=TEXTS, hypothesis=TEXTS)
def test_reference_units_depend_on_the_reference_alone(score, reference, hypothesis):
    counts = score(reference, hypothesis)
    assert counts.reference == score(reference, reference).reference
    assert min(counts.substitutions, counts.deletions, counts.insertions) >= 0
    assert counts.substitutions + counts.deletions <= counts.reference
