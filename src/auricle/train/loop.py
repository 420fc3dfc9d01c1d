"""The one loop. It knows no modality: batches in, a loss of sums and counts out, one optimizer step, and again.

    batches ──► train_step ──► state ──► log? ──► evaluate? ──► save? ──► end?

Everything periodic is one line of `run_stage`. Readers of `events.jsonl` do the rest from outside.
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import nn

from auricle.core.errors import Diverged
from auricle.core.extents import due
from auricle.data.draws import key
from auricle.data.loader import batches
from auricle.data.plan import micro_batches, next_position
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


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    task: Task,
    micro: Sequence[Batch],
    counts: dict[str, float],
    engine: Engine,
    max_grad_norm: float,
) -> StepResult:
    """One optimizer step over micro-batches, each weighted by what it contains.

    `counts` are the step's, over all micro-batches and ranks: Σ weight · Σ sum / Σ count. Ranks average gradients,
    so the objective is multiplied by the world size once. Raises Diverged before the weights are touched.
    """
    sums: dict[str, torch.Tensor] = {}
    for number, batch in enumerate(micro, start=1):
        with engine.accumulating(model, last=number == len(micro)):
            with engine.autocast():
                loss = task.loss(model, batch)
            objective = sum(
                term.weight * term.sum / max(_divisor(name, term, counts), 1.0) for name, term in loss.terms.items()
            )
            engine.backward(objective * engine.world)
        for name, term in loss.terms.items():
            sums[name] = sums.get(name, 0.0) + term.sum.detach()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, max_grad_norm)
    if not torch.isfinite(norm):
        raise Diverged(_divergence(norm, sums, micro))
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    local = {name: sum(batch.counts.get(name, 0.0) for batch in micro) for name in sums}
    return StepResult({name: float(value) for name, value in sums.items()}, local, float(norm))


def _divisor(name: str, term: Any, counts: dict[str, float]) -> float:
    return counts["_micro_batches"] if term.per_batch else counts[name]


def _divergence(norm: torch.Tensor, sums: dict[str, torch.Tensor], micro: Sequence[Batch]) -> str:
    bad = [name for name, value in sums.items() if not torch.isfinite(value)] or ["gradient"]
    ids = list(itertools.chain.from_iterable(batch.ids for batch in micro))
    return (
        f"the {', '.join(bad)} is not finite (gradient norm {float(norm)}) and the weights were left as they were; "
        f"utterances of the step: {', '.join(ids[:20])}{' …' if len(ids) > 20 else ''}. "
        "Lower learning_rate, or look at these utterances with `auricle data inspect`"
    )


@dataclass
class Window:
    """Sums since the last log line, on this rank."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)
    frames: int = 0
    padded_frames: int = 0
    audio_seconds: float = 0.0
    wait_seconds: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def add(self, result: StepResult, micro: Sequence[Batch], wait_seconds: float) -> None:
        for name in result.sums:
            self.sums[name] = self.sums.get(name, 0.0) + result.sums[name]
            self.counts[name] = self.counts.get(name, 0.0) + result.counts[name]
        self.frames += sum(batch.frames for batch in micro)
        self.padded_frames += sum(batch.padded_frames for batch in micro)
        self.audio_seconds += sum(batch.seconds for batch in micro)
        self.wait_seconds += wait_seconds

    def summary(self, engine: Engine) -> dict[str, Any]:
        """The log line's figures over all ranks; the loss is the mean a unit, never a mean of means."""
        flat = {f"sum.{name}": value for name, value in self.sums.items()}
        flat |= {f"count.{name}": value for name, value in self.counts.items()}
        total = engine.sum(flat | {"frames": self.frames, "padded": self.padded_frames, "audio": self.audio_seconds})
        terms = {name: total[f"sum.{name}"] / max(total[f"count.{name}"], 1.0) for name in self.sums}
        seconds = max(time.monotonic() - self.began, 1e-9)
        return {
            "terms": terms,
            "padding_percent": 100 * (1 - total["frames"] / total["padded"]) if total["padded"] else 0.0,
            "audio_hours_per_hour": total["audio"] / seconds,
            "data_wait_percent": 100 * self.wait_seconds / seconds,
        }


class Watcher(Protocol):
    """What the loop needs of the run around it."""

    engine: Engine

    def stopping(self) -> bool: ...
    def save_is_due(self) -> bool: ...
    def rejected(self, stage: Stage, state: TrainingState, micro: Sequence[Batch]) -> None: ...
    def log(self, stage: Stage, state: TrainingState, window: Window, grad_norm: float, rate: float) -> None: ...
    def evaluate(self, stage: Stage, state: TrainingState) -> TrainingState: ...
    def save(self, stage: Stage, state: TrainingState) -> None: ...


def step_of(data: Iterator[Batch]) -> tuple[list[Batch], float]:
    """This rank's micro-batches of the next step, and the seconds waited for them."""
    began, micro = time.monotonic(), []
    for place, batch in data:
        micro.append(batch)
        if place.last:
            break
    return micro, time.monotonic() - began


def run_stage(
    stage: Stage, state: TrainingState, model: nn.Module, optimizer: torch.optim.Optimizer, task: Task, run: Watcher
) -> TrainingState:
    """Trains until the stage's end or until the run is asked to stop; returns the state reached."""
    engine, config, data = run.engine, stage.config, stage.data
    places, shown = itertools.tee(micro_batches(data.plan, state.position, engine.rank, engine.world))
    loaded = zip(shown, batches(data, places, config.dataloader_num_workers), strict=False)
    window, started, wall = Window(), time.monotonic(), state.progress.wall_hours
    train_mode(model)
    while fraction_done(config, state.progress) < 1.0:
        micro, wait_seconds = step_of(loaded)
        counts = engine.sum(_to_sum(micro, run))
        rate = set_rates(
            optimizer, factor(config, state.progress.steps, fraction_done(config, state.progress), stage.total_steps)
        )
        # Dropout of a step is a function of the step: resuming needs no generator's state.
        torch.manual_seed(key(config.seed, stage.name, state.progress.steps, engine.rank) & (2**63 - 1))
        result = train_step(
            model, optimizer, task, [batch.to(engine.device) for batch in micro], counts, engine, config.max_grad_norm
        )
        state = advance(state, stage, counts["_seconds"] / 3600, wall + (time.monotonic() - started) / 3600)
        window.add(result, micro, wait_seconds)
        if counts["_rejected"]:
            run.rejected(stage, state, micro)
        if due(state.progress.steps, config.logging_steps):
            run.log(stage, state, window, result.grad_norm, rate)
            window = Window()
        if due(state.progress.steps, config.eval_steps) and fraction_done(config, state.progress) < 1.0:
            state = run.evaluate(stage, state)
            train_mode(model)
            window.began = time.monotonic()
        if counts["_save"] or due(state.progress.steps, config.save_steps):
            run.save(stage, state)
        if counts["_stop"]:
            break
    return state


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
    epoch, _ = state.position
    steps = stage.data.plan(epoch).steps
    position = next_position(steps, state.position)
    epochs = position[0] + position[1] / stage.data.plan(position[0]).steps if position[1] else float(position[0])
    return replace(
        state,
        position=position,
        progress=state.progress.after_step(epochs=epochs, audio_hours=audio_hours, wall_hours=wall_hours),
    )
