"""The run around the loop: what it logs, evaluates, saves, and when it stops."""

import math
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from torch import Tensor

from auricle.core.config import ExperimentConfig
from auricle.core.errors import DataError
from auricle.core.events import EventLog, current, read
from auricle.data.judge import Rejection, count_by_reason
from auricle.data.plan import Budget
from auricle.models.parts.folder import HubPart, Part, StoredPart
from auricle.models.parts.weights import component_tensors, weight_files, weights_hash
from auricle.store import steps
from auricle.tasks import Batch
from auricle.tasks.parts.assembly import store_part
from auricle.train import checkpoint, memory
from auricle.train.checkpoint import TrainingState
from auricle.train.datasets import Judged
from auricle.train.engine import Engine
from auricle.train.evaluate import Evaluation, decoders_of, evaluate, subset, write_hypotheses
from auricle.train.loop import Step, StepResult, Window
from auricle.train.onset import Onset
from auricle.train.optim import moments
from auricle.train.overfit import ABOUT, overfit
from auricle.train.saver import Saver
from auricle.train.schedule import fraction_done
from auricle.train.sharded import gather
from auricle.train.sharded_saver import ShardedSaver
from auricle.train.stage import Stage
from auricle.train.watchdog import Watchdog


class StopRequest:
    """Ctrl-C or SIGTERM asks for an end after the step in hand; a second one ends at once, by the signal itself."""

    def __init__(self) -> None:
        self.asked = False

    def install(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)


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
        config: ExperimentConfig,
        stages: Sequence[Stage],
        stop: StopRequest,
    ) -> None:
        self.engine, self.folder, self._log = engine, folder, log
        self.config, self.stages, self.stop = config, tuple(stages), stop
        self._decoders = {stage.name: decoders_of(stage.task, config.evaluation.decoder) for stage in stages}
        self.optimizer: Any = None
        self.watchdog = Watchdog(
            config.training.hang_seconds, folder / f"stacks-{engine.rank}.txt", self._hung
        )
        self.saver: Saver | ShardedSaver | None = None
        if engine.shards:
            self.saver = ShardedSaver(folder, engine, self.event, self.watchdog.beat)
        elif engine.is_main:
            self.saver = Saver(folder, self.event, self.watchdog.beat)
        self.segment = Segment(began=time.monotonic(), fraction=0.0, hours_before=0.0)
        self.started = time.monotonic()
        self.evaluating_seconds = 0.0
        self._rejected: dict[str, Rejection] = {}

    @property
    def has_history(self) -> bool:
        """Whether this folder was trained in before."""
        return self._log is not None and self._log.segment > 0

    def event(self, kind: str, stage: str = "", step: int = 0, **values: Any) -> None:
        """Writes an event; only rank 0 has a log."""
        if self._log is not None:
            self._log.write(kind, stage=stage, step=step, **values)

    def enter(self, stage: Stage, state: TrainingState, optimizer: Any) -> None:
        """Begins a stage (or begins it again after a roll-back): figures count from here."""
        self.optimizer = optimizer
        self.segment = Segment(
            began=time.monotonic(),
            fraction=fraction_done(stage.config, state.progress),
            hours_before=state.progress.wall_hours + state.earlier_hours,
        )
        self.onset = self._onset(stage, state)
        self.watchdog.begin()

    def _onset(self, stage: Stage, state: TrainingState) -> Onset:
        """What was seen of the stage so far; nothing is, at its first start."""
        held = current(read(self._log.path)) if self._log else []
        if any(event.kind == "train" and event.stage == stage.name for event in held):
            return Onset.from_events(held, stage.name)
        return Onset(state.progress.run_steps - state.progress.steps)

    def prepare_saving(self, stage: Stage, learning: dict[str, list]) -> None:
        """Allocates what the stage's saves need. Components that do not learn in it are stored once, beside them."""
        if not self.saver:
            return
        model = stage.assembly.model
        learned = {id(parameter) for parameters in learning.values() for _, parameter in parameters}
        parts = {
            component: self._part(stage, component, tensors)
            for component, tensors in component_tensors(model).items()
            if not any(id(tensor) in learned for tensor in tensors.values())
        }

        def write_static(folder: Path) -> None:
            stage.assembly.write_static(folder, parts)
            for other in self.stages:
                if other.assembly.tokenizer is not stage.assembly.tokenizer:
                    other.assembly.tokenizer.save(made(folder / steps.STAGES / other.name))
            if stage.data.replanned:
                np.save(folder / checkpoint.SEEN, stage.data.replanned.seen, allow_pickle=False)

        self.saver.enter(lambda: weight_files(model, parts), lambda: moments(self.optimizer), write_static)

    def _part(self, stage: Stage, component: str, tensors: dict[str, Tensor]) -> Part:
        """Weights that are still the hub's are named, others are stored."""
        hub: HubPart | None = getattr(stage.assembly.model, "hub_parts", {}).get(component)
        if hub and not self.engine.shards and weights_hash(tensors) == hub.hash:
            return hub
        return StoredPart(part=self._stored(tensors))

    def _stored(self, tensors: dict[str, Tensor]) -> str:
        parts = steps.parts_of(self.folder)
        if not self.engine.shards:
            return store_part(parts, tensors)
        whole = gather(tensors, self.engine)
        return self.engine.from_main(store_part(parts, whole) if self.engine.is_main else None)

    def remember(self, state: TrainingState, found: Path) -> None:
        """The state that this start resumes from is on disk already, where it lies in this run's folder."""
        if self.saver and found.parent == self.folder / "checkpoints":
            self.saver.remember(state)

    def close(self) -> None:
        """Ends what runs beside training; a save in hand is finished."""
        if self.saver:
            self.saver.settle()
            self.saver.close()
        self.watchdog.close()

    def _hung(self, message: str) -> None:
        self.event("alarm", message=message)
        self.event("end", reason="hung", seconds=time.monotonic() - self.started, message=message)

    # -- what the loop asks -------------------------------------------------------------------------------------------

    def stopping(self) -> bool:
        return self.stop.asked

    def save_is_due(self) -> bool:
        return self.saver is not None and self.saver.is_due(self.config.training.save_minutes)

    def split(self, stage: Stage) -> int:
        return self.engine.from_main(memory.split_of(self.folder, stage.name))

    def stepped(self) -> None:
        self.watchdog.step()

    def bad_step(self, stage: Stage, state: TrainingState, step: Step, result: StepResult) -> None:
        """What was not finite, and what it was trained on; every rank's utterances are listed."""
        lengths = [
            round(float(length), 3)
            for place in step.places
            for length in stage.data.lengths(place.epoch, np.asarray(place.rows, np.int64), place.occurrences)
        ]
        ids = [identity for batch in step.micro for identity in batch.ids]
        found = self.engine.gather(zip(ids, lengths, strict=False))
        self.event(
            "bad_step",
            stage.name,
            state.progress.run_steps,
            terms=result.sums,
            grad_norm=result.grad_norm,
            ids=[identity for identity, _ in found],
            lengths=[length for _, length in found],
        )

    def rejected(self, stage: Stage, state: TrainingState, micro: Sequence[Batch]) -> None:
        """Rows that could not be read when their turn came; raises DataError when they become too many."""
        rows = len(stage.data.rows)
        found: list[Rejection] = self.engine.gather(rejection for batch in micro for rejection in batch.rejections)
        self._rejected |= {rejection.id: rejection for rejection in found}
        self.event(
            "rejected",
            stage.name,
            state.progress.run_steps,
            dataset="training (while loading)",
            count_by_reason=count_by_reason(found),
            rows=rows,
            listed=[[r.id, r.reason, r.detail] for r in found],
        )
        if len(self._rejected) > self.config.data.max_rejected * rows:
            raise DataError(
                f"training: {len(self._rejected)} of {rows} utterances could not be read, more than "
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
        if self._log and (click := self.onset.read(state.progress.run_steps, values)):
            self.event("onset", stage.name, state.progress.run_steps, **asdict(click))

    def evaluate(self, stage: Stage, state: TrainingState, *, complete: bool = False) -> TrainingState:
        """Evaluates the stage's sets; a new best is saved at once. Returns the state with the best so far.

        The first decoder decides; others are asked in a complete evaluation only. One that is asked to stop counts for
        nothing.
        """
        decoders = self._decoders[stage.name][: None if complete else 1]
        box = None if complete else stage.config.eval_max_seconds
        with self.engine.evaluating(stage.assembly.model):
            found = [self._evaluate_one(stage, judged, box, decoders) for judged in stage.evaluations]
        if not found or None in found:
            return state
        results = [first for first, *_ in found]
        whole = all(result.complete for result in results)  # also where a time box left nothing out
        metric = stage.config.metric_for_best_model or stage.task.metrics[0]
        value = sum(result.summary()[metric] for result in results) / len(results)
        entry = {"metric": metric, "value": value, "step": state.progress.run_steps, "complete": whole}
        is_best = math.isfinite(value) and (
            state.best is None or value < state.best["value"] or (whole and not state.best["complete"])
        )
        if math.isfinite(value):
            state = replace(state, evaluations=(*state.evaluations, entry), best=entry if is_best else state.best)
        else:
            self.event("alarm", stage.name, entry["step"], message=f"{metric} is {value}; this step cannot be the best")
        for first, *others in found:
            self._report(stage, state, first, best=is_best)
            for other in others:
                self._report(stage, state, other, beside=first.decoder)
        if self._log and (warning := overfit(current(read(self._log.path)), stage.name)):
            self.event("alarm", stage.name, state.progress.run_steps, message=str(warning), about=ABOUT)
        if is_best and not complete:
            self.save(stage, state)
        return state

    def _evaluate_one(
        self, stage: Stage, judged: Judged, box: float | None, decoders: Sequence[str]
    ) -> tuple[Evaluation, ...] | None:
        began = time.monotonic()
        budget = Budget(
            seconds=stage.config.batch_seconds,
            utterances=stage.config.per_device_eval_batch_size or stage.config.per_device_train_batch_size,
        )

        def judge(manifest: Any) -> tuple[Evaluation, ...] | None:
            return evaluate(
                judged.name,
                manifest,
                stage.task,
                stage.assembly.model,
                self.engine,
                self.config.evaluation,
                budget=budget,
                decoders=decoders,
                workers=stage.config.dataloader_num_workers,
                instruction=judged.instruction,
                goes_on=self._goes_on,
            )

        def measure(manifest: Any) -> float:
            return results[0].seconds if (results := judge(manifest)) else 0.0

        rows = subset(
            judged.name, judged.manifest, self.folder, box, measure, self.engine, stage.config.seed
        )
        results = judge(rows)
        self.evaluating_seconds += time.monotonic() - began
        whole = len(rows) == len(judged.manifest)
        return results and tuple(replace(result, complete=whole) for result in results)

    def _goes_on(self) -> bool:
        """One rank alone may leave an evaluation; several meet at its end."""
        self.watchdog.beat()
        return not self.stop.asked or self.engine.world > 1

    def _report(
        self, stage: Stage, state: TrainingState, result: Evaluation, *, best: bool = False, beside: str = ""
    ) -> None:
        """`beside` names the decoder that stands for the evaluation, where this is another one."""
        step = state.progress.run_steps
        name = "-".join(["eval/step", f"{step:09d}", result.dataset, *([result.decoder] if beside else [])]) + ".jsonl"
        if self.engine.is_main:
            write_hypotheses(self.folder / name, result)
        self.event(
            "eval",
            stage.name,
            step,
            **result.summary(),
            **({"beside": beside} if beside else {}),
            share_of_wall_percent=self.share_of_evaluations,
            best=best,
            hypotheses=name,
            epoch=state.progress.epochs,
        )

    @property
    def share_of_evaluations(self) -> float:
        """Per cent of this start's wall time."""
        return 100 * self.evaluating_seconds / max(time.monotonic() - self.started, 1e-9)

    def save(self, stage: Stage, state: TrainingState, *, wait: bool = True) -> None:
        """Has the state written; see `Saver.save`. Ranks other than 0 have nothing to do, unless it is sharded."""
        if self.saver:
            self.saver.save(stage, state, wait=wait)

    def settle(self) -> None:
        """Waits until the save in flight is on disk."""
        if self.saver:
            self.saver.settle()


def made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
