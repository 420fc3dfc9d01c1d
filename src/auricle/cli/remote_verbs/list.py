"""`auricle remote list`: machines that are paid for, or the runs on some."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from auricle.cli.remote_verbs.shared import AsJson, Folder, Jump, Many, places_of
from auricle.cli.remote_verbs.status import NO_MACHINES, money
from auricle.remote.project import here

if TYPE_CHECKING:
    from auricle.remote.renting.machines import Known


def list(words: Many = None, jump: Jump = None, folder: Folder = None, as_json: AsJson = False) -> None:
    """List the machines of this project and forgotten ones, with what they cost; of named machines, their runs."""
    if words:
        _runs(words, jump, folder, as_json)
    else:
        _machines(as_json)


def _machines(as_json: bool) -> None:
    import os
    from dataclasses import asdict

    from auricle.cli.console import show_json, show_table
    from auricle.remote.renting.machines import known

    found = known(here(), os.environ, time.time())
    if as_json:
        show_json([asdict(machine) for machine in found])
        return
    if not found:
        print(NO_MACHINES)
        return
    show_table([*map(_cells, found), _total(found)])
    for machine in found:
        if machine.note:
            print(f"{machine.address or machine.id or machine.provider}: {machine.note}")


def _cells(machine: "Known") -> dict[str, str]:
    from auricle.dashboard.numbers import UNKNOWN, decimal

    return {"provider": machine.provider, "id": machine.id or UNKNOWN, "run": machine.run or UNKNOWN,
            "address": machine.address or UNKNOWN, "state": machine.state or UNKNOWN,
            "$/h": money(machine.price_per_hour), "hours": decimal(machine.hours, 1), "cost": money(machine.cost)}


def _total(found: Sequence["Known"]) -> dict[str, str]:
    """What is not known is not in it."""
    paid = [machine for machine in found if machine.state not in ("gone", "stopped")]
    return {"provider": "total", "$/h": money(sum(machine.price_per_hour or 0.0 for machine in paid)),
            "cost": money(sum(machine.cost or 0.0 for machine in found))}


def _runs(words: Sequence[str], jump: str | None, folder: str | None, as_json: bool) -> None:
    from auricle.cli.console import show_error, show_json, show_table
    from auricle.remote.status import rows, seen

    machines = seen(places_of(words, jump, folder))
    found = [{"machine": row.machine, "run": row.run or "", "state": row.state, "session": row.session or "",
              "log": row.log or ""} for machine in machines for row in rows(machine)]
    show_json(found) if as_json else show_table(found)
    errors = [machine.error for machine in machines if machine.error]
    for error in errors:
        show_error(error)
    if errors:
        raise typer.Exit(errors[0].exit_code)
