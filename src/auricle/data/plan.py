"""The order of training as a pure function: (lengths, seed, epoch, budget) → steps → micro-batches → rows.

    rows ──shuffle──► windows ──sort by length class──► cut by budget ──shuffle──► micro-batches ──every k──► steps

Rows that lie together and are fetched together (a row group of a Parquet file) are shuffled as a group: a window holds
whole groups, so that no more than its audio need be at hand at a time.

Nothing is drawn from a sampler's state, so a position is two integers (epoch, step), resuming costs nothing, and the
same utterances meet the same step on any number of ranks: rank r of W takes the step's micro-batches r, r+W, …
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from auricle.core.errors import DataError
from auricle.data.draws import permutation

LENGTH_CLASS = 1.02
"""Lengths within 2 % count as equal, so that the members of a micro-batch differ from epoch to epoch."""
WINDOW_SECONDS = 4 * 3600.0
"""Audio of a window of groups at most: 0.5 GB at 16 kHz, which is fetched before its first micro-batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """What fits into a micro-batch, and how many micro-batches (over all ranks) make a step."""

    seconds: float | None = None
    """Audio with padding: longest utterance × utterances."""
    utterances: int | None = None
    micro_batches: int = 1

    def capacity(self, lengths: np.ndarray) -> np.ndarray:
        """How many utterances of each length fit, at least one. (N,) int64"""
        fits = np.full(len(lengths), self.utterances or np.iinfo(np.int64).max, np.int64)
        if self.seconds is not None:
            by_seconds = self.seconds / np.maximum(lengths, 1e-9)
            fits = np.minimum(fits, np.minimum(by_seconds, 2.0**53).astype(np.int64))
        return np.maximum(fits, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """One epoch. Micro-batch i holds `rows[starts[i]:starts[i+1]]`; step s the micro-batches s·k … s·k+k−1."""

    rows: np.ndarray
    """(N,) rows of the training set, in the order of training."""
    occurrences: np.ndarray
    """(N,) how often each row was met before, counted by its data set's passes."""
    starts: np.ndarray
    """(micro-batches + 1,) offsets into `rows`."""
    micro_batches_per_step: int

    @property
    def micro_batches(self) -> int:
        return len(self.starts) - 1

    @property
    def steps(self) -> int:
        return -(-self.micro_batches // self.micro_batches_per_step)

    def members(self, micro_batch: int) -> slice:
        return slice(int(self.starts[micro_batch]), int(self.starts[micro_batch + 1]))

    def padding(self, lengths: np.ndarray) -> float:
        """Fraction of the planned audio that is padding; `lengths` as the plan was made with, by row."""
        planned = lengths[self.rows]
        longest = np.maximum.reduceat(planned, self.starts[:-1])
        padded = float((longest * np.diff(self.starts)).sum())
        return 1.0 - float(planned.sum()) / padded if padded else 0.0


def plan(lengths: np.ndarray, *, seed: int, epoch: int, budget: Budget, window: int = 20_000,
         rows: np.ndarray | None = None, occurrences: np.ndarray | None = None,
         groups: np.ndarray | None = None) -> Plan:
    """Plans one epoch over `rows` (default: each once). `lengths` (N,) seconds by row, augmentation included; `groups`
    (N,) int64, equal for rows that are fetched together."""
    if rows is None:
        rows = np.arange(len(lengths))
    if occurrences is None:
        occurrences = np.zeros(len(rows), np.int32)
    if not len(rows):
        raise DataError("plan: no utterance to train on; expected at least one")
    if groups is None:
        order = permutation(len(rows), seed, "order", epoch)
        starts = list(range(0, len(rows), window))
    else:
        order, starts = grouped_order(groups[rows], lengths[rows], window, seed, epoch)
    classes = np.floor(np.log(np.maximum(lengths, 1e-3)) / np.log(LENGTH_CLASS)).astype(np.int16)[rows]
    pieces, sizes = [], []
    for start, stop in pairwise([*starts, len(rows)]):
        piece, size = _window(order[start:stop], classes, budget, (seed, "micro-batches", epoch, start))
        pieces.append(piece)
        sizes.append(size)
    order, size = np.concatenate(pieces), np.concatenate(sizes)
    return Plan(rows=rows[order], occurrences=occurrences[order], starts=np.concatenate([[0], np.cumsum(size)]),
                micro_batches_per_step=budget.micro_batches)


def grouped_order(
    groups: np.ndarray, lengths: np.ndarray, window: int, seed: int, epoch: int
) -> tuple[np.ndarray, list[int]]:
    """(order, where each window begins in it): groups shuffled whole, and rows within them."""
    _, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    turns = permutation(len(sizes), seed, "groups", epoch)
    order = _by_place(codes, turns, permutation(len(groups), seed, "order", epoch))
    seconds = np.bincount(codes, lengths, len(sizes))
    return order, _window_starts(sizes[turns], seconds[turns], window)


def pass_order(size: int, groups: np.ndarray | None, seed: int, *key: object) -> np.ndarray:
    """The rows of a data set in the order of one pass, group by group where there are `groups`. (size,) int64"""
    order = permutation(size, seed, "pass", *key)
    if groups is None:
        return order
    _, codes = np.unique(groups, return_inverse=True)
    return _by_place(codes, permutation(int(codes.max()) + 1, seed, "pass of groups", *key), order)


def _by_place(codes: np.ndarray, turns: np.ndarray, order: np.ndarray) -> np.ndarray:
    """`order`, but group by group: `turns` are the groups in their order, `codes` (N,) the group of each row."""
    place = np.empty(len(turns), np.int64)
    place[turns] = np.arange(len(turns))
    return order[np.argsort(place[codes[order]], kind="stable")]


def _window_starts(sizes: np.ndarray, seconds: np.ndarray, window: int) -> list[int]:
    """A window holds as many groups as have at most `window` rows and WINDOW_SECONDS, at least one."""
    starts, position, rows_in, seconds_in = [], 0, 0, 0.0
    for size, length in zip(sizes.tolist(), seconds.tolist(), strict=True):
        if not starts or rows_in + size > window or seconds_in + length > WINDOW_SECONDS:
            starts.append(position)
            rows_in, seconds_in = 0, 0.0
        position, rows_in, seconds_in = position + size, rows_in + size, seconds_in + length
    return starts


def _window(order: np.ndarray, classes: np.ndarray, budget: Budget, key: tuple) -> tuple[np.ndarray, np.ndarray]:
    """One window, longest first, cut into micro-batches, which are then shuffled: (rows in order, sizes)."""
    order = order[np.argsort(-classes[order], kind="stable")]
    # The first of a micro-batch is its longest, up to its length class: the class's upper bound keeps the budget.
    capacity = budget.capacity(LENGTH_CLASS ** (classes[order].astype(np.float64) + 1)).tolist()
    starts, position = [], 0
    while position < len(order):
        starts.append(position)
        position += capacity[position]
    starts = np.asarray(starts)
    sizes = np.diff(np.append(starts, len(order)))
    shuffled = permutation(len(starts), *key)
    starts, sizes = starts[shuffled], sizes[shuffled]
    first = np.repeat(starts - np.concatenate([[0], np.cumsum(sizes)[:-1]]), sizes)
    return order[first + np.arange(len(order))], sizes


@dataclass(frozen=True, kw_only=True, slots=True)
class Mixture:
    """Which rows an epoch holds, over data sets that lie one behind the other in the training set.

    Without weights: each row once. With weights w: an epoch has as many utterances as there are rows; data set s gives
    its share w_s / Σw of them, going through its own seeded passes, so no row comes back before all had their turn.
    """

    sizes: tuple[int, ...]
    weights: tuple[float, ...] | None = None
    groups: np.ndarray | None = None
    """(N,) of all rows: with weights a pass goes through group by group, so that few are begun in an epoch."""

    def epoch(self, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """(rows, occurrences) of an epoch, unordered. (N,) int64, (N,) int32"""
        if self.weights is None:
            size = sum(self.sizes)
            return np.arange(size), np.zeros(size, np.int32)
        rows, passes, offset = [], [], 0
        for number, (size, quota) in enumerate(zip(self.sizes, self._quotas(), strict=True)):
            positions = np.arange(epoch * quota, (epoch + 1) * quota)
            pass_of = positions // size
            for turn in np.unique(pass_of):
                groups = None if self.groups is None else self.groups[offset : offset + size]
                order = pass_order(size, groups, seed, number, int(turn))
                rows.append(offset + order[positions[pass_of == turn] % size])
            passes.append(pass_of.astype(np.int32))
            offset += size
        return np.concatenate(rows), np.concatenate(passes)

    def _quotas(self) -> list[int]:
        total, weight = sum(self.sizes), sum(self.weights)
        return [max(1, round(total * w / weight)) for w in self.weights]


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """What one rank loads at one place of the plan; no rows where the step's tail has none for this rank."""

    epoch: int
    step: int
    """Step within the epoch, from 0."""
    rows: tuple[int, ...]
    occurrences: tuple[int, ...]
    last: bool
    """Whether it is this rank's last of the step."""


Position = tuple[int, int]
"""(epoch, step within it), both from 0: the next step to train."""


def micro_batches(plan_of: Callable[[int], Plan], start: Position, rank: int, world: int,
                  skipped: Collection[Position] = (), split: int = 1) -> Iterator[MicroBatch]:
    """One rank's way through the epochs, without end, from any position at the cost of one plan.

    Steps in `skipped` are passed over; each micro-batch comes in `split` pieces, of the same rows to the step.
    """
    epoch, step = start
    skipped = frozenset(skipped)
    while True:
        current = plan_of(epoch)
        for number in range(step, current.steps):
            if (epoch, number) not in skipped:
                for place in _step(current, epoch, number, rank, world):
                    yield from split_micro_batch(place, split)
        epoch, step = epoch + 1, 0


def _step(current: Plan, epoch: int, step: int, rank: int, world: int) -> Iterator[MicroBatch]:
    first = step * current.micro_batches_per_step
    stop = min(first + current.micro_batches_per_step, current.micro_batches)
    rounds = -(-(stop - first) // world)
    for turn in range(rounds):
        index = first + turn * world + rank
        members = current.members(index) if index < stop else slice(0, 0)
        yield MicroBatch(epoch=epoch, step=step, rows=tuple(current.rows[members].tolist()),
                         occurrences=tuple(current.occurrences[members].tolist()), last=turn == rounds - 1)


def split_micro_batch(place: MicroBatch, pieces: int) -> list[MicroBatch]:
    """Exactly `pieces` micro-batches, the larger ones first and the last ones perhaps without rows: all ranks must make
    as many."""
    size, more = divmod(len(place.rows), pieces)
    stops = [number * size + min(number, more) for number in range(pieces + 1)]
    return [replace(place, rows=place.rows[start:stop], occurrences=place.occurrences[start:stop],
                    last=place.last and number == pieces)
            for number, (start, stop) in enumerate(pairwise(stops), start=1)]


def settled(plan_of: Callable[[int], Plan], position: Position, skipped: Collection[Position] = ()) -> Position:
    """`position`, or the first one after it that its epoch has and that is not skipped: what comes next in truth."""
    epoch, step = position
    while step >= plan_of(epoch).steps or (epoch, step) in skipped:
        epoch, step = (epoch + 1, 0) if step + 1 >= plan_of(epoch).steps else (epoch, step + 1)
    return epoch, step


def next_position(plan_steps: int, position: Position, skipped: Collection[Position] = ()) -> Position:
    """Where training stands after the step at `position` of an epoch with `plan_steps` steps, of which it passes over
    the skipped ones. Only `settled` knows whether the epoch after it begins with one."""
    epoch, step = position
    later = (number for number in range(step + 1, plan_steps) if (epoch, number) not in skipped)
    return next(((epoch, number) for number in later), (epoch + 1, 0))


def in_length_order(lengths: np.ndarray, budget: Budget, groups: np.ndarray | None = None) -> list[Sequence[int]]:
    """Evaluation's micro-batches: every row once, longest first (memory is known at once), no randomness. With `groups`
    that holds within windows of whole ones, in their order."""
    if groups is not None:
        _, first, codes, sizes = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
        turns = np.argsort(first)
        starts = _window_starts(sizes[turns], np.bincount(codes, lengths, len(sizes))[turns], len(lengths))
        windows = np.split(_by_place(codes, turns, np.arange(len(lengths))), starts[1:])
        return [rows[places].tolist() for rows in windows for places in in_length_order(lengths[rows], budget)]
    order = np.argsort(-lengths, kind="stable")
    capacity, position, batches = budget.capacity(lengths[order]).tolist(), 0, []
    while position < len(order):
        batches.append(order[position : position + capacity[position]].tolist())
        position += capacity[position]
    return batches
