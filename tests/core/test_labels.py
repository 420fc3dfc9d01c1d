"""Corpus transcripts as labels: what nobody said goes, what was said stays."""

import pytest
import regex
from hypothesis import example, given
from hypothesis import strategies as st

from auricle.core.labels import FILLERS, NOISES, SIGNS, TAGS, corpus

WORDS = st.sampled_from(["open", "Gate", "umbrella", "errand", "don't", "uh-huh", "mm-hmm", "x1y", "ER", "שלום", "é"])
MARKS = st.sampled_from([f"<{name.upper()}>" for name in (*SIGNS, *TAGS)] + [f"[{noise}]" for noise in NOISES])
PIECES = st.sampled_from(["<", ">", "[noise]", "(", ")", "um", "UM", "Er", "ER", "mm", "5", "it", "'s", ",", ".", "?!",
                          "…", "<COMMA>", "<unk>", "<PERIOD>", "HELLO", "hello", "'", "-", "\n", "İ", "ß", "𝐀", " "])


@pytest.mark.parametrize(("text", "expected"), [
    ("AS THEY SAY <COMMA> IT IS <PERIOD> REALLY <QUESTIONMARK>", "as they say, it is. really?"),
    ("stop<EXCLAMATIONPOINT>", "stop!"),
    ("<SIL>", ""),
    ("<MUSIC>", ""),
    ("ignore_time_segment_in_scoring", ""),
    ("so <inaudible> we [laughter] went (Applause) on", "so we went on"),
    ("it 's what they 've said <unk>", "it's what they've said"),
    ("rock 'n' roll", "rock 'n' roll"),
    ("drop the <silver> key (now) [red]", "drop the <silver> key (now) [red]"),
    ("NASA 1984", "nasa 1984"),
    ("He works at NASA", "He works at NASA"),
    ("<unk> , go <crosstalk> on <affirmative>", "go on"),
    ("hello , world !", "hello, world!"),
    ("costs , say , .5 percent", "costs, say, .5 percent"),
    ("wait . . . what", "wait... what"),
    (" two\n lines ", "two lines"),
    ("?!", ""),
    ("", ""),
])
def test_markers_noises_casing_and_spaces(text, expected):
    assert corpus(text) == expected


@pytest.mark.parametrize(("text", "expected"), [
    ("Well, um, I think uh yes", "Well, I think yes"),
    ("Um, so uh", "so"),
    ("I was, um.", "I was."),
    ("Yes. Um. I think", "Yes. I think"),
    ("UM <COMMA> NO <PERIOD>", "no."),
    ("um, um, er", ""),
    ("I was, um", "I was"),
    ("uh-huh, mm-hmm, the umbrella", "uh-huh, mm-hmm, the umbrella"),
    ("in the ER at 5 mm, mm", "in the ER at 5 mm"),
    ("THE ER", "the"),
])
def test_fillers_go_with_their_commas(text, expected):
    assert corpus(text) == expected


@given(text=st.lists(PIECES, max_size=12).map("".join) | st.lists(PIECES, max_size=8).map(" ".join) | st.text())
@example(text="um <sil> ER")
def test_applied_twice_it_changes_nothing(text):
    assert corpus(corpus(text)) == corpus(text)


@given(words=st.lists(WORDS, min_size=1, max_size=8), data=st.data())
def test_every_word_stays_and_nothing_else_does(words, data):
    """Also where markers and fillers stand between the words, and the cases of a mixed text are kept."""
    text = ["so"]
    for word in words:
        text += [*data.draw(st.lists(MARKS | st.sampled_from(FILLERS), max_size=3)), word]
    left = [piece.strip(",.?!") for piece in corpus(" ".join(text)).split()]
    assert [piece for piece in left if piece] == ["so", *words]


@given(text=st.text())
def test_what_is_left_says_something_or_is_empty_and_has_no_case_that_was_not_there(text):
    label = corpus(text)
    assert label == "" or regex.search(r"[\p{L}\p{N}]", label)
    assert sum(map(str.isupper, label)) <= sum(map(str.isupper, text))
    assert label == " ".join(label.split())
