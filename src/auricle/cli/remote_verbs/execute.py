"""`auricle remote exec`: a command in the project's folder on a machine."""

import sys
from typing import Annotated

import typer

from auricle.cli.remote_verbs.shared import Folder, Jump, place_of
from auricle.core.errors import UsageError


def execute(
    words: Annotated[list[str], typer.Argument(
        metavar="HOST [PORT] -- COMMAND…", help="A machine, then a command and its words.")],
    jump: Jump = None,
    folder: Folder = None,
) -> None:
    """Run a command in the project's folder on a machine, with its environment first in PATH; exit code and streams
    are the command's."""
    from auricle.remote.execute import execute as run

    place, command = place_of(words, jump, folder)
    if not command:
        raise UsageError("exec: no command; expected HOST [PORT] -- COMMAND, as: auricle remote exec HOST -- "
                         "nvidia-smi")
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    raise typer.Exit(run(place, command, terminal=terminal))
