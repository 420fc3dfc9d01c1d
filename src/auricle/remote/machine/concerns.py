"""What a user should be told of a run and its machine while they are watched over."""

from pathlib import Path

from auricle.remote.machine import views
from auricle.remote.machine.budget import Seen
from auricle.remote.machine.job import Budget, Job
from auricle.remote.machine.processes import runner_of

SILENT_SECONDS = 120.0
"""A trainer writes how the machine is every ten seconds."""
LEAST_FREE_BYTES = 5_000_000_000
PERIODS_BEHIND = 2.0


def of_trainer(seen: Seen, *, has_begun: bool, is_lost: bool) -> dict[str, str]:
    """Subject → sentence, as everywhere here."""
    if is_lost:
        return {"lost": "the run has no process and no end: it was killed. The same start goes on with it"}
    if seen.trains and has_begun and seen.silent_seconds > SILENT_SECONDS:
        return {"silent": "the trainer gives no sign of life: it hangs, or its machine is stuck"}
    return {}


def of_disk(folder: Path, run_folder: Path) -> dict[str, str]:
    free = views.free_bytes(folder)
    if free >= max(LEAST_FREE_BYTES, 2 * views.checkpoint_bytes(run_folder)):
        return {}
    return {"disk": f"the disk has {free / 1e9:.1f} GB left: soon no checkpoint will fit"}


def of_mirrors(mirror: views.Mirrored, periods_behind: float) -> dict[str, str]:
    found = {"failing": f"a mirror fails: {mirror.failing}"} if mirror.failing else {}
    if periods_behind > PERIODS_BEHIND:
        safe = "none" if mirror.safe_step is None else f"step {mirror.safe_step}"
        found["mirror"] = f"no mirror holds the newest checkpoint, step {mirror.saved_step}; safe is {safe}"
    return found


def of_secrets(folder: Path, job: Job) -> dict[str, str]:
    runner = runner_of(folder)
    missing = sorted(set(job.secrets) - set(runner.secrets)) if runner else []
    if not missing:
        return {}
    return {"secrets": f"the run goes on without {', '.join(missing)}, which a restart of the machine lost: hub and "
                       "tracker are paused until `auricle remote watch` or `start` reconnects"}


def of_budget(budget: Budget) -> dict[str, str]:
    if budget.max_cost is None or budget.price_per_hour is not None:
        return {}
    return {"price": "max_cost is not enforced: the price of this machine is not known"}
