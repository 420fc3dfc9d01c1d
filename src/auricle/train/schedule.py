"""Learning-rate schedules as pure functions of the step: nothing to save, nothing to restore.

A schedule gives a factor of the base rate. `step` counts the stage's optimizer steps from 0, `fraction` is how much
of the stage is done before the step (0 ≤ fraction < 1), in the unit in which the stage ends.
"""

import math
from collections.abc import Callable

from auricle.core.config import TrainingConfig
from auricle.core.extents import Progress


def cosine(done: float, _floor: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))


def cosine_with_min_lr(done: float, floor: float) -> float:
    return floor + (1 - floor) * cosine(done, 0.0)


def linear(done: float, _floor: float) -> float:
    return 1.0 - done


def constant_with_warmup(_done: float, _floor: float) -> float:
    return 1.0


DECAYS: dict[str, Callable[[float, float], float]] = {
    "cosine": cosine, "cosine_with_min_lr": cosine_with_min_lr, "linear": linear,
    "constant_with_warmup": constant_with_warmup, "one_cycle": cosine,
}

ONE_CYCLE_START = 1 / 25
"""OneCycle begins its warm-up at this fraction of the peak (Smith & Topin 2018; the factor 25 of common practice)."""
ONE_CYCLE_WARMUP = 0.3
"""Share of the cycle that rises, where no warm-up is given."""


def fraction_done(config: TrainingConfig, progress: Progress) -> float:
    """0–1 of the stage, by whichever of its ends is nearest."""
    return max(extent.fraction(progress) for extent in config.extents)


def factor(config: TrainingConfig, step: int, fraction: float, total_steps: int) -> float:
    """What the base rate is multiplied with at a step; never 0 at the first one. `total_steps` may be an estimate."""
    warmup = warmup_steps(config, total_steps)
    start = ONE_CYCLE_START if config.lr_scheduler_type == "one_cycle" else 0.0
    if step < warmup:
        return start + (1 - start) * (step + 1) / warmup
    begun = warmup / max(total_steps, warmup + 1)
    done = min(1.0, max(0.0, (fraction - begun) / (1 - begun)))
    return DECAYS[config.lr_scheduler_type](done, config.min_lr_rate)


def warmup_steps(config: TrainingConfig, total_steps: int) -> int:
    """`warmup_steps`, else `warmup_ratio` of the stage; OneCycle rises for 30 % of it where neither is given."""
    ratio = config.warmup_ratio or (ONE_CYCLE_WARMUP if config.lr_scheduler_type == "one_cycle" else 0.0)
    return config.warmup_steps or round(ratio * total_steps)
