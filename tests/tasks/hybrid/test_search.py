"""The search over decoders whose every probability is known, and over a real one."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auricle.models.voxformer.config import DecoderConfig
from auricle.models.voxformer.decoder import AttentionDecoder
from auricle.tasks.hybrid.ctc_prefix import CtcPrefix
from auricle.tasks.hybrid.search import Attention, Found, beam, greedy, limits
from auricle.tasks.parts.ctc_decoding import prefix_beam
from tests.tasks.parts.test_ctc_decoding import network_output, real

V = 4


class Spoken:
    """A decoder of stories: for each utterance a function from the labels so far to the probabilities of what follows.

    memory holds the number of each utterance's story.
    """

    def __init__(self, *stories, end=2):
        self.stories, self.end = stories, end

    def start(self, memory, lengths, beams=1):
        return Told([self.stories[number] for number in memory[:, 0, 0].long().tolist()], beams)

    def step(self, tokens, cache):
        cache.texts = [[(*text, token) for text, token in zip(texts, row, strict=True)]
                       for texts, row in zip(cache.texts, tokens.tolist(), strict=True)]
        rows = [[story(text[1:]) for text in texts] for story, texts in zip(cache.stories, cache.texts, strict=True)]
        return torch.tensor(rows, dtype=torch.double).view(*tokens.shape, self.end + 1).log()


class Told:
    def __init__(self, stories, beams):
        self.stories, self.texts = stories, [[()] * beams for _ in stories]

    def reorder(self, parents):
        self.texts = [[texts[place] for place in row] for texts, row in zip(self.texts, parents.tolist(), strict=True)]

    def keep(self, utterances):
        kept = utterances.tolist()
        self.stories, self.texts = [self.stories[u] for u in kept], [self.texts[u] for u in kept]


class Uncached:
    """A decoder that forgets: each step goes over the whole text again, by teacher forcing."""

    def __init__(self, decoder):
        self.decoder, self.end = decoder, decoder.end

    def start(self, memory, lengths, beams=1):
        return Whole(memory, lengths, beams)

    def step(self, tokens, cache):
        cache.said = torch.cat([cache.said, tokens.unsqueeze(-1)], -1)  # (B, W, P)
        memory, lengths = (x.repeat_interleave(tokens.shape[1], 0) for x in (cache.memory, cache.lengths))
        return self.decoder(cache.said.flatten(0, 1), memory, lengths)[:, -1].view(*tokens.shape, self.end + 1)


class Whole:
    def __init__(self, memory, lengths, beams):
        self.memory, self.lengths, self.said = memory, lengths, torch.empty(len(memory), beams, 0, dtype=torch.long)

    def reorder(self, parents):
        self.said = self.said.gather(1, parents.unsqueeze(-1).expand_as(self.said))

    def keep(self, utterances):
        self.memory, self.lengths, self.said = (x[utterances] for x in (self.memory, self.lengths, self.said))


class Patient:
    """A scorer that may add something late: nothing is decided before all hypotheses are finished."""

    falls = False

    def __init__(self, utterances, beams, classes, gift):
        self.added, self.gift, self.symbols = torch.zeros(utterances, beams, classes), gift, 0

    def scores(self):
        return self.added + (self.gift if self.symbols == 2 else 0.0)

    def advance(self, parents, symbols):
        self.symbols += 1

    def keep(self, utterances):
        self.added = self.added[utterances]


def tell(*stories, size=1, limit=8, end=2, length_penalty=0.0, patient=False, gift=0.0):
    decoder = Spoken(*stories, end=end)
    memory = torch.arange(len(stories)).view(-1, 1, 1)
    lengths, limit = torch.ones(len(stories), dtype=torch.long), torch.tensor([limit] * len(stories))
    scorers = [(1.0, Attention(decoder, memory, lengths, size))]
    if patient:
        scorers.append((1.0, Patient(len(stories), size, end + 1, gift)))
    return beam(scorers, limit, size=size, end=end, length_penalty=length_penalty)


def drawn(seed, end):
    """A story of random probabilities."""
    def story(text):
        draw = torch.Generator().manual_seed(hash((seed, text)) % 2**63)
        return torch.rand(end + 1, generator=draw, dtype=torch.double).add(0.05).log().mul(3).softmax(-1).tolist()
    return story


def probability(story, text, end, ended=True):
    places = [(text[:place], label) for place, label in enumerate(text)] + [(text, end)] * ended
    return sum(math.log(story(before)[label]) for before, label in places)


def neural(seed=1, dtype=torch.float32, sure=2.0):
    torch.manual_seed(seed)
    decoder = AttentionDecoder(DecoderConfig(layers=2, heads=2, feedforward_width=24, dropout=0.0), 16, 12, V)
    torch.nn.init.normal_(decoder.project_out.weight, std=sure / 4)
    return decoder.to(dtype).eval()


def heard(lengths, seed=1, dtype=torch.float32):
    """(B, E, D), (B,), (B,) limits, (B, E, V+1) CTC log probabilities."""
    torch.manual_seed(seed)
    lengths = torch.tensor(lengths, dtype=torch.long)
    frames = int(lengths.max()) if len(lengths) else 0
    memory, logits = torch.randn(len(lengths), frames, 12), 2 * torch.randn(len(lengths), frames, V + 1)
    return memory.to(dtype), lengths, limits(lengths, None), logits.to(dtype).log_softmax(-1)


def attended(decoder, memory, lengths, limit, size, **options):
    return beam([(1.0, Attention(decoder, memory, lengths, size))], limit, size=size, end=V, **options)


def joined(decoder, memory, lengths, limit, log_probs, size, ctc, **options):
    scorers = [(1 - ctc, Attention(decoder, memory, lengths, size)), (ctc, CtcPrefix(log_probs, lengths, size))]
    return beam(scorers, limit, size=size, end=V, **options)


LENGTHS = st.lists(st.integers(0, 7), min_size=1, max_size=4)


def same(some, others, tolerance=1e-4):
    assert [[labels for labels, _ in one.hypotheses] for one in some] == [
        [labels for labels, _ in one.hypotheses] for one in others]
    assert [one.cut for one in some] == [one.cut for one in others]
    for one, other in zip(some, others, strict=True):
        for (_, score), (_, expected) in zip(one.hypotheses, other.hypotheses, strict=True):
            assert score == pytest.approx(expected, abs=tolerance)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), lengths=LENGTHS)
def test_greedy_with_a_cache_finds_the_tokens_that_it_finds_without(seed, lengths):
    decoder, (memory, sizes, limit, _) = neural(seed), heard(lengths, seed)
    same(greedy(decoder, memory, sizes, limit), greedy(Uncached(decoder), memory, sizes, limit))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), lengths=LENGTHS, size=st.integers(1, 5), length_penalty=st.sampled_from([0.0, 1.0]),
       ctc=st.sampled_from([0.0, 0.3]))
def test_a_beam_with_a_cache_finds_the_tokens_that_it_finds_without(seed, lengths, size, length_penalty, ctc):
    decoder, rest = neural(seed), (*heard(lengths, seed), size, ctc)
    same(joined(decoder, *rest, length_penalty=length_penalty),
         joined(Uncached(decoder), *rest, length_penalty=length_penalty))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), lengths=LENGTHS, length_penalty=st.sampled_from([0.0, 1.0]))
def test_a_beam_of_width_one_is_greedy(seed, lengths, length_penalty):
    decoder, (memory, sizes, limit, _) = neural(seed), heard(lengths, seed)
    one, other = greedy(decoder, memory, sizes, limit), attended(decoder, memory, sizes, limit, 1)
    same(one, other)
    normalised = attended(decoder, memory, sizes, limit, 1, length_penalty=length_penalty)
    assert [found.hypotheses[0][0] for found in normalised] == [found.hypotheses[0][0] for found in one]


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000), lengths=LENGTHS, size=st.integers(1, 4), length_penalty=st.sampled_from([0.0, 1.0]))
def test_results_do_not_depend_on_the_batch(seed, lengths, size, length_penalty):
    decoder, (memory, sizes, limit, log_probs) = neural(seed, torch.double), heard(lengths, seed, torch.double)
    singly = greedy(decoder, memory, sizes, limit)
    jointly = joined(decoder, memory, sizes, limit, log_probs, size, 0.4, length_penalty=length_penalty)
    for row, length in enumerate(lengths):
        alone = (memory[row : row + 1, :length], sizes[row : row + 1], limit[row : row + 1])
        same(greedy(decoder, *alone), singly[row : row + 1], 1e-9)
        same(joined(decoder, *alone, log_probs[row : row + 1, :length], size, 0.4, length_penalty=length_penalty),
             jointly[row : row + 1], 1e-9)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 1000), limit=st.integers(1, 4), length_penalty=st.sampled_from([0.0, 0.7, 1.5]))
def test_a_beam_wide_enough_finds_the_best_of_all_texts(seed, limit, length_penalty):
    story = drawn(seed, 2)
    found = tell(story, size=100, limit=limit, length_penalty=length_penalty)[0]
    texts = [text for length in range(limit) for text in itertools.product(range(2), repeat=length)]
    ranked = {text: probability(story, text, 2) / (len(text) + 1) ** length_penalty for text in texts}
    best = max(ranked, key=ranked.get)
    assert found.hypotheses[0] == (best, pytest.approx(ranked[best]))
    assert not found.cut


@settings(deadline=None, max_examples=60)
@given(seeds=st.lists(st.integers(0, 10_000), min_size=1, max_size=3), size=st.integers(1, 5), patient=st.booleans(),
       length_penalty=st.sampled_from([0.0, 1.0]))
def test_each_hypothesis_has_the_score_of_its_own_text_however_the_beam_was_reordered(
        seeds, size, patient, length_penalty):
    stories = [drawn(seed, 3) for seed in seeds]
    for story, found in zip(stories, tell(*stories, size=size, limit=6, end=3, length_penalty=length_penalty,
                                          patient=patient), strict=True):
        scores = [score for _, score in found.hypotheses]
        assert scores == sorted(scores, reverse=True)
        assert len({text for text, _ in found.hypotheses}) == len(scores) <= size
        for text, score in found.hypotheses:
            assert len(text) == 6 if found.cut else len(text) < 6
            expected = probability(story, text, 3, ended=not found.cut) / (len(text) + (not found.cut))**length_penalty
            assert score == pytest.approx(expected)


def test_finished_flags_survive_reordering():
    """The finished hypothesis is second, then first, then overtaken and second again by the time the others end."""
    chances = {(): (0.6, 0.0, 0.4), (0,): (0.5, 0.5, 0.0), (0, 0): (0.0, 1.0, 0.0), (0, 1): (1.0, 0.0, 0.0),
               (0, 0, 1): (0.1, 0.0, 0.9), (0, 1, 0): (0.0, 0.0, 1.0)}
    found = tell(lambda text: chances.get(text, (0.9, 0.1, 0.0)), size=3, length_penalty=1.0, patient=True)[0]
    assert found.hypotheses == [((0, 1, 0), pytest.approx(math.log(0.3) / 4)),
                                ((0, 0, 1), pytest.approx(math.log(0.27) / 4)),
                                ((), pytest.approx(math.log(0.4)))]
    assert not found.cut


def test_the_best_finished_hypothesis_is_not_crowded_out_by_what_then_ends_worse():
    chances = {(): (0.36, 0.31, 0.33), (0,): (0.49, 0.49, 0.02), (1,): (0.5, 0.48, 0.02)}
    found = tell(lambda text: chances.get(text, (0.495, 0.495, 0.01)), size=2, limit=4, length_penalty=1.0)[0]
    assert found.hypotheses[0] == ((), pytest.approx(math.log(0.33)))


def test_nothing_follows_the_end_symbol():
    """A decoder that would say label 1 for ever after its end."""
    def story(text):
        return (0.05, 0.9, 0.05) if 2 in text else (0.01, 0.01, 0.98) if len(text) == 2 else (0.9, 0.05, 0.05)

    decoder, memory = Spoken(story), torch.zeros(1, 1, 1)
    found = greedy(decoder, memory, torch.tensor([1]), torch.tensor([20]))
    assert found == [Found([((0, 0), pytest.approx(math.log(0.9 * 0.9 * 0.98)))], cut=False)]
    for size, patient in itertools.product((1, 2, 5), (False, True)):
        found = tell(story, size=size, limit=20, patient=patient)[0]
        assert found.hypotheses[0] == ((0, 0), pytest.approx(math.log(0.9 * 0.9 * 0.98)))
        assert all(len(text) < 3 or 0.05 in map(story(text[:2]).__getitem__, text) or score < math.log(0.05)
                   for text, score in found.hypotheses)


def test_what_never_ends_is_cut_at_the_limit_and_says_so():
    found = tell(lambda text: (0.7, 0.3, 0.0), size=2, limit=5)[0]
    assert found.cut
    assert found.hypotheses[0] == ((0,) * 5, pytest.approx(5 * math.log(0.7)))
    decoder = Spoken(lambda text: (0.7, 0.3, 0.0))
    cut = greedy(decoder, torch.zeros(1, 1, 1), torch.tensor([1]), torch.tensor([5]))
    assert cut == [Found([((0,) * 5, pytest.approx(5 * math.log(0.7)))], cut=True)]


def test_a_finished_hypothesis_comes_before_a_likelier_one_that_was_cut():
    def story(text):
        return (0.99, 0.009, 0.001) if text else (0.9, 0.05, 0.05)

    assert tell(story, size=2, limit=5)[0] == Found([((), pytest.approx(math.log(0.05)))], cut=False)


def test_what_may_still_earn_something_is_waited_for():
    without, gifted = (tell(lambda text: (0.3, 0.1, 0.6), size=3, patient=True, gift=gift)[0] for gift in (0.0, 5.0))
    assert without.hypotheses[0] == ((), pytest.approx(math.log(0.6)))
    assert gifted.hypotheses[0] == ((0, 0), pytest.approx(math.log(0.3 * 0.3 * 0.6) + 5))


def test_an_utterance_without_frames_is_empty():
    decoder, (memory, lengths, limit, log_probs) = neural(), heard([0, 3])
    for found in (greedy(decoder, memory, lengths, limit), attended(decoder, memory, lengths, limit, 3),
                  joined(decoder, memory, lengths, limit, log_probs, 3, 0.3)):
        assert found[0] == Found([((), 0.0)], cut=False)
        assert found[1].hypotheses[0][1] < 0
    empty = heard([])
    assert greedy(decoder, *empty[:3]) == joined(decoder, *empty, 3, 0.3) == []


def test_the_limit_is_a_label_a_frame_and_the_end():
    assert limits(torch.tensor([0, 1, 5, 100]), 50).tolist() == [0, 2, 6, 50]
    assert limits(torch.tensor([0, 100]), None).tolist() == [0, 101]


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), lengths=st.lists(st.integers(1, 3), min_size=1, max_size=3))
def test_with_the_whole_weight_ctc_alone_ranks(seed, lengths):
    memory, sizes, limit, log_probs = heard(lengths, seed, torch.double)
    jointly = joined(neural(seed, torch.double), memory, sizes, limit, log_probs, 100, 1.0)
    for found, rows, length in zip(jointly, log_probs, lengths, strict=True):
        texts = [text for said in range(length + 1) for text in itertools.product(range(V), repeat=said)]
        losses = torch.nn.functional.ctc_loss(
            rows[:length].unsqueeze(1).expand(-1, len(texts), -1), torch.tensor([x for text in texts for x in text]),
            torch.full((len(texts),), length), torch.tensor([len(text) for text in texts]), blank=V, reduction="none")
        assert found.hypotheses[0][1] == pytest.approx(-losses.min().item(), abs=1e-9)
        ranked = {text: -loss for text, loss in zip(texts, losses.tolist(), strict=True)}
        assert all(score == pytest.approx(ranked[text], abs=1e-9) for text, score in found.hypotheses)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), lengths=LENGTHS, size=st.integers(1, 4))
def test_without_weight_ctc_says_nothing(seed, lengths, size):
    decoder, (memory, sizes, limit, log_probs) = neural(seed), heard(lengths, seed)
    assert joined(decoder, memory, sizes, limit, log_probs, size, 0.0) == attended(decoder, memory, sizes, limit, size)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), lengths=st.lists(st.integers(1, 6), min_size=1, max_size=3), ctc=st.floats(0.1, 0.9))
def test_a_joint_score_is_the_weighted_sum_of_both(seed, lengths, ctc):
    decoder, (memory, sizes, limit, log_probs) = neural(seed, torch.double), heard(lengths, seed, torch.double)
    for row, found in enumerate(joined(decoder, memory, sizes, limit, log_probs, 4, ctc)):
        for text, score in found.hypotheses if not found.cut else []:
            tokens = torch.tensor([[V, *text, V]])
            spelt = decoder(tokens[:, :-1], memory[row : row + 1], sizes[row : row + 1]).log_softmax(-1)
            attention = spelt.gather(-1, tokens[:, 1:].unsqueeze(-1)).sum().item()
            loss = torch.nn.functional.ctc_loss(log_probs[row, : lengths[row]], torch.tensor(text, dtype=torch.long),
                                                sizes[row], torch.tensor(len(text)), blank=V, reduction="sum").item()
            assert score == pytest.approx((1 - ctc) * attention - ctc * loss, abs=1e-9)


def test_ctc_mends_what_attention_alone_repeats():
    """A decoder that has lost its place and says 0 for ever, over frames that hold 0 and 1 once each."""
    story = lambda text: (0.8, 0.19, 0.01)  # noqa: E731
    path = torch.tensor([[2, 0, 2, 1, 2]])
    log_probs = torch.nn.functional.one_hot(path, 3).double().mul(8).log_softmax(-1)
    memory, lengths = torch.zeros(1, 5, 1), torch.tensor([5])
    assert tell(story, size=4, limit=6)[0].hypotheses[0][0] != (0, 1)
    scorers = [(0.5, Attention(Spoken(story), memory, lengths, 4)), (0.5, CtcPrefix(log_probs, lengths, 4))]
    assert beam(scorers, limits(lengths, None), size=4, end=2)[0].hypotheses[0][0] == (0, 1)


@real
@pytest.mark.parametrize("name", ["line", "word"])
def test_label_by_label_a_real_output_is_at_least_as_likely_as_frame_by_frame(name):
    log_probs, lengths = network_output(name)
    found = beam([(1.0, CtcPrefix(log_probs, lengths, 25))], limits(lengths, None), size=25, end=79)[0]
    labels, log_p = prefix_beam(log_probs, lengths, 79, 25)[0][0]
    assert found.hypotheses[0][1] >= log_p - 1e-9
    assert found.hypotheses[0][0] == labels
