"""How a stage goes on after a step that could not be made: from the last good checkpoint, or in smaller pieces."""

import os
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from auricle.core.errors import Diverged, Preempted
from auricle.core.extents import Progress
from auricle.data.plan import settled
from auricle.store import steps
from auricle.train import checkpoint, machines, memory, sharded
from auricle.train.checkpoint import TrainingState
from auricle.train.loop import BadSteps, OutOfMemory, run_stage
from auricle.train.orders import take_up
from auricle.train.run import Run
from auricle.train.schedule import fraction_done
from auricle.train.stage import Stage

MAX_ROLLBACKS = 3


def next_stage(stage: Stage, state: TrainingState) -> TrainingState:
    """Where a stage begins that follows the one that `state` belongs to."""
    return TrainingState(
        stage=stage.name,
        order=stage.data.order.digest,
        progress=Progress(run_steps=state.progress.run_steps),
        evaluations=state.evaluations if stage.judged_as_before else (),
        best=state.best if stage.judged_as_before else None,
        earlier_hours=state.earlier_hours + state.progress.wall_hours,
    )


def train(stage: Stage, state: TrainingState, model: nn.Module, optimizer: Any, run: Run) -> TrainingState:
    """Trains the stage to its end or until the run is asked to stop, over what a stage can go on from."""
    if fraction_done(stage.config, state.progress) >= 1.0:
        return state
    _fit(stage, state, model, run)
    while True:
        try:
            return run_stage(stage, state, model, optimizer, stage.task, run)
        except OutOfMemory as full:
            state = _split(stage, full, run)
        except BadSteps as bad:
            state = _roll_back(stage, bad, optimizer, run)


def _fit(stage: Stage, state: TrainingState, model: nn.Module, run: Run) -> None:
    """Before the first step: the worst micro-batch fits, or micro-batches are split until it does."""
    while True:
        message = _too_much(stage, model, run)
        if not run.engine.any(message is not None):
            return
        if run.engine.is_main:
            pieces = memory.split_more(run.folder, stage, message or "on another rank")
            run.event("split", stage.name, state.progress.run_steps, pieces=pieces, message=message)
        run.engine.wait()


def _too_much(stage: Stage, model: nn.Module, run: Run) -> str | None:
    try:
        memory.try_worst(stage, model, stage.task, run.engine, run.split(stage))
    except torch.OutOfMemoryError as error:
        model.zero_grad(set_to_none=True)
        return str(error).partition("\n")[0]
    return None


def _split(stage: Stage, full: OutOfMemory, run: Run) -> TrainingState:
    """Goes on from the same step with micro-batches in more pieces; with several ranks by a new start, because the
    others wait in an exchange that this one will not come to."""
    pieces = memory.split_more(run.folder, stage, str(full))
    run.event("split", stage.name, full.state.progress.run_steps, pieces=pieces, message=str(full))
    if run.engine.world > 1:
        os._exit(Preempted.exit_code)
    return full.state


def _roll_back(stage: Stage, bad: BadSteps, optimizer: Any, run: Run) -> TrainingState:
    """Returns to the newest good checkpoint and leaves the bad places of the plan out. Raises Diverged."""
    run.settle()
    found, step = None, bad.state.progress.run_steps
    if run.engine.is_main:
        found = steps.newest(run.folder, lambda message: run.event("alarm", stage.name, step, message=message))
    found = machines.fetched(run.engine, run.folder, run.engine.from_main(found))
    if found is None or bad.state.rollbacks >= MAX_ROLLBACKS:
        why = "and there is no checkpoint to return to" if found is None else f"after {MAX_ROLLBACKS} returns"
        raise Diverged(
            f"stage {stage.name}: {bad} (the last one step {step}) {why}; the utterances are in the bad_step events. "
            "Starting again will not help: lower learning_rate, or look at these utterances with `auricle data inspect`"
        )
    state = checkpoint.load_state(found)
    sharded.load_model(found, stage.assembly.model, run.engine)
    optimizer.state.clear()
    sharded.load_optimizer(found, optimizer, run.engine)
    if state.stage == stage.name:
        state, _ = take_up(run.folder, [stage], state, found, allowed=True, event=run.event)
    else:
        state = next_stage(stage, state)
    skipped = tuple(sorted({*state.skipped, *bad.places}))
    position = settled(stage.data.plan, state.position, skipped)
    state = replace(state, position=position, skipped=skipped, rollbacks=bad.state.rollbacks + 1)
    run.event(
        "rollback",
        stage.name,
        step,
        to_step=state.progress.run_steps,
        checkpoint=found.name,
        skipped=[list(place) for place in bad.places],
        rollbacks=state.rollbacks,
    )
    resumed(run, state, found.name)
    run.enter(stage, state, optimizer)
    return state


def resumed(run: Run, state: TrainingState, found: str | None) -> None:
    """Says which step training returns to: readers skip what that supersedes."""
    epoch, epoch_step = state.position
    run.event(
        "resume", state.stage, state.progress.run_steps, epoch=epoch, epoch_step=epoch_step, checkpoint=found
    )
