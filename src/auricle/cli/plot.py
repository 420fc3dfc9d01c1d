"""`auricle plot`: curves of one or several runs as a picture."""

from pathlib import Path
from typing import Annotated

import typer


def plot(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, or any HF trainer_state.json.")],
    to: Annotated[Path | None, typer.Option("--to", help="Else RUN/curves.png, of several runs ./curves.png.")] = None,
) -> None:
    """Plot loss, word error rate and learning rate of one or several runs."""
    from auricle.dashboard.curves import distinct_names, read_curves
    from auricle.dashboard.plot import save_plot

    curves = distinct_names([read_curves(path) for path in runs], runs)
    alone = runs[0] if len(runs) == 1 and runs[0].is_dir() else Path()
    target = to or alone / "curves.png"
    save_plot(curves, target)
    print(target)
