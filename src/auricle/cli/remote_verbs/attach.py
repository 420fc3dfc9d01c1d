"""`auricle remote attach`: the terminal of a run on a machine."""

import shlex
import sys

from auricle.cli.remote_verbs.logs import follow_log, run_of
from auricle.cli.remote_verbs.shared import Folder, Jump, One
from auricle.cli.remote_verbs.status import RunName
from auricle.core.errors import UsageError
from auricle.remote.connection import FAILED, Unreachable


def attach(words: One, run: RunName = None, jump: Jump = None, folder: Folder = None) -> None:
    """Open the run's terminal there: Ctrl-B D leaves it, the run goes on; Ctrl-C ends the run, with all saved.

    On a machine without tmux its log is followed instead.
    """
    again = " ".join(words)
    if not sys.stdin.isatty() or not sys.stdout.isatty():
        raise UsageError(f"attach: needs a terminal, and there is none here; auricle remote logs {again} -f follows "
                         "the run in a pipe")
    place, found = run_of(words, run, jump, folder, ended=False)
    if found.session is None:
        print(f"No tmux there: following the log of {found.name} (Ctrl-C ends looking; the run goes on).", flush=True)
        follow_log(place, found, 100)
        return
    session = shlex.quote(found.session)
    code = place.connection.interactive(f"{place.entering()}exec tmux -L {session} attach")
    if code == FAILED:
        raise Unreachable(f"{place.connection.target}: the connection was lost; the run goes on. auricle remote attach "
                          f"{again}")
