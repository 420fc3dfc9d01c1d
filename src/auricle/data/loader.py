"""From a plan to batches: worker processes read, resample, augment and collate.

Plan ──MicroBatch (rows)──► worker: read_signal → Augment → Utterance → task.collate ──► Batch
"""

import ctypes
import functools
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from auricle.core.errors import AuricleError, DataError, Preempted
from auricle.data.audio import AudioProblem, read_audio
from auricle.data.augment import Augment, FeatureMasks
from auricle.data.draws import id_hashes
from auricle.data.features import Features
from auricle.data.frames import Frames
from auricle.data.judge import Rejection
from auricle.data.manifest import Manifest, Row
from auricle.data.plan import Budget, MicroBatch, Plan, Position
from auricle.data.read_ahead import Audio, ComingGroups, ReadAhead
from auricle.data.replan import Order, Replanned


@dataclass(frozen=True, kw_only=True, slots=True)
class Utterance:
    """One decoded row as a task's `collate` sees it."""

    id: str
    audio: np.ndarray | None
    """(T,) float32 mono at the task's sample rate, augmented in training; None where there is none."""
    features: np.ndarray | None = None
    """(F, M) float32 that were computed before, in the place of audio; F / sample_rate are the seconds."""
    sample_rate: int
    text: str
    seconds: float
    """Of audio."""
    heard: str = ""
    """What stands in for the audio that is not there: the text, garbled in training."""
    frames: torch.Tensor | None = None
    """(E, D) what a frozen encoder made of the audio, in its place."""
    instruction: str = ""
    """What a conversation asks about it; empty is the task's own."""
    augment_features: Callable[[np.ndarray], np.ndarray] | None = None
    """(F, M) features → (F, M) features with masks; None in evaluation."""


KILLED = "DataLoader worker (pid"
"""How torch begins its report of a worker that is gone; one of an error within a worker begins with "Caught"."""

Collate = Callable[[Sequence[Utterance]], Any]


class Rows:
    """Manifests one behind the other: row numbers run through all of them."""

    def __init__(self, manifests: Sequence[Manifest], instructions: Sequence[str] | None = None) -> None:
        self.manifests = tuple(manifests)
        self.instructions = tuple(instructions or [""] * len(manifests))
        """Of each manifest's rows."""
        self.offsets = np.cumsum([0, *map(len, self.manifests)])
        self.seconds = np.concatenate([m.seconds for m in self.manifests]) if self.manifests else np.zeros(0)

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def __getitem__(self, number: int) -> Row:
        which = self._which(number)
        return self.manifests[which].row(int(number - self.offsets[which]))

    def instruction(self, number: int) -> str:
        return self.instructions[self._which(number)]

    def _which(self, number: int) -> int:
        return int(np.searchsorted(self.offsets, number, side="right")) - 1

    @property
    def audio_seconds(self) -> float:
        return sum(float(manifest.seconds[manifest.has_audio].sum()) for manifest in self.manifests)

    @property
    def ids(self) -> list[str]:
        return [name for manifest in self.manifests for name in manifest.ids]

    @cached_property
    def hashes(self) -> np.ndarray:
        """(N,) uint64, of the ids."""
        return id_hashes(self.ids)

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(map(len, self.manifests))

    @cached_property
    def groups(self) -> np.ndarray | None:
        """(N,) int64, equal for rows whose audio is fetched together; None where each row's can be had alone."""
        if all(manifest.groups is None for manifest in self.manifests):
            return None
        parts, used = [], 0
        for manifest in self.manifests:
            parts.append(used + (np.arange(len(manifest)) if manifest.groups is None else manifest.groups))
            used = int(parts[-1].max(initial=used - 1)) + 1
        return np.concatenate(parts)


class TrainingSet(Dataset):
    """The rows of a stage with their plan and augmentation; `self[micro_batch]` is a collated batch."""

    plans_kept = 4
    frames: Frames | None = None
    """What a frozen encoder made of the rows (train/frozen_cache.py)."""
    estimated_from = ""
    """What figures of an epoch are estimated from; empty where they are exact."""

    def __init__(
        self,
        rows: Rows,
        *,
        collate: Collate,
        sample_rate: int,
        budget: Budget,
        seed: int,
        window: int = 20_000,
        weights: tuple[float, ...] | None = None,
        augment: Augment | None = None,
        replanned: Replanned | None = None,
    ) -> None:
        if not len(rows):
            raise DataError("training set: no utterance; expected at least one. Look at `auricle data inspect`")
        self.rows, self.collate, self.sample_rate, self.augment = rows, collate, sample_rate, augment
        self.order = Order(corpus=rows, budget=budget, seed=seed, window=window, weights=weights, augment=augment)
        self._begin(replanned)

    def _begin(self, replanned: Replanned | None) -> None:
        self.replanned = replanned
        self._plans: dict[int, Plan] = {}
        self._ahead: ReadAhead | None = None

    def with_replanned(self, replanned: Replanned) -> "TrainingSet":
        """The same rows, with the rest of one epoch planned anew."""
        other = copy(self)
        other._begin(replanned)
        return other

    def with_frames(self, frames: Frames) -> "TrainingSet":
        """The same rows and order, with frames in the place of audio."""
        other = copy(self)
        other.frames = frames
        return other

    def plan(self, epoch: int) -> Plan:
        """The plan of an epoch, or of its rest where it was re-planned; a few are kept, because workers run ahead."""
        if epoch not in self._plans:
            if len(self._plans) == self.plans_kept:
                del self._plans[min(self._plans)]
            self._plans[epoch] = self.order.plan(epoch, self.replanned)
        return self._plans[epoch]

    def whole_plan(self, epoch: int) -> Plan:
        """The plan of an epoch as if it had not been re-planned: what the length of a stage is estimated from."""
        in_part = self.replanned is not None and self.replanned.epoch == epoch
        return self.order.plan(epoch) if in_part else self.plan(epoch)

    def epochs(self, position: Position) -> float:
        """How many epochs are behind a position. The steps of a re-planned rest count for what it had left."""
        epoch, step = position
        if not step and (self.replanned is None or self.replanned.epoch != epoch):
            return float(epoch)
        places = self.plan(epoch)
        if self.replanned is None or self.replanned.epoch != epoch:
            return epoch + step / places.steps
        begun = len(self.replanned.seen) / max(1, len(self.replanned.seen) + len(places.rows))
        return epoch + begun + (1 - begun) * step / max(1, places.steps)

    def lengths(self, epoch: int, rows: np.ndarray, occurrences: np.ndarray) -> np.ndarray:
        """Seconds of each of `rows` after the speed that this epoch draws. (N,)"""
        return self.order.lengths(epoch, rows, occurrences)

    def padding(self, epoch: int) -> float:
        """Planned padding of an epoch as a fraction of its padded audio."""
        current = self.whole_plan(epoch)
        lengths = self.lengths(epoch, current.rows, current.occurrences)
        return replace(current, rows=np.arange(len(lengths))).padding(lengths)

    @property
    def steps_per_epoch(self) -> int:
        return self.whole_plan(0).steps

    @property
    def hours_per_epoch(self) -> float:
        """Of the rows, as the plan counts their lengths."""
        return float(self.rows.seconds.sum()) / 3600

    @property
    def audio_hours(self) -> float:
        return self.rows.audio_seconds / 3600

    def coming(self) -> Callable[[MicroBatch], Sequence[Audio]] | None:
        """What a place of the plan and the next ones need fetched; None where all of it is on disk."""
        if self.frames is not None or self.rows.groups is None:
            return None
        return ComingGroups(self.rows, self.order, self.replanned)

    def _follow(self, place: MicroBatch) -> None:
        """In a worker: has threads fetch what comes next."""
        worker = get_worker_info()
        if worker and self._ahead is None and (coming := self.coming()):
            self._ahead = ReadAhead(coming, worker.id / worker.num_workers)
        if self._ahead:
            self._ahead.at(place)

    def row(self, _epoch: int, number: int) -> tuple[Row, str]:
        """(row `number` of the plan of an epoch, what a conversation asks about it)"""
        return self.rows[number], self.rows.instruction(number)

    def __getitem__(self, place: MicroBatch) -> Any:
        self._follow(place)
        rows, occurrences = np.asarray(place.rows, np.int64), np.asarray(place.occurrences, np.int32)
        speeds = self.order.speeds(place.epoch, rows, occurrences)
        speeds = np.ones(len(rows)) if speeds is None else speeds
        utterances, rejections = [], []
        for number, occurrence, speed in zip(rows.tolist(), occurrences.tolist(), speeds.tolist(), strict=True):
            row, instruction = self.row(place.epoch, number)
            if self.frames is not None and row.audio is not None:
                frames = self.frames[number]
                if frames is None:
                    rejections.append(Rejection("unreadable", row.id, "when its frames were computed"))
                else:
                    utterances.append(self._encoded(row, instruction, frames))
                continue
            try:
                utterances.append(self._utterance(row, instruction, place.epoch, occurrence, speed))
            except AudioProblem as problem:
                rejections.append(Rejection(problem.reason, row.id, problem.detail))
        batch = self.collate(utterances)
        return replace(batch, rejections=tuple(rejections)) if rejections else batch

    def _encoded(self, row: Row, instruction: str, frames: torch.Tensor) -> Utterance:
        return Utterance(id=row.id, audio=None, sample_rate=self.sample_rate, text=row.text, seconds=row.seconds,
                         frames=frames, instruction=instruction)

    def _utterance(self, row: Row, instruction: str, epoch: int, occurrence: int, speed: float) -> Utterance:
        rng = self.augment.generator(epoch, occurrence, row.id) if self.augment else None
        if row.audio is None:
            garbled = self.augment.garbled(row.text, rng) if self.augment else row.text
            return text_utterance(row, self.sample_rate, garbled, instruction)
        signal, masks = read_signal(row, self.sample_rate), None
        if self.augment:
            signal = self.augment.signal(signal, speed, rng)
            spec_augment = self.augment.config.spec_augment
            masks = FeatureMasks(spec_augment, rng) if spec_augment else None
        return _heard(row, signal, self.sample_rate, augment_features=masks, instruction=instruction)


def read_signal(row: Row, sample_rate: int) -> np.ndarray:
    """(T,) samples at `sample_rate`, or the (F, M) features of a row that has those. Raises AudioProblem."""
    if isinstance(row.audio, Features):
        return row.audio.read(row.start, row.stop)
    return read_audio(row.audio, sample_rate, row.start, row.stop)


def _heard(row: Row, signal: np.ndarray, sample_rate: int, **options: Any) -> Utterance:
    kind = "features" if signal.ndim == 2 else "audio"
    return Utterance(**{"audio": None, kind: signal}, id=row.id, sample_rate=sample_rate, text=row.text,
                     seconds=len(signal) / sample_rate, **options)


def text_utterance(row: Row, sample_rate: int, heard: str, instruction: str) -> Utterance:
    return Utterance(
        id=row.id, audio=None, sample_rate=sample_rate, text=row.text, seconds=0.0, heard=heard, instruction=instruction
    )


class EvaluationSet(Dataset):
    """Rows as they are: no augmentation can reach them. A row that cannot be read becomes an empty utterance, so that
    it counts as errors and not as absent; `self[rows]` is a collated batch."""

    def __init__(self, rows: Rows, *, collate: Collate, sample_rate: int) -> None:
        self.rows, self.collate, self.sample_rate = rows, collate, sample_rate

    def __getitem__(self, numbers: Sequence[int]) -> Any:
        utterances, rejections = [], []
        for number in numbers:
            row, instruction = self.rows[number], self.rows.instruction(number)
            if row.audio is None:
                utterances.append(text_utterance(row, self.sample_rate, row.text, instruction))
                continue
            try:
                signal = read_signal(row, self.sample_rate)
            except AudioProblem as problem:
                signal = np.zeros(0, np.float32)
                rejections.append(Rejection(problem.reason, row.id, problem.detail))
            utterances.append(_heard(row, signal, self.sample_rate, instruction=instruction))
        batch = self.collate(utterances)
        return replace(batch, rejections=tuple(rejections)) if rejections else batch


PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that a process gets when its parent dies."""


def batches(dataset: Dataset, places: Iterable[Any], workers: int) -> Iterator[Any]:
    """Batches in the order of `places`, whatever the number of workers.

    Raises Preempted, here and nowhere else, when a worker was killed.
    """
    loader = DataLoader(
        _Telling(dataset),
        sampler=_Places(places),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        generator=torch.Generator(),  # its own: iterating must not draw from the model's randomness
        worker_init_fn=functools.partial(_end_with, os.getpid()),
    )
    handler, others = signal.getsignal(signal.SIGCHLD), set(multiprocessing.active_children())
    started: set[Any] = set()
    try:
        loaded = iter(loader)
        started = set(multiprocessing.active_children()) - others
        if signal.getsignal(signal.SIGCHLD) is not handler:
            signal.signal(signal.SIGCHLD, handler)  # torch's raises wherever it strikes, in the midst of a step too
        for batch in loaded:
            if isinstance(batch, AuricleError):
                raise batch
            yield batch
    except (RuntimeError, OSError, EOFError) as error:
        if not str(error).startswith(KILLED) and (isinstance(error, RuntimeError) or not _one_ended(started)):
            raise
        raise Preempted(
            f"data loader: a worker process was killed ({error}); is memory full? Fewer dataloader_num_workers or a "
            "smaller batch_seconds need less; run the same command to go on"
        ) from None


def _one_ended(workers: set[Any]) -> bool:
    """Whether a worker is gone, which the pipe that it was killed at tells some moments before the kernel does."""
    return bool(workers and multiprocessing.connection.wait([worker.sentinel for worker in workers], timeout=5))


def _end_with(trainer: int, _worker: int) -> None:
    """Ends this worker with its trainer. torch's own watch begins too late to see one that dies right after forking,
    and such a worker would keep its memory, the save buffers among it, for ever."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != trainer:
        os._exit(1)


class _Telling(Dataset):
    """Hands an error that is a sentence over as it is: a loader would wrap it into the worker's traceback."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, place: Any) -> Any:
        try:
            return self.dataset[place]
        except AuricleError as error:
            return error


class _Places(torch.utils.data.Sampler):
    """An iterable without a length (training has no end) in the place of a sampler."""

    def __init__(self, places: Iterable[Any]) -> None:
        self.places = places

    def __iter__(self) -> Iterator[Any]:
        return iter(self.places)
