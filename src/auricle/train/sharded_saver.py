"""Saving a training that is sharded over ranks: every rank takes part, and training waits until all is on disk."""

import time
from collections.abc import Callable
from pathlib import Path

from auricle.core.errors import CheckpointError
from auricle.store import steps
from auricle.store.directory import write_text
from auricle.train.checkpoint import TRAINER, TrainingState
from auricle.train.engine import Engine
from auricle.train.saver import Files, Tensors, hints, retention
from auricle.train.sharded import publish_sharded
from auricle.train.stage import Stage


class ShardedSaver:
    """In the place of `Saver`, on every rank; all of them call `save` at the same steps."""

    def __init__(self, folder: Path, engine: Engine, event: Callable[..., None], beat: Callable[[], None]) -> None:
        self._folder, self._engine, self._event, self._beat = folder, engine, event, beat
        self._last: tuple[int, str] | None = None
        self._saved = time.monotonic()

    def enter(
        self, weights: Callable[[], Files], moments: Callable[[], Tensors], write_static: Callable[[Path], None]
    ) -> None:
        self._weights, self._moments, self._write_static = weights, moments, write_static

    def remember(self, state: TrainingState) -> None:
        self._last = (state.progress.run_steps, state.to_json())

    def is_due(self, minutes: float | None) -> bool:
        """The main rank's clock decides for all."""
        return self._engine.is_main and minutes is not None and time.monotonic() - self._saved > 60 * minutes

    def save(self, stage: Stage, state: TrainingState, *, wait: bool = True) -> None:
        """Writes the state of this moment, unless it is on disk already. `wait` has nothing to wait for."""
        del wait
        if self._last == (state.progress.run_steps, state.to_json()):
            return
        began = time.monotonic()
        path = steps.path_of(self._folder, state.progress.run_steps)
        try:
            publish_sharded(
                path, self._engine, lambda folder: self._rest(folder, state), self._moments(), weights=self._weights(),
                replace=True,
            )  # fmt: skip
        except CheckpointError as error:
            self._event("alarm", stage.name, state.progress.run_steps, message=f"{error}; training goes on")
            return
        finally:
            self._beat()
        self._last, self._saved = (state.progress.run_steps, state.to_json()), time.monotonic()
        if self._engine.is_main:
            self._afterwards(stage, state, path, time.monotonic() - began)

    def _rest(self, folder: Path, state: TrainingState) -> None:
        self._write_static(folder)
        (folder / TRAINER).write_text(state.to_json(), encoding="utf-8")

    def _afterwards(self, stage: Stage, state: TrainingState, path: Path, seconds: float) -> None:
        best = steps.path_of(self._folder, state.best["step"]) if state.best else path
        steps.expose(self._folder, best if best.exists() else path)
        pruned = steps.prune(self._folder, retention(stage, state), {path.name})
        for name, text in hints(state).items():
            write_text(self._folder / name, text)
        self._event(
            "save",
            stage.name,
            state.progress.run_steps,
            checkpoint=path.name,
            bytes=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
            seconds=seconds,
            stall_seconds=seconds,
            waited_seconds=0.0,
            pruned=list(pruned),
        )

    def settle(self) -> None:
        """Nothing is ever in flight."""

    def close(self) -> None:
        """Nothing is held."""
