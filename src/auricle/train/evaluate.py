"""Evaluation: hypotheses of every utterance by one decoder or by several, scored by sums of counts, spread over ranks.

During training a time box chooses once, from the first measured speed, a seeded subset whose ids are stored; every
later evaluation and every resumed run uses the same ids. An evaluation outside training is always complete.
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from auricle.core.config import ALL, EvaluationConfig
from auricle.core.errors import ConfigError, nearest
from auricle.core.folder import find
from auricle.core.text import normalizer
from auricle.data.draws import permutation
from auricle.data.judge import Rejection, count_by_reason
from auricle.data.loader import EvaluationSet, Rows, batches
from auricle.data.manifest import Manifest
from auricle.data.plan import Budget, in_length_order
from auricle.metrics import Counts
from auricle.metrics.parts.bootstrap import interval
from auricle.metrics.parts.repetition import loops
from auricle.store.directory import write_text
from auricle.tasks import Hypothesis, Task
from auricle.train.engine import Engine

PROBE_UTTERANCES = 32


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One utterance's hypothesis and its counts by metric."""

    id: str
    source: str
    seconds: float
    audio: str
    start: float | None
    """Seconds into the audio file."""
    reference: str
    hypothesis: str
    counts: dict[str, Counts]
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def lost(self) -> bool:
        """Nothing was heard where something was said."""
        return bool(self.reference) and not self.hypothesis

    def to_json(self) -> str:
        words = self.counts.get("wer", Counts())
        told = {name: score for name, score in self.scores.items() if math.isfinite(score)}
        return json.dumps(
            {
                "id": self.id,
                "source": self.source,
                "seconds": round(self.seconds, 3),
                "audio": self.audio,
                "start": self.start,
                "reference": self.reference,
                "hypothesis": self.hypothesis,
                "substitutions": words.substitutions,
                "deletions": words.deletions,
                "insertions": words.insertions,
                "words": words.reference,
                **({"scores": told} if told else {}),
            },
            ensure_ascii=False,
        )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All utterances of one data set, in the manifest's order, with what they took."""

    dataset: str
    decoder: str
    normalizer: str
    normalizer_version: str
    scored: tuple[Scored, ...]
    seconds: float
    loss: float
    rejections: tuple[Rejection, ...] = ()
    complete: bool = True

    def counts(self, metric: str) -> list[Counts]:
        return [row.counts[metric] for row in self.scored]

    def rates(self) -> dict[str, float]:
        """What an error rate does not tell: the share of utterances of which nothing was heard although something was
        said, of those in which the recogniser got stuck (metrics/parts/repetition.py), and, where the decoder says so,
        of those that it cut off at its limit."""
        cuts = [row.scores["cut"] for row in self.scored if "cut" in row.scores]
        return {
            "empty_rate": _share(row.lost for row in self.scored),
            "repetition_rate": _share(loops(row.reference, row.hypothesis) for row in self.scored),
            **({"cut_rate": _share(cuts)} if cuts else {}),
        }

    def summary(self) -> dict[str, Any]:
        """The values of an `eval` event: rates 0–1, the interval at 95 % by bootstrap over utterances."""
        values: dict[str, Any] = {}
        for metric in self.scored[0].counts if self.scored else ():
            values[metric] = sum(self.counts(metric), Counts()).rate
        words = self.counts("wer") if self.scored and "wer" in self.scored[0].counts else []
        total = sum(words, Counts())
        low, high = interval(words) or (None, None)
        return values | {
            "wer_low": low,
            "wer_high": high,
            "substitutions": total.substitutions,
            "deletions": total.deletions,
            "insertions": total.insertions,
            "words": total.reference,
            "utterances": len(self.scored),
            "audio_seconds": sum(row.seconds for row in self.scored),
            "seconds": self.seconds,
            "loss": self.loss,
            "dataset": self.dataset,
            "decoder": self.decoder,
            "normalizer": self.normalizer,
            "normalizer_version": self.normalizer_version,
            "complete": self.complete,
            "empty_hypotheses": sum(not row.hypothesis for row in self.scored),
            **self.rates(),
            "rejected": count_by_reason(self.rejections),
        }


def _share(told: Iterable[float]) -> float:
    told = list(told)
    return sum(told) / max(len(told), 1)


def decoders_of(task: Task, name: str) -> tuple[str, ...]:
    """The decoders that `evaluation.decoder` names: one, the task's default, or all of them, the default first.

    Raises ConfigError with the nearest name.
    """
    if name == ALL:
        return task.decoders
    if name and name not in task.decoders:
        raise ConfigError(f"evaluation.decoder: no decoder '{name}'; {nearest(name, (*task.decoders, ALL))}")
    return (name or task.decoders[0],)


def evaluate(
    name: str,
    manifest: Manifest,
    task: Task,
    model: nn.Module,
    engine: Engine,
    config: EvaluationConfig,
    *,
    budget: Budget,
    decoders: Sequence[str] = (),
    workers: int = 0,
    complete: bool = True,
    instruction: str = "",
    goes_on: Callable[[], bool] = lambda: True,
) -> tuple[Evaluation, ...] | None:
    """Decodes and scores every row of the manifest; this rank takes each world-th batch, rank 0 gets all rows.

    One evaluation a decoder, of those that the config names if none are given. `goes_on` is asked at each batch; None
    where it said no.
    """
    began = time.monotonic()
    rows = Rows([manifest], [instruction])
    normal = normalizer(config.normalizer)
    decoders = decoders or decoders_of(task, config.decoder)
    places = in_length_order(rows.seconds, budget, rows.groups)[engine.rank :: engine.world]
    data = EvaluationSet(rows, collate=task.collate, sample_rate=task.frontend.sample_rate)
    scored: dict[str, dict[int, Scored]] = {decoder: {} for decoder in decoders}
    rejections, sums, seconds = [], {}, dict.fromkeys(decoders, 0.0)
    for place, batch in zip(places, batches(data, places, workers), strict=True):
        if not goes_on():
            return None
        hypotheses, numbers = _predict(model, task, batch.to(engine.device), seconds, engine)
        _add(sums, numbers)
        rejections += batch.rejections
        for decoder, said in hypotheses.items():
            for number, hypothesis in zip(place, said, strict=True):
                scored[decoder][number] = _score(rows[number], hypothesis, task.metrics, normal)
    gathered = {decoder: dict(engine.gather(found.items())) for decoder, found in scored.items()}
    total: dict[str, float] = {}
    for part in engine.gather([sums]):  # a rank without a batch has no terms
        _add(total, part)
    rejections = tuple(engine.gather(rejections))
    shared = time.monotonic() - began - sum(seconds.values())
    return tuple(
        Evaluation(
            dataset=name,
            decoder=decoder,
            normalizer=normal.name,
            normalizer_version=normal.version,
            scored=tuple(gathered[decoder][number] for number in sorted(gathered[decoder])),
            seconds=shared + seconds[decoder],
            loss=_mean_loss(total),
            rejections=rejections,
            complete=complete,
        )
        for decoder in decoders
    )


@torch.inference_mode()
def _predict(
    model: nn.Module, task: Task, batch: Any, seconds: dict[str, float], engine: Engine
) -> tuple[dict[str, list[Hypothesis]], dict[str, float]]:
    """What each decoder says, and the sums and counts of the loss. What a decoder alone takes is added to `seconds`."""
    model.eval()
    halves, said = hasattr(task, "decode"), {}
    with engine.autocast():
        numbers = _numbers(task.loss(model, batch).terms)
        encoded = task.encode(model, batch) if halves else None
        for decoder in seconds:
            began = time.monotonic()
            if halves:
                said[decoder] = task.decode(model, batch, encoded, decoder)
            else:
                said[decoder] = task.predict(model, batch, decoder)
            seconds[decoder] += time.monotonic() - began
    return said, numbers


def _numbers(terms: dict) -> dict[str, float]:
    sums = {f"sum/{name}": float(term.weight * term.sum) for name, term in terms.items()}
    return sums | {f"count/{name}": float(term.count) for name, term in terms.items()}


def _add(total: dict[str, float], part: dict[str, float]) -> None:
    for name, value in part.items():
        total[name] = total.get(name, 0.0) + value


def _mean_loss(total: dict[str, float]) -> float:
    names = [key.removeprefix("sum/") for key in total if key.startswith("sum/")]
    return sum(total[f"sum/{name}"] / max(total[f"count/{name}"], 1.0) for name in names)


def _score(row: Any, said: Hypothesis, metrics: Sequence[str], normal: Any) -> Scored:
    reference, hypothesis = normal(row.text), normal(said.text)
    counts = {metric: find("metrics", metric).score(reference, hypothesis) for metric in metrics}
    return Scored(
        id=row.id,
        source=row.source,
        seconds=row.seconds,
        audio=str(row.audio or ""), start=row.start,
        reference=reference,
        hypothesis=hypothesis,
        counts=counts,
        scores=said.scores,
    )


def subset(
    name: str, manifest: Manifest, folder: Path, max_seconds: float | None, measure: Any, engine: Engine, seed: int
) -> Manifest:
    """The rows that evaluations during training use: all, or those stored at the first one, or as many as the time box
    holds at the speed that `measure(manifest)` seconds show on a first few."""
    stored = folder / "eval" / f"subset-{name}.json"
    if max_seconds is None:
        return manifest
    text = engine.from_main(stored.read_text(encoding="utf-8") if engine.is_main and stored.exists() else None)
    if text is not None:
        chosen = set(json.loads(text)["ids"])
        return manifest.where(rows=np.flatnonzero([identity in chosen for identity in manifest.ids]))
    order = permutation(len(manifest), seed, "evaluation subset", name)
    probe = manifest.where(rows=np.sort(order[:PROBE_UTTERANCES]))
    measure(probe)  # the first batches pay for caches and compilation
    seconds = engine.from_main(measure(probe))
    if not seconds:  # asked to stop
        return manifest
    size = int(
        np.clip(len(probe) * max_seconds / max(seconds, 1e-9), min(PROBE_UTTERANCES, len(manifest)), len(manifest))
    )
    rows = manifest.where(rows=np.sort(order[:size]))
    if engine.is_main:
        stored.parent.mkdir(parents=True, exist_ok=True)
        write_text(stored, json.dumps({"seed": seed, "probe_seconds": seconds, "ids": rows.ids}))
    engine.wait()
    return rows


def write_hypotheses(path: Path, evaluation: Evaluation) -> None:
    """One JSON line an utterance."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(row.to_json() + "\n" for row in evaluation.scored))
