"""`auricle remote doctor`: whether a machine is fit for runs, in one table."""

import dataclasses
from typing import Annotated

import typer

from auricle.cli.remote_verbs.deploy import Experiment
from auricle.cli.remote_verbs.shared import AsJson, Folder, Jump, place_of
from auricle.remote.place import Place


def doctor(
    words: Annotated[list[str], typer.Argument(
        metavar="HOST [PORT] [KEY=VALUE]…", help="A machine, then overrides of the experiment.")],
    jump: Jump = None,
    folder: Folder = None,
    experiment: Experiment = None,
    price: Annotated[float | None, typer.Option(min=0, help="What the machine costs an hour.")] = None,
    as_json: AsJson = False,
) -> None:
    """Look whether a machine is fit for runs, before and after deploying; exit code 1 where something fails."""
    from auricle.cli.console import show_json, show_table
    from auricle.cli.remote_verbs.deploy import settings
    from auricle.remote.setup.checks import worst
    from auricle.remote.setup.doctor import examine

    place, overrides = place_of(words, jump, folder)
    config = settings(experiment, overrides)
    place = Place(place.connection, place.project, folder or config.remote.folder)
    known = price if price is not None else config.price
    found = examine(place, config.remote, targets=config.mirrors, price=known)
    rows = [dataclasses.asdict(check) for check in found]
    if as_json:
        show_json(rows)
    else:
        show_table({"check": row["check"], "result": row["result"], "what": row["what"], "what to do": row["todo"]}
                   for row in rows)
    if worst(found):
        raise typer.Exit(1)
