import pytest
from hypothesis import given
from hypothesis import strategies as st

from auricle.metrics.parts.repetition import loops

words = st.lists(st.sampled_from("abcdefgh"), max_size=12)


@pytest.mark.parametrize(("reference", "hypothesis", "stuck"), [
    ("you are here", "you are you are you are", True),
    ("you are here", "you are you are", False),
    ("a", "x x x", True),
    ("a", "go to the shop go to the shop go to the shop", True),
    ("a", "one two three four five one two three four five one two three four five", False),
    ("no no no", "no no no", False),
    ("no no no", "no no no no", False),
    ("no no no", "no no no no no no", True),
    ("go left go left go left", "left go left go left go", False),
    ("", "", False),
    ("a a a", "", False),
    ("five five", "five five five", True),
])
def test_one_to_four_words_three_times_in_a_row_that_nobody_said_are_a_loop(reference, hypothesis, stuck):
    assert loops(reference, hypothesis) == stuck


@given(words, st.lists(st.sampled_from("xyz"), min_size=1, max_size=4), st.integers(1, 6), words)
def test_a_phrase_in_a_row_is_found_wherever_it_stands(before, phrase, times, after):
    hypothesis = " ".join([*before, *phrase * times, *after])
    if times >= 3:
        assert loops("", hypothesis)
    assert not loops(hypothesis, hypothesis)
