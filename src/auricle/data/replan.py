"""The order of training as a value, and how the rest of an epoch is planned anew when data or budget change in it.

    Order (before) ── plan(epoch), up to the position ──► seen: a key an utterance
    Order (after)  ── plan(epoch) without them ─────────► its rest, from step 0

A key says which utterance and the how-manieth of its turns in the epoch; it outlives row numbers, so rows may be added,
removed and reordered. The corpus before may be gone: `Order.save` keeps what its plans follow from.

# N rows of the training set, or of an epoch
"""

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xxhash

from auricle.core.config import AugmentConfig
from auricle.core.errors import DataError
from auricle.data.augment import Augment
from auricle.data.plan import Budget, Mixture, Plan, Position, grouped_order, plan

TURN = np.uint64(0x9E3779B97F4A7C15)
"""Added to an id's hash once for each earlier turn of that id in the epoch (2⁶⁴ / golden ratio, odd)."""
RECIPE, HASHES, SECONDS, GROUPS = "order.json", "hashes.npy", "seconds.npy", "groups.npy"


class Corpus(Protocol):
    """The rows of all data sets one behind the other, as far as the order depends on them."""

    seconds: np.ndarray
    """(N,) float64"""

    @property
    def hashes(self) -> np.ndarray:
        """(N,) uint64, of the ids."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rows of each data set."""

    @property
    def groups(self) -> np.ndarray | None:
        """(N,) int64, equal for rows that are fetched together; None where each can be had alone."""


@dataclass(frozen=True, kw_only=True)
class KeptCorpus:
    """A corpus as `Order.save` kept it."""

    seconds: np.ndarray
    hashes: np.ndarray
    sizes: tuple[int, ...]
    groups: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Replanned:
    """An epoch whose rest is planned anew, and the utterances that it has already seen."""

    epoch: int
    seen: np.ndarray
    """Sorted keys, uint64."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Order:
    """All that the plans of a stage are a function of."""

    corpus: Corpus
    budget: Budget
    seed: int
    window: int = 20_000
    weights: tuple[float, ...] | None = None
    augment: Augment | None = None
    """Only its speeds and its seed count here: they change lengths."""

    @cached_property
    def mixture(self) -> Mixture:
        return Mixture(sizes=self.corpus.sizes, weights=self.weights, groups=self.corpus.groups)

    def speeds(self, epoch: int, rows: np.ndarray, occurrences: np.ndarray) -> np.ndarray | None:
        """The speed that this epoch draws for each of `rows`; None where none is drawn. (N,)"""
        if self.augment is None or not self.augment.config.speeds:
            return None
        return self.augment.speed_factors(epoch, self.corpus.hashes[rows], occurrences)

    def lengths(self, epoch: int, rows: np.ndarray, occurrences: np.ndarray) -> np.ndarray:
        """Seconds of each of `rows` at that speed. (N,)"""
        seconds, speeds = self.corpus.seconds[rows], self.speeds(epoch, rows, occurrences)
        return seconds if speeds is None else seconds / speeds

    def plan(self, epoch: int, replanned: Replanned | None = None) -> Plan:
        """The plan of an epoch, or of its rest where it is the re-planned one; that may have no step left."""
        rows, occurrences, _ = self._members(epoch, replanned)
        places = self._places(epoch, rows, occurrences)
        return replace(places, rows=rows[places.rows])

    def seen(
        self, position: Position, skipped: Collection[Position] = (), replanned: Replanned | None = None
    ) -> np.ndarray:
        """Keys of what the position's epoch has behind it: its steps before the position, those that were skipped, and
        what it had seen before it was re-planned. Sorted uint64."""
        epoch, step = position
        rows, occurrences, keys = self._members(epoch, replanned)
        keys = _keys(self.corpus.hashes, rows, occurrences) if keys is None else keys
        places = self._places(epoch, rows, occurrences)
        done = np.arange(places.steps) < step
        done[[number for at, number in skipped if at == epoch and number < places.steps]] = True
        by_micro_batch = np.repeat(done, places.micro_batches_per_step)[: places.micro_batches]
        behind = keys[places.rows[np.repeat(by_micro_batch, np.diff(places.starts))]]
        earlier = replanned.seen if replanned and replanned.epoch == epoch else np.zeros(0, np.uint64)
        return np.union1d(behind, earlier)

    def _members(
        self, epoch: int, replanned: Replanned | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """(rows, occurrences, keys) that the epoch has still to train, unordered; keys only if it was re-planned."""
        rows, occurrences = self.mixture.epoch(self.seed, epoch)
        if replanned is None or replanned.epoch != epoch:
            return rows, occurrences, None
        keys = _keys(self.corpus.hashes, rows, occurrences)
        left = ~np.isin(keys, replanned.seen)
        return rows[left], occurrences[left], keys[left]

    def _places(self, epoch: int, rows: np.ndarray, occurrences: np.ndarray) -> Plan:
        """The plan over `rows`, whose own rows are places among them."""
        if not len(rows):
            nothing = np.zeros(0, np.int64)
            return Plan(rows=nothing, occurrences=nothing.astype(np.int32), starts=np.zeros(1, np.int64),
                        micro_batches_per_step=self.budget.micro_batches)
        groups = None if self.corpus.groups is None else self.corpus.groups[rows]
        return plan(self.lengths(epoch, rows, occurrences), seed=self.seed, epoch=epoch, budget=self.budget,
                    window=self.window, occurrences=occurrences, groups=groups)

    def windows(self, epoch: int, replanned: Replanned | None = None) -> list[np.ndarray]:
        """One row of each group, window by window, as the plan of the epoch comes to them; none without groups."""
        rows, occurrences, _ = self._members(epoch, replanned)
        if self.corpus.groups is None or not len(rows):
            return []
        groups = self.corpus.groups[rows]
        order, starts = grouped_order(groups, self.lengths(epoch, rows, occurrences), self.window, self.seed, epoch)
        firsts = np.flatnonzero(np.diff(groups[order], prepend=-1))
        return np.split(rows[order[firsts]], np.searchsorted(firsts, starts[1:]))

    @property
    def recipe(self) -> dict[str, Any]:
        """Everything but the rows, as JSON values."""
        augment = self.augment if self.augment and self.augment.config.speeds else None
        return {
            "budget": asdict(self.budget),
            "sizes": list(self.corpus.sizes),
            "weights": None if self.weights is None else list(self.weights),
            "window": self.window,
            "seed": self.seed,
            "speeds": augment.config.speeds if augment else [],
            "speed_seed": augment.seed if augment else 0,
        }

    @cached_property
    def digest(self) -> str:
        """Equal for orders whose plans are equal: a name for what `save` writes."""
        hasher = xxhash.xxh3_128(json.dumps(self.recipe, sort_keys=True).encode())
        groups = _numbers(self.corpus.groups)
        for values, kind in ((self.corpus.hashes, "<u8"), (self.corpus.seconds, "<f8"), (groups, "<i8")):
            hasher.update(np.ascontiguousarray(values, kind).tobytes())
        return hasher.hexdigest()

    def save(self, folder: Path) -> None:
        """Fills an empty folder; made to be published."""
        np.save(folder / HASHES, self.corpus.hashes, allow_pickle=False)
        np.save(folder / SECONDS, self.corpus.seconds, allow_pickle=False)
        if self.corpus.groups is not None:
            np.save(folder / GROUPS, self.corpus.groups, allow_pickle=False)
        (folder / RECIPE).write_text(json.dumps(self.recipe, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Order":
        """Raises DataError when the folder was not written by `save`."""
        try:
            recipe = json.loads((folder / RECIPE).read_text(encoding="utf-8"))
            groups = np.load(folder / GROUPS) if (folder / GROUPS).exists() else None
            corpus = KeptCorpus(hashes=np.load(folder / HASHES), seconds=np.load(folder / SECONDS),
                                sizes=tuple(recipe["sizes"]), groups=groups)
            budget, weights, speeds = Budget(**recipe["budget"]), recipe["weights"], recipe["speeds"]
            augment = Augment(AugmentConfig(speeds=speeds), recipe["speed_seed"], sample_rate=1) if speeds else None
            return cls(corpus=corpus, budget=budget, seed=recipe["seed"], window=recipe["window"], augment=augment,
                       weights=None if weights is None else tuple(weights))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{folder}: not the order of a run ({error}); expected {RECIPE}, {HASHES} and {SECONDS}. "
                            "Fetch the run folder again from a mirror, or start anew with --fresh") from None

    def changes(self, before: "Order") -> list[str]:
        """What differs from the order before, for people; empty where all plans are the same."""
        old, new = before.recipe, self.recipe
        found = [f"{name} was {old[name]}, is {new[name]}" for name in new if old[name] != new[name]]
        if not np.array_equal(before.corpus.hashes, self.corpus.hashes):
            gone = int((~np.isin(before.corpus.hashes, self.corpus.hashes)).sum())
            added = int((~np.isin(self.corpus.hashes, before.corpus.hashes)).sum())
            found.append(f"{gone} utterances are gone and {added} are new" if gone or added
                         else "the utterances are in another order")
        elif not np.array_equal(before.corpus.seconds, self.corpus.seconds):
            found.append(f"{int((before.corpus.seconds != self.corpus.seconds).sum())} utterances have another length")
        elif not np.array_equal(_numbers(before.corpus.groups), _numbers(self.corpus.groups)):
            found.append("the utterances lie in other row groups")
        return found


def _numbers(groups: np.ndarray | None) -> np.ndarray:
    return np.zeros(0, np.int64) if groups is None else groups


def _keys(hashes: np.ndarray, rows: np.ndarray, occurrences: np.ndarray) -> np.ndarray:
    """A key for each turn of an utterance in one epoch; the first turn's is the hash of its id. (N,) uint64"""
    mine = hashes[rows]
    order = np.lexsort((occurrences, rows, mine))
    sorted_hashes = mine[order]
    first = np.flatnonzero(np.concatenate([[True], sorted_hashes[1:] != sorted_hashes[:-1]])) if len(mine) else order
    turns = np.empty(len(mine), np.uint64)
    turns[order] = np.arange(len(mine)) - np.repeat(first, np.diff(np.append(first, len(mine))))
    return mine + TURN * turns
