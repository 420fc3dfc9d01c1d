"""console.log: what a run printed, byte for byte; at 50 MB it becomes console.log.1, in the place of an older one."""

import contextlib
import os
import termios
from pathlib import Path

LARGEST_BYTES = 50_000_000


class Console:
    """Shows what a run prints on a terminal, and keeps it. A terminal that is gone and a full disk stop nothing."""

    def __init__(self, path: Path, terminal: int | None, largest: int = LARGEST_BYTES) -> None:
        self.path, self._terminal, self._largest = path, terminal, largest
        self._file: int | None = None
        if terminal is not None and os.isatty(terminal):
            _keep_ctrl_s_from_freezing(terminal)

    def write(self, printed: bytes) -> None:
        if self._terminal is not None:
            with contextlib.suppress(OSError):
                _write_all(self._terminal, printed)
        with contextlib.suppress(OSError):
            self._keep(printed)

    def _keep(self, printed: bytes) -> None:
        if self._file is None:
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        size = os.fstat(self._file).st_size
        if size and size + len(printed) > self._largest:
            self.path.replace(self.path.with_name(f"{self.path.name}.1"))
            self.close()
            self._keep(printed)
        else:
            _write_all(self._file, printed)

    def close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            os.close(file)


def _keep_ctrl_s_from_freezing(terminal: int) -> None:
    """Whoever stops the output of a terminal stops who writes to it: here that is who must end the run at a limit."""
    with contextlib.suppress(termios.error):
        mode = termios.tcgetattr(terminal)
        mode[0] &= ~termios.IXON
        termios.tcsetattr(terminal, termios.TCSANOW, mode)


def _write_all(descriptor: int, printed: bytes) -> None:
    left = memoryview(printed)
    while left:
        left = left[os.write(descriptor, left):]
