"""Character error rate: spaces between words count, spaces around the text do not."""

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auricle.metrics import Counts
from auricle.metrics.cer import score
from tests.metrics.published import jiwer_cases

TEXTS = st.text("abc שלe\u0301", max_size=10)


@given(pairs=st.lists(st.tuples(TEXTS.filter(str.strip), TEXTS), min_size=1, max_size=6))
def test_a_corpus_scores_as_jiwer_scores_it(pairs):
    ours = sum((score(*pair) for pair in pairs), Counts())
    theirs = jiwer.process_characters(*map(list, zip(*pairs, strict=True)))
    splits = [(one.substitutions, one.deletions, one.insertions) for one in (ours, theirs)]
    assert splits[0] == splits[1]
    assert ours.rate == pytest.approx(theirs.cer)


def test_jiwers_own_cases_come_out_alike():
    for references, hypotheses, expected in jiwer_cases("test_cer.py"):
        counts = sum(map(score, references, hypotheses), Counts())
        assert counts.rate == pytest.approx(expected), (references, hypotheses)


@pytest.mark.parametrize(("reference", "hypothesis", "counts"), [
    ("a b", "ab", Counts(0, 1, 0, 3)),
    (" ab ", "ab", Counts(0, 0, 0, 2)),
    ("ab", "", Counts(0, 2, 0, 2)),
    ("", "ab", Counts(0, 0, 2, 0)),
    ("", "", Counts()),
    ("שלום", "שלם", Counts(0, 1, 0, 4)),
])
def test_errors_are_counted_in_characters(reference, hypothesis, counts):
    assert score(reference, hypothesis) == counts
