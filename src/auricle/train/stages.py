"""The stages of a run, one after the other: what changes at a switch, and what may not.

    (resume) ─► enter: freeze, wrap, optimizer, moments by name, same loss on the same batch ─► loop ─► … ─► evaluate
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from auricle.core.errors import ConfigError, ModelError
from auricle.data.plan import micro_batches
from auricle.store import steps
from auricle.train import checkpoint, machines, sharded
from auricle.train.checkpoint import TrainingState
from auricle.train.engine import Engine
from auricle.train.frozen_cache import with_frozen_cache
from auricle.train.optim import (
    allocate_moments,
    build_optimizer,
    freeze_others,
    load_moments,
    moments,
    trainable,
)
from auricle.train.recovery import next_stage, resumed, train
from auricle.train.run import Run
from auricle.train.schedule import fraction_done
from auricle.train.stage import Stage, derived, refuse_what_cannot_train


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a start of a run ended."""

    folder: Path
    reason: str
    """finished, interrupted, or already finished."""
    step: int


def run_stages(
    engine: Engine, folder: Path, stages: list[Stage], run: Run, found: Path | None, state: TrainingState | None
) -> Outcome:
    """Trains the stages in order from `state`, that of the checkpoint `found`, or from the start. Each ends with a
    complete evaluation."""
    state = state or TrainingState(stage=stages[0].name, order=stages[0].data.order.digest)
    begin = [stage.name for stage in stages].index(state.stage)
    if state.finished and begin == len(stages) - 1 and fraction_done(stages[begin].config, state.progress) >= 1.0:
        run.event("end", state.stage, state.progress.run_steps, reason="already finished", seconds=0.0)
        return Outcome(folder=folder, reason="already finished", step=state.progress.run_steps)
    if found:
        run.remember(state, found)
    if found or run.has_history:  # without a checkpoint a start after a crash goes back to step 0
        resumed(run, state, found.name if found else None)
    carried: dict[str, torch.Tensor] = {}
    for stage in stages[begin:]:
        source = found if stage is stages[begin] else None
        if stage.name != state.stage:
            source = machines.fetched(engine, run.folder, _best(folder, stage, state, run))
            state = next_stage(stage, state)
        state, carried = _one_stage(engine, stage, state, run, carried, source)
        if engine.any(run.stopping()):
            return _interrupted(folder, run, state)
        if not any(e["complete"] and e["step"] == state.progress.run_steps for e in state.evaluations):
            state = run.evaluate(stage, state, complete=True)
        if engine.any(run.stopping()):
            return _interrupted(folder, run, state)
        run.save(stage, replace(state, finished=stage is stages[-1]))
    return _end(folder, run, state, "finished")


def _best(folder: Path, stage: Stage, state: TrainingState, run: Run) -> Path | None:
    """The best checkpoint of the stages before, where a stage begins with it and it is not the newest one.

    Raises ConfigError where nothing was evaluated, and CheckpointError where it is damaged."""
    if stage.config.start_from == "last":
        return None
    if state.best is None:
        raise ConfigError(f"stages.{stage.name}.start_from is best, and nothing before was evaluated; expected a data "
                          "set with an eval_split. Give one, or start from the last step")
    run.settle()
    best = state.best["step"]
    return None if best == state.progress.run_steps else steps.checkpoints_of(folder) / steps.name_of(best)


def _one_stage(
    engine: Engine, stage: Stage, state: TrainingState, run: Run, carried: dict[str, torch.Tensor], found: Path | None
) -> tuple[TrainingState, dict[str, torch.Tensor]]:
    """Enters a stage and trains it; `carried` are the moments of the stage before it in this process, `found` is a
    checkpoint that holds others."""
    model, step = stage.assembly.model, state.progress.run_steps
    if carried and found:
        checkpoint.load_state(found)  # verifies it
        sharded.load_model(found, model, engine)
    if engine.shards:
        engine.wrap(model, compiled=stage.config.torch_compile)  # its parameters become other objects
    learning = trainable(model, stage.config)
    refuse_what_cannot_train(learning, stage.name)
    loss_before = probe_loss(stage, state, model, run) if carried else 0.0
    freeze_others(model, learning)
    wrapped = engine.wrap(model, compiled=stage.config.torch_compile)
    optimizer = build_optimizer(learning, stage.config)
    if found:
        kept, fresh = sharded.load_optimizer(found, optimizer, engine)
    else:
        kept, fresh = load_moments(optimizer, carried)
    if carried:
        loss_after = probe_loss(stage, state, wrapped, run)
        run.event(
            "switch",
            stage.name,
            step,
            loss_before=loss_before,
            loss_after=loss_after,
            moments_carried=kept,
            moments_fresh=fresh,
            start_from=found.name if found else "",
        )
        refuse_moved_loss(stage, loss_before, loss_after, exact=not (engine.bf16 or stage.config.torch_compile))
    numbers = derived(stage, model, engine)
    counted = numbers["trainable_parameters"]
    run.event("derived", stage.name, step, **numbers)
    run.event(
        "stage",
        stage.name,
        step,
        components=counted,
        trainable=sum(counted.values()),
        parameters=numbers["parameters"],
        ends=numbers["ends"],
        summary=model.summary() if hasattr(model, "summary") else [],
    )
    stage = with_frozen_cache(stage, run.config, engine, run.event, run.watchdog.beat)
    allocate_moments(optimizer)
    run.enter(stage, state, optimizer)
    run.prepare_saving(stage, learning)
    state = train(stage, state, wrapped, optimizer, run)
    run.save(stage, state)
    return state, moments(optimizer)


@torch.no_grad()
def probe_loss(stage: Stage, state: TrainingState, model: torch.nn.Module, run: Run) -> float:
    """The loss of the stage's first micro-batch in eval mode, on this rank."""
    place = next(micro_batches(stage.data.plan, state.position, run.engine.rank, run.engine.world))
    model.eval()
    with run.engine.autocast():
        terms = stage.task.loss(model, stage.data[place].to(run.engine.device)).terms
    return sum(float(term.weight * term.sum) / max(term.count, 1.0) for term in terms.values())


def refuse_moved_loss(stage: Stage, before: float, after: float, *, exact: bool) -> None:
    """A stage switch moves no number that it need not move: 1e-6 in fp32, 1 % where precision or kernels differ."""
    if abs(after - before) > (1e-6 if exact else 0.01) * max(1.0, abs(before)):
        raise ModelError(
            f"stage {stage.name}: the loss on the same batch moved from {before:.6g} to {after:.6g} at the switch; "
            "expected it unchanged. Something other than what trains was changed; please report this run"
        )


def _interrupted(folder: Path, run: Run, state: TrainingState) -> Outcome:
    message = f"saved; run the same command to go on from step {state.progress.run_steps}"
    return _end(folder, run, state, "interrupted", message)


def _end(folder: Path, run: Run, state: TrainingState, reason: str, message: str = "") -> Outcome:
    run.settle()
    run.event(
        "end",
        state.stage,
        state.progress.run_steps,
        reason=reason,
        message=message,
        seconds=time.monotonic() - run.started,
        evaluating_percent=run.share_of_evaluations,
    )
    return Outcome(folder=folder, reason=reason, step=state.progress.run_steps)
