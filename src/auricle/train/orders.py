"""Whether the order of the data is still the one that a checkpoint was made under, and what follows if it is not.

    outputs/RUN/order/<digest>/    what the plans of a stage follow from; a checkpoint names the one it was made under

The same order goes on at the same place. Another one (data or budget changed) is refused, or, with --allow-replan, the
rest of the epoch is planned anew over the utterances that it has not yet seen.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from auricle.core.errors import CheckpointError, RunFolderError
from auricle.data import streamed
from auricle.data.plan import settled
from auricle.data.replan import Order, Replanned
from auricle.store import directory
from auricle.train.checkpoint import SEEN, TrainingState
from auricle.train.stage import Stage

ORDERS = "order"


def keep_orders(folder: Path, stages: Sequence[Stage]) -> None:
    """Writes down what each stage's plans follow from: the corpus may be another one when a run goes on."""
    for order in (stage.data.order for stage in stages):
        directory.publish(folder / ORDERS / order.digest, order.save)


def take_up(
    folder: Path,
    stages: Sequence[Stage],
    state: TrainingState,
    checkpoint: Path,
    *,
    allowed: bool,
    event: Callable[..., Any],
) -> tuple[TrainingState, list[Stage]]:
    """The state, and the stages, that a start from `checkpoint` goes on with. Raises RunFolderError."""
    stage = next((stage for stage in stages if stage.name == state.stage), None)
    if stage is None:
        raise RunFolderError(
            f"{checkpoint}: stands in stage '{state.stage}', which this experiment does not have; expected one of "
            f"{', '.join(stage.name for stage in stages)}"
        )
    replanned = _earlier(checkpoint, state)
    if stage.data.order.digest != state.order:
        kept = _verified(folder / ORDERS / state.order)
        _refuse_streamed(folder, state, streamed.changes(stage.data.order, kept))
        before = Order.load(kept)
        changed = stage.data.order.changes(before)
        _refuse_unless(allowed, folder, state, changed)
        replanned = Replanned(epoch=state.position[0], seen=before.seen(state.position, state.skipped, replanned))
        state = replace(
            state, position=(replanned.epoch, 0), skipped=(), replanned_epoch=replanned.epoch,
            order=stage.data.order.digest,
        )  # fmt: skip
        event("replan", stage=stage.name, step=state.progress.run_steps, changes=changed, seen=len(replanned.seen))
    if replanned:
        stage = replace(stage, data=stage.data.with_replanned(replanned))
        state = replace(state, position=settled(stage.data.plan, state.position, state.skipped))
    return state, [stage if stage.name == other.name else other for other in stages]


def _earlier(checkpoint: Path, state: TrainingState) -> Replanned | None:
    """What the checkpoint's epoch had seen when its rest was planned anew."""
    if state.replanned_epoch is None or state.replanned_epoch != state.position[0]:
        return None
    return Replanned(epoch=state.replanned_epoch, seen=np.load(checkpoint / SEEN))


def _verified(order: Path) -> Path:
    if wrong := directory.problems(order):
        raise CheckpointError(
            f"{order}: {wrong[0]}; without it nobody can tell what this epoch has seen. Fetch the run folder again "
            "from a mirror, undo the change of the data, or start anew with --fresh"
        )
    return order


def _refuse_streamed(folder: Path, state: TrainingState, changed: list[str]) -> None:
    if changed:
        raise RunFolderError(
            f"run folder '{folder}': the streamed training data or its order is not that of step "
            f"{state.progress.run_steps} ({'; '.join(changed)}), and what was not listed cannot be planned anew. Undo "
            "the change, or start anew from these weights with --fresh and training.pretrained_model_path"
        )


def _refuse_unless(allowed: bool, folder: Path, state: TrainingState, changed: list[str]) -> None:
    if not allowed:
        raise RunFolderError(
            f"run folder '{folder}': the training data or its order is not that of step {state.progress.run_steps} "
            f"({'; '.join(changed)}); the epoch in hand would meet utterances twice or never. Undo the change, plan "
            "anew what the epoch has not yet seen with --allow-replan, or start anew with --fresh"
        )
