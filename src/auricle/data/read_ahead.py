"""In a loader worker: threads that fetch the row groups which the plan comes to next, while the worker decodes.

The first to come are fetched first. Several workers and ranks of a host share what they fetch (data/disk_cache.py), so
each begins at another one. No more is fetched than the windows of the plan that `coming` names.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from auricle.core.errors import AuricleError
from auricle.data.plan import MicroBatch
from auricle.data.replan import Order, Replanned
from auricle.data.row_groups import Cell, RowGroup, is_here, recordings

THREADS = 3
Audio = tuple[RowGroup, str]
"""A row group and its audio column."""


class ReadAhead:
    """Follows the places that the worker loads; `coming(place)` is what they and the next ones need."""

    def __init__(self, coming: Callable[[Any], Sequence[Audio]], begin: float) -> None:
        self._coming, self._begin = coming, begin
        self._place: Any = None
        self._moved = threading.Condition()
        for number in range(THREADS):
            threading.Thread(target=self._run, args=(number / THREADS,), daemon=True, name="read-ahead").start()

    def at(self, place: Any) -> None:
        """The worker loads `place` now."""
        with self._moved:
            self._place = place
            self._moved.notify_all()

    def _run(self, begin: float) -> None:
        last = None
        while True:
            with self._moved:
                self._moved.wait_for(lambda: self._place is not last)  # noqa: B023
                last = self._place
            self._fetch(last, (self._begin + begin) % 1.0)

    def _fetch(self, place: Any, begin: float) -> None:
        """Fetches what `place` needs, from a part of the way on, until the worker loads another place."""
        coming = self._coming(place)
        start = int(begin * len(coming))
        for group, column in (*coming[start:], *coming[:start]):
            if self._place is not place:
                return
            if not is_here(group, column):
                try:
                    recordings(group, column)
                except AuricleError:  # the worker meets it too when it comes there, and tells it
                    return


class ComingGroups:
    """What listed rows need at a place of their plan: the row groups of its window, and of the one that follows."""

    def __init__(self, rows: Any, order: Order, replanned: Replanned | None) -> None:
        self._rows, self._order, self._replanned = rows, order, replanned
        self._epoch: tuple[int, list[np.ndarray], dict[int, int]] | None = None
        self._latest: tuple[tuple[int, int], list[Audio]] | None = None

    def __call__(self, place: MicroBatch) -> list[Audio]:
        if not place.rows:
            return []
        windows, window_of = self._windows(place.epoch)
        which = window_of[int(self._order.corpus.groups[place.rows[0]])]
        if self._latest is None or self._latest[0] != (place.epoch, which):
            cells = [self._rows[int(row)].audio for row in np.concatenate(windows[which : which + 2])]
            found = [(cell.group, cell.column) for cell in cells if isinstance(cell, Cell)]
            self._latest = (place.epoch, which), found
        return self._latest[1]

    def _windows(self, epoch: int) -> tuple[list[np.ndarray], dict[int, int]]:
        """(one row of each group by window, group → its window)"""
        if self._epoch is None or self._epoch[0] != epoch:
            windows = self._order.windows(epoch, self._replanned)
            groups = self._order.corpus.groups
            window_of = {group: which for which, rows in enumerate(windows) for group in groups[rows].tolist()}
            self._epoch = epoch, windows, window_of
        return self._epoch[1:]
