import itertools
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auricle.tasks.hybrid.ctc_prefix import CtcPrefix
from tests.paths import DATA

REAL = DATA / "ctc_decoding"
real = pytest.mark.skipif(not REAL.is_dir(), reason="a real network's output, in ../shared/data only")


def random_log_probs(seed, batch, frames, classes, scale=1.0):
    logits = torch.randn(batch, frames, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    return (scale * logits).log_softmax(-1)


def every_sequence(log_probs):
    """{labels: probability}, by walking all (V+1)^F alignments; the last class is the blank."""
    frames, classes = log_probs.shape
    totals = {}
    for path in itertools.product(range(classes), repeat=frames):
        labels = tuple(label for label, _ in itertools.groupby(path) if label != classes - 1)
        totals[labels] = totals.get(labels, 0.0) + math.prod(log_probs[f, c].exp().item() for f, c in enumerate(path))
    return totals


def by_the_loop(log_probs, labels):
    """log p(labels …) and log p(labels), frame by frame: algorithm 2 as it is printed."""
    blank, frames = log_probs.shape[1] - 1, len(log_probs)
    x = log_probs.tolist()

    def add(a, b):
        high, low = max(a, b), min(a, b)
        return high if low == -math.inf else high + math.log1p(math.exp(low - high))

    in_label, in_blank = [-math.inf] * (frames + 1), [0.0] * (frames + 1)
    for t in range(frames):
        in_blank[t + 1] = in_blank[t] + x[t][blank]
    prefix, last = 0.0, None
    for label in labels:
        new_label, new_blank, prefix = [-math.inf] * (frames + 1), [-math.inf] * (frames + 1), -math.inf
        for t in range(frames):
            start = in_blank[t] if label == last else add(in_blank[t], in_label[t])
            new_label[t + 1] = add(new_label[t], start) + x[t][label]
            new_blank[t + 1] = add(new_blank[t], new_label[t]) + x[t][blank]
            prefix = add(prefix, start + x[t][label])
        in_label, in_blank, last = new_label, new_blank, label
    return prefix, add(in_label[-1], in_blank[-1])


def said(scorer, labels):
    """Sum of the scores of labels, (B,), and of those and the end."""
    end = scorer.blank
    total = 0.0
    for label in labels:
        total = total + scorer.scores()[:, 0, label]
        there = torch.zeros(len(scorer.last), 1, dtype=torch.long)
        scorer.advance(there, there + label)
    return total, total + scorer.scores()[:, 0, end]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), lengths=st.lists(st.integers(0, 4), min_size=1, max_size=3),
       classes=st.integers(2, 4), impossible=st.booleans(), data=st.data())
def test_each_score_is_what_all_alignments_say(seed, lengths, classes, impossible, data):
    log_probs = random_log_probs(seed, len(lengths), 5, classes)
    if impossible:  # a label that cannot be in some frames
        log_probs[:, ::2, 0] = -math.inf
        log_probs = log_probs.log_softmax(-1)
    sequences = [every_sequence(rows[:length]) for rows, length in zip(log_probs, lengths, strict=True)]
    beams, end = 3, classes - 1
    texts = [[()] * beams for _ in lengths]
    scorer = CtcPrefix(log_probs, torch.tensor(lengths), beams)
    for _ in range(3):
        scores = scorer.scores()
        for row, place, symbol in itertools.product(range(len(lengths)), range(beams), range(classes)):
            text, found = texts[row][place], sequences[row]
            before, longer = (sum(p for one, p in found.items() if one[: len(g)] == g) for g in (text, (*text, symbol)))
            after = found.get(text, 0.0) if symbol == end else longer
            if after > 0:
                assert scores[row, place, symbol].item() == pytest.approx(math.log(after / before))
            else:  # -inf, or through a frame that cannot hold a label, which counts as e^-1000
                assert scores[row, place, symbol].item() < -900
        parents = torch.tensor(data.draw(st.lists(st.lists(st.integers(0, beams - 1), min_size=beams, max_size=beams),
                                                  min_size=len(lengths), max_size=len(lengths))))
        symbols = torch.randint(end, parents.shape, generator=torch.Generator().manual_seed(seed))
        scorer.advance(parents, symbols)
        texts = [[(*texts[row][parents[row, place]], symbols[row, place].item()) for place in range(beams)]
                 for row in range(len(lengths))]


@pytest.mark.parametrize("scale", [1.0, 5.0, 30.0])
def test_a_long_utterance_has_the_scores_of_the_loop_over_frames(scale):
    """Sure outputs (scale 30): the sums of logarithms reach -20,000, and some labels have no probability in a frame."""
    log_probs = random_log_probs(3, 2, 300, 5, scale)
    log_probs[0, 100:110, 2] = -math.inf
    labels = (0, 0, 1, 2, 2, 2, 3, 1, 1)
    prefixes, wholes = said(CtcPrefix(log_probs, torch.tensor([300, 170]), 1), labels)
    for row, length in ((0, 300), (1, 170)):
        prefix, whole = by_the_loop(log_probs[row, :length], labels)
        assert prefixes[row].item() == pytest.approx(prefix, abs=1e-8)
        assert wholes[row].item() == pytest.approx(whole, abs=1e-8)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), labels=st.lists(st.integers(0, 3), max_size=5), length=st.integers(0, 9))
def test_a_finished_hypothesis_has_the_probability_of_the_ctc_loss(seed, labels, length):
    log_probs = random_log_probs(seed, 1, 9, 5)
    loss = torch.nn.functional.ctc_loss(log_probs.transpose(0, 1), torch.tensor([labels], dtype=torch.long),
                                        torch.tensor([length]), torch.tensor([len(labels)]), blank=4, reduction="sum")
    _, whole = said(CtcPrefix(log_probs, torch.tensor([length]), 1), labels)
    assert torch.as_tensor(whole).item() == pytest.approx(-loss.item(), abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), length=st.integers(0, 8), steps=st.integers(0, 4))
def test_what_may_follow_adds_up_to_what_was(seed, length, steps):
    scorer = CtcPrefix(random_log_probs(seed, 1, 8, 4), torch.tensor([length]), 2)
    for _ in range(steps):
        scorer.advance(torch.tensor([[0, 0]]), torch.tensor([[0, 1]]))
    for scores, prefix in zip(scorer.scores()[0], scorer.prefix[0], strict=True):
        assert scores.exp().sum().item() == pytest.approx(1.0 if prefix > -math.inf else 0.0)
    assert (scorer.scores() <= 1e-12).all()


def test_only_the_utterances_that_go_on_are_scored_further():
    log_probs, lengths = random_log_probs(1, 3, 6, 4), torch.tensor([6, 2, 4])
    all_three, two = CtcPrefix(log_probs, lengths, 2), CtcPrefix(log_probs, lengths, 2)
    going = torch.tensor([2, 0])
    two.keep(going)
    parents, symbols = torch.tensor([[1, 0], [0, 0], [1, 1]]), torch.tensor([[0, 2], [1, 2], [1, 0]])
    all_three.advance(parents, symbols)
    two.advance(parents[going], symbols[going])
    torch.testing.assert_close(two.scores(), all_three.scores()[going], atol=0, rtol=0)


def test_what_is_in_the_padding_is_not_heard():
    log_probs, lengths = random_log_probs(1, 2, 6, 4), torch.tensor([4, 0])
    heard = said(CtcPrefix(log_probs, lengths, 1), (0, 1))
    log_probs[0, 4:], log_probs[1] = math.nan, math.nan
    torch.testing.assert_close(said(CtcPrefix(log_probs, lengths, 1), (0, 1)), heard, atol=0, rtol=0)
    assert heard[0][1] == -math.inf


def test_what_is_given_stays_as_it_is():
    log_probs = random_log_probs(1, 2, 6, 4)
    before = log_probs.clone()
    said(CtcPrefix(log_probs, torch.tensor([6, 3]), 1), (0, 1))
    assert torch.equal(log_probs, before)


@real
def test_a_real_text_has_the_published_probability():
    expected = json.loads((REAL / "expected.json").read_text())
    rows = (REAL / "line" / "rnnOutput.csv").read_text().split()
    logits = torch.tensor([[float(value) for value in row.split(";") if value] for row in rows], dtype=torch.double)
    truth = expected["line"]["ground_truth"]
    labels = [expected["chars"].index(character) for character in truth]
    _, whole = said(CtcPrefix(logits.log_softmax(-1).unsqueeze(0), torch.tensor([len(rows)]), 1), labels)
    assert whole.item() == pytest.approx(-expected["line"]["ctc_loss"], rel=1e-5)
