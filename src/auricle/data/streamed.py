"""Training window by window, without a look at what comes later: a terabyte starts in seconds, and resumes as fast.

    data set ──its share of the window──┐
    data set ──its share of the window──┴─► lengths ──judge──► plan of the window ──► steps ──► next window

A window takes the place of an epoch in a position: (window, step within it). Its plan follows from its own rows alone,
so a start costs a window wherever it is, and any number of workers and ranks meets the same steps. Data sets share a
window in the proportion of their weights, without weights of their sizes.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from auricle.core.errors import DataError, UsageError
from auricle.data.augment import Augment
from auricle.data.disk_cache import DEFAULT_LIMIT_GB, LIMIT, cache_bytes
from auricle.data.draws import id_hashes
from auricle.data.judge import Checks, Facts, Rejection, count_by_reason, judge
from auricle.data.manifest import Row
from auricle.data.plan import Budget, Plan, plan
from auricle.data.read_ahead import Audio
from auricle.data.replan import RECIPE, Order, Replanned
from auricle.data.streams import Stream

WINDOW_BYTES = 512 << 20
"""Of a window, about, uncompressed: what is fetched before its first step."""
FEWEST_STEPS = 8
"""Of a window: its last step is shorter than the others."""
WINDOWS_KEPT = 4
FEWEST_ROWS = 2000
"""Rows of which the damaged ones are a share that can be too large."""
TELLING = ("sizes", "weights", "content", "quotas", "budget", "seed", "min_seconds", "max_seconds", "empty_transcript",
           "speeds", "speed_seed")
"""Keys of a recipe, the most telling ones first."""

Report = Callable[[str, Sequence[Rejection], int], None]
"""(data set, what of its share of a window is not used, how many rows that share has)"""


@dataclass(frozen=True, kw_only=True)
class Member:
    """A data set of a streamed stage."""

    name: str
    rows: Stream
    weight: float | None = None
    instruction: str = ""


@dataclass(frozen=True, kw_only=True)
class Window:
    """The rows of all members, one behind the other."""

    rows: list[Row]
    problems: list[str]
    occurrences: np.ndarray
    """(N,) int32"""
    members: np.ndarray
    """(N,) int64, the member of each row."""

    @cached_property
    def seconds(self) -> np.ndarray:
        """(N,) float64"""
        return np.asarray([row.seconds for row in self.rows])

    @cached_property
    def hashes(self) -> np.ndarray:
        """(N,) uint64, of the ids."""
        return id_hashes([row.id for row in self.rows])


class StreamedOrder:
    """All that the plans of a stage are a function of, as `Order` is for rows that are listed. What is called an epoch
    there is a window here. `window` is how many rows it has at most, unless its steps would be too few.

    Raises UsageError where the cache cannot hold two windows.
    """

    def __init__(self, members: Sequence[Member], *, budget: Budget, seed: int, checks: Checks, max_rejected: float,
                 window: int = 20_000, augment: Augment | None = None, report: Report | None = None) -> None:
        self.members, self.budget, self.seed, self.checks = tuple(members), budget, seed, checks
        self.max_rejected, self.augment, self.report = max_rejected, augment, report
        self.quotas = self._quotas(window)
        self._windows: dict[int, Window] = {}
        self._told: set[int] = set()
        needed = 2 * sum(quota * member.rows.mean_bytes for quota, member in zip(self.quotas, members, strict=True))
        if needed > cache_bytes():
            raise UsageError(f"{LIMIT} is {cache_bytes() / 1e9:g}; two windows of {sum(self.quotas)} rows need "
                             f"{needed / 1e9:.3g}. Raise it (the default is {DEFAULT_LIMIT_GB:g})")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "report": None, "checks": None, "_windows": {}}

    def __len__(self) -> int:
        """Rows of all data sets: an epoch is as many."""
        return sum(len(member.rows) for member in self.members)

    @property
    def windows_per_epoch(self) -> float:
        return len(self) / sum(self.quotas)

    def _quotas(self, window: int) -> list[int]:
        """Rows of each member in a window."""
        shares = _shares(self.members)
        size = float(shares @ [member.rows.mean_bytes for member in self.members])
        a_micro_batch = self.budget.utterances or np.inf
        if self.budget.seconds:
            a_micro_batch = min(a_micro_batch, max(1.0, self.budget.seconds / mean_seconds(self.members, self.seed)))
        most = min(window, WINDOW_BYTES / size if size else np.inf)
        rows = min(max(most, np.ceil(FEWEST_STEPS * self.budget.micro_batches * a_micro_batch)), len(self))
        return [max(1, round(rows * share)) for share in shares.tolist()]

    def content(self, window: int) -> Window:
        """The rows of a window, fetched if need be; the latest few are kept."""
        if window not in self._windows:
            taken = [member.rows.take(window * quota, (window + 1) * quota, self.seed)
                     for member, quota in zip(self.members, self.quotas, strict=True)]
            while len(self._windows) >= WINDOWS_KEPT:
                self._windows.pop(next(iter(self._windows)), None)
            self._windows[window] = Window(
                rows=[row for part in taken for row in part.rows],
                problems=[problem for part in taken for problem in part.problems],
                occurrences=np.asarray([turn for part in taken for turn in part.occurrences], np.int32),
                members=np.repeat(np.arange(len(taken)), self.quotas))
        return self._windows[window]

    def audio(self, window: int) -> list[Audio]:
        """The row groups that a window needs; costs nothing."""
        return [audio for member, quota in zip(self.members, self.quotas, strict=True)
                for audio in member.rows.audio(window * quota, (window + 1) * quota, self.seed)]

    def speeds(self, window: int, rows: np.ndarray, occurrences: np.ndarray) -> np.ndarray | None:
        """The speed that is drawn for each of a window's `rows`; None where none is drawn. (N,)"""
        if self.augment is None or not self.augment.config.speeds:
            return None
        return self.augment.speed_factors(window, self.content(window).hashes[rows], occurrences)

    def lengths(self, window: int, rows: np.ndarray, occurrences: np.ndarray) -> np.ndarray:
        """Seconds of each of a window's `rows` at that speed. (N,)"""
        seconds, speeds = self.content(window).seconds[rows], self.speeds(window, rows, occurrences)
        return seconds if speeds is None else seconds / speeds

    def plan(self, window: int, _replanned: Replanned | None = None) -> Plan:
        """The plan of a window; it has no step where none of its rows can be used. Raises DataError when that is so of
        the first window, or too many rows are damaged."""
        usable = self._judged(window)
        content = self.content(window)
        occurrences = content.occurrences[usable]
        if not len(usable):
            return Plan(rows=usable, occurrences=occurrences, starts=np.zeros(1, np.int64),
                        micro_batches_per_step=self.budget.micro_batches)
        lengths = np.zeros(len(content.rows))
        lengths[usable] = self.lengths(window, usable, occurrences)
        return plan(lengths, seed=self.seed, epoch=window, budget=self.budget, window=len(usable), rows=usable,
                    occurrences=occurrences)

    def _judged(self, number: int) -> np.ndarray:
        """The rows of a window that can be used; what speaks against the others is reported once."""
        window = self.content(number)
        frames = self.checks.frames(window.seconds).tolist() if self.checks.frames else [None] * len(window.rows)
        found = [judge(Facts(id=row.id, text=row.text, seconds=row.seconds, frames=count,
                             problem=("unreadable", problem) if problem else None), self.checks)
                 for row, problem, count in zip(window.rows, window.problems, frames, strict=True)]
        usable = np.asarray([rejection is None for rejection in found])
        self._refuse_if_too_many(number, [rejection for rejection in found if rejection], len(found))
        if self.report and number not in self._told:
            self._told.add(number)
            for which, member in enumerate(self.members):
                mine = [found[place] for place in np.flatnonzero(~usable & (window.members == which))]
                if mine:
                    self.report(member.name, mine, self.quotas[which])
        return np.flatnonzero(usable)

    def _refuse_if_too_many(self, number: int, rejections: list[Rejection], rows: int) -> None:
        """By chance a window's share of damaged rows may be above the bound, but not by as much again."""
        damaged = [rejection for rejection in rejections if not rejection.filtered]
        allowed = 2 * self.max_rejected * max(rows, min(FEWEST_ROWS, len(self)))
        left = rows - len(rejections)
        if len(damaged) <= allowed and (left or number):
            return
        listed = "; ".join(f"{r.id}: {r.reason} {r.detail}".rstrip() for r in (damaged or rejections)[:3])
        what = f"{len(damaged)} of {rows} rows rejected" if left else f"no row left of {rows}"
        raise DataError(f"{', '.join(member.name for member in self.members)}: window {number + 1}: {what} "
                        f"({count_by_reason(rejections)}); expected at most {self.max_rejected:.1%} damaged and some "
                        f"that can be used; first: {listed}. Mend the data, or raise data.max_rejected")

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """Everything that the plans follow from, as JSON values."""
        augment = self.augment if self.augment and self.augment.config.speeds else None
        return {"streamed": True, "budget": asdict(self.budget), "seed": self.seed, "quotas": self.quotas,
                "sizes": [len(member.rows) for member in self.members],
                "weights": [member.weight for member in self.members],
                "content": [member.rows.content for member in self.members],
                "min_seconds": self.checks.min_seconds, "max_seconds": str(self.checks.max_seconds),
                "empty_transcript": self.checks.empty_transcript,
                "speeds": augment.config.speeds if augment else [], "speed_seed": augment.seed if augment else 0}

    @cached_property
    def digest(self) -> str:
        """Equal for orders whose plans are equal: a name for what `save` writes."""
        return xxhash.xxh3_128_hexdigest(json.dumps(self.recipe, sort_keys=True).encode())

    def save(self, folder: Path) -> None:
        """Fills an empty folder; made to be published."""
        (folder / RECIPE).write_text(json.dumps(self.recipe, indent=1), encoding="utf-8")


def mean_seconds(members: Sequence[Member], seed: int) -> float:
    """Of the rows of a window, as far as the first row groups tell."""
    return float(_shares(members) @ [member.rows.mean_seconds(seed) for member in members])


def _shares(members: Sequence[Member]) -> np.ndarray:
    weights = np.asarray([member.weight or len(member.rows) for member in members], np.float64)
    return weights / weights.sum()


def changes(order: Order | StreamedOrder, kept: Path) -> list[str]:
    """What differs from the order that `save` kept there, for people, where one of the two is streamed."""
    before = json.loads((kept / RECIPE).read_text(encoding="utf-8"))
    after = json.loads(json.dumps(order.recipe))
    was, now = (bool(recipe.get("streamed")) for recipe in (before, after))
    if was != now:
        return [f"the data was {'streamed' if was else 'listed'}, is {'streamed' if now else 'listed'}"]
    if not now:
        return []
    return [f"{name} was {before.get(name)}, is {after.get(name)}" for name in TELLING
            if before.get(name) != after.get(name)]
