"""machine.jsonl: what the guard did and warned of, beside the run's own events; mirrored and followed like them.

Nothing is put into a run folder before the run has begun there: a trainer takes a folder with strange files for
another's, and an empty one is filled from the mirror.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from auricle.core.events import EventLog
from auricle.remote.machine.job import MACHINE_EVENTS


def quiet(report: Callable[..., None]) -> Callable[..., None]:
    """A report that cannot be written (a full disk, a pipe whose reader is gone) stops nothing."""
    def tell(*words: object) -> None:
        with contextlib.suppress(OSError):
            report(*words)

    return tell


class Journal:
    """Each event is also told in guard.log."""

    def __init__(self, run_folder: Path, report: Callable[[str], None]) -> None:
        self._folder, self._report = run_folder, report
        self._waiting: list[tuple[str, int, dict[str, Any]]] = []

    def write(self, kind: str, step: int = 0, **values: Any) -> None:
        if message := values.get("message"):
            self._report(f"{kind}: {message}")
        self._waiting.append((kind, step, values))
        self.flush()

    def flush(self) -> None:
        """Writes what waited for the run to begin. A full disk loses a line, and stops nothing."""
        if not self._waiting or not (self._folder / "run.json").exists():
            return
        waiting, self._waiting = self._waiting, []
        with contextlib.suppress(OSError):
            log = EventLog(self._folder / MACHINE_EVENTS, run=self._folder.name)
            for kind, step, values in waiting:
                log.write(kind, step=step, **values)
            log.close()
