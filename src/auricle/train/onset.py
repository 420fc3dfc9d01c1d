"""Alignment onset: the step at which a speech LLM begins to hear, found by the shape of its loss.

For hundreds or thousands of steps the loss of the answer stays at what the language model can guess without listening,
then within a few steps it falls to a fraction ("it clicks"). The step differs by a factor of 20 between set-ups, so
that only the shape tells:

    ln loss
      ──────────╮       plateau    as long as the fall at least, with a quarter of its slope at most
                │       fall       by a half at least
                ╰────              at a pace that halves the loss within a third of the stage's steps before it

each with a margin for the noise of the lines. A decay (exponential, power law, with or without a floor) is nowhere
steeper than just before, so it is no onset however fast it is. Neither is a loss that leaves its plateau gently, as a
CTC loss mostly leaves its all-blank phase; where a CTC loss breaks off as suddenly, the shape is the same.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Self

from auricle.core.events import Event

TERM = "cross_entropy"
"""The loss term that is the cross-entropy of the answer; a task without it has no onset."""
SCALES = (1, 2, 4, 8, 16)
"""Lines that make one point."""
HALF = math.log(2)
FLAT = 1 / 4
STEEP = 1 / 3
MARGIN = 2.0
"""Standard deviations of a point, by which the fall must exceed a half."""
RECENT = 64
"""Points before the fall that tell their noise …"""
UNKNOWN_NOISE = 0.05
"""… and what it is taken for where there are no three of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Click:
    """An onset that was found."""

    began: int
    """Step of the last line with less than a tenth of the fall behind it."""
    loss_before: float
    """Median of the plateau."""
    loss_after: float
    """Where the fall was noticed; it may go on."""


class Onset:
    """Fed with each log line of a stage, it finds at most one onset, a few lines after the fall began.

    Lines are judged one by one and as medians of 2, 4, 8 and 16: a fall that noise hides from the finer ones shows in
    the coarser ones, a little later.
    """

    def __init__(self, start: int = 0) -> None:
        """`start`: the run's step at which the stage began."""
        self.found: Click | None = None
        self._last = start
        self._traces = [_Trace(start, lines) for lines in SCALES]

    @classmethod
    def from_events(cls, events: Iterable[Event], stage: str) -> Self:
        """As it is after the events that still hold (`core.events.current`)."""
        lines = [event for event in events if event.kind == "train" and event.stage == stage]
        onset = cls(lines[0].step - lines[0].values["stage_step"] if lines else 0)
        for event in lines:
            onset.read(event.step, event.values)
        return onset

    def read(self, step: int, values: Mapping[str, Any]) -> Click | None:
        """`feed` with the values of a `train` event, where they tell of answers to audio."""
        loss = values["terms"].get(TERM)  # the log writes what is not finite as text
        return self.feed(step, loss) if isinstance(loss, float) and values["audio_hours_per_hour"] > 0 else None

    def feed(self, step: int, loss: float) -> Click | None:
        """The onset, at the line that shows it. `step`: the run's; `loss`: cross-entropy of the answer, nats a token.

        A line that is not finite, or not later than the one before it, tells nothing.
        """
        if self.found or step <= self._last or not (math.isfinite(loss) and loss > 0):
            return None
        self._last = step
        clicks = [trace.feed(step, math.log(loss)) for trace in self._traces]
        self.found = next((click for click in clicks if click and self._is_new(click)), None)
        return self.found

    def _is_new(self, click: Click) -> bool:
        """Not a level that was held before: of an early spike a coarse point knows only the top and the return."""
        return math.log(click.loss_after) < self._traces[0].lowest(click.began) - HALF / 2


class _Trace:
    """ln of the loss, a point for so many lines.

    Judged is the lowest level that two points in a row have held: one lucky point counts for nothing, and neither does
    a rise with its return (a spike, a jump at a resume).
    """

    def __init__(self, start: int, lines: int) -> None:
        self._start, self._lines = start, lines
        self._waiting: list[float] = []
        self._steps: list[int] = []
        self._points: list[float] = []
        self._held: list[float] = []
        """Beside each point the lowest level that two in a row have held up to it; the first has none."""

    def feed(self, step: int, log_loss: float) -> Click | None:
        self._waiting.append(log_loss)
        if len(self._waiting) < self._lines:
            return None
        point = median(self._waiting)
        self._waiting.clear()
        both = max(self._points[-1], point) if self._points else math.inf
        self._held.append(min([both, *self._held[-1:]]))
        self._points.append(point)
        self._steps.append(step)
        return self._look()

    def lowest(self, step: int) -> float:
        """Level that was held up to a step; infinite where there is none."""
        known = bisect_right(self._steps, step)
        return self._held[known - 1] if known else math.inf

    def _look(self) -> Click | None:
        """Tries each point as the end of the plateau, the nearest first; the newest one is the end of the fall."""
        steps, held, newest = self._steps, self._held, len(self._steps) - 1
        earliest = bisect_left(steps, (self._start + steps[-1]) / 2)  # a longer fall has no plateau of its length
        if held[earliest] - held[newest] < HALF:
            return None
        fewest = 2 if self._lines == 1 else 3  # a coarse point follows many lines: their noise can be known
        for end in range(newest - 1, max(earliest, fewest) - 1, -1):
            width = steps[newest] - steps[end]
            begin = bisect_right(steps, steps[end] - width) - 1
            if begin < 1:
                return None
            fall = _Fall(depth=held[end] - held[newest], width=width, before=steps[end] - self._start,
                         drift=held[begin] - held[end], plateau=steps[end] - steps[begin])
            if fall.is_onset(0.0) and fall.is_onset(_noise(self._points[max(end - RECENT, 0) : end])):
                return self._click(begin, end)
        return None

    def _click(self, begin: int, end: int) -> Click:
        """`held` is a point late, so the plateau ends one before `end`."""
        tenth = self._held[end] - (self._held[end] - self._held[-1]) / 10
        last = bisect_right(self._held, -tenth, key=lambda level: -level) - 1
        return Click(began=self._steps[last - 1], loss_before=math.exp(median(self._points[begin - 1 : end])),
                     loss_after=math.exp(self._points[-1]))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fall:
    """Depths in nats of ln loss, widths in steps."""

    depth: float
    width: int
    before: int
    """Steps of the stage before the fall."""
    drift: float
    """Depth of the plateau's own fall."""
    plateau: int

    def is_onset(self, noise: float) -> bool:
        sure = self.depth - MARGIN * noise
        return (sure >= HALF and self.width * HALF / sure <= STEEP * self.before
                and (self.drift + noise) / self.plateau <= FLAT * sure / self.width)


def _noise(points: Sequence[float]) -> float:
    """Standard deviation of a point, from second differences, in which a trend leaves no trace.

    Their upper quartile is 1.15 √6 standard deviations; of fewer than five it is the largest.
    """
    bends = sorted(abs(before - 2 * point + after)
                   for before, point, after in zip(points, points[1:], points[2:], strict=False))
    return bends[len(bends) * 3 // 4] / (1.15 * math.sqrt(6)) if bends else UNKNOWN_NOISE
