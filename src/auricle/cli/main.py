"""The `auricle` command: finds the verb, runs it, and turns what the user can mend into one line and an exit code.

A verb is one file of this folder: either a function of the file's name or, for verbs of several parts, a typer `app`.
Its file is imported when it is run; for the help page its docstring is read, so that it comes without torch.
"""

import importlib
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import auricle
from auricle.cli.console import first_sentence, show_error
from auricle.core.errors import AuricleError

VERBS = {"train": "train", "eval": "evaluate", "transcribe": "transcribe", "demo": "demo", "data": "data",
         "plot": "plot", "report": "report", "runs": "runs", "mirror": "mirror", "list": "list",
         "experiments": "experiments", "extend-vocabulary": "extend_vocabulary"}
"""Verb → its file, in the order of the help page."""

INTERRUPTED = 130
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
"""What concerns a user of ours, we say ourselves."""


class Verbs(TyperGroup):
    """Stands in for each verb until one is run."""

    def __init__(self, **settings: Any) -> None:
        settings["commands"] = {verb: TyperCommand(verb, help=_help(module)) for verb, module in VERBS.items()}
        super().__init__(**settings)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        verb, stand_in, rest = super().resolve_command(ctx, args)
        return verb, load(verb) if verb else stand_in, rest

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except AuricleError as error:
            show_error(error)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None


def load(verb: str) -> Any:
    """Imports a verb's file: its command."""
    module = importlib.import_module(f"auricle.cli.{VERBS[verb]}")
    verbs = typer.Typer(add_completion=False, rich_markup_mode=None)
    if hasattr(module, "app"):
        verbs.add_typer(module.app, name=verb)
    else:
        verbs.command(verb)(getattr(module, VERBS[verb]))
    return typer.main.get_group(verbs).commands[verb]


def _help(module: str) -> str:
    """What the function of the verb says of itself, or what its file says after `auricle verb`: …"""
    text = first_sentence(Path(__file__).with_name(f"{module}.py"), module).rpartition("`: ")[2]
    return text[:1].upper() + text[1:]


app = typer.Typer(cls=Verbs, add_completion=False, no_args_is_help=True, rich_markup_mode=None,
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
