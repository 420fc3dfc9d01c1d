"""The `auricle` command: finds the verb, runs it, and turns what the user can mend into one line and an exit code."""

import os
from typing import Annotated, Any

import typer

import auricle
from auricle.cli.console import show_error
from auricle.cli.verbs import group_of
from auricle.core.errors import AuricleError

VERBS = {"train": "train", "eval": "evaluate", "transcribe": "transcribe", "demo": "demo", "data": "data",
         "plot": "plot", "report": "report", "runs": "runs", "mirror": "mirror", "remote": "remote", "list": "list",
         "experiments": "experiments", "extend-vocabulary": "extend_vocabulary"}
"""Verb → its file, in the order of the help page."""

INTERRUPTED = 130
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
"""What concerns a user of ours, we say ourselves."""


class Auricle(group_of(VERBS)):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except AuricleError as error:
            show_error(error)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(cls=Auricle, add_completion=False, no_args_is_help=True, rich_markup_mode=None,
                  pretty_exceptions_enable=False)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"auricle {auricle.__version__}")
        raise typer.Exit


@app.callback()
def auricle_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Train speech recognisers in stages, on any machine, without losing a step."""
