"""`auricle list`: what can be named: experiments, models, tasks, metrics, sources, trackers, providers, normalizers."""

from importlib.resources import as_file, files
from typing import Annotated

import typer

from auricle.cli.console import first_sentence, show_json, show_table
from auricle.core.errors import UsageError, nearest
from auricle.core.folder import names

ROOMS = {"models": "models", "tasks": "tasks", "metrics": "metrics", "sources": "data.sources",
         "trackers": "dashboard.trackers", "providers": "remote.providers"}
"""What users type → the room."""

WHAT = ("experiments", *ROOMS, "normalizers")


def list(
    what: Annotated[str, typer.Argument(help=", ".join(WHAT))],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List what an experiment can name."""
    if what not in WHAT:
        raise UsageError(f"auricle list: nothing is called '{what}'; {nearest(what, WHAT)}")
    entries = {"experiments": _experiments, "normalizers": _normalizers}.get(what, lambda: _entries(ROOMS[what]))()
    rows = [{"name": name, "what": title} for name, title in entries.items()]
    show_json(rows) if as_json else show_table(rows)


def _experiments() -> dict[str, str]:
    """With the first line of each file's comment."""
    from auricle.core.library import EXPERIMENTS, Library
    from auricle.core.lines import read

    library = Library()
    return {name: read(library.find(EXPERIMENTS, name, "auricle list")).title for name in library.options(EXPERIMENTS)}


def _entries(room: str) -> dict[str, str]:
    """With the first sentence of each entry's docstring; nothing is imported."""
    found = {}
    for name in names(room):
        folder = files(f"auricle.{room}")
        candidates = [folder / f"{name}.py", *(folder / name / part for part in ("model.py", "task.py", "config.py"))]
        with as_file(next(path for path in candidates if path.is_file())) as path:
            found[name] = first_sentence(path)
    return found


def _normalizers() -> dict[str, str]:
    from auricle.core import text

    return {name: f"version {text.normalizer(name).version}" for name in text.NORMALIZERS}
