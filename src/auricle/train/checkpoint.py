"""What a training state is, and how it becomes a checkpoint: a verified directory that can also be transcribed with.

    checkpoints/step-000000500/
        config.json, model.safetensors, tokenizer …   the model folder
        optimizer.safetensors                         moments by parameter name
        trainer.json                                  where training stands
        CHECKSUMS.json                                size and hash of each

Randomness needs no state: dropout is seeded by the step (see the loop), data order and augmentation are pure functions.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from auricle.core.errors import CheckpointError
from auricle.core.extents import Progress
from auricle.store import directory
from auricle.train.optim import load_moments, moments

PREFIX = "step-"


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """Where training stands, between two steps."""

    stage: str
    progress: Progress = field(default_factory=Progress)
    position: tuple[int, int] = (0, 0)
    """(epoch, step within it) of the next step."""
    best: dict | None = None
    """The best evaluation so far: {"metric": …, "value": …, "step": …}."""
    earlier_hours: float = 0.0
    """Wall-clock hours of the stages before this one."""
    finished: bool = False

    @classmethod
    def from_dict(cls, values: dict) -> "TrainingState":
        return cls(**{**values, "progress": Progress(**values["progress"]), "position": tuple(values["position"])})


def path_of(run_folder: Path, step: int) -> Path:
    return run_folder / "checkpoints" / f"{PREFIX}{step:09d}"


def save(
    run_folder: Path, state: TrainingState, optimizer: torch.optim.Optimizer, write_model: Callable[[Path], None]
) -> Path:
    """Publishes the checkpoint of `state`, then makes its model the run folder's model if it is the best so far."""

    def write(folder: Path) -> None:
        write_model(folder)
        save_file(moments(optimizer), folder / "optimizer.safetensors")
        (folder / "trainer.json").write_text(json.dumps(asdict(state), indent=1), encoding="utf-8")

    step = state.progress.run_steps
    target = path_of(run_folder, step)
    if target.exists() and _differs(target, state):
        shutil.rmtree(target)  # the same step with another state: a stage's end that became the next one's start
    directory.publish(target, write)
    directory.write_text(run_folder / "latest.json", json.dumps({"step": step, "checkpoint": target.name}))
    return target


def _differs(target: Path, state: TrainingState) -> bool:
    return json.loads((target / "trainer.json").read_text(encoding="utf-8")) != json.loads(json.dumps(asdict(state)))


def expose(run_folder: Path, checkpoint: Path) -> None:
    """Makes the checkpoint's model the one at the run folder's root, file by file, without copying weights."""
    for path in checkpoint.iterdir():
        if path.name not in ("optimizer.safetensors", "trainer.json", directory.CHECKSUMS):
            aside = run_folder / f"{directory.ASIDE}{path.name}"
            aside.unlink(missing_ok=True)
            try:
                aside.hardlink_to(path)
            except OSError:  # a file system without hard links
                shutil.copyfile(path, aside)
            aside.replace(run_folder / path.name)


def all_steps(run_folder: Path) -> list[Path]:
    """Published checkpoints, oldest first."""
    return sorted((run_folder / "checkpoints").glob(f"{PREFIX}*"))


def newest(run_folder: Path, report: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that verifies. A damaged one is set aside under the name `damaged-…` and reported."""
    for path in reversed(all_steps(run_folder)):
        wrong = directory.problems(path)
        if not wrong:
            return path
        path.rename(path.with_name(f"damaged-{path.name}"))
        report(f"checkpoint {path.name} is damaged ({wrong[0]}) and was set aside; trying the one before it")
    return None


def prune(run_folder: Path, keep: int, best: dict | None) -> None:
    """Removes old checkpoints: the newest `keep` and the best stay."""
    kept = {f"{PREFIX}{best['step']:09d}"} if best else set()
    for path in all_steps(run_folder)[:-keep]:
        if path.name not in kept:
            shutil.rmtree(path)


def load_state(checkpoint: Path) -> TrainingState:
    """Raises CheckpointError when the folder is no checkpoint or does not verify."""
    if wrong := directory.problems(checkpoint):
        raise CheckpointError(
            f"{checkpoint}: {wrong[0]}; expected a checkpoint folder such as checkpoints/step-000000500. "
            "Name another one, or leave resume_from_checkpoint out to use the newest good one"
        )
    return TrainingState.from_dict(json.loads((checkpoint / "trainer.json").read_text(encoding="utf-8")))


def load_optimizer(checkpoint: Path, optimizer: torch.optim.Optimizer) -> tuple[int, int]:
    """→ (parameters whose moments were carried, parameters that start afresh)."""
    return load_moments(optimizer, load_file(checkpoint / "optimizer.safetensors"))
