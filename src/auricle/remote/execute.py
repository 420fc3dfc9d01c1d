"""A command in the project's folder on a machine, with the streams of this process."""

import contextlib
import shlex
import subprocess
from collections.abc import Sequence

from auricle.remote.connection import FAILED, Unreachable
from auricle.remote.place import Place


def execute(place: Place, command: Sequence[str], *, terminal: bool) -> int:
    """→ its exit code. Raises RemoteError where the project is not there, or the connection is lost.

    Each word arrives as it is; `terminal` gives the command one there too.
    """
    script = f'{place.entering()}PATH="$PWD/.venv/bin:$PATH" exec {shlex.join(command)}'
    connection = place.connection
    connection.check(":", timeout=30.0)
    if terminal:
        code = connection.interactive(script)
    else:
        process = subprocess.Popen([*connection.client(), "--", connection.destination, script])
        with contextlib.suppress(KeyboardInterrupt):
            process.wait()
        code = process.wait()
    place.refuse_missing(code)
    if code == FAILED:
        raise Unreachable(f"{connection.target}: the connection was lost while '{command[0]}' ran there (or it ended "
                          "with 255 itself)")
    return code
