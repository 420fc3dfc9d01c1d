"""`auricle report`: one page about a run, that needs no other file."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="A run folder; the run may still go on.")],
    to: Annotated[Path | None, typer.Option("--to", help="The page; by default RUN/report.html.")] = None,
) -> None:
    """Write a page with a run's result, curves, worst and best transcripts with audio, speed and cost."""
    from auricle.dashboard.report import write_report

    print(write_report(run, to))
