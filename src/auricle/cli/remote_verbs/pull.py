"""`auricle remote pull`: a run of a machine in a folder here."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from auricle.cli.remote_verbs.logs import run_of
from auricle.cli.remote_verbs.shared import Folder, Jump, One, place_of
from auricle.cli.remote_verbs.status import RunName
from auricle.core.errors import AuricleError, UsageError
from auricle.remote.connection import Unreachable
from auricle.remote.place import Place

if TYPE_CHECKING:
    from auricle.remote.look import Run

OUTPUTS = Path("outputs")


def pull(
    words: One,
    run: RunName = None,
    to: Annotated[Path | None, typer.Option("--to", help="The folder to fill; outputs/RUN by default.")] = None,
    all_runs: Annotated[bool, typer.Option("--all", help="Every run there, each into a folder of --to.")] = False,
    keep: Annotated[int, typer.Option(min=1, help="Newest checkpoints to keep here, beside the best one.")] = 2,
    jump: Jump = None,
    folder: Folder = None,
) -> None:
    """Copy a run here, verified: events, logs, reports, the newest and the best checkpoint; again, only what is new.

    `auricle runs`, plot, report and train work on the copy.
    """
    if not all_runs:
        place, found = run_of(words, run, jump, folder)
        _pull(place, found, to or OUTPUTS / found.name, keep)
        return
    from auricle.remote.look import look

    if run is not None:
        raise UsageError(f"--all and --run {run}: one of them")
    place, _ = place_of(words, jump, folder)
    _pull_each(place, look(place)[0].runs, to or OUTPUTS, keep)


def _pull_each(place: Place, runs: "list[Run]", to: Path, keep: int) -> None:
    """One that cannot be pulled keeps no other from it, but a machine that does not answer does."""
    from auricle.cli.console import show_error

    errors: list[AuricleError] = []
    for each in runs:
        try:
            _pull(place, each, to / each.name, keep)
        except Unreachable:
            raise
        except AuricleError as error:
            show_error(error)
            errors.append(error)
    if errors:
        raise typer.Exit(errors[0].exit_code)


def _pull(place: Place, run: "Run", folder: Path, keep: int) -> None:
    from auricle.cli.console import say, transferring
    from auricle.remote.pull import pull as fetch

    pulled = fetch(place, run, folder, keep=keep, report=say, progress=transferring())
    came = f", {', '.join(pulled.arrived)} verified" if pulled.arrived else ""
    step = "no checkpoint there yet" if pulled.step is None else f"step {pulled.step}"
    print(f"{folder}: {step}{came}", flush=True)
