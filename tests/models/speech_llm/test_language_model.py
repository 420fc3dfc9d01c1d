import pytest
import torch
from torch import nn
from torch.nn import functional

from auricle.models.speech_llm import language_model
from auricle.models.speech_llm.language_model import cross_entropy

VOCABULARY, WIDTH = 50, 6


class Head(nn.Linear):
    """Remembers how many positions it was given at a time."""

    def __init__(self):
        super().__init__(WIDTH, VOCABULARY, bias=False)
        self.sizes = []

    def forward(self, hidden):
        self.sizes.append(len(hidden))
        return super().forward(hidden)


def batch(positions: int):
    torch.manual_seed(0)
    return Head(), torch.randn(positions, WIDTH, requires_grad=True), torch.randint(VOCABULARY, (positions,))


@pytest.mark.parametrize("at_once", [1, 3 * VOCABULARY, 1000 * VOCABULARY])
@pytest.mark.parametrize("positions", [1, 7, 30])
def test_the_chunks_add_up_to_the_whole_in_value_and_gradient(monkeypatch, at_once, positions):
    monkeypatch.setattr(language_model, "LOGITS_AT_ONCE", at_once)
    head, hidden, labels = batch(positions)
    total, uniform = cross_entropy(hidden, labels, head)
    found = torch.autograd.grad(0.9 * total + 0.1 * uniform, [hidden, head.weight])
    logits = functional.linear(hidden, head.weight)
    whole = functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=0.1)
    expected = torch.autograd.grad(whole, [hidden, head.weight])
    assert (0.9 * total + 0.1 * uniform).item() == pytest.approx(whole.item(), rel=1e-5)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_no_more_logits_exist_at_a_time_than_are_allowed(monkeypatch):
    monkeypatch.setattr(language_model, "LOGITS_AT_ONCE", 4 * VOCABULARY)
    head, hidden, labels = batch(30)
    total, _ = cross_entropy(hidden, labels, head)
    total.backward()
    assert max(head.sizes) <= 4
    assert sum(head.sizes) == 2 * 30, "once going forth, and again going back"


def test_nothing_to_answer_gives_zeros_to_every_parameter():
    head, hidden, labels = batch(0)
    total, uniform = cross_entropy(hidden, labels, head)
    (total + uniform).backward()
    assert (total.item(), uniform.item()) == (0.0, 0.0)
    assert not head.weight.grad.any()
