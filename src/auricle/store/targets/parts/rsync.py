"""rsync over an ssh command line, with its progress; what is copied, and what an error means, is the caller's."""

import re
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

from auricle.store.targets import Progress

FAILED = 255
"""ssh's own exit code."""
BROKEN_OFF = (10, 12, 30, 35, FAILED)
"""rsync's and ssh's exit codes of a transfer that was cut: a broken pipe, the protocol's end, time-outs, ssh itself."""


@dataclass(frozen=True)
class Ran:
    printed: bytes
    """Its progress included."""
    errors: str
    code: int


def rsync(client: Sequence[str], arguments: Sequence[str], stalled_seconds: int,
          progress: Progress | None = None) -> Ran:
    """Runs rsync through the ssh command line `client`. Raises FileNotFoundError where it is not installed.

    Standard error is a file: a connection that stays for the commands to come would hold a pipe open.
    """
    command = ["rsync", "--protect-args", f"--timeout={stalled_seconds}", "--info=progress2", "--no-human-readable",
               "-e", shlex.join(client), *arguments]
    lines = bytearray()
    with tempfile.TemporaryFile() as errors:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": errors}
        with subprocess.Popen(command, **pipes) as process:
            while printed := process.stdout.read1():
                lines += printed
                if progress and (counts := re.findall(rb"(\d+)\s+\d+%", printed)):
                    progress(int(counts[-1]))
        errors.seek(0)
        return Ran(bytes(lines), errors.read().decode(errors="replace"), process.returncode)


def said(printed: str | bytes) -> str:
    """The first line that is no warning: what follows it are consequences."""
    text = printed if isinstance(printed, str) else printed.decode(errors="replace")
    lines = [line.strip() for line in text.splitlines()]
    return next((line for line in lines if line and not line.startswith(("Warning:", "@@@"))), "")
