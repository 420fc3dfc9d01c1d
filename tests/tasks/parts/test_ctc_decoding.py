import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auricle.tasks.parts.ctc_decoding import greedy, prefix_beam
from tests.paths import DATA

REAL = DATA / "ctc_decoding"
real = pytest.mark.skipif(not REAL.is_dir(), reason="two real network outputs, in ../shared/data only")


def collapse(path, blank):
    return tuple(label for label, _ in itertools.groupby(path) if label != blank)


def every_sequence(log_probs, blank):
    """{labels: log probability}, by walking all (V+1)^F alignments."""
    totals = {}
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        log_p = sum(float(log_probs[frame, label]) for frame, label in enumerate(path))
        labels = collapse(path, blank)
        totals[labels] = np.logaddexp(totals.get(labels, -np.inf), log_p)
    return totals


def random_log_probs(seed, batch, frames, classes):
    return torch.randn(batch, frames, classes, generator=torch.Generator().manual_seed(seed)).double().log_softmax(-1)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), frames=st.integers(0, 4), classes=st.integers(2, 4), data=st.data())
def test_a_wide_beam_finds_every_sequence_with_its_exact_probability(seed, frames, classes, data):
    blank = data.draw(st.integers(0, classes - 1))
    log_probs = random_log_probs(seed, 1, frames, classes)
    expected = every_sequence(log_probs[0], blank)
    beam = prefix_beam(log_probs, torch.tensor([frames]), blank, beam_size=10_000)[0]
    assert {labels: pytest.approx(log_p) for labels, log_p in beam} == expected
    assert [log_p for _, log_p in beam] == sorted((log_p for _, log_p in beam), reverse=True)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 1000), frames=st.integers(0, 6), classes=st.integers(2, 4))
def test_the_best_path_is_the_likeliest_alignment(seed, frames, classes):
    log_probs = random_log_probs(seed, 1, frames, classes)
    paths = itertools.product(range(classes), repeat=frames)
    best = max(paths, key=lambda path: sum(float(log_probs[0, f, label]) for f, label in enumerate(path)))
    assert greedy(log_probs, torch.tensor([frames]), classes - 1) == [list(collapse(best, classes - 1))]


def test_a_beam_s_probability_is_what_the_ctc_loss_says():
    log_probs = random_log_probs(0, 1, 6, 4)
    for labels, log_p in prefix_beam(log_probs, torch.tensor([6]), 3, 10_000)[0][:5]:
        loss = torch.nn.functional.ctc_loss(log_probs.transpose(0, 1), torch.tensor([labels]), torch.tensor([6]),
                                            torch.tensor([len(labels)]), blank=3, reduction="sum")
        assert log_p == pytest.approx(-loss.item(), rel=1e-9)


@settings(deadline=None, max_examples=20)
@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_the_result_does_not_depend_on_the_batch(lengths, seed):
    log_probs, lengths = random_log_probs(seed, len(lengths), 9, 5), torch.tensor(lengths)
    paths, beams = greedy(log_probs, lengths, 4), prefix_beam(log_probs, lengths, 4, 4)
    for row, length in enumerate(lengths):
        alone = log_probs[row : row + 1, :length]
        assert greedy(alone, length[None], 4) == [paths[row]]
        assert prefix_beam(alone, length[None], 4, 4) == [beams[row]]
        assert len(beams[row]) <= 4


def test_blanks_part_equal_labels_and_repeats_merge():
    path = torch.tensor([2, 0, 0, 2, 0, 1, 1, 2, 2, 1])
    log_probs = torch.nn.functional.one_hot(path, 3).float()[None].mul(20).log_softmax(-1)
    assert greedy(log_probs, torch.tensor([10]), 2) == [[0, 0, 1, 1]]
    assert prefix_beam(log_probs, torch.tensor([10]), 2, 3)[0][0][0] == (0, 0, 1, 1)


def network_output(name):
    """(1, F, 80) log probabilities, (1,); 79 is the blank."""
    rows = (REAL / name / "rnnOutput.csv").read_text().split()
    logits = torch.tensor([[float(value) for value in row.split(";") if value] for row in rows], dtype=torch.float64)
    return logits.log_softmax(-1).unsqueeze(0), torch.tensor([len(logits)])


@real
@pytest.mark.parametrize("name", ["line", "word"])
def test_real_outputs_decode_as_published(name):
    expected = json.loads((REAL / "expected.json").read_text())
    (log_probs, lengths), chars, said = network_output(name), expected["chars"], expected[name]
    text = ["".join(chars[label] for label in labels)
            for labels in (greedy(log_probs, lengths, 79)[0], prefix_beam(log_probs, lengths, 79, 25)[0][0][0])]
    assert text == [said["best_path"], said.get("beam_search", said["best_path"])]


@real
def test_the_real_ground_truth_has_the_published_probability():
    expected = json.loads((REAL / "expected.json").read_text())
    (log_probs, lengths), said = network_output("line"), expected["line"]
    labels = [expected["chars"].index(character) for character in said["ground_truth"]]
    loss = torch.nn.functional.ctc_loss(log_probs.transpose(0, 1), torch.tensor([labels]), lengths,
                                        torch.tensor([len(labels)]), blank=79, reduction="sum").item()
    assert loss == pytest.approx(said["ctc_loss"], rel=1e-5)
    assert np.exp(-loss) == pytest.approx(said["ground_truth_probability"], rel=1e-5)
