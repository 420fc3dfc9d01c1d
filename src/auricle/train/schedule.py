"""Learning-rate schedules as pure functions of the step: nothing to save, nothing to restore.

A schedule gives a factor of the base rate from the stage's progress before a step. Decays go by how much of the stage
is done, in the unit in which it ends; eden goes by steps and epochs, whenever that may be.
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

STARTS = {"one_cycle": 1 / 25, "eden": 0.5}
"""What the warm-up begins at, as a fraction of the rate; else 0. OneCycle: Smith & Topin 2018, with the factor 25 of
common practice. Eden: Yao et al. 2024, §3.5."""
ONE_CYCLE_WARMUP = 0.3
"""Share of the cycle that rises, where no warm-up is given."""
EDEN_WARMUP = 500
"""Steps that rise, where no warm-up is given."""


def fraction_done(config: TrainingConfig, progress: Progress) -> float:
    """0–1 of the stage, by whichever of its ends is nearest."""
    return max(extent.fraction(progress) for extent in config.extents)


def eden(config: TrainingConfig, progress: Progress) -> float:
    """Yao et al. 2024, eq. 8, without its warm-up. Epochs count in parts, where the paper goes from one to the next."""
    steps, epochs = progress.steps / config.eden_steps, progress.epochs / config.eden_epochs
    return ((steps**2 + 1) * (epochs**2 + 1)) ** -0.25


def factor(config: TrainingConfig, progress: Progress, total_steps: int) -> float:
    """What the base rate is multiplied with at the next step; never 0 at the first one. `total_steps` of the stage may
    be an estimate."""
    kind, warmup = config.lr_scheduler_type, warmup_steps(config, total_steps)
    start = STARTS.get(kind, 0.0)
    rise = start + (1 - start) * (progress.steps + 1) / warmup if progress.steps < warmup else 1.0
    if kind == "eden":
        return rise * eden(config, progress)
    if progress.steps < warmup:
        return rise
    begun = warmup / max(total_steps, warmup + 1)
    done = min(1.0, max(0.0, (fraction_done(config, progress) - begun) / (1 - begun)))
    return DECAYS[kind](done, config.min_lr_rate)


def warmup_steps(config: TrainingConfig, total_steps: int) -> int:
    """`warmup_steps`, else `warmup_ratio` of the stage. Where neither is given, OneCycle rises for 30 % of it and Eden
    for 500 steps."""
    if config.lr_scheduler_type == "eden" and not (config.warmup_steps or config.warmup_ratio):
        return EDEN_WARMUP
    ratio = config.warmup_ratio or (ONE_CYCLE_WARMUP if config.lr_scheduler_type == "one_cycle" else 0.0)
    return config.warmup_steps or round(ratio * total_steps)
