"""From a decoded experiment to a finished run: `train` is what the command line calls.

claim the folder ─► data ─► tokenizer, model, task ─► where it stands ─► each stage ─► complete evaluation ─► end
"""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from auricle.core.config import ExperimentConfig
from auricle.core.errors import AuricleError, Diverged, Preempted
from auricle.core.events import EventLog, Sink, read
from auricle.data.augment import Augment
from auricle.data.judge import count_by_reason
from auricle.data.loader import Rows, TrainingSet
from auricle.data.tokenizers import Tokenizer, load_tokenizer
from auricle.models.parts.folder import load_weights
from auricle.store.mirror_pusher import start_pusher
from auricle.tasks.parts.assembly import Assembly, assemble, tokenizer_for
from auricle.train import datasets, run_folder
from auricle.train.claim import NOTHING_TYPED, Claim, Options, claimed
from auricle.train.engine import Engine
from auricle.train.lines import line
from auricle.train.mirror_events import MirrorEvents
from auricle.train.orders import keep_orders, take_up
from auricle.train.run import Run, StopRequest
from auricle.train.run_folder import Start
from auricle.train.stage import Stage, budget, total_steps
from auricle.train.stages import Outcome, run_stages
from auricle.train.system import SystemMonitor


def train(
    config: ExperimentConfig,
    start: Start,
    *,
    options: Options = NOTHING_TYPED,
    sinks: Iterable[Sink] = (),
    progress: datasets.Progress | None = None,
) -> Outcome:
    """Trains the experiment from where its run folder stands."""
    engine = Engine(config.training)
    folder = run_folder.location(config, start.experiment)
    facts = {"experiment": start.experiment, "command": start.command, "run": folder.name}
    try:
        with claimed(engine, folder, config, start.config_yaml, options, **facts) as claim:
            return _train(engine, folder, config, claim, sinks, progress)
    finally:
        engine.close()


def _train(
    engine: Engine,
    folder: Path,
    config: ExperimentConfig,
    claim: Claim,
    sinks: Iterable[Sink],
    progress: datasets.Progress | None,
) -> Outcome:
    text = _TextLog(folder / "trainer_log.txt") if engine.is_main else None
    log = _open_log(folder, [text, *sinks]) if text else None
    if log:
        values = {"device": engine.describe(), "world": engine.world, "versions": claim.record["versions"]}
        log.write("run", **values, config=config.model_dump(mode="json"))
        for message in claim.messages:
            log.write("alarm", message=message)
    monitor = SystemMonitor(log, folder, _beat(claim, folder, log)) if log else None
    try:
        if engine.is_main and (config.mirror.targets or config.training.hub_model_id):
            start_pusher(folder)
        return _train_logged(engine, folder, config, claim, log, progress)
    except (AuricleError, torch.OutOfMemoryError) as error:
        if log:
            log.write("alarm", message=str(error))
            log.write("end", reason=_reason(error), seconds=0.0, message=str(error))
        raise
    finally:
        if monitor:
            monitor.close()
        if log:
            log.close()
            text.close()


def _beat(claim: Claim, folder: Path, log: EventLog) -> Callable[[], None]:
    mirrored = MirrorEvents(folder, log)

    def beat() -> None:
        claim.lock.beat()
        mirrored.look()

    return beat


def _reason(error: Exception) -> str:
    return {Diverged: "diverged", Preempted: "interrupted"}.get(type(error), "failed")


def _open_log(folder: Path, sinks: Iterable[Sink]) -> EventLog:
    path = folder / "events.jsonl"
    segment = sum(event.kind == "run" for event in read(path))
    return EventLog(path, run=folder.name, segment=segment, sinks=sinks)


class _TextLog:
    """trainer_log.txt: what the console shows, with the time of day."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def __call__(self, event: Any) -> None:
        text = line(event)
        if text:
            self._file.write(f"[{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(event.time))}] {text}\n")
            self._file.flush()

    def close(self) -> None:
        self._file.close()


def _train_logged(
    engine: Engine,
    folder: Path,
    config: ExperimentConfig,
    claim: Claim,
    log: EventLog | None,
    progress: datasets.Progress | None,
) -> Outcome:
    def event(kind: str, **values: Any) -> None:
        if log:
            log.write(kind, **values)

    with engine.main_first():
        manifests = datasets.open_manifests(config.data, config.data.max_rejected, progress if engine.is_main else None)
    found = claim.found
    assembly = _assembly(config, manifests, found)
    training = datasets.training_rows(config.data, manifests, assembly.task.checks(), config.training.seed)
    evaluations = datasets.evaluation_rows(config.data, manifests, config.training.seed)
    for judged in (*training, *evaluations):
        if judged.rejections:
            event(
                "rejected",
                dataset=judged.name,
                rows=len(judged.manifest) + len(judged.rejections),
                count_by_reason=count_by_reason(judged.rejections),
                listed=[[r.id, r.reason, r.detail] for r in judged.rejections[:100]],
            )
    stop = StopRequest()
    rows = datasets.rows_of(training)
    run = Run(
        engine=engine,
        folder=folder,
        log=log,
        assembly=assembly,
        config=config,
        evaluations=evaluations,
        stop=stop,
        training_rows=len(rows),
    )
    stages = _stages(config, rows, datasets.weights(config.data, training), assembly, claim.record)
    state = None
    if claim.state:
        state, stages = take_up(folder, stages, claim.state, found, allowed=claim.record["replan"], event=event)
    if engine.is_main:
        keep_orders(folder, stages)
    if found is None and config.training.pretrained_model_path:
        event(
            "weights",
            path=config.training.pretrained_model_path,
            **vars(load_weights(assembly.model, Path(config.training.pretrained_model_path), partial=True)),
        )
    stop.install()
    try:
        return run_stages(engine, folder, stages, run, found, state)
    finally:
        run.close()


def _assembly(config: ExperimentConfig, manifests: dict, found: Path | None) -> Assembly:
    """The model with fresh weights, or with those of the checkpoint, around the tokenizer that belongs to them."""
    torch.manual_seed(config.training.seed)
    assembly = assemble(config.model, config.task, _tokenizer(config, manifests, found))
    if found:
        load_weights(assembly.model, found)
    return assembly


def _tokenizer(config: ExperimentConfig, manifests: dict, found: Path | None) -> Tokenizer:
    home = found or (config.training.pretrained_model_path and Path(config.training.pretrained_model_path))
    if home:
        return load_tokenizer(home)
    texts = [
        text
        for name, entry in config.data.datasets.items()
        if entry.train_split is not None
        for text in datasets.split_of(manifests[name], entry.train_split, f"data.datasets.{name}.train_split").texts
    ]
    return tokenizer_for(config.task, texts)


def _stages(
    config: ExperimentConfig, rows: Rows, weights: tuple[float, ...] | None, assembly: Assembly, record: dict
) -> list[Stage]:
    mean_seconds = float(rows.seconds.mean()) if len(rows) else 1.0
    sample_rate = assembly.task.frontend.sample_rate
    augment = Augment(config.data.augment, config.training.seed, sample_rate)
    stages = []
    for number, (name, training) in enumerate(config.stage_configs().items()):
        # The first start's world size fixes the effective batch where only accumulation is given.
        data = TrainingSet(
            rows,
            collate=assembly.task.collate,
            sample_rate=sample_rate,
            budget=budget(training, record["world"], mean_seconds),
            seed=training.seed,
            window=config.data.bucket_window,
            weights=weights,
            augment=augment,
        )
        stages.append(
            Stage(name=name, number=number, config=training, data=data, total_steps=total_steps(training, data))
        )
    return stages
