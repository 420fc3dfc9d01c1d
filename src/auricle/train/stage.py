"""What a stage is made of, and the numbers that follow from it: computed from the objects, never typed.

A stage is data: which components train, at which rate, on what, until when. Entering one freezes the rest, builds the
optimizer (moments carried by parameter name) and checks that the loss on a batch did not move.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from auricle.core.config import TrainingConfig
from auricle.core.errors import ConfigError
from auricle.data.loader import TrainingSet
from auricle.data.plan import Budget
from auricle.train.engine import Engine
from auricle.train.optim import trainable


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage, ready to train."""

    name: str
    number: int
    config: TrainingConfig
    data: TrainingSet
    total_steps: int
    """Exact where the stage ends by steps, else estimated from the first epoch's plan."""


def budget(config: TrainingConfig, world: int, mean_seconds: float) -> Budget:
    """The global truth of a step: how many micro-batches it has over all ranks.

    An effective batch decides alone; only where none is given, accumulation × this start's world size does.
    """
    size, seconds = config.per_device_train_batch_size, config.batch_seconds
    typical_size = min(size or np.inf, seconds / mean_seconds if seconds else np.inf)
    if config.effective_batch_seconds is not None:
        micro_batches = round(config.effective_batch_seconds / (seconds or typical_size * mean_seconds))
    elif config.effective_batch_size is not None and seconds is None:
        # 20 utterances in micro-batches of at most 16 are two of 10
        micro_batches = -(-config.effective_batch_size // size)
        size = -(-config.effective_batch_size // micro_batches)
    elif config.effective_batch_size is not None:
        micro_batches = round(config.effective_batch_size / typical_size)
    else:
        micro_batches = config.gradient_accumulation_steps * world
    return Budget(seconds=seconds, utterances=size, micro_batches=max(1, micro_batches))


def total_steps(config: TrainingConfig, data: TrainingSet) -> int:
    """Steps until the first of the stage's ends; wall clock alone counts as one epoch, for the schedule's warm-up."""
    steps = data.whole_plan(0).steps
    hours = float(data.rows.seconds.sum()) / 3600
    candidates = []
    for extent in config.extents:
        per_unit = {"steps": 1.0, "epochs": steps, "audio_hours": steps / max(hours, 1e-9)}.get(extent.unit)
        if per_unit is not None:
            candidates.append(int(np.ceil(extent.amount * per_unit)))
    return max(1, min(candidates, default=steps))


def derived(stage: Stage, model: nn.Module, engine: Engine) -> dict[str, Any]:
    """The numbers that a user should see before money is spent."""
    plan, data = stage.data.whole_plan(0), stage.data
    learning = trainable(model, stage.config)
    counted = {name: sum(p.numel() for _, p in parameters) for name, parameters in learning.items()}
    total = sum(p.numel() for p in model.parameters())
    lengths = data.lengths(0, plan.rows, plan.occurrences)
    return {
        "utterances": len(data.rows), "audio_hours": round(float(data.rows.seconds.sum()) / 3600, 3),
        "steps_per_epoch": plan.steps, "total_steps": stage.total_steps,
        "ends": " or ".join(str(extent) for extent in stage.config.extents),
        "reproducible": all(extent.reproducible for extent in stage.config.extents),
        "epochs": round(stage.total_steps / plan.steps, 2),
        "micro_batches_per_step": plan.micro_batches_per_step,
        "gradient_accumulation_steps": -(-plan.micro_batches_per_step // engine.world),
        "utterances_per_step": round(len(plan.rows) / plan.steps, 1),
        "audio_seconds_per_step": round(float(lengths.sum()) / plan.steps, 1),
        "padding_percent": round(100 * data.padding(0), 2),
        "parameters": total, "trainable_parameters": counted,
        # fp32 weights, and two moments for each trained one; the newest ones, the best and the one being written
        "checkpoint_bytes": 4 * (total + 2 * sum(counted.values())),
        "disk_bytes": 4 * (total + 2 * sum(counted.values())) * (stage.config.save_total_limit + 2),
    }


def refuse_nothing_to_train(counted: dict[str, int], stage: str) -> None:
    if not sum(counted.values()):
        raise ConfigError(f"stage {stage}: no parameter trains; name components in training.trainable")
