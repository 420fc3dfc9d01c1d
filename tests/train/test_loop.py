from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from auricle.core.config import TrainingConfig
from auricle.core.errors import Diverged
from auricle.core.extents import Progress
from auricle.data.plan import Budget
from auricle.train.checkpoint import TrainingState
from auricle.train.engine import Engine
from auricle.train.loop import Window, run_stage, train_step
from auricle.train.optim import build_optimizer, trainable
from tests.fakes import Number, NumberModel, NumberTask, number_stage

SECONDS = np.random.default_rng(0).uniform(0.5, 4.0, 40)


class Listener:
    """Stands around the loop and writes down what it is told."""

    def __init__(self, stop_at=None):
        self.engine = Engine(TrainingConfig(max_steps=1, batch_seconds=1.0, device="cpu"))
        self.lines, self.saved, self.evaluated, self.stop_at, self.steps = [], [], [], stop_at, 0

    def stopping(self):
        self.steps += 1
        return self.stop_at is not None and self.steps >= self.stop_at

    def save_is_due(self):
        return False

    def log(self, stage, state, window, grad_norm, rate):
        self.lines.append((state.progress.steps, window.summary(self.engine)["terms"]["square"], rate, state.position))

    def evaluate(self, stage, state):
        self.evaluated.append(state.progress.steps)
        return state

    def save(self, stage, state):
        self.saved.append(state.progress.steps)


def train(stage, state=None, listener=None):
    model, listener = NumberModel(), listener or Listener()
    optimizer = build_optimizer(trainable(model, stage.config), stage.config)
    state = run_stage(stage, state or TrainingState(stage="main"), model, optimizer, NumberTask(), listener)
    return model, state, listener


def gradient(utterances, sizes):
    """The gradient of one step over micro-batches of these sizes."""
    model, task, engine = NumberModel(), NumberTask(), Listener().engine
    seen = {}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    optimizer.register_step_pre_hook(
        lambda opt, *_: seen.update({"g": torch.cat([p.grad.flatten().clone() for p in model.parameters()])})
    )
    cuts = np.cumsum([0, *sizes])
    micro = [task.collate(utterances[a:b]) for a, b in pairwise(cuts)]
    counts = {"square": sum(batch.seconds for batch in micro), "_micro_batches": len(micro)}
    result = train_step(model, optimizer, task, micro, counts, engine, max_grad_norm=1e9)
    return seen["g"], result.sums["square"] / counts["square"]


def test_one_batch_of_eight_is_two_of_four_and_any_ragged_cut():
    utterances = [Number(str(n), float(s)) for n, s in enumerate(SECONDS[:8])]
    whole, loss = gradient(utterances, [8])
    for sizes in ([4, 4], [1, 7], [5, 1, 2], [8, 0], [0, 3, 5]):
        other, other_loss = gradient(utterances, sizes)
        torch.testing.assert_close(other, whole, rtol=1e-9, atol=1e-12)
        assert other_loss == pytest.approx(loss, rel=1e-9)


def test_the_logged_loss_is_a_mean_over_units_and_the_schedule_is_applied():
    stage = number_stage(SECONDS, Budget(seconds=10.0, micro_batches=2), warmup_steps=3)
    _, state, listener = train(stage)
    assert [line[0] for line in listener.lines] == [1, 2, 3, 4, 5, 6]
    assert [line[2] for line in listener.lines] == pytest.approx([0.05 / 3, 0.1 / 3, 0.05, 0.05, 0.05, 0.05])
    assert state.progress.steps == 6
    assert state.progress.audio_hours > 0


def test_the_loss_falls():
    _, _, listener = train(number_stage(SECONDS, Budget(seconds=10.0), max_steps=200, learning_rate=0.1))
    assert listener.lines[-1][1] < 0.1 * listener.lines[0][1]


@pytest.mark.parametrize("stop_at", [1, 3, 8, 9])
def test_stopping_and_going_on_is_the_uninterrupted_run_bit_for_bit(stop_at):
    stage = number_stage(SECONDS, Budget(seconds=10.0, micro_batches=3), max_steps=20)
    assert stage.data.plan(0).steps < stop_at or stop_at < 8  # the cuts lie before, at and after an epoch's end
    straight, end, listener = train(stage)
    model = NumberModel()
    optimizer = build_optimizer(trainable(model, stage.config), stage.config)
    first, second = Listener(stop_at), Listener()
    state = run_stage(stage, TrainingState(stage="main"), model, optimizer, NumberTask(), first)
    assert state.progress.steps == stop_at
    again = run_stage(
        number_stage(SECONDS, Budget(seconds=10.0, micro_batches=3), max_steps=20),
        state,
        model,
        optimizer,
        NumberTask(),
        second,
    )
    assert first.lines + second.lines == listener.lines
    assert again.position == end.position
    for name, value in straight.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


def test_the_position_crosses_epochs_and_counts_them():
    stage = number_stage(SECONDS, Budget(seconds=10.0, micro_batches=3), max_steps=20)
    steps = stage.data.plan(0).steps
    _, state, listener = train(stage)
    assert listener.lines[steps - 1][3] == (1, 0)
    assert state.progress.epochs == pytest.approx(
        state.position[0] + state.position[1] / stage.data.plan(state.position[0]).steps
    )


def test_a_stage_ends_by_epochs_or_by_hours_of_audio():
    hours = SECONDS.sum() / 3600
    for ends, expected in (({"num_train_epochs": 2.0}, 2 * hours), ({"max_audio_hours": 1.5 * hours}, 1.5 * hours)):
        _, state, _ = train(number_stage(SECONDS, Budget(seconds=10.0), max_steps=None, **ends))
        assert state.progress.audio_hours == pytest.approx(expected, abs=10 / 3600)


def test_cadence_counts_steps():
    _, _, listener = train(
        number_stage(SECONDS, Budget(seconds=10.0), max_steps=10, eval_steps=3, save_steps=4, logging_steps=5)
    )
    assert listener.evaluated == [3, 6, 9]
    assert listener.saved == [4, 8]
    assert [line[0] for line in listener.lines] == [5, 10]


def test_a_loss_that_is_not_finite_leaves_the_weights_and_names_the_utterances():
    model, engine = NumberModel(), Listener().engine
    before = [p.clone() for p in model.parameters()]
    batch = NumberTask().collate([Number("bad-clip", float("nan")), Number("good-clip", 1.0)])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with pytest.raises(Diverged, match=r"square is not finite .*bad-clip, good-clip"):
        train_step(model, optimizer, NumberTask(), [batch], {"square": 1.0, "_micro_batches": 1}, engine, 1.0)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def test_a_finished_stage_trains_no_further():
    stage = number_stage(SECONDS, Budget(seconds=10.0))
    state = TrainingState(stage="main", progress=Progress(steps=6))
    _, after, listener = train(stage, state)
    assert (after, listener.lines) == (state, [])


def test_a_window_divides_sums_by_counts():
    window = Window(sums={"square": 6.0}, counts={"square": 3.0}, frames=75, padded_frames=100)
    summary = window.summary(Listener().engine)
    assert summary["terms"] == {"square": 2.0}
    assert summary["padding_percent"] == pytest.approx(25.0)
    assert replace(window, sums={}).summary(Listener().engine)["terms"] == {}
