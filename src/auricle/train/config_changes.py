"""What may change in the configuration of a run that goes on, and under which condition.

    operational   how it is run, logged and saved: free
    extending     when it ends: free where the rate does not depend on the end, else with --extend
    planning      what a step or an epoch consists of: with --allow-replan
    identity      everything else: a change is another experiment
"""

from dataclasses import dataclass
from enum import Enum
from itertools import zip_longest
from typing import Any

from auricle.core.config import TrainingConfig, training_keys
from auricle.core.extents import Progress
from auricle.train.schedule import factor, fraction_done


class Kind(Enum):
    OPERATIONAL = "operational"
    EXTENDING = "extending"
    PLANNING = "planning"
    IDENTITY = "identity"


TRAINING_KEYS: dict[Kind, frozenset[str]] = {
    Kind.OPERATIONAL: frozenset({
        "run_name", "output_dir", "resume_from_checkpoint", "device", "bf16", "torch_compile", "fsdp",
        "dataloader_num_workers", "per_device_eval_batch_size", "logging_steps", "eval_steps", "eval_max_seconds",
        "metric_for_best_model", "save_steps", "save_minutes", "save_total_limit", "save_keep_every", "max_bad_steps",
        "hang_seconds", "cache_frozen", "hub_model_id", "report_to", "price_per_hour", "ddp_timeout",
    }),
    Kind.EXTENDING: frozenset({"max_steps", "num_train_epochs", "max_audio_hours", "max_wall_hours"}),
    Kind.PLANNING: frozenset({
        "datasets", "per_device_train_batch_size", "batch_seconds", "effective_batch_size",
        "effective_batch_seconds", "gradient_accumulation_steps",
    }),
    Kind.IDENTITY: frozenset({
        "seed", "trainable", "pretrained_model_path", "start_from", "learning_rate", "learning_rates",
        "lr_scheduler_type", "min_lr_rate", "eden_steps", "eden_epochs", "warmup_steps", "warmup_ratio", "optim",
        "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm",
    }),
}
"""Keys of `training`, and of a stage's own part of it. Every key is of one kind."""

OTHER_KEYS = {
    "data.prepared_dir": Kind.OPERATIONAL,
    "data.max_rejected": Kind.OPERATIONAL,
    "data.datasets": Kind.PLANNING,
    "data.bucket_window": Kind.PLANNING,
    "data.max_train_samples": Kind.PLANNING,
    "data.min_seconds": Kind.PLANNING,
    "data.max_seconds": Kind.PLANNING,
    "evaluation": Kind.OPERATIONAL,
    "mirror": Kind.OPERATIONAL,
    "remote": Kind.OPERATIONAL,
}
"""Parts of an experiment beside `training`, with all that is below them; what is not named here is identity."""

ABSENT = "not set"


@dataclass(frozen=True, kw_only=True)
class Change:
    """One key that differs, with its dots: training.seed, stages.adapt.learning_rate."""

    key: str
    old: Any
    new: Any
    kind: Kind

    def __str__(self) -> str:
        return f"{self.key} was {_shown(self.old)}, is {_shown(self.new)}"


def _shown(value: Any) -> str:
    return ABSENT if value is ABSENT else repr(value)


def kind_of(key: str) -> Kind:
    """The kind of a key with its dots."""
    top, *below = key.split(".")
    if below and (top == "training" or (top == "stages" and len(below) > 1)):
        name = below[0] if top == "training" else below[1]
        return next((kind for kind, names in TRAINING_KEYS.items() if name in names), Kind.IDENTITY)
    return next((kind for part, kind in OTHER_KEYS.items() if f"{key}.".startswith(f"{part}.")), Kind.IDENTITY)


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    """What differs between two experiments, each as plain JSON values, by key."""
    before, after = _flat(old), _flat(new)
    differing = [
        Change(key=key, old=before.get(key, ABSENT), new=after.get(key, ABSENT), kind=kind_of(key))
        for key in sorted(before.keys() | after.keys())
        if before.get(key, ABSENT) != after.get(key, ABSENT)
    ]
    return _stage_order(list(old["stages"]), list(new["stages"]), differing)


def _stage_order(old: list[str], new: list[str], found: list[Change]) -> list[Change]:
    """Stages added behind the others extend the run; any other change of which stages there are is identity."""
    if old == new:
        return found
    if not old or any(was not in (None, now) or now is None for was, now in zip_longest(old, new)):
        without = [change for change in found if change.key.split(".")[0] != "stages"]
        return [Change(key="stages", old=old, new=new, kind=Kind.IDENTITY), *without]
    added = tuple(f"stages.{name}" for name in new[len(old) :])
    without = [change for change in found if not f"{change.key}.".startswith(tuple(f"{name}." for name in added))]
    return [*without, *(Change(key=name, old=ABSENT, new="added", kind=Kind.EXTENDING) for name in added)]


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict) or not values:
        return {prefix: values}
    return {
        key: value
        for name, inner in values.items()
        for key, value in _flat(inner, f"{prefix}.{name}" if prefix else name).items()
    }


def moved_rate(old: dict[str, Any], new: dict[str, Any], stage: str, progress: Progress) -> str | None:
    """How changed ends of `stage` move its rate at the point reached, as the end of a sentence; None where neither that
    rate nor the rest of the schedule depends on the ends, or where they are the same."""
    before, after = _stage_config(old, stage), _stage_config(new, stage)
    if before.extents == after.extents or _knows_no_end(after):
        return None
    was, would = _rate(before, progress), _rate(after, progress)
    if was == would:
        return f"at step {progress.steps} the rate stays {was:.3g}, but the rest of {after.lr_scheduler_type} changes"
    return f"at step {progress.steps} the rate would jump from {was:.3g} to {would:.3g} ({after.lr_scheduler_type})"


def _stage_config(experiment: dict[str, Any], stage: str) -> TrainingConfig:
    own = experiment["stages"][stage] if experiment["stages"] else {}
    return TrainingConfig.model_validate({**experiment["training"], **training_keys(own)})


def _knows_no_end(config: TrainingConfig) -> bool:
    in_steps = config.warmup_steps > 0 or config.warmup_ratio == 0
    return config.lr_scheduler_type in ("constant_with_warmup", "eden") and in_steps


def _rate(config: TrainingConfig, progress: Progress) -> float:
    """The stage's length in steps follows from the steps made and the fraction they are."""
    fraction = fraction_done(config, progress)
    total_steps = max(1, round(progress.steps / fraction)) if fraction else 1
    return config.learning_rate * factor(config, progress, total_steps)
