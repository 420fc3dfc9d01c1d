"""Saving while training goes on: the state is copied into host buffers, and another process makes a checkpoint of them.

    tensors ──copy──► images ──writer process──► checkpoints/step-N/ ──► hints, the run's model, pruning
     (training waits)          (training goes on)

One save is in flight at a time. What a save cost training, and what it waited for, is in its `save` event.
"""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from auricle.store import steps
from auricle.store.directory import ASIDE
from auricle.store.writer import Order, Writer, Written
from auricle.train.checkpoint import OPTIMIZER, TRAINER, TrainingState
from auricle.train.images import Image
from auricle.train.stage import Stage

Tensors = Mapping[str, Tensor]
"""Name → the live tensor."""
Files = Mapping[str, Tensors]
"""By file name."""
POLL_SECONDS = 0.02


@dataclass(frozen=True, kw_only=True)
class InFlight:
    """A save that the writer has in hand."""

    step: int
    stage: str
    stall_seconds: float
    """Training waited this long for the copy …"""
    waited_seconds: float
    """… and the save this long for the one before it."""


class Saver:
    """The saves of one run, on the rank that writes."""

    def __init__(self, folder: Path, event: Callable[..., None], beat: Callable[[], None]) -> None:
        self._folder, self._event, self._beat = folder, event, beat
        self._images: dict[str, Image] = {}
        self._writer: Writer | None = None
        self._in_flight: InFlight | None = None
        self._asked: float | None = None
        """Since when a save waits for the one in flight."""
        self._last: tuple[int, str] | None = None
        """Step and state of the newest save."""
        self._saved = time.monotonic()

    def enter(
        self, weights: Callable[[], Files], moments: Callable[[], Tensors], write_static: Callable[[Path], None]
    ) -> None:
        """Prepares for a stage: allocates its buffers once, and writes what does not change while it trains."""
        self.settle()
        self.close()
        self._tensors = lambda: {**weights(), OPTIMIZER: moments()}
        self._images = {name: Image(content) for name, content in self._tensors().items()}
        self._static = self._folder / "checkpoints" / f"{ASIDE}static"
        shutil.rmtree(self._static, ignore_errors=True)
        self._static.mkdir(parents=True)
        write_static(self._static)
        self._writer = Writer(self._folder, {name: image.buffer for name, image in self._images.items()})

    def remember(self, state: TrainingState) -> None:
        """This state is on disk already."""
        self._last = (state.progress.run_steps, state.to_json())

    def is_due(self, minutes: float | None) -> bool:
        """By the clock, or because a save that was due had to wait. Asked once a step."""
        self._collect()
        by_clock = minutes is not None and time.monotonic() - self._saved > 60 * minutes
        return by_clock or (self._asked is not None and self._in_flight is None)

    def save(self, stage: Stage, state: TrainingState, *, wait: bool = True) -> None:
        """Hands the state of this moment to the writer.

        Where the writer has a save in hand, this one waits for it: here, or (without `wait`) at the steps to come, and
        then what is saved is the state that training has by then. The same state is not saved twice.
        """
        step = state.progress.run_steps
        if self._last == (step, state.to_json()):
            return
        self._asked = self._asked or time.monotonic()
        if wait:
            self.settle()
        elif self._in_flight:
            return
        began = time.monotonic()
        for name, content in self._tensors().items():
            self._images[name].fill(content)
        self._writer.start(self._order(stage, state))
        self._in_flight = InFlight(
            step=step,
            stage=stage.name,
            stall_seconds=time.monotonic() - began,
            waited_seconds=began - self._asked,
        )
        self._last, self._asked, self._saved = (step, state.to_json()), None, time.monotonic()
        self._beat()

    def _order(self, stage: Stage, state: TrainingState) -> Order:
        name, kept = steps.name_of(state.progress.run_steps), retention(stage, state)
        best_is_there = kept.best and (steps.checkpoints_of(self._folder) / kept.best).exists()
        return Order(
            checkpoint=name,
            buffers={name: name for name in self._images},
            texts={TRAINER: state.to_json()},
            static=str(self._static),
            retention=kept,
            expose=kept.best if best_is_there else name,
            hints=hints(state),
            replace=True,  # the same step with another state: a stage's end that became the next one's start
        )

    def settle(self) -> None:
        """Waits until the save in flight, if there is one, is on disk."""
        while self._in_flight:
            self._collect()
            self._beat()
            time.sleep(POLL_SECONDS)

    def _collect(self) -> None:
        written = self._writer.poll() if self._in_flight else None
        if written:
            saved, self._in_flight = self._in_flight, None
            self._report(saved, written)

    def _report(self, saved: InFlight, written: Written) -> None:
        if written.error:
            self._event("alarm", saved.stage, saved.step, message=f"{written.error}; training goes on")
        if not written.committed:
            self._last = None
            return
        self._event(
            "save",
            saved.stage,
            saved.step,
            checkpoint=written.checkpoint,
            bytes=written.bytes,
            seconds=written.seconds,
            stall_seconds=saved.stall_seconds,
            waited_seconds=saved.waited_seconds,
            waited_for_space=written.waited_for_space,
            pruned=list(written.pruned),
        )

    def close(self) -> None:
        """Ends the writer after the save in hand, and gives the buffers back."""
        if self._writer:
            self._writer.close()
            self._writer = None
            shutil.rmtree(self._static, ignore_errors=True)
        for image in self._images.values():
            image.close()
        self._images = {}


def retention(stage: Stage, state: TrainingState) -> steps.Retention:
    """Which checkpoints stay after a save."""
    return steps.Retention(
        newest=stage.config.save_total_limit,
        every=stage.config.save_keep_every,
        best=steps.name_of(state.best["step"]) if state.best else None,
    )


def hints(state: TrainingState) -> dict[str, str]:
    """latest.json and best.json, for people and scripts."""
    step = state.progress.run_steps
    latest = {"latest.json": json.dumps({"step": step, "checkpoint": steps.name_of(step)})}
    return latest | ({"best.json": json.dumps(state.best)} if state.best else {})
