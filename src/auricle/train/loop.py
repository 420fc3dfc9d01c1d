"""The one loop. It knows no modality: batches in, a loss of sums and counts out, one optimizer step, and again.

    batches ──► train_step ──► state ──► log? ──► evaluate? ──► save? ──► end?

Everything periodic is one line of `run_stage`. Readers of `events.jsonl` do the rest from outside.
"""

import contextlib
import itertools
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from auricle.core.errors import Preempted
from auricle.core.extents import due
from auricle.data.draws import key
from auricle.data.loader import batches
from auricle.data.plan import MicroBatch, Position, micro_batches, settled
from auricle.tasks import Batch, Task
from auricle.train.checkpoint import TrainingState
from auricle.train.engine import Engine
from auricle.train.optim import set_rates, train_mode
from auricle.train.schedule import factor, fraction_done
from auricle.train.stage import Stage


@dataclass(frozen=True)
class StepResult:
    """What one step did, on this rank."""

    sums: dict[str, float]
    counts: dict[str, float]
    grad_norm: float
    health: dict[str, torch.Tensor] = field(default_factory=dict)
    """Mean over the micro-batches that say something of it; NaN where none does."""
    finite: bool = True
    """False on every rank when a loss or the gradient was not finite on one: the weights were left as they were."""
    weights: dict[str, float] = field(default_factory=dict)
    """Of the terms in the objective; 1 where none is told."""


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    task: Task,
    micro: Sequence[Batch],
    counts: dict[str, float],
    engine: Engine,
    max_grad_norm: float,
    steps: int = 0,
) -> StepResult:
    """One optimizer step over micro-batches, each weighted by what it contains.

    `counts` are the step's, over all micro-batches and ranks: Σ weight · Σ sum / Σ count. Ranks average gradients,
    so the objective is multiplied by the world size once. What is not finite never reaches the weights. Weights may
    depend on `steps`, those that the stage has made.
    """
    moved = task.weights(steps) if hasattr(task, "weights") else {}
    sums: dict[str, torch.Tensor] = {}
    weights: dict[str, float] = {}
    health: dict[str, list[torch.Tensor]] = {}
    for number, batch in enumerate(micro, start=1):
        with engine.accumulating(model, last=number == len(micro)):
            with engine.autocast():
                loss = task.loss(model, batch)
            weights |= {name: moved.get(name, term.weight) for name, term in loss.terms.items()}
            objective = sum(
                weights[name] * term.sum / max(_divisor(name, term, counts), 1.0) for name, term in loss.terms.items()
            )
            engine.backward(objective * engine.world)
        for name, term in loss.terms.items():
            sums[name] = sums.get(name, 0.0) + term.sum.detach()
        for name, value in loss.health.items():
            health.setdefault(name, []).append(value)
    norm = engine.grad_norm([p for group in optimizer.param_groups for p in group["params"]], max_grad_norm)
    numbers = torch.stack([norm.float(), *(value.float() for value in sums.values())])
    finite = not engine.any(not bool(numbers.isfinite().all()))
    if finite:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    local = {name: sum(batch.counts.get(name, 0.0) for batch in micro) for name in sums}
    told = {name: torch.stack(values).nanmean() for name, values in health.items()}
    summed = {name: float(value) for name, value in sums.items()}
    return StepResult(summed, local, float(norm), told, finite, weights)


def _divisor(name: str, term: Any, counts: dict[str, float]) -> float:
    return counts["_micro_batches"] if term.per_batch else counts[name]


@dataclass
class Window:
    """Sums since the last log line, on this rank."""

    sums: dict[str, float] = field(default_factory=dict)
    weighted: dict[str, float] = field(default_factory=dict)
    """Each step's sums times its weights."""
    counts: dict[str, float] = field(default_factory=dict)
    frames: int = 0
    padded_frames: int = 0
    audio_seconds: float = 0.0
    wait_seconds: float = 0.0
    health: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def add(self, result: StepResult, micro: Sequence[Batch], wait_seconds: float) -> None:
        for name in result.sums:
            self.sums[name] = self.sums.get(name, 0.0) + result.sums[name]
            weighted = result.weights.get(name, 1.0) * result.sums[name]
            self.weighted[name] = self.weighted.get(name, 0.0) + weighted
            self.counts[name] = self.counts.get(name, 0.0) + result.counts[name]
        self.frames += sum(batch.frames for batch in micro)
        self.padded_frames += sum(batch.padded_frames for batch in micro)
        self.audio_seconds += sum(batch.seconds for batch in micro)
        self.wait_seconds += wait_seconds
        for name, value in result.health.items():
            self.health.setdefault(name, []).append(value)

    def summary(self, engine: Engine) -> dict[str, Any]:
        """The log line's figures over all ranks: each term's mean a unit, never a mean of means, and the objective."""
        flat = {f"sum.{name}": value for name, value in self.sums.items()}
        flat |= {f"weighted.{name}": value for name, value in self.weighted.items()}
        flat |= {f"count.{name}": value for name, value in self.counts.items()}
        total = engine.sum(flat | {"frames": self.frames, "padded": self.padded_frames, "audio": self.audio_seconds})
        divisors = {name: max(total[f"count.{name}"], 1.0) for name in self.sums}
        terms = {name: total[f"sum.{name}"] / divisor for name, divisor in divisors.items()}
        seconds = max(time.monotonic() - self.began, 1e-9)
        return {
            "loss": sum(total[f"weighted.{name}"] / divisors[name] for name in self.weighted),
            "terms": terms,
            "padding_percent": 100 * (1 - total["frames"] / total["padded"]) if total["padded"] else 0.0,
            "audio_hours_per_hour": total["audio"] / seconds,
            "data_wait_percent": 100 * self.wait_seconds / seconds,
            **({"health": self._health()} if self.health else {}),
        }

    def _health(self) -> dict[str, float]:
        """Of this rank: what a model tells of itself is the same on all of them, but for noise."""
        return {name: float(torch.stack(values).nanmean()) for name, values in self.health.items()}


class Watcher(Protocol):
    """What the loop needs of the run around it."""

    engine: Engine

    def stopping(self) -> bool: ...
    def save_is_due(self) -> bool: ...
    def split(self, stage: Stage) -> int: ...
    def stepped(self) -> None: ...
    def rejected(self, stage: Stage, state: TrainingState, micro: Sequence[Batch]) -> None: ...
    def bad_step(self, stage: Stage, state: TrainingState, step: "Step", result: StepResult) -> None: ...
    def log(self, stage: Stage, state: TrainingState, window: Window, grad_norm: float, rate: float) -> None: ...
    def evaluate(self, stage: Stage, state: TrainingState) -> TrainingState: ...
    def save(self, stage: Stage, state: TrainingState, *, wait: bool = True) -> None: ...


class BadSteps(Exception):
    """So many steps in a row were not finite that the weights themselves may be what is wrong."""

    def __init__(self, state: TrainingState, places: Sequence[Position]) -> None:
        super().__init__(f"{len(places)} steps in a row were not finite")
        self.state, self.places = state, tuple(places)


class OutOfMemory(Exception):
    """A step did not fit; `state` is as it was before it."""

    def __init__(self, state: TrainingState, message: str) -> None:
        super().__init__(message)
        self.state = state


@dataclass(frozen=True)
class Step:
    """This rank's part of one step: where it lies in the plan, what was loaded, and the seconds waited for it."""

    places: tuple[MicroBatch, ...]
    micro: tuple[Batch, ...]
    wait_seconds: float


def next_step(data: Iterator[tuple[MicroBatch, Batch]]) -> Step:
    began, places, micro = time.monotonic(), [], []
    for place, batch in data:
        places.append(place)
        micro.append(batch)
        if place.last:
            break
    return Step(tuple(places), tuple(micro), time.monotonic() - began)


def load_from(stage: Stage, state: TrainingState, run: Watcher) -> Iterator[tuple[MicroBatch, Batch]]:
    """Micro-batches of this rank from the state's place in the plan on, without end."""
    places = micro_batches(
        stage.data.plan,
        state.position,
        run.engine.rank,
        run.engine.world,
        skipped=state.skipped,
        split=run.split(stage),
    )
    kept, shown = itertools.tee(places)
    return zip(shown, batches(stage.data, kept, stage.config.dataloader_num_workers), strict=False)


def run_stage(
    stage: Stage, state: TrainingState, model: nn.Module, optimizer: torch.optim.Optimizer, task: Task, run: Watcher
) -> TrainingState:
    """Trains until the stage's end or until the run is asked to stop; returns the state reached.

    Raises BadSteps and OutOfMemory, which a stage can go on from, and Preempted, with the state saved.
    """
    engine, config = run.engine, stage.config
    loaded, bad = load_from(stage, state, run), []
    window, started, wall, stopping = Window(), time.monotonic(), state.progress.wall_hours, False
    if evaluation_is_due(stage, state) and not any(e["step"] == state.progress.run_steps for e in state.evaluations):
        state, stopping = evaluated(stage, state, run)  # it was asked to stop during this evaluation
    train_mode(model)
    while not stopping and fraction_done(config, state.progress) < 1.0:
        with saved_if_preempted(stage, state, run):
            step = next_step(loaded)
        counts = engine.sum(_to_sum(step.micro, run))
        rate = set_rates(optimizer, factor(config, state.progress, stage.total_steps))
        # Randomness of a step is a function of the step: resuming needs no generator's state.
        seed_all(key(config.seed, stage.name, state.progress.steps, engine.rank))
        micro = [batch.to(engine.device) for batch in step.micro]
        try:
            result = train_step(model, optimizer, task, micro, counts, engine, config.max_grad_norm,
                                state.progress.steps)
        except torch.OutOfMemoryError as error:
            optimizer.zero_grad(set_to_none=True)
            raise OutOfMemory(state, str(error).partition("\n")[0]) from None
        place, stopping = state.position, counts["_stop"] > 0
        state = advance(state, stage, counts["_seconds"] / 3600, wall + (time.monotonic() - started) / 3600)
        run.stepped()
        if counts["_rejected"]:
            run.rejected(stage, state, step.micro)
        if result.finite:
            window.add(result, step.micro, step.wait_seconds)
            bad = []
        else:
            bad.append(place)
            run.bad_step(stage, state, step, result)
            if len(bad) >= config.max_bad_steps:
                raise BadSteps(state, bad)
        if due(state.progress.steps, config.logging_steps) and window.counts:
            run.log(stage, state, window, result.grad_norm, rate)
            window = Window()
        if evaluation_is_due(stage, state) and not bad:
            state, stopping = evaluated(stage, state, run)
            train_mode(model)
            window.began = time.monotonic()
        if (counts["_save"] or due(state.progress.steps, config.save_steps)) and not bad:
            run.save(stage, state, wait=False)
    return state


@contextlib.contextmanager
def saved_if_preempted(stage: Stage, state: TrainingState, run: Watcher) -> Iterator[None]:
    """A loader worker that is killed ends the run, but `state` is whole."""
    try:
        yield
    except Preempted:
        run.save(stage, state)
        raise


def evaluated(stage: Stage, state: TrainingState, run: Watcher) -> tuple[TrainingState, bool]:
    """→ (state, whether to stop). An evaluation that was stopped is made again before the next step: so there is none.
    """
    with saved_if_preempted(stage, state, run):
        state = run.evaluate(stage, state)
    return state, run.engine.any(run.stopping())


def evaluation_is_due(stage: Stage, state: TrainingState) -> bool:
    """At the end of a stage it is not: the complete evaluation follows."""
    return due(state.progress.steps, stage.config.eval_steps) and fraction_done(stage.config, state.progress) < 1.0


def seed_all(number: int) -> None:
    """Every generator that a model or a task may draw from."""
    torch.manual_seed(number & (2**63 - 1))
    np.random.seed(number & (2**32 - 1))
    random.seed(number)


def _to_sum(micro: Sequence[Batch], run: Watcher) -> dict[str, float]:
    """One exchange a step: what the terms divide by, and what all ranks must agree on."""
    counts: dict[str, float] = {}
    for batch in micro:
        for name, count in batch.counts.items():
            counts[name] = counts.get(name, 0.0) + count
    return counts | {
        "_micro_batches": float(sum(bool(batch.ids) for batch in micro)),
        "_seconds": sum(batch.seconds for batch in micro),
        "_rejected": float(sum(len(batch.rejections) for batch in micro)),
        "_stop": float(run.stopping()),
        "_save": float(run.save_is_due()),
    }


def advance(state: TrainingState, stage: Stage, audio_hours: float, wall_hours: float) -> TrainingState:
    """The state after one more step."""
    epoch, step = state.position
    position = settled(stage.data.plan, (epoch, step + 1), state.skipped)
    progress = state.progress.after_step(
        epochs=stage.data.epochs(position), audio_hours=audio_hours, wall_hours=wall_hours
    )
    return replace(state, position=position, progress=progress)
