"""What a stage is made of, and the numbers that follow from it: computed from the objects, never typed.

A stage is data: which components train, at which rate, on what, until when. Entering one freezes the rest, builds the
optimizer (moments carried by parameter name) and checks that the loss on a batch did not move.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from auricle.core.config import TrainingConfig
from auricle.core.errors import ConfigError
from auricle.data.loader import TrainingSet
from auricle.data.plan import Budget
from auricle.models.parts.weights import component_tensors
from auricle.tasks import Task
from auricle.tasks.parts.assembly import Assembly
from auricle.train.datasets import Judged
from auricle.train.engine import Engine
from auricle.train.optim import moment_shapes, trainable


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage, ready to train."""

    name: str
    number: int
    config: TrainingConfig
    assembly: Assembly
    """The run's model with this stage's task and tokenizer."""
    data: TrainingSet
    total_steps: int
    """Exact where the stage ends by steps, else estimated from the first epoch's plan."""
    listed: tuple[Judged, ...] = ()
    """What it trains on, as far as that is listed and not streamed."""
    evaluations: tuple[Judged, ...] = ()
    """What it is evaluated on."""
    judged_as_before: bool = True
    """By the same task on the same data as the stage before it: only then an error rate means the same in both."""

    @property
    def task(self) -> Task:
        return self.assembly.task


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
    steps, hours = data.steps_per_epoch, data.hours_per_epoch
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
        "utterances": len(data.rows), "audio_hours": round(data.audio_hours, 3),
        "steps_per_epoch": data.steps_per_epoch, "total_steps": stage.total_steps,
        "ends": " or ".join(str(extent) for extent in stage.config.extents),
        "reproducible": all(extent.reproducible for extent in stage.config.extents),
        "epochs": round(stage.total_steps / data.steps_per_epoch, 2),
        "micro_batches_per_step": plan.micro_batches_per_step,
        "gradient_accumulation_steps": -(-plan.micro_batches_per_step // engine.world),
        "utterances_per_step": round(len(plan.rows) / plan.steps, 1),
        "audio_seconds_per_step": round(float(lengths.sum()) / plan.steps, 1),
        "padding_percent": round(100 * data.padding(0), 2),
        **({"estimated_from": data.estimated_from} if data.estimated_from else {}),
        "parameters": total, "trainable_parameters": counted,
        **({"loss_floors": dict(floors)} if (floors := getattr(stage.task, "floors", {})) else {}),
        **_sizes(model, learning, stage.config),
    }


def _sizes(model: nn.Module, learning: dict[str, list], config: TrainingConfig) -> dict[str, int]:
    """Bytes of a checkpoint: weights of the components that learn, and the moments of each parameter that does. On
    disk are the newest ones, the best and the one being written, and once what does not learn and no hub has."""
    learning_ones = [parameter for parameters in learning.values() for _, parameter in parameters]
    learned = {id(parameter) for parameter in learning_ones}
    checkpoint = sum(kept.nbytes for one in learning_ones for kept in moment_shapes(config.optim, one).values())
    once = 0
    for component, tensors in component_tensors(model).items():
        size = sum(tensor.nbytes for tensor in tensors.values())
        if any(id(tensor) in learned for tensor in tensors.values()):
            checkpoint += size
        elif component not in getattr(model, "hub_parts", {}):
            once += size
    return {"checkpoint_bytes": checkpoint, "disk_bytes": checkpoint * (config.save_total_limit + 2) + once}


def refuse_what_cannot_train(learning: dict[str, list[tuple[str, nn.Parameter]]], stage: str) -> None:
    """Raises ConfigError where nothing trains, and where something would that is kept in half precision: its updates
    are smaller than what such a number can tell apart."""
    if not any(learning.values()):
        raise ConfigError(f"stage {stage}: no parameter trains; name components in training.trainable")
    for component, parameters in learning.items():
        kind = next((p.dtype for _, p in parameters if p.dtype in (torch.bfloat16, torch.float16)), None)
        if kind is not None:
            raise ConfigError(f"stage {stage}: component '{component}' is to train, and its weights are "
                              f"{str(kind).removeprefix('torch.')}; expected float32 (with bf16 autocast over it). Set "
                              f"its dtype in the model's block, or leave it out of training.trainable")
