from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from auricle.core.config import TrainingConfig
from auricle.core.errors import Preempted
from auricle.core.extents import Progress
from auricle.data.plan import Budget
from auricle.tasks import Loss
from auricle.train import loop
from auricle.train.checkpoint import TrainingState
from auricle.train.engine import Engine
from auricle.train.loop import BadSteps, OutOfMemory, StepResult, Window, run_stage, train_step
from auricle.train.optim import build_optimizer, trainable
from tests.fakes import Number, NumberModel, NumberTask, number_stage

SECONDS = np.random.default_rng(0).uniform(0.5, 4.0, 40)


class Listener:
    """Stands around the loop and writes down what it is told."""

    def __init__(self, stop_at=None, pieces=1):
        self.engine = Engine(TrainingConfig(max_steps=1, batch_seconds=1.0, device="cpu"))
        self.lines, self.saved, self.evaluated, self.bad = [], [], [], []
        self.stop_at, self.pieces, self.steps = stop_at, pieces, 0

    def stopping(self):
        """Asked during the step before `stop_at`, or in the evaluation that follows it."""
        return self.stop_at is not None and self.steps >= self.stop_at - 1

    def save_is_due(self):
        return False

    def split(self, stage):
        return self.pieces

    def stepped(self):
        self.steps += 1

    def bad_step(self, stage, state, step, result):
        self.bad.append((state.progress.steps, [name for batch in step.micro for name in batch.ids]))

    def log(self, stage, state, window, grad_norm, rate):
        self.lines.append((state.progress.steps, window.summary(self.engine)["terms"]["square"], rate, state.position))

    def evaluate(self, stage, state):
        self.evaluated.append(state.progress.steps)
        return state

    def save(self, stage, state, *, wait=True):
        self.saved.append((state.progress.steps, wait))


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
    assert listener.saved == [(4, False), (8, False)]
    assert [line[0] for line in listener.lines] == [5, 10]


def test_a_loss_that_is_not_finite_reaches_neither_weights_nor_moments():
    model, engine = NumberModel(), Listener().engine
    optimizer = torch.optim.Adam(model.parameters(), lr=1.0)

    def step(*utterances):
        counts = {"square": sum(u.seconds for u in utterances), "_micro_batches": 1}
        return train_step(model, optimizer, NumberTask(), [NumberTask().collate(utterances)], counts, engine, 1.0)

    def everything():
        moments = [value.clone() for state in optimizer.state.values() for value in state.values()]
        return [p.detach().clone() for p in model.parameters()] + moments

    assert step(Number("good", 1.0)).finite
    before = everything()
    result = step(Number("bad", float("nan")), Number("good", 1.0))
    assert not result.finite
    assert np.isnan(result.sums["square"])
    assert all(torch.equal(now, old) for now, old in zip(everything(), before, strict=True))
    assert all(p.grad is None for p in model.parameters())


def test_bad_steps_are_told_counted_in_a_row_and_not_logged():
    stage = number_stage(SECONDS, Budget(seconds=10.0, micro_batches=2))
    load = type(stage.data).__getitem__
    places = {(0, 1), (0, 2), (0, 4)}

    class Poisoned(type(stage.data)):
        def __getitem__(self, place):
            batch = load(self, place)
            return replace(batch, x=batch.x * float("nan")) if (place.epoch, place.step) in places else batch

    stage.data.__class__ = Poisoned
    _, state, listener = train(replace(stage, config=stage.config.model_copy(update={"max_bad_steps": 3})))
    assert [step for step, _ in listener.bad] == [2, 3, 5]
    assert all(ids for _, ids in listener.bad)
    assert [line[0] for line in listener.lines] == [1, 4, 6]
    assert state.progress.steps == 6
    with pytest.raises(BadSteps, match="2 steps in a row") as raised:
        train(replace(stage, config=stage.config.model_copy(update={"max_bad_steps": 2})))
    assert raised.value.places == ((0, 1), (0, 2))
    assert raised.value.state.progress.steps == 3


def test_no_save_and_no_evaluation_amid_bad_steps():
    stage = number_stage(SECONDS, Budget(seconds=10.0, micro_batches=2), eval_steps=1, save_steps=1)
    stage.data.collate = lambda utterances: NumberTask().collate(
        [Number(u.id, float("nan") if u.seconds > 3.9 else u.seconds) for u in utterances]
    )
    _, _, listener = train(stage)
    bad = {step for step, _ in listener.bad}
    assert bad
    assert listener.evaluated == [step for step in range(1, 6) if step not in bad]
    assert [step for step, _ in listener.saved] == [step for step in range(1, 7) if step not in bad]


@pytest.mark.parametrize("pieces", [2, 4])
def test_micro_batches_in_pieces_are_the_same_steps(pieces):
    stage = number_stage(SECONDS, Budget(seconds=10.0, micro_batches=2), max_steps=12)
    whole, _, expected = train(stage)
    split, _, listener = train(stage, listener=Listener(pieces=pieces))
    assert [line[3] for line in listener.lines] == [line[3] for line in expected.lines]
    assert [line[1] for line in listener.lines] == pytest.approx([line[1] for line in expected.lines], rel=1e-9)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(split.state_dict()[name], value, rtol=1e-9, atol=1e-12)


def test_what_does_not_fit_comes_out_with_the_state_before_the_step():
    class Large(NumberTask):
        def loss(self, model, batch):
            if listener.steps == 3:
                raise torch.OutOfMemoryError("no room\nallocator statistics")
            return super().loss(model, batch)

    stage, listener, model = number_stage(SECONDS, Budget(seconds=10.0)), Listener(), NumberModel()
    optimizer = build_optimizer(trainable(model, stage.config), stage.config)
    with pytest.raises(OutOfMemory, match=r"^no room$") as raised:
        run_stage(stage, TrainingState(stage="main"), model, optimizer, Large(), listener)
    assert raised.value.state.progress.steps == 3
    assert all(p.grad is None for p in model.parameters())


def test_asked_to_stop_in_an_evaluation_it_makes_no_step_more_and_evaluates_again():
    stage = number_stage(SECONDS, Budget(seconds=10.0), max_steps=6, eval_steps=3)
    first, second = Listener(), Listener()
    evaluate = first.evaluate

    def interrupted(stage, state):
        first.stop_at = 1
        return evaluate(stage, state)

    first.evaluate = interrupted
    _, state, _ = train(stage, listener=first)
    assert (state.progress.steps, first.evaluated) == (3, [3])
    train(stage, state, second)
    assert second.evaluated == [3]


@pytest.mark.parametrize("at", ["loading", "evaluation"])
def test_when_a_loader_worker_is_killed_the_state_is_saved(at, monkeypatch):
    listener = Listener()

    def killed(*_):
        raise Preempted("a worker process was killed")

    if at == "evaluation":
        listener.evaluate = killed
    else:
        next_step = loop.next_step
        monkeypatch.setattr(loop, "next_step", lambda data: killed() if listener.steps == 2 else next_step(data))
    with pytest.raises(Preempted):
        train(number_stage(SECONDS, Budget(seconds=10.0), eval_steps=2), listener=listener)
    assert listener.saved == [(2, True)]


def test_a_finished_stage_trains_no_further():
    stage = number_stage(SECONDS, Budget(seconds=10.0))
    state = TrainingState(stage="main", progress=Progress(steps=6))
    _, after, listener = train(stage, state)
    assert (after, listener.lines) == (state, [])


class Fading(NumberTask):
    """The one term has a weight that moves, and a second one has none of its own."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def collate(self, utterances):
        batch = super().collate(utterances)
        return replace(batch, counts={**batch.counts, "other": batch.seconds})

    def loss(self, model, batch):
        term = super().loss(model, batch).terms["square"]
        return Loss(terms={"square": replace(term, weight=9.0), "other": replace(term, weight=0.5)})

    def weights(self, steps):
        self.asked.append(steps)
        return {"square": 1.0 - steps / 10}


def test_weights_that_move_follow_the_steps_of_the_stage_also_after_a_resume():
    """What a task says for a step takes the place of the term's own weight, for that term alone."""
    task, model, engine = Fading(), NumberModel(), Listener().engine
    batch, seen = task.collate([Number("a", 2.0), Number("b", 1.0)]), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    optimizer.register_step_pre_hook(lambda *_: seen.append(model.layer.weight.grad.clone()))
    for steps in (0, 5, 10):
        counts = {"square": 3.0, "other": 3.0, "_micro_batches": 1}
        result = train_step(model, optimizer, task, [batch], counts, engine, 1e9, steps)
        assert result.weights == {"square": 1 - steps / 10, "other": 0.5}
    torch.testing.assert_close(seen[1], seen[0] * 1.0 / 1.5)
    torch.testing.assert_close(seen[2], seen[0] * 0.5 / 1.5)

    stage = number_stage(SECONDS, Budget(seconds=10.0), max_steps=6)
    stage.data.collate = task.collate
    begun = Fading()
    optimizer = build_optimizer(trainable(model, stage.config), stage.config)
    state = run_stage(stage, TrainingState(stage="main"), model, optimizer, begun, Listener(stop_at=4))
    run_stage(stage, state, model, optimizer, begun, Listener())
    assert begun.asked == [0, 1, 2, 3, 4, 5]


def test_the_logged_loss_is_the_objective_with_each_step_s_own_weights():
    window = Window()
    for weight, value in ((1.0, 4.0), (0.5, 2.0)):
        told = StepResult({"a": value, "b": 3.0}, {"a": 2.0, "b": 1.0}, 0.0, weights={"a": weight, "b": 0.1})
        window.add(told, [], 0.0)
    summary = window.summary(Listener().engine)
    assert summary["terms"] == {"a": 1.5, "b": 3.0}
    assert summary["loss"] == pytest.approx((4.0 + 1.0) / 4 + 0.1 * 3.0)


def test_a_window_divides_sums_by_counts():
    window = Window(sums={"square": 6.0}, counts={"square": 3.0}, frames=75, padded_frames=100)
    summary = window.summary(Listener().engine)
    assert summary["terms"] == {"square": 2.0}
    assert summary["padding_percent"] == pytest.approx(25.0)
    assert replace(window, sums={}).summary(Listener().engine)["terms"] == {}
