"""`auricle remote release`: ends a machine that was rented, not before its runs are safe elsewhere."""

from typing import Annotated

import typer

from auricle.cli.remote_verbs.shared import Jump
from auricle.core.errors import UsageError


def release(
    words: Annotated[list[str] | None, typer.Argument(
        metavar="[HOST [PORT]]", help="A machine that was rented.")] = None,
    run: Annotated[str | None, typer.Option("--run", help="The machine that was rented for this run.")] = None,
    keep_disk: Annotated[bool, typer.Option(
        "--keep-disk", help="Stop it and keep its disk, which is billed on.")] = False,
    force: Annotated[bool, typer.Option(
        "--force", help="Also with runs that go on, or are verified nowhere else.")] = False,
    jump: Jump = None,
) -> None:
    """End a rented machine and its bill, once its newest checkpoints are verified elsewhere."""
    import os

    from auricle.remote.project import here
    from auricle.remote.renting import release as releasing
    from auricle.remote.target import parse_first

    if bool(words) == bool(run):
        raise UsageError("release: expected HOST [PORT], or --run NAME; auricle remote list shows both")
    project = here()
    if run:
        held = releasing.of_run(project, os.environ, run, _say)
        if held is None:
            _say(f"{run}: no machine is paid for it, and none is noted here")
            return
    else:
        target, rest = parse_first(words or [], jump)
        if rest:
            raise UsageError(f"release: '{rest[0]}' is one word too many; expected one machine")
        held = releasing.of_target(project, os.environ, target)
    releasing.release(held, project, _say, keep_disk=keep_disk, force=force)


def _say(line: str) -> None:
    print(line, flush=True)
