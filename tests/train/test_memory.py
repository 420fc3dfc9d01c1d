"""Micro-batches that do not fit: found before the first step, or split when one turns up."""

import json
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings

from auricle.core.config import TrainingConfig
from auricle.core.errors import AuricleError
from auricle.core.events import read
from auricle.data.plan import Budget
from auricle.tasks.ctc.task import CtcTask
from auricle.train import loop, memory, recovery
from auricle.train.engine import Engine
from auricle.train.memory import split_more, split_of, try_worst, worst_micro_batches
from auricle.train.optim import build_optimizer, moments, trainable
from auricle.train.run import Run
from tests import experiments
from tests.experiments import losses, run, tiny
from tests.fakes import NumberModel, NumberTask, number_stage
from tests.speech import digits_manifest

SETTINGS = {"per_device_train_batch_size": 8, "batch_seconds": None, "max_steps": 7, "data": {"max_eval_samples": 4}}
"""An epoch has 3 steps of two micro-batches, the last of one."""
SECONDS = np.random.default_rng(0).uniform(0.5, 4.0, 40)


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    return digits_manifest(tmp_path_factory.mktemp("digits")).folder


class Device:
    """Has room for so many utterances at a time, and knows what the steps met."""

    def __init__(self):
        self.room, self.refused, self.met, self.stop_after = 10**9, 0, [], None


@pytest.fixture
def device(monkeypatch) -> Device:
    found = Device()
    loss, advance, next_step, ids = CtcTask.loss, loop.advance, loop.next_step, []

    def measured(task, model, batch):
        if model.training and len(batch.ids) > found.room:
            found.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nstatistics of the allocator")
        return loss(task, model, batch)

    def loaded(data):
        step = next_step(data)
        ids[:] = sorted(name for batch in step.micro for name in batch.ids)
        return step

    def advanced(*args):
        found.met.append(tuple(ids))
        return advance(*args)

    monkeypatch.setattr(CtcTask, "loss", measured)
    monkeypatch.setattr(loop, "next_step", loaded)
    monkeypatch.setattr(loop, "advance", advanced)
    monkeypatch.setattr(Run, "stopping", lambda _: found.stop_after is not None and len(found.met) >= found.stop_after)
    monkeypatch.setitem(experiments.MODEL, "dropout", 0.0)  # its draws depend on how a batch is cut
    return found


@pytest.fixture
def whole(tmp_path, digits, device) -> tuple[list, list]:
    """(losses, ids) of each step on a device with room for all."""
    _, events = run(tiny(tmp_path / "whole", manifest=digits, **SETTINGS))
    met = list(device.met)
    device.met.clear()
    return losses(events), met


def of(events, kind):
    return [event for event in events if event.kind == kind]


def assert_the_same_steps(found, expected):
    assert [step for step, _ in found] == [step for step, _ in expected]
    np.testing.assert_allclose([loss for _, loss in found], [loss for _, loss in expected], rtol=1e-5)


def test_what_does_not_fit_is_found_before_the_first_step(tmp_path, digits, device, whole):
    device.room = 3
    outcome, events = run(tiny(tmp_path, manifest=digits, **SETTINGS))
    assert (outcome.reason, outcome.step) == ("finished", 7)
    split = of(events, "split")
    assert [event.values["pieces"] for event in split] == [2, 4]
    assert all(event.step == 0 and "out of memory" in event.values["message"] for event in split)
    kinds = [event.kind for event in events]
    assert max(n for n, kind in enumerate(kinds) if kind == "split") < kinds.index("train")
    assert json.loads((tmp_path / "run" / "split.json").read_text()) == {"main": 4}
    assert device.refused == 2  # no step found it out
    assert device.met == whole[1]
    assert_the_same_steps(losses(events), whole[0])


def test_a_step_that_turns_out_not_to_fit_is_made_again_in_pieces(tmp_path, digits, device, whole, monkeypatch):
    advance = loop.advance

    def smaller_later(*args):
        device.room = 4 if len(device.met) == 3 else device.room
        return advance(*args)

    monkeypatch.setattr(loop, "advance", smaller_later)
    outcome, events = run(tiny(tmp_path, manifest=digits, **SETTINGS))
    assert (outcome.reason, outcome.step) == ("finished", 7)
    assert [(event.step, event.values["pieces"]) for event in of(events, "split")] == [(4, 2)]
    assert of(events, "split")[0].values["message"] == "CUDA out of memory. Tried to allocate 2 GiB"
    assert device.refused == 1
    assert device.met == whole[1]
    assert_the_same_steps(losses(events), whole[0])


def test_the_pieces_are_remembered_by_the_next_start(tmp_path, digits, device, whole):
    device.room, device.stop_after = 4, 2
    first, first_events = run(tiny(tmp_path, manifest=digits, **SETTINGS))
    assert first.reason == "interrupted"
    device.stop_after = None
    second, second_events = run(tiny(tmp_path, manifest=digits, **SETTINGS))
    assert second.reason == "finished"
    assert (len(of(first_events, "split")), len(of(second_events, "split")), device.refused) == (1, 0, 1)
    assert device.met == whole[1]
    assert_the_same_steps(losses(first_events) + losses(second_events), whole[0])


def test_one_utterance_that_does_not_fit_ends_the_run_with_a_sentence(tmp_path, digits, device):
    device.room = 0
    with pytest.raises(AuricleError, match=r"stage main: one utterance alone does not fit .*2 GiB\).*max_sec") as it:
        run(tiny(tmp_path, manifest=digits, **SETTINGS))
    assert it.value.exit_code == 1
    assert [event.values["reason"] for event in of(read(tmp_path / "run" / "events.jsonl"), "end")] == ["failed"]


def test_the_trial_is_no_part_of_training(tmp_path, digits, monkeypatch):
    tried = []

    def spied(stage, model, task, engine, split):
        before = [value.clone() for value in model.state_dict().values()]
        try_worst(stage, model, task, engine, split)
        tried.append(all(map(torch.equal, model.state_dict().values(), before)))
        assert all(parameter.grad is None for parameter in model.parameters())

    monkeypatch.setattr(memory, "try_worst", spied)
    _, with_trial = run(tiny(tmp_path / "a", manifest=digits, **SETTINGS))
    monkeypatch.setattr(recovery, "_fit", lambda *_: None)
    _, without = run(tiny(tmp_path / "b", manifest=digits, **SETTINGS))
    assert tried == [True]
    assert losses(with_trial) == losses(without)


class Normalised(NumberModel):
    """With running statistics."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(3).double()

    def components(self):
        return {"layer": self.layer, "norm": self.norm}

    def forward(self, x):
        return self.layer(self.norm(x))


@pytest.mark.parametrize("fits", [True, False])
def test_the_trial_touches_neither_weights_nor_statistics_nor_moments(fits):
    class Large(NumberTask):
        def loss(self, model, batch):
            found = super().loss(model, batch)
            if not fits:
                raise torch.OutOfMemoryError("no room")
            return found

    stage, model = number_stage(SECONDS, Budget(seconds=10.0)), Normalised()
    optimizer = build_optimizer(trainable(model, stage.config), stage.config)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        engine = Engine(TrainingConfig(max_steps=1, batch_seconds=1.0, device="cpu"))
        try_worst(stage, model, Large(), engine, split=1)
        assert fits
    except torch.OutOfMemoryError:
        assert not fits
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not moments(optimizer)


LENGTHS = st.lists(st.floats(0.1, 30.0), min_size=1, max_size=60)


@example([30.0] + [12.8] * 3 + [5.0] * 7, 40.0, 7, 1)  # longest, largest and most are three
@given(LENGTHS, st.sampled_from([None, 5.0, 40.0]), st.integers(1, 7), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_the_worst_micro_batches_are_the_worst_of_the_plan(lengths, seconds, utterances, micro_batches):
    stage = number_stage(lengths, Budget(seconds=seconds, utterances=utterances, micro_batches=micro_batches))
    plan, rows = stage.data.plan(0), np.asarray(lengths)
    members = [plan.rows[plan.members(number)] for number in range(plan.micro_batches)]

    def padded(rows_of_one, power):
        return len(rows_of_one) * rows[list(rows_of_one)].max() ** power

    worst = worst_micro_batches(stage)
    assert 1 <= len(worst) <= 2
    assert {place.rows for place in worst} <= {tuple(one.tolist()) for one in members}
    for power in (1, 2):
        largest = max(padded(one, power) for one in members)
        assert max(padded(place.rows, power) for place in worst) == pytest.approx(largest)


def test_pieces_double_for_each_stage_until_they_are_single_utterances(tmp_path):
    stage = number_stage([1.0] * 6, Budget(utterances=3))
    assert split_of(tmp_path, "main") == 1
    assert [split_more(tmp_path, stage, "no room") for _ in range(2)] == [2, 4]
    assert (split_of(tmp_path, "main"), split_of(tmp_path, "other")) == (4, 1)
    with pytest.raises(AuricleError, match="one utterance alone"):
        split_more(tmp_path, stage, "no room")
    (tmp_path / "split.json").write_text("torn")
    assert split_of(tmp_path, "main") == 1
