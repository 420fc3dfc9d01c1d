"""Notices that training hangs: a rank that waits for another one that is gone, a loader that never answers.

No step for ten median steps (and `hang_seconds`) ends the process with its stacks on disk, so that the next start
resumes. A thread of its own, because the one that hangs cannot notice it.
"""

import faulthandler
import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from auricle.core.errors import Preempted
from auricle.data import outages

MEDIANS = 10.0
STEPS_KEPT = 101
CHECK_SECONDS = 0.5


class Watchdog:
    """Watches from the first beat to `close`."""

    def __init__(self, hang_seconds: float, stacks: Path, report: Callable[[str], None]) -> None:
        self._hang_seconds, self._stacks, self._report = hang_seconds, stacks, report
        self._last: float | None = None
        self._stepped: float | None = None
        self._durations: deque[float] = deque(maxlen=STEPS_KEPT)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def begin(self) -> None:
        """A stage begins: its steps may be of another length, and compiling may come before the first."""
        self._durations.clear()
        self.beat()

    def beat(self) -> None:
        """Something went forward that is no step: a batch of an evaluation, a save."""
        self._last, self._stepped = time.monotonic(), None

    def step(self) -> None:
        """A step was made."""
        now = time.monotonic()
        if self._stepped is not None:
            self._durations.append(now - self._stepped)
        self._last = self._stepped = now

    @property
    def limit_seconds(self) -> float:
        typical = statistics.median(self._durations) if self._durations else self._hang_seconds
        return max(self._hang_seconds, MEDIANS * typical)

    def _run(self) -> None:
        while not self._closing.wait(CHECK_SECONDS):
            silent = 0.0 if self._last is None else time.monotonic() - self._last
            if silent > self.limit_seconds:
                if outages.current():  # data will come when a server answers again
                    self.beat()
                else:
                    self._end(silent)

    def _end(self, silent: float) -> None:
        with self._stacks.open("w", encoding="utf-8") as stream:
            faulthandler.dump_traceback(stream, all_threads=True)
        self._report(
            f"no step for {silent:.0f} s (limit {self.limit_seconds:.0f} s): a rank, the loader or a device hangs. "
            f"The stacks are in {self._stacks}; run the same command to go on from the last checkpoint"
        )
        os._exit(Preempted.exit_code)  # the thread that hangs cannot be asked to end

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
