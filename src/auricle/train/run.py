"""The run around the loop: what it logs, evaluates, saves, and when it stops."""

import json
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from auricle.core.config import ExperimentConfig
from auricle.core.errors import DataError
from auricle.core.events import EventLog
from auricle.data.judge import Rejection, count_by_reason
from auricle.data.plan import Budget
from auricle.store.directory import write_text
from auricle.tasks import Batch
from auricle.tasks.parts.assembly import Assembly
from auricle.train import checkpoint
from auricle.train.checkpoint import TrainingState
from auricle.train.datasets import Judged
from auricle.train.engine import Engine
from auricle.train.evaluate import Evaluation, evaluate, subset, write_hypotheses
from auricle.train.loop import Window
from auricle.train.schedule import fraction_done
from auricle.train.stage import Stage


class StopRequest:
    """Ctrl-C or SIGTERM asks for an end after the step in hand; a second one ends at once."""

    def __init__(self) -> None:
        self.asked = False

    def install(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Where this start of the process began: figures a hour and the ETA are measured from here."""

    began: float
    fraction: float
    hours_before: float


class Run:
    """Everything the loop reports to. Methods named in `loop.Watcher` are called on every rank."""

    def __init__(
        self,
        *,
        engine: Engine,
        folder: Path,
        log: EventLog | None,
        assembly: Assembly,
        config: ExperimentConfig,
        evaluations: list[Judged],
        stop: StopRequest,
        training_rows: int,
    ) -> None:
        self.engine, self.folder, self._log, self.assembly = engine, folder, log, assembly
        self.config, self.evaluations, self.stop = config, evaluations, stop
        self.optimizer: Any = None
        self.segment = Segment(began=time.monotonic(), fraction=0.0, hours_before=0.0)
        self.started = time.monotonic()
        self.evaluating_seconds = 0.0
        self._saved = time.monotonic()
        self._training_rows, self._rejected = training_rows, {}

    @property
    def has_history(self) -> bool:
        """Whether this folder was trained in before."""
        return self._log is not None and self._log.segment > 0

    def event(self, kind: str, stage: str = "", step: int = 0, **values: Any) -> None:
        """Writes an event; only rank 0 has a log."""
        if self._log is not None:
            self._log.write(kind, stage=stage, step=step, **values)

    def enter(self, stage: Stage, state: TrainingState, optimizer: Any) -> None:
        self.optimizer = optimizer
        self.segment = Segment(
            began=time.monotonic(),
            fraction=fraction_done(stage.config, state.progress),
            hours_before=state.progress.wall_hours + state.earlier_hours,
        )

    # -- what the loop asks -------------------------------------------------------------------------------------------

    def stopping(self) -> bool:
        return self.stop.asked

    def save_is_due(self) -> bool:
        minutes = self.config.training.save_minutes
        return self.engine.is_main and minutes is not None and time.monotonic() - self._saved > 60 * minutes

    def rejected(self, stage: Stage, state: TrainingState, micro: Sequence[Batch]) -> None:
        """Rows that could not be read when their turn came; raises DataError when they become too many."""
        found: list[Rejection] = self.engine.gather(rejection for batch in micro for rejection in batch.rejections)
        self._rejected |= {rejection.id: rejection for rejection in found}
        self.event(
            "rejected",
            stage.name,
            state.progress.run_steps,
            dataset="training (while loading)",
            count_by_reason=count_by_reason(found),
            rows=self._training_rows,
            listed=[[r.id, r.reason, r.detail] for r in found],
        )
        if len(self._rejected) > self.config.data.max_rejected * self._training_rows:
            raise DataError(
                f"training: {len(self._rejected)} of {self._training_rows} utterances could not be read, more than "
                f"max_rejected {self.config.data.max_rejected:.1%}; first: {found[0].id}: {found[0].reason} "
                f"{found[0].detail}. Is the disk or the corpus still there?"
            )

    def log(self, stage: Stage, state: TrainingState, window: Window, grad_norm: float, rate: float) -> None:
        values = window.summary(self.engine)
        fraction, seconds = fraction_done(stage.config, state.progress), time.monotonic() - self.segment.began
        done = max(fraction - self.segment.fraction, 1e-9)
        hours = self.segment.hours_before + seconds / 3600
        price = self.config.training.price_per_hour
        cost = (
            {}
            if price is None
            else {"cost": price * hours, "cost_to_end": price * (hours + seconds * (1 - fraction) / done / 3600)}
        )
        self.event(
            "train",
            stage.name,
            state.progress.run_steps,
            loss=sum(values["terms"].values()),
            grad_norm=grad_norm,
            learning_rate=rate,
            epoch=state.progress.epochs,
            stage_step=state.progress.steps,
            total_steps=stage.total_steps,
            seconds=hours * 3600,
            eta_seconds=seconds * (1 - fraction) / done,
            audio_hours=state.progress.audio_hours,
            **values,
            **cost,
        )

    def evaluate(self, stage: Stage, state: TrainingState, *, complete: bool = False) -> TrainingState:
        """Evaluates every evaluation set; a new best is saved at once. Returns the state with the best so far."""
        box = None if complete else stage.config.eval_max_seconds
        results = [self._evaluate_one(stage, judged, box) for judged in self.evaluations]
        if not results:
            return state
        metric = stage.config.metric_for_best_model or self.assembly.task.metrics[0]
        value = sum(result.summary()[metric] for result in results) / len(results)
        is_best = state.best is None or value < state.best["value"] or (complete and not state.best["complete"])
        if is_best:
            state = replace(
                state, best={"metric": metric, "value": value, "step": state.progress.run_steps, "complete": complete}
            )
        for result in results:
            self._report(stage, state, result, is_best)
        if is_best and not complete:
            self.save(stage, state)
        return state

    def _evaluate_one(self, stage: Stage, judged: Judged, box: float | None) -> Evaluation:
        began = time.monotonic()
        budget = Budget(
            seconds=stage.config.batch_seconds,
            utterances=stage.config.per_device_eval_batch_size or stage.config.per_device_train_batch_size,
        )

        def judge(manifest: Any) -> Evaluation:
            return evaluate(
                judged.name,
                manifest,
                self.assembly.task,
                self.assembly.model,
                self.engine,
                self.config.evaluation,
                budget=budget,
                workers=stage.config.dataloader_num_workers,
            )

        rows = subset(
            judged.name, judged.manifest, self.folder, box, lambda m: judge(m).seconds, self.engine, stage.config.seed
        )
        result = judge(rows)
        self.evaluating_seconds += time.monotonic() - began
        return replace(result, complete=len(rows) == len(judged.manifest))

    def _report(self, stage: Stage, state: TrainingState, result: Evaluation, is_best: bool) -> None:
        step = state.progress.run_steps
        name = f"eval/step-{step:09d}-{result.dataset}.jsonl"
        if self.engine.is_main:
            write_hypotheses(self.folder / name, result)
        share = 100 * self.evaluating_seconds / max(time.monotonic() - self.started, 1e-9)
        self.event(
            "eval",
            stage.name,
            step,
            **result.summary(),
            share_of_wall_percent=share,
            best=is_best,
            hypotheses=name,
            epoch=state.progress.epochs,
        )

    def save(self, stage: Stage, state: TrainingState) -> None:
        """Publishes a checkpoint (rank 0; the others wait), exposes the best model and prunes old checkpoints."""
        if self.engine.is_main:
            began = time.monotonic()
            path = checkpoint.save(self.folder, state, self.optimizer, self.assembly.save)
            chosen = checkpoint.path_of(self.folder, state.best["step"]) if state.best else path
            if chosen.exists():
                checkpoint.expose(self.folder, chosen)
            if state.best:
                write_text(self.folder / "best.json", json.dumps(state.best))
            checkpoint.prune(self.folder, stage.config.save_total_limit, state.best)
            size = sum(item.stat().st_size for item in path.iterdir())
            self.event(
                "save",
                stage.name,
                state.progress.run_steps,
                checkpoint=path.name,
                bytes=size,
                seconds=time.monotonic() - began,
            )
        self._saved = time.monotonic()
        self.engine.wait()
