"""What a training state is, and what of it lies in a checkpoint: a verified directory that can be transcribed with.

    checkpoints/step-000000500/
        config.json, encoder.safetensors …, tokenizer …   the model folder
        optimizer.safetensors                             moments by parameter name
        trainer.json                                      where training stands
        seen.npy                                          what an epoch had seen when its rest was planned anew
        CHECKSUMS.json                                    size and hash of each

Randomness needs no state: dropout is seeded by the step (see the loop), data order and augmentation are pure functions.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file

from auricle.core.errors import CheckpointError
from auricle.core.extents import Progress
from auricle.data.plan import Position
from auricle.store import directory
from auricle.train.optim import load_moments

OPTIMIZER, TRAINER, SEEN = "optimizer.safetensors", "trainer.json", "seen.npy"


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """Where training stands, between two steps."""

    stage: str
    progress: Progress = field(default_factory=Progress)
    position: Position = (0, 0)
    """(epoch, step within it) of the next step."""
    order: str = ""
    """Digest of the order that the position is one of (see train/orders.py)."""
    skipped: tuple[Position, ...] = ()
    """Places of the stage's plan that a roll-back leaves out."""
    rollbacks: int = 0
    """Of this stage."""
    replanned_epoch: int | None = None
    """The epoch whose rest was planned anew, over what `seen.npy` does not hold."""
    evaluations: tuple[dict, ...] = ()
    """Each evaluation so far: {"step": …, "metric": …, "value": …, "complete": …}."""
    best: dict | None = None
    """The best of them."""
    earlier_hours: float = 0.0
    """Wall-clock hours of the stages before this one."""
    finished: bool = False

    @classmethod
    def from_dict(cls, values: dict) -> "TrainingState":
        changed = {
            "progress": Progress(**values["progress"]),
            "position": tuple(values["position"]),
            "skipped": tuple(map(tuple, values["skipped"])),
            "evaluations": tuple(values["evaluations"]),
        }
        return cls(**{**values, **changed})

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)


def load_state(checkpoint: Path) -> TrainingState:
    """Raises CheckpointError when the folder is no checkpoint or does not verify."""
    if wrong := directory.problems(checkpoint):
        raise CheckpointError(
            f"{checkpoint}: {wrong[0]}; expected a checkpoint folder such as checkpoints/step-000000500. "
            "Name another one, or leave resume_from_checkpoint out to use the newest good one"
        )
    return TrainingState.from_dict(json.loads((checkpoint / TRAINER).read_text(encoding="utf-8")))


def load_optimizer(checkpoint: Path, optimizer: torch.optim.Optimizer) -> tuple[int, int]:
    """→ (parameters whose moments were carried, parameters that start afresh)."""
    return load_moments(optimizer, load_file(checkpoint / OPTIMIZER))
