"""`auricle remote logs`: what a run prints on a machine."""

import sys
from typing import Annotated

import typer

from auricle.cli.remote_verbs.shared import Folder, Jump, One, place_of
from auricle.cli.remote_verbs.status import RunName
from auricle.core.errors import UsageError
from auricle.remote.look import Run, chosen, look
from auricle.remote.place import Place


def logs(
    words: One,
    run: RunName = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="So many of the last lines.")] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends, or Ctrl-C.")] = False,
    jump: Jump = None,
    folder: Folder = None,
) -> None:
    """Show what a run prints; with -f as it comes, also over connections that break, without a line lost or twice."""
    place, found = run_of(words, run, jump, folder)
    if follow:
        follow_log(place, found, lines)
        return
    from auricle.remote.logs import tail

    printed = tail(place, found, lines)
    _write(printed)
    if not printed:
        print(f"{found.name} printed nothing yet", file=sys.stderr)


def run_of(words: list[str], run: str | None, jump: str | None, folder: str | None, *,
           ended: bool = True) -> tuple[Place, Run]:
    """The machine of the words, and its run: see `chosen`."""
    place, rest = place_of(words, jump, folder)
    if rest:
        raise UsageError(f"'{rest[0]}': one machine at a time; expected HOST PORT, user@host:port, or an alias")
    found, _ = look(place)
    return place, chosen(place, found, run, ended=ended)


def follow_log(place: Place, run: Run, lines: int) -> None:
    from auricle.remote.logs import Follower

    try:
        Follower(place, run, lines).follow(_write, lambda sentence: print(sentence, file=sys.stderr, flush=True))
    except BrokenPipeError:
        sys.stderr.close()


def _write(block: bytes) -> None:
    sys.stdout.buffer.write(block)
    sys.stdout.buffer.flush()
