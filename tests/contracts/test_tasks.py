"""What every task promises, whoever wrote it.

A task's own test file gives an `example`: task and model, and perhaps a `PRECISION` where parts of the model compute in
float32 whatever they are given.
"""

import importlib
import operator
import pickle
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from auricle.core.decode import decode_block
from auricle.core.folder import find, names
from auricle.core.frame import Block
from auricle.data.judge import Facts, judge
from tests.utterances import utterance, words

NAMES = names("tasks")


def example(name):
    task, model = importlib.import_module(f"tests.tasks.{name}.test_task").example()
    return task, model.eval()


def in_double(batch):
    return replace(batch, **{name: value.double() for name, value in vars(batch).items()
                             if isinstance(value, Tensor) and value.is_floating_point()})


def sums_and_gradient(task, model, batches):
    """Σ sum by term, and the gradient of Σ sum, over micro-batches."""
    model.zero_grad()
    sums = {}
    for batch in batches:
        terms = task.loss(model, in_double(batch)).terms
        sum(term.weight * term.sum for term in terms.values()).backward()
        for name, term in terms.items():
            sums[name] = sums.get(name, 0.0) + term.sum.item()
    return sums, torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def test_the_room_has_a_task():
    assert "ctc" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_config_is_a_block_that_comes_back_from_plain_values(name):
    config = find("tasks", name, "config").Config()
    assert isinstance(config, Block)
    assert config.kind == name
    assert decode_block("tasks", config.model_dump(mode="json"), "here") == config


@pytest.mark.parametrize("name", NAMES)
def test_metrics_and_decoders_are_known(name):
    task, model = example(name)
    assert task.metrics
    assert set(task.metrics) <= set(names("metrics"))
    batch = task.collate(words(1))
    default = task.predict(model, batch)
    assert default == task.predict(model, batch, task.decoders[0])


@pytest.mark.parametrize("name", NAMES)
def test_checks_let_an_ordinary_row_pass_and_take_the_limits_of_the_data(name):
    task, _ = example(name)
    row = Facts(id="a", text=words(1)[0].text, seconds=1.0)
    assert judge(row, task.checks()) is None
    assert judge(row, replace(task.checks(), min_seconds=2.0)).reason == "too_short"


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_tells_what_is_in_it_in_the_order_of_the_utterances(name):
    task, _ = example(name)
    utterances = words(4)
    batch = task.collate(utterances)
    assert batch.ids == tuple(one.id for one in utterances)
    assert batch.references == tuple(one.text for one in utterances)
    assert batch.seconds == pytest.approx(sum(one.seconds for one in utterances))
    assert 0 < batch.frames < batch.padded_frames
    assert batch.rejections == ()


@pytest.mark.parametrize("name", NAMES)
def test_batches_and_their_maker_travel_between_processes(name):
    task, _ = example(name)
    batch = task.collate(words(2))
    there = pickle.loads(pickle.dumps(task.collate))(words(2))
    for other in (pickle.loads(pickle.dumps(batch)), there, batch.to(torch.device("cpu"))):
        for field, value in vars(batch).items():
            same = torch.equal if isinstance(value, Tensor) else operator.eq
            assert same(getattr(other, field), value), field


@pytest.mark.parametrize("name", NAMES)
def test_counts_known_before_the_forward_are_those_of_the_loss(name):
    task, model = example(name)
    batch = task.collate(words(3))
    assert {term_name: term.count for term_name, term in task.loss(model, batch).terms.items()} == dict(batch.counts)


@pytest.mark.parametrize("name", NAMES)
def test_one_batch_of_eight_is_two_of_four_in_loss_and_gradient(name):
    task, model = example(name)
    model.double()
    utterances = words(8)
    whole = [task.collate(utterances)]
    halves = [task.collate(utterances[:4]), task.collate(utterances[4:])]
    (sums, gradient), (other_sums, other_gradient) = (sums_and_gradient(task, model, part) for part in (whole, halves))
    precision = getattr(importlib.import_module(f"tests.tasks.{name}.test_task"), "PRECISION", 1e-9)
    assert other_sums == pytest.approx(sums, rel=precision)
    torch.testing.assert_close(other_gradient, gradient, atol=precision * gradient.abs().max().item(), rtol=0)
    for term in whole[0].counts:
        assert whole[0].counts[term] == sum(half.counts[term] for half in halves)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_batch_counts_nothing_and_gives_every_parameter_zeros(name):
    task, model = example(name)
    batch = task.collate([])
    assert (batch.ids, batch.seconds, batch.frames) == ((), 0, 0)
    assert not any(batch.counts.values())
    terms = task.loss(model.train(), batch).terms.values()
    assert [(term.sum.item(), term.count) for term in terms] == [(0.0, 0)] * len(terms)
    sum(term.sum for term in terms).backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())
    assert task.predict(model.eval(), batch) == []


@pytest.mark.parametrize("name", NAMES)
def test_one_hypothesis_an_id_in_their_order_even_for_clips_too_short_to_hear(name):
    task, model = example(name)
    utterances = [*words(3), utterance(0.0, "cat"), utterance(0.005, "bed")]
    for decoder in task.decoders:
        said = task.predict(model, task.collate(utterances), decoder)
        assert [(one.id, one.reference) for one in said] == [(one.id, one.text) for one in utterances]
        assert [one.seconds for one in said] == pytest.approx([one.seconds for one in utterances])
        assert [one.text for one in said[3:]] == ["", ""]
