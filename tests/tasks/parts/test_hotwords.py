import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auricle.core.errors import UsageError
from auricle.data.tokenizers import Characters, SentencePiece
from auricle.tasks.hybrid.ctc_prefix import CtcPrefix
from auricle.tasks.hybrid.search import beam, limits
from auricle.tasks.parts.ctc_decoding import prefix_beam
from auricle.tasks.parts.hotwords import HotwordScorer, hotwords

ABC = Characters("ab ")
SENTENCES = ["the cat saw a category of cats", "a new york cat", "new york city is a city", "the catalogue of york"]


def of(tokenizer, phrases, bonus=1.0):
    return hotwords(phrases, tokenizer.encode, tokenizer.decode, tokenizer.size, bonus)


def earned(words, labels):
    """With the end, and before it."""
    state, total = words.start, 0.0
    for label in labels:
        state, gain = words.step(state, label)
        total += gain
    return total + words.step(state, words.end)[1], total


def whole(text, phrase):
    """How often a phrase is in a text as words of it."""
    said, wanted = text.split(" "), phrase.split(" ")
    return sum(said[at : at + len(wanted)] == wanted for at in range(len(said)))


WORDS = st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=3).map(" ".join)


@settings(max_examples=300)
@given(phrases=st.sets(WORDS, max_size=4), text=st.text("ab ", max_size=12))
def test_a_text_earns_each_label_of_each_whole_phrase(phrases, text):
    expected = sum(len(phrase) * whole(text, phrase) for phrase in phrases)
    assert earned(of(ABC, phrases, 0.5), ABC.encode(text))[0] == pytest.approx(0.5 * expected)


@settings(max_examples=300)
@given(phrases=st.sets(st.text("abc", min_size=1, max_size=4), max_size=4), text=st.text("abc", max_size=12))
def test_without_spaces_in_the_alphabet_a_phrase_earns_anywhere(phrases, text):
    expected = sum(len(phrase) * sum(text.startswith(phrase, at) for at in range(len(text))) for phrase in phrases)
    assert earned(of(Characters("abc"), phrases), Characters("abc").encode(text))[0] == pytest.approx(expected)


@pytest.fixture(scope="module")
def pieces():
    return SentencePiece.train(SENTENCES * 5, 60)


@pytest.mark.parametrize("text", [*SENTENCES, "cat", "category", "cat cat", "a cat"])
@pytest.mark.parametrize("phrases", [["cat"], ["new york", "new york city"], ["cats", "city", "the"]])
def test_pieces_of_words_earn_by_whole_words_too(pieces, text, phrases):
    expected = sum(len(pieces.encode(phrase)) * whole(text, phrase) for phrase in phrases)
    assert earned(of(pieces, phrases), pieces.encode(text))[0] == pytest.approx(expected)


def test_a_match_is_rewarded_label_by_label_and_taken_back_when_it_fails():
    words = of(ABC, ["aba"])
    assert [earned(words, ABC.encode("aba"[:length]))[1] for length in range(4)] == [0, 1, 2, 3]
    for text in ("ab", "ab ", "abb", "abab", "abaa b"):
        assert earned(words, ABC.encode(text))[0] == 0
    assert earned(words, ABC.encode("ab aba"))[0] == 3


def test_a_longer_phrase_does_not_lend_again_what_a_shorter_one_has_earned():
    words = of(Characters("abc "), ["a", "a b c"])
    labels = Characters("abc ").encode("a b c")
    assert [earned(words, labels[:length])[1] for length in range(6)] == [0, 1, 2, 3, 4, 5]
    assert earned(words, labels)[0] == 1 + 5


@settings(max_examples=100)
@given(phrases=st.sets(WORDS, min_size=1, max_size=4), text=st.text("ab ", max_size=8), seed=st.integers(0, 99))
def test_the_scorer_of_beams_says_what_the_automaton_says(phrases, text, seed):
    words = of(ABC, phrases)
    scorer = HotwordScorer(words, 2, 2, torch.device("cpu"))
    states = [words.start] * 2
    for label in ABC.encode(text):
        for place, symbol in itertools.product(range(2), range(ABC.size + 1)):
            assert scorer.scores()[1, place, symbol].item() == pytest.approx(words.step(states[place], symbol)[1])
        scorer.advance(torch.tensor([[0, 0], [1, 0]]), torch.tensor([[0, 0], [label, 0]]))
        states = [words.step(states[1], label)[0], words.step(states[0], 0)[0]]
    scorer.keep(torch.tensor([1]))
    assert scorer.state.tolist() == [states]


def test_no_phrases_and_no_bonus_add_nothing():
    for words in (of(ABC, []), of(ABC, ["ab", "b a"], bonus=0.0)):
        assert earned(words, ABC.encode("ab b a")) == (0.0, 0.0)


def test_a_phrase_in_another_alphabet_is_an_error_that_names_it():
    with pytest.raises(UsageError, match="no label for 'זמר'; expected phrases in the alphabet of the transcripts"):
        of(ABC, ["ab", "זמר"])


def close_call():
    """(1, 3, 4) over " ", "a", "b" and blank: "ab" is a little less likely than "bb", and "aa" far less."""
    frames = torch.tensor([[0.01, 0.47, 0.51, 0.01], [0.01, 0.01, 0.01, 0.97], [0.01, 0.05, 0.92, 0.02]])
    return frames.double().log().unsqueeze(0), torch.tensor([3])


def by_frames(words, size=5):
    return ABC.decode(prefix_beam(*close_call(), 3, size, words)[0][0][0])


def by_labels(words, size=5):
    log_probs, lengths = close_call()
    scorers = [(1.0, CtcPrefix(log_probs, lengths, size))]
    if words is not None:
        scorers.append((1.0, HotwordScorer(words, 1, size, torch.device("cpu"))))
    return ABC.decode(beam(scorers, limits(lengths, None), size=size, end=3)[0].hypotheses[0][0])


@pytest.mark.parametrize("found", [by_frames, by_labels])
def test_a_phrase_wins_where_it_narrowly_lost(found):
    assert found(None) == "bb"
    assert found(of(ABC, ["ab"], bonus=0.0)) == "bb"
    assert found(of(ABC, ["ab"], bonus=0.2)) == "ab"
    assert found(of(ABC, ["aba", "ab b"], bonus=0.2)) == "bb"
    assert found(of(ABC, ["aa"], bonus=0.2)) == "bb"


@pytest.mark.parametrize("found", [by_frames, by_labels])
def test_what_is_lent_keeps_a_phrase_in_a_narrow_beam(found):
    assert found(None, 1) == "bb"
    assert found(of(ABC, ["ab"], bonus=0.2), 1) == "ab"


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), phrases=st.sets(WORDS, min_size=1, max_size=3), bonus=st.floats(0.1, 3.0))
def test_a_wide_beam_finds_the_best_sum_of_probability_and_bonus(seed, phrases, bonus):
    draw = torch.Generator().manual_seed(seed)
    log_probs = torch.randn(1, 4, 4, generator=draw, dtype=torch.double).log_softmax(-1)
    lengths, words = torch.tensor([4]), of(ABC, phrases, bonus)
    every = prefix_beam(log_probs, lengths, 3, 10_000)[0]
    sums = {labels: log_p + earned(words, labels)[0] for labels, log_p in every}
    best = max(sums, key=sums.get)
    by_frames = prefix_beam(log_probs, lengths, 3, 10_000, words)[0]
    assert by_frames[0] == (best, pytest.approx(dict(every)[best]))
    assert sorted(by_frames) == [(labels, pytest.approx(log_p)) for labels, log_p in sorted(every)]
    scorers = [(1.0, CtcPrefix(log_probs, lengths, 200)), (1.0, HotwordScorer(words, 1, 200, torch.device("cpu")))]
    assert beam(scorers, limits(lengths, None), size=200, end=3)[0].hypotheses[0] == (best, pytest.approx(sums[best]))
