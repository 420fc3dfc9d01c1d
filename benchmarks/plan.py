"""Padding of the default plan beside random batches, and what planning a large epoch costs."""

import resource
import subprocess
import sys
import time

import numpy as np

from auricle.core.config import DataConfig
from auricle.data.plan import Budget, plan
from benchmarks.results import Figure, store

BUDGET = Budget(seconds=120.0, micro_batches=4)
WINDOW = DataConfig.model_fields["bucket_window"].default


def durations(count: int) -> np.ndarray:
    """Log-normal seconds: median 6, σ 0.6, cut to 0.5–30."""
    return np.clip(np.random.default_rng(0).lognormal(np.log(6.0), 0.6, count), 0.5, 30.0)


def random_padding(lengths: np.ndarray, size: int) -> float:
    order = np.random.default_rng(1).permutation(len(lengths))[: len(lengths) // size * size].reshape(-1, size)
    chosen = lengths[order]
    return 1 - chosen.sum() / (chosen.max(1) * size).sum()


def cost(count: int) -> tuple[float, float]:
    """(seconds, GB at the peak above the lengths' own process) of one epoch's plan; called in a process of its own."""
    lengths = durations(count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    best = min(_timed(lengths) for _ in range(3))
    return best, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6


def _timed(lengths: np.ndarray) -> float:
    began = time.perf_counter()
    plan(lengths, seed=1, epoch=0, budget=BUDGET, window=WINDOW)
    return time.perf_counter() - began


def _in_process(count: int) -> tuple[float, float]:
    code = f"from benchmarks.plan import cost; print(*cost({count}))"
    seconds, gigabytes = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    return float(seconds), float(gigabytes)


def run() -> None:
    lengths = durations(100_000)
    made = plan(lengths, seed=1, epoch=0, budget=BUDGET, window=WINDOW)
    size = round(len(lengths) / made.micro_batches)
    figures = [
        Figure(
            what="padding of the default plan, log-normal durations (median 6 s, σ 0.6, 0.5–30 s), 100,000 utterances",
            measured=f"{made.padding(lengths):.2%}",
            against=f"≤ 3 %; random batches of {size}: {random_padding(lengths, size):.1%}",
            note=f"{BUDGET.seconds:g} s a micro-batch, windows of {WINDOW:,}",
        )
    ]
    for count, goal in ((1_000_000, 1), (10_000_000, 10)):
        seconds, gigabytes = _in_process(count)
        figures.append(
            Figure(
                what=f"plan of one epoch of {count:,} utterances",
                measured=f"{seconds:.2f} s",
                against=f"≤ {goal} s",
                note=f"peak memory {gigabytes:.2f} GB beside the lengths; best of 3",
            )
        )
    store("plan", "Plan", figures)
