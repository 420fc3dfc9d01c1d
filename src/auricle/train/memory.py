"""What does not fit is found before step 1, and what still does not fit is split.

The plan never changes: where a micro-batch is too large for the device it is passed through in `split` pieces, whose
sums and counts add up to the same step. How many pieces a stage needs on this machine is kept in split.json.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from auricle.core.errors import AuricleError
from auricle.data.plan import MicroBatch, split_micro_batch
from auricle.store.directory import write_text
from auricle.tasks import Task
from auricle.train.engine import Engine
from auricle.train.optim import train_mode
from auricle.train.stage import Stage

SPLIT = "split.json"


def split_of(folder: Path, stage: str) -> int:
    """Pieces that a micro-batch of the stage is passed through in; 1 is whole."""
    return _read(folder).get(stage, 1)


def _read(folder: Path) -> dict[str, int]:
    try:
        return json.loads((folder / SPLIT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def split_more(folder: Path, stage: Stage, message: str) -> int:
    """Doubles the pieces, and keeps that. Raises AuricleError where the pieces already are single utterances."""
    pieces, largest = split_of(folder, stage.name), int(np.diff(stage.data.whole_plan(0).starts).max())
    if pieces >= largest:
        raise AuricleError(
            f"stage {stage.name}: one utterance alone does not fit into the device's memory ({message}); "
            "lower data.max_seconds or the model's size, or take a larger device"
        )
    write_text(folder / SPLIT, json.dumps({**_read(folder), stage.name: 2 * pieces}))
    return 2 * pieces


def agree(folder: Path, engine: Engine) -> None:
    """A machine with a folder of its own may have found, before it ended, that it needs more pieces."""
    if engine.machines == 1:
        return
    pieces: dict[str, int] = {}
    for there in engine.gather([_read(folder)]):
        pieces |= {stage: max(count, pieces.get(stage, 1)) for stage, count in there.items()}
    if engine.is_main and pieces:
        write_text(folder / SPLIT, json.dumps(pieces))


def worst_micro_batches(stage: Stage) -> list[MicroBatch]:
    """The micro-batches of the first plan that need most: by padded audio, and by the square of its length."""
    plan = stage.data.whole_plan(0)
    lengths = stage.data.lengths(0, plan.rows, plan.occurrences)
    longest, sizes = np.maximum.reduceat(lengths, plan.starts[:-1]), np.diff(plan.starts)
    places = dict.fromkeys([int(np.argmax(longest * sizes)), int(np.argmax(longest**2 * sizes))])
    return [
        MicroBatch(
            epoch=0,
            step=index // plan.micro_batches_per_step,
            rows=tuple(plan.rows[plan.members(index)].tolist()),
            occurrences=tuple(plan.occurrences[plan.members(index)].tolist()),
            last=False,
        )
        for index in places
    ]


def try_worst(stage: Stage, model: nn.Module, task: Task, engine: Engine, split: int) -> None:
    """Passes the worst micro-batches through the model, forth and back; no weight, buffer, moment or plan is touched.

    Raises torch.OutOfMemoryError where one does not fit.
    """
    train_mode(model)
    with _unchanged(model.buffers()):
        _pass_worst(stage, model, task, engine, split)


@contextlib.contextmanager
def _unchanged(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Running statistics are learned by passing something through."""
    before = [(tensor, tensor.clone()) for tensor in tensors]
    try:
        yield
    finally:
        for tensor, value in before:
            tensor.copy_(value)


def _pass_worst(stage: Stage, model: nn.Module, task: Task, engine: Engine, split: int) -> None:
    for whole in worst_micro_batches(stage):
        piece = split_micro_batch(whole, split)[0]  # the first is the largest
        batch = stage.data[piece].to(engine.device)
        with engine.accumulating(model, last=False):
            with engine.autocast():
                terms: Any = task.loss(model, batch).terms
            engine.backward(sum(term.weight * term.sum / max(term.count, 1.0) for term in terms.values()))
        model.zero_grad(set_to_none=True)
