"""`auricle runs`: how the runs of a folder stand."""

import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from auricle.dashboard.runs import RunSummary


def runs(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="A folder of runs, or one run.")] = Path("outputs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """List runs, newest first: state, step, loss, word error rate, time and cost."""
    from auricle.cli.console import show_json, show_table
    from auricle.dashboard.runs import runs

    found = runs(folder)
    if as_json:
        show_json([_plain(run) for run in found])
    elif found:
        show_table(map(_cells, found))
    else:
        print(f"No runs in {folder}; `auricle train +experiments=NAME` makes one.")


def _plain(run: "RunSummary") -> dict[str, Any]:
    """JSON has no NaN: a loss that is not finite is a string, as in the event log."""
    return {name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(run).items()}


def _cells(run: "RunSummary") -> dict[str, str]:
    from auricle.dashboard.numbers import UNKNOWN, decimal, duration, percent

    return {
        "run": run.name, "state": run.state,
        "step": f"{run.step}/{run.total_steps}" if run.total_steps else str(run.step),
        "safe": UNKNOWN if run.safe_step is None else str(run.safe_step),
        "loss": decimal(run.loss, 3), "WER": percent(run.wer), "best": percent(run.best_wer),
        "time": duration(run.wall_seconds), "cost": UNKNOWN if run.cost is None else f"${run.cost:,.2f}",
        "started": time.strftime("%Y-%m-%d %H:%M", time.localtime(run.started)) if run.started else UNKNOWN,
    }
