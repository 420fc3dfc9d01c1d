"""Verbs by name, each in a file that is imported when its verb is run.

For the help page a file's docstring is read, so that it comes without what the verbs import.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from auricle.cli.console import first_sentence


def group_of(verbs: Mapping[str, str], package: str = "auricle.cli", hidden: tuple[str, ...] = ()) -> type[TyperGroup]:
    """A group for `typer.Typer(cls=…)`: verb → its file in the package, in the order of the help page.

    A file has a function of its own name, or an `app` for verbs of several parts.
    """

    class Verbs(TyperGroup):
        """Stands in for each verb until one is run."""

        def __init__(self, **settings: Any) -> None:
            settings["commands"] = {verb: TyperCommand(verb, help=_help(package, module), hidden=verb in hidden)
                                    for verb, module in verbs.items()}
            super().__init__(**settings)

        def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
            verb, stand_in, rest = super().resolve_command(ctx, args)
            return verb, load(verb, verbs[verb], package) if verb else stand_in, rest

    return Verbs


def load(verb: str, file: str, package: str = "auricle.cli") -> Any:
    """Imports a verb's file: its command."""
    module = importlib.import_module(f"{package}.{file}")
    loaded = typer.Typer(add_completion=False, rich_markup_mode=None)
    if hasattr(module, "app"):
        loaded.add_typer(module.app, name=verb)
    else:
        loaded.command(verb)(getattr(module, file))
    return typer.main.get_group(loaded).commands[verb]


def _help(package: str, file: str) -> str:
    """What the function of the verb says of itself, or what its file says after `auricle verb`: …"""
    home = Path(__file__).parent.joinpath(*package.split(".")[2:])
    text = first_sentence(home / f"{file}.py", file).rpartition("`: ")[2]
    return text[:1].upper() + text[1:]
