"""`auricle remote machine`: what the other verbs run on a machine; not typed by people."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from auricle.core.errors import UsageError

Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's name.")]
Key = Annotated[str, typer.Argument(metavar="KEY", help="A folder of .auricle/runs.")]
Wait = Annotated[float, typer.Option("--wait", min=0, help="Seconds for the run to save and end.")]

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None)


@app.command()
def launch() -> None:
    """Start a run: {"job": {…}, "secrets": {…}} on stdin, one line of JSON as the answer."""
    from auricle.remote.machine.ending import start

    job, secrets = _told()
    print(json.dumps(start(Path.cwd(), job, secrets)), flush=True)


@app.command()
def run(
    key: Key,
    address: Annotated[str, typer.Argument(metavar="SOCKET", help="Where its secrets are given.")],
) -> None:
    """Keep the trainer of a run going; what its tmux shows."""
    from auricle.remote.machine.handover import take
    from auricle.remote.machine.job import JOB, RUNS, Job
    from auricle.remote.machine.runner import Supervisor, open_many_files

    folder = Path.cwd() / RUNS / key
    secrets, job = take(address), Job.read(folder / JOB)
    if job is None:
        raise UsageError(f"'{folder}': holds no {JOB}; expected the folder of a run that was started here")
    open_many_files()
    raise typer.Exit(Supervisor(Path.cwd(), folder, job, secrets).run().code % 256)


@app.command()
def guard(key: Key) -> None:
    """Watch over a run and its machine: heartbeat, budget, mirror. Secrets are read from stdin."""
    import os

    from auricle.remote.machine.guard import guard as watch
    from auricle.remote.machine.job import RUNS

    os.environ.update(json.loads(sys.stdin.read() or "{}"))
    watch(Path.cwd(), Path.cwd() / RUNS / key, report=_say)


@app.command()
def stop(
    run: Run,
    wait: Wait = 600.0,
    reason: Annotated[str, typer.Option("--reason", help="For exit.json and its readers.")] = "stopped by hand",
) -> None:
    """End a run once it is saved; one line of JSON says where it stands."""
    from auricle.remote.machine.ending import stop as end

    print(json.dumps(end(Path.cwd(), run, reason=reason, seconds=wait)), flush=True)


@app.command()
def secrets(run: Run, wait: Wait = 600.0) -> None:
    """Hand secrets to a run that lost them: {"NAME": "value"} on stdin."""
    from auricle.remote.machine.ending import reconnect

    given = _json(sys.stdin.read())
    print(reconnect(Path.cwd(), run, given, wait), flush=True)


@app.command()
def boot() -> None:
    """Go on with what a restart of the machine broke off."""
    from auricle.remote.machine.revive import boot as go_on

    go_on(Path.cwd(), _say)


def _told() -> tuple[Any, dict[str, str]]:
    from auricle.remote.machine.job import Job

    told = _json(sys.stdin.read())
    try:
        return Job.from_json(json.dumps(told["job"])), dict(told.get("secrets") or {})
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"standard input: no job of a run ({error}); `auricle remote start` sends one") from None


def _json(text: str) -> dict[str, Any]:
    try:
        told = json.loads(text)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise UsageError("standard input: expected one JSON object; this verb is run by `auricle remote`")
    return told


def _say(sentence: str) -> None:
    print(f"[{time.strftime('%Y-%m-%d %H:%M:%S')}] {sentence}", flush=True)
