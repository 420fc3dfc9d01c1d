"""From the data section of an experiment to judged training and evaluation rows."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from auricle.core.config import DataConfig, DatasetConfig
from auricle.core.errors import DataError, nearest
from auricle.data.draws import permutation
from auricle.data.judge import Checks, Facts, Rejection, judge, refuse_if_too_many
from auricle.data.loader import Rows
from auricle.data.manifest import Manifest
from auricle.data.prepare import prepared

Progress = Callable[[int, int, float], None]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The usable rows of one split of one data set, and why the others are not."""

    name: str
    manifest: Manifest
    rejections: tuple[Rejection, ...] = ()


def open_manifests(config: DataConfig, max_rejected: float, progress: Progress | None = None) -> dict[str, Manifest]:
    """Data set → its manifest; a source is prepared at first use."""
    return {
        name: _open(name, entry, Path(config.prepared_dir), max_rejected, progress)
        for name, entry in config.datasets.items()
    }


def _open(name: str, entry: DatasetConfig, root: Path, max_rejected: float, progress: Progress | None) -> Manifest:
    if entry.manifest is not None:
        return Manifest.open(Path(entry.manifest))
    return prepared(entry.source, root, name, max_rejected=max_rejected, progress=progress)


def split_of(manifest: Manifest, split: str, where: str) -> Manifest:
    """The rows of a split; DataError with the splits that there are."""
    rows = manifest.where(split=split)
    if not len(rows):
        splits = sorted(set(manifest.column("split")))
        raise DataError(f"{where}: no utterance in split '{split}' of {manifest.folder}; {nearest(split, splits)}")
    return rows


def capped(manifest: Manifest, most: int | None, seed: int) -> Manifest:
    """At most `most` rows, the same ones for the same seed, in the manifest's order."""
    if most is None or len(manifest) <= most:
        return manifest
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
    fastest = max([1.0, *config.augment.speeds])
    checks = _bounded(checks, config)
    if checks.frames is not None:  # a row must stay feasible at the fastest speed that may be drawn
        slow = checks.frames
        checks = replace(checks, frames=lambda seconds: slow(seconds / fastest))
    found = []
    for name, entry in config.datasets.items():
        if entry.train_split is not None:
            rows = split_of(manifests[name], entry.train_split, f"data.datasets.{name}.train_split")
            found.append(judged(name, capped(rows, config.max_train_samples, seed), checks, config.max_rejected))
    if not found:
        raise DataError("data.datasets: no data set has a train_split; expected at least one to train on")
    return found


def evaluation_rows(config: DataConfig, manifests: dict[str, Manifest], seed: int) -> list[Judged]:
    """The evaluation split of each data set, capped. Only damaged rows leave: what cannot be said counts as errors."""
    found = []
    for name, entry in config.datasets.items():
        if entry.eval_split is not None:
            rows = split_of(manifests[name], entry.eval_split, f"data.datasets.{name}.eval_split")
            checks = _bounded(Checks(empty_transcript="keep"), config)
            found.append(judged(name, capped(rows, config.max_eval_samples, seed), checks, config.max_rejected))
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


def rows_of(found: list[Judged]) -> Rows:
    return Rows([judged.manifest for judged in found])
