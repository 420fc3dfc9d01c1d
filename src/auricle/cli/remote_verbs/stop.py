"""`auricle remote stop`: ends a run on a machine, with all saved."""

import shlex
from typing import Annotated

import typer

from auricle.cli.remote_verbs.logs import run_of
from auricle.cli.remote_verbs.shared import Folder, Jump, One
from auricle.cli.remote_verbs.status import RunName, money


def stop(
    words: One,
    run: RunName = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds in which it may save and end.")] = 600.0,
    jump: Jump = None,
    folder: Folder = None,
) -> None:
    """Let a run save and end; the same start goes on with it. The machine goes on, and so does its bill."""
    from auricle.remote.stop import stop as end

    place, found = run_of(words, run, jump, folder, ended=False)
    target = place.connection.target
    print(f"{target}: {found.name} saves and ends …", flush=True)
    stopped = end(place, found, wait)
    saved = "nothing was saved" if stopped.saved_step is None else f"saved step {stopped.saved_step}"
    print(f"{found.name}: {saved}, ended: {stopped.reason}")
    if found.job.nnodes > 1:
        this = place.project.machine(target).address
        for other in place.project.machines():
            if other.run == found.name and other.address != this:
                print(f"It waits for the others on another machine: auricle remote stop {other.address} --run "
                      f"{shlex.quote(found.name)}")
    price = found.job.limits.price_per_hour
    print(f"The machine goes on costing {f'{money(price)} an hour' if price else 'money'}; this ends that: auricle "
          f"remote release {target.typed}")
