"""From the data section of an experiment to judged training and evaluation rows."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from auricle.core.config import DataConfig, DatasetConfig
from auricle.core.errors import DataError, nearest
from auricle.data.draws import permutation
from auricle.data.judge import Checks, Facts, Rejection, judge, refuse_if_too_many
from auricle.data.loader import Rows
from auricle.data.manifest import Manifest
from auricle.data.prepare import prepared
from auricle.data.sources import parquet
from auricle.data.streamed import Member
from auricle.data.streams import ListedRows, StreamedRows

Progress = Callable[[int, int, float], None]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The usable rows of one split of one data set, and why the others are not."""

    name: str
    manifest: Manifest | StreamedRows
    rejections: tuple[Rejection, ...] = ()
    instruction: str = ""
    """What a conversation asks about its rows; empty is the task's own."""


@dataclass(frozen=True, kw_only=True)
class Streamed:
    """A Parquet data set that is trained window by window: only what it is evaluated on is prepared."""

    source: parquet.Config
    evaluation: Manifest | None


Opened = Manifest | Streamed


def chosen(config: DataConfig, names: Sequence[str] | None) -> DataConfig:
    """The data sets of a stage; None is all of them."""
    if names is None:
        return config
    return config.model_copy(update={"datasets": {name: config.datasets[name] for name in names}})


def open_manifests(config: DataConfig, max_rejected: float, progress: Progress | None = None) -> dict[str, Opened]:
    """Data set → its manifest; a source is prepared at first use, of one that is streamed no more than what is
    evaluated on."""
    prepare = partial(prepared, root=Path(config.prepared_dir), max_rejected=max_rejected, progress=progress)
    return {name: _open(name, entry, config.max_eval_samples, prepare) for name, entry in config.datasets.items()}


def _open(name: str, entry: DatasetConfig, most: int | None, prepare: Callable[..., Manifest]) -> Opened:
    if entry.manifest is not None:
        return Manifest.open(Path(entry.manifest))
    if not isinstance(entry.source, parquet.Config) or not entry.source.streams:
        return prepare(entry.source, name=name)
    split, evaluation = entry.eval_split, None
    if split is not None:
        cap = {} if most is None else {split: most}
        files = {split: entry.source.files_of(split)}
        alone = entry.source.model_copy(update={"splits": files, "streaming": False, "max_samples": cap})
        evaluation = prepare(alone, name=f"{name}-{split}")
    return Streamed(source=entry.source, evaluation=evaluation)


def split_of(manifest: Opened, split: str, where: str) -> Manifest | StreamedRows:
    """The rows of a split; DataError with the splits that there are. Of a data set that is streamed: all that it can
    train on, or the prepared ones that it is evaluated on."""
    if isinstance(manifest, Streamed):
        listed = manifest.evaluation
        return listed if listed and split in listed.summary["splits"] else StreamedRows(manifest.source, split)
    rows = manifest.where(split=split)
    if not len(rows):
        splits = sorted(set(manifest.column("split")))
        raise DataError(f"{where}: no utterance in split '{split}' of {manifest.folder}; {nearest(split, splits)}")
    return rows


def capped(manifest: Manifest, most: int | None, seed: int) -> Manifest:
    """At most `most` rows, the same ones for the same seed, in the manifest's order."""
    if most is None or len(manifest) <= most:
        return manifest
    if manifest.groups is not None:  # few row groups, so that no others are fetched
        _, codes = np.unique(manifest.groups, return_inverse=True)
        turns = permutation(int(codes.max()) + 1, seed, "cap")
        return manifest.where(rows=np.sort(np.argsort(turns[codes], kind="stable")[:most]))
    return manifest.where(rows=np.sort(permutation(len(manifest), seed, "cap")[:most]))


def judged(name: str, manifest: Manifest, checks: Checks, max_rejected: float) -> Judged:
    """Judges every row once more, now with the limits of the task. Raises DataError when too many are rejected."""
    rejections, usable = [], []
    frames = checks.frames(manifest.seconds).tolist() if checks.frames else itertools.repeat(None, len(manifest))
    rows = zip(manifest.ids, manifest.texts, manifest.seconds.tolist(), frames, strict=True)
    for number, (identity, text, seconds, count) in enumerate(rows):
        rejection = judge(Facts(id=identity, text=text, seconds=seconds, frames=count), checks)
        if rejection is None:
            usable.append(number)
        else:
            rejections.append(rejection)
    refuse_if_too_many(rejections, len(manifest), max_rejected, f"data set '{name}'")
    return Judged(name=name, manifest=manifest.where(rows=np.asarray(usable, np.int64)), rejections=tuple(rejections))


def training_rows(config: DataConfig, manifests: dict[str, Manifest], checks: Checks, seed: int) -> list[Judged]:
    """The training split of each data set, capped and judged."""
    checks, found = training_checks(config, checks), []
    for name, entry in config.datasets.items():
        if entry.train_split is not None:
            rows = split_of(manifests[name], entry.train_split, f"data.datasets.{name}.train_split")
            if isinstance(rows, StreamedRows):  # judged window by window, when their turn comes
                some = Judged(name=name, manifest=rows.capped(config.max_train_samples, seed))
            else:
                some = judged(name, capped(rows, config.max_train_samples, seed), checks, config.max_rejected)
            found.append(replace(some, instruction=entry.instruction or ""))
    if not found:
        raise DataError("data.datasets: no data set has a train_split; expected at least one to train on")
    return found


def training_checks(config: DataConfig, checks: Checks) -> Checks:
    """The task's checks with the bounds of the config; a row must stay feasible at the fastest speed that is drawn."""
    checks = _bounded(checks, config)
    if checks.frames is None:
        return checks
    return replace(checks, frames=partial(_frames_at, checks.frames, max([1.0, *config.augment.speeds])))


def _frames_at(frames: Callable[[np.ndarray], np.ndarray], speed: float, seconds: np.ndarray) -> np.ndarray:
    return frames(seconds / speed)


def evaluation_rows(config: DataConfig, manifests: dict[str, Manifest], seed: int) -> list[Judged]:
    """The evaluation split of each data set, capped. Only damaged rows leave: what cannot be said counts as errors."""
    found = []
    for name, entry in config.datasets.items():
        if entry.eval_split is not None:
            rows = split_of(manifests[name], entry.eval_split, f"data.datasets.{name}.eval_split")
            checks = _bounded(Checks(empty_transcript="keep"), config)
            some = judged(name, capped(rows, config.max_eval_samples, seed), checks, config.max_rejected)
            found.append(replace(some, instruction=entry.instruction or ""))
    return found


def _bounded(checks: Checks, config: DataConfig) -> Checks:
    return replace(
        checks,
        min_seconds=config.min_seconds,
        max_seconds=config.max_seconds,
        empty_transcript=checks.empty_transcript if checks.frames is None else config.empty_transcript,
    )


def weights(config: DataConfig, training: list[Judged]) -> tuple[float, ...] | None:
    """The mixture's weights; all data sets have one, or none has."""
    given = [config.datasets[judged.name].weight for judged in training]
    if all(weight is None for weight in given):
        return None
    missing = [judged.name for judged, weight in zip(training, given, strict=True) if weight is None]
    if missing:
        raise DataError(
            f"data.datasets.{missing[0]}.weight: missing although other data sets have one; "
            "give every data set a weight, or none"
        )
    return tuple(given)


def members_of(config: DataConfig, training: list[Judged]) -> list[Member] | None:
    """What shares the windows of a stage that streams; None where all its rows are listed."""
    if not any(isinstance(judged.manifest, StreamedRows) for judged in training):
        return None
    given = weights(config, training) or [None] * len(training)
    return [
        Member(
            name=judged.name,
            rows=judged.manifest if isinstance(judged.manifest, StreamedRows) else ListedRows(judged.manifest),
            weight=weight,
            instruction=judged.instruction,
        )
        for judged, weight in zip(training, given, strict=True)
    ]


def rows_of(found: list[Judged]) -> Rows:
    return Rows([judged.manifest for judged in found], [judged.instruction for judged in found])
