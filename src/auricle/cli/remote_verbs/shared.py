"""What the verbs of `auricle remote` share: the arguments that name machines, and the way to them."""

from collections.abc import Sequence
from typing import Annotated

import typer

from auricle.remote.connection import Connection
from auricle.remote.place import Place
from auricle.remote.project import Project, here
from auricle.remote.target import Target, parse_all, parse_first

Jump = Annotated[str | None, typer.Option(
    "--jump", metavar="USER@HOST:PORT", help="Reach the machine through this one; several are joined by commas.")]
Folder = Annotated[str | None, typer.Option(
    "--folder", help="The project's folder there; /workspace/PROJECT or ~/PROJECT by default.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
One = Annotated[list[str], typer.Argument(metavar="HOST [PORT]", help="A machine: HOST PORT, user@host:port, or an "
                                                                      "alias of ~/.ssh/config.")]
Many = Annotated[list[str] | None, typer.Argument(
    metavar="[HOST [PORT]]…", help="Machines; without any, those that this project knows.")]


def place_of(words: Sequence[str], jump: str | None, folder: str | None = None) -> tuple[Place, list[str]]:
    """The machine that the words begin with, and the words after it."""
    project = here()
    target, rest = parse_first(words, jump)
    return place(target, project, folder), rest


def place(target: Target, project: Project, folder: str | None = None) -> Place:
    known = project.machine(target)
    if target.jump is None and known.jump:  # reached as it was the last time
        target = known.target
    return Place(Connection(target, project), project, folder)


def places_of(words: Sequence[str] | None, jump: str | None, folder: str | None = None) -> list[Place]:
    """The machines of the words; without words, those that were deployed to from this project."""
    project = here()
    if words:
        return [place(target, project, folder) for target in parse_all(words, jump)]
    return [Place(Connection(machine.target, project), project, folder) for machine in project.machines()
            if machine.folder is not None]
