"""Overfitting: the loss on held-out data rises from evaluation to evaluation while the training loss falls."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from auricle.core.events import Event

RISES = 3
"""In a row."""
LEAST = 0.01
"""Fraction by which the losses must have moved over the rises, so that noise is no trend."""
ABOUT = "overfit"
"""The `about` of its alarm."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Overfit:
    dataset: str
    since: int
    """Step of the evaluation before the first rise."""
    evaluation: tuple[float, float]
    """Loss there and now."""
    training: tuple[float, float]

    def __str__(self) -> str:
        then, now = self.evaluation
        trained_then, trained_now = self.training
        return (
            f"the loss on {self.dataset} rises ({then:.4g} at step {self.since}, {now:.4g} now, {RISES} evaluations in "
            f"a row) while the training loss falls ({trained_then:.4g}, {trained_now:.4g}): the model learns its "
            "training data by heart. The best checkpoint is kept; more data, augmentation, dropout or an earlier end "
            "would help"
        )


def overfit(events: Iterable[Event], stage: str) -> Overfit | None:
    """What the stage's events that still hold (`core.events.current`) warn of; None once an alarm has said so.

    Only evaluations of the same utterances are compared. Training is judged by the median of the log lines between the
    first two and between the last two of them.
    """
    told = [event for event in events if event.stage == stage]
    if any(event.kind == "alarm" and event.values.get("about") == ABOUT for event in told):
        return None
    told = [event for event in told if isinstance(event.values.get("loss"), float)]  # the log writes NaN as text
    series: dict[tuple, list[Event]] = {}
    for event in told:
        if event.kind == "eval" and not event.values.get("beside"):
            series.setdefault((event.values["dataset"], event.values["utterances"]), []).append(event)
    return next(filter(None, (_rising(evaluations, told) for evaluations in series.values())), None)


def _rising(evaluations: Sequence[Event], told: Sequence[Event]) -> Overfit | None:
    last = evaluations[-1 - RISES :]
    losses = [event.values["loss"] for event in last]
    if len(last) <= RISES or not all(before < after for before, after in pairwise(losses)):
        return None
    begun, ended = (
        [event.values["loss"] for event in told if event.kind == "train" and first.step < event.step <= second.step]
        for first, second in (last[:2], last[-2:])
    )
    if not begun or not ended or losses[-1] < losses[0] * (1 + LEAST) or median(ended) > median(begun) * (1 - LEAST):
        return None
    return Overfit(dataset=last[0].values["dataset"], since=last[0].step, evaluation=(losses[0], losses[-1]),
                   training=(median(begun), median(ended)))
