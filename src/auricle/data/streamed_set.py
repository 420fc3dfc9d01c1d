"""The training set of a stage whose rows are not listed first (data/streamed.py)."""

import math
from collections.abc import Callable, Sequence

from auricle.data.loader import Collate, TrainingSet
from auricle.data.manifest import Row
from auricle.data.plan import MicroBatch, Position
from auricle.data.read_ahead import Audio
from auricle.data.streamed import StreamedOrder


class StreamedSet(TrainingSet):
    """Where a training set has epochs, this one has windows; figures of an epoch are estimated from the first."""

    plans_kept = 32  # windows may be of a few steps, and workers run ahead

    def __init__(self, order: StreamedOrder, *, collate: Collate, sample_rate: int) -> None:
        self.rows, self.order, self.augment = order, order, order.augment
        self.collate, self.sample_rate = collate, sample_rate
        self._begin(None)

    def epochs(self, position: Position) -> float:
        window, step = position
        part = step / self.plan(window).steps if step else 0.0
        return (window + part) / self.order.windows_per_epoch

    @property
    def estimated_from(self) -> str:
        windows = math.ceil(self.order.windows_per_epoch)
        return f"the first of {windows} windows" if windows > 1 else ""

    @property
    def steps_per_epoch(self) -> int:
        return max(1, round(self.plan(0).steps * self.order.windows_per_epoch))

    @property
    def hours_per_epoch(self) -> float:
        return float(self.order.content(0).seconds.sum()) / 3600 * self.order.windows_per_epoch

    @property
    def audio_hours(self) -> float:
        return self.hours_per_epoch

    def coming(self) -> Callable[[MicroBatch], Sequence[Audio]]:
        return self._coming

    def _coming(self, place: MicroBatch) -> list[Audio]:
        return [*self.order.audio(place.epoch), *self.order.audio(place.epoch + 1)]

    def row(self, epoch: int, number: int) -> tuple[Row, str]:
        window = self.order.content(epoch)
        return window.rows[number], self.order.members[window.members[number]].instruction
