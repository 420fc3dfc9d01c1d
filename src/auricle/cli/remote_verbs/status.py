"""`auricle remote status`: how the runs of machines stand, and what they cost."""

from typing import TYPE_CHECKING, Annotated

import typer

from auricle.cli.remote_verbs.shared import AsJson, Folder, Jump, Many, places_of

if TYPE_CHECKING:
    from auricle.remote.status import Row

NO_MACHINES = "No machine is known here; name one (HOST PORT), or `auricle remote deploy HOST PORT` first."
RunName = Annotated[str | None, typer.Option("--run", help="The run; without it, the one that trains there.")]


def status(
    words: Many = None,
    jump: Jump = None,
    folder: Folder = None,
    run: Annotated[str | None, typer.Option("--run", help="This run alone.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show how the runs of machines stand: step, loss, time left, what is saved and safe, cost so far and to the end.

    A machine that does not answer is shown as it last was, and makes the exit code 8.
    """
    from auricle.cli.console import show_error, show_json, show_table
    from auricle.remote.status import rows, seen

    machines = seen(places_of(words, jump, folder))
    found = [row for machine in machines for row in rows(machine) if run in (None, row.run)]
    if as_json:
        show_json([row.plain() for row in found])
    elif found:
        show_table(map(_cells, found))
        _tell(found)
    else:
        print(f"No run '{run}' on {', '.join(machine.machine for machine in machines)}." if machines else NO_MACHINES)
    errors = [machine.error for machine in machines if machine.error]
    for error in errors:
        show_error(error)
    if errors:
        raise typer.Exit(errors[0].exit_code)


def _cells(row: "Row") -> dict[str, str]:
    from auricle.dashboard.numbers import UNKNOWN, decimal, duration, percent

    return {
        "machine": row.machine, "run": row.run or UNKNOWN, "state": _state(row),
        "step": f"{row.step}/{row.total_steps}" if row.total_steps else str(row.step),
        "loss": decimal(row.loss, 3), "WER": percent(row.wer), "ETA": duration(row.eta_seconds),
        "saved": UNKNOWN if row.saved_step is None else str(row.saved_step),
        "safe": UNKNOWN if row.safe_step is None else str(row.safe_step),
        "cost": f"{money(row.cost)} → {money(row.cost_to_end)}", "$/h": money(row.price_per_hour),
        "event": f"{duration(row.event_age_seconds)} ago" if row.event_age_seconds is not None else UNKNOWN,
    }


def _state(row: "Row") -> str:
    from auricle.dashboard.numbers import duration

    if row.state != "lost":
        return row.state
    return f"lost: {row.last_state}, {duration(row.seen_seconds_ago)} ago" if row.last_state else "lost"


def money(value: float | None) -> str:
    from auricle.dashboard.numbers import UNKNOWN

    return UNKNOWN if value is None else f"${value:,.2f}"


def _tell(rows: list["Row"]) -> None:
    """Why a run ended, a limit that was reached, the newest alarm."""
    for row in rows:
        if row.exit_code and row.reason:
            print(f"{row.run}: {row.reason}")
        if row.limit:
            print(f"{row.run}: {row.limit}")
        if row.alarms:
            print(f"{row.run}: Alarm: {row.alarms[-1]}")
