"""Word error rate: ours, jiwer's, the textbook's and the published ones are one number."""

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auricle.metrics import Counts
from auricle.metrics.wer import score
from tests.metrics.published import fstalign, jiwer_cases, librispeech, sclite
from tests.paths import HAVE_DATA

SENTENCES = st.lists(st.sampled_from(["a", "b", "c", "ab", "שלום"]), max_size=8).map(" ".join)
published = pytest.mark.skipif(not HAVE_DATA, reason="published transcripts are not here; jiwer stands in above")


def edit_distance(reference, hypothesis):
    """Wagner & Fischer 1974, row by row."""
    row = list(range(len(hypothesis) + 1))
    for i, expected in enumerate(reference, 1):
        diagonal, row[0] = row[0], i
        for j, said in enumerate(hypothesis, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (expected != said))
    return row[-1]


@given(reference=SENTENCES, hypothesis=SENTENCES)
def test_errors_are_the_textbook_edit_distance(reference, hypothesis):
    counts = score(reference, hypothesis)
    assert counts.errors == edit_distance(reference.split(), hypothesis.split())
    assert counts.reference == len(reference.split())
    assert counts.reference - counts.deletions + counts.insertions == len(hypothesis.split())


@given(pairs=st.lists(st.tuples(SENTENCES.filter(bool), SENTENCES), min_size=1, max_size=6))
def test_a_corpus_scores_as_jiwer_scores_it(pairs):
    ours = sum((score(*pair) for pair in pairs), Counts())
    theirs = jiwer.process_words(*map(list, zip(*pairs, strict=True)))
    splits = [(one.substitutions, one.deletions, one.insertions) for one in (ours, theirs)]
    assert splits[0] == splits[1]
    assert ours.rate == pytest.approx(theirs.wer)


def test_jiwers_own_cases_come_out_alike():
    for references, hypotheses, expected in jiwer_cases("test_measures.py"):
        counts = sum(map(score, references, hypotheses), Counts())
        assert counts.rate == pytest.approx(expected), (references, hypotheses)


@pytest.mark.parametrize(("reference", "hypothesis", "counts"), [
    ("the cat sat", "the cat sat", Counts(0, 0, 0, 3)),
    ("the cat sat", "the bat", Counts(1, 1, 0, 3)),
    ("the cat", "", Counts(0, 2, 0, 2)),
    ("", "the cat", Counts(0, 0, 2, 0)),
    ("", " ", Counts()),
    (" the\tcat\n", "the cat", Counts(0, 0, 0, 2)),
])
def test_errors_are_counted_in_words_between_white_space(reference, hypothesis, counts):
    assert score(reference, hypothesis) == counts


@published
def test_librispeech_totals_are_the_published_ones():
    systems = list(librispeech())
    assert len(systems) == 4
    for system, pairs, errors, words in systems:
        counts = sum((score(*pair) for pair in pairs), Counts())
        assert (counts.errors, counts.reference) == (errors, words), system
    assert (systems[0][2], systems[0][3]) == (1921, 52576)


@published
@pytest.mark.parametrize(("files", "utterances"), [
    (("csrnab.ref", "csrnab.hyp", "test1.pra"), 45),
    (("test.ukranian.ref", "test.ukranian.hyp", "test15_d.pra"), 6),
])
def test_every_utterance_scores_as_in_sclite(files, utterances):
    cases = list(sclite(*files))
    assert len(cases) == utterances
    for reference, hypothesis, errors, words in cases:
        counts = score(reference, hypothesis)
        assert (counts.errors, counts.reference) == (errors, words), reference


@published
def test_plain_texts_score_as_in_fstalign():
    cases = list(fstalign())
    assert len(cases) >= 4
    for reference, hypothesis, errors, words in cases:
        counts = score(reference, hypothesis)
        assert (counts.errors, counts.reference) == (errors, words), reference
