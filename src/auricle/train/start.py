"""From a decoded experiment to a finished run: `train` is what the command line calls.

folder and lock ─► data ─► tokenizer, model, task ─► (resume) ─► each stage ─► complete evaluation ─► end
"""

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from auricle.core.config import ExperimentConfig, TrainingConfig
from auricle.core.errors import AuricleError, Diverged
from auricle.core.events import EventLog, Sink, read
from auricle.data.augment import Augment
from auricle.data.judge import count_by_reason
from auricle.data.loader import Rows, TrainingSet
from auricle.data.tokenizers import Tokenizer, load_tokenizer
from auricle.models.parts.folder import load_weights
from auricle.store.directory import write_text
from auricle.tasks.parts.assembly import Assembly, assemble, tokenizer_for
from auricle.train import checkpoint, datasets, run_folder
from auricle.train.engine import Engine
from auricle.train.lines import line
from auricle.train.run import Run, StopRequest
from auricle.train.stage import Stage, budget, total_steps
from auricle.train.stages import Outcome, run_stages
from auricle.train.system import SystemMonitor


@dataclass(frozen=True, kw_only=True)
class Start:
    """What was typed, for the record."""

    experiment: str = ""
    command: str = ""
    config_yaml: str = ""


def train(
    config: ExperimentConfig,
    start: Start,
    *,
    fresh: bool = False,
    sinks: Iterable[Sink] = (),
    progress: datasets.Progress | None = None,
) -> Outcome:
    """Trains the experiment from where its run folder stands."""
    engine = Engine(config.training)
    folder = run_folder.location(config, start.experiment)
    try:
        with _claimed(engine, folder, config, start, fresh) as record:
            return _train(engine, folder, config, record, sinks, progress)
    finally:
        engine.close()


@contextlib.contextmanager
def _claimed(engine: Engine, folder: Path, config: ExperimentConfig, start: Start, fresh: bool) -> Iterator[dict]:
    """Rank 0 locks the folder and writes run.json; every rank gets what it says."""
    with contextlib.ExitStack() as held:
        record = None
        if engine.is_main:
            if fresh:
                run_folder.set_aside(folder)
            run_folder.make(folder)
            held.enter_context(run_folder.lock(folder))
            record = run_folder.begin(
                folder, config, experiment=start.experiment, command=start.command, run=folder.name, world=engine.world
            )
            write_text(folder / "config.yaml", start.config_yaml)
        yield engine.from_main(record)


def _train(
    engine: Engine,
    folder: Path,
    config: ExperimentConfig,
    record: dict,
    sinks: Iterable[Sink],
    progress: datasets.Progress | None,
) -> Outcome:
    text = _TextLog(folder / "trainer_log.txt") if engine.is_main else None
    log = _open_log(folder, [text, *sinks]) if text else None
    monitor = SystemMonitor(log, folder) if log else None
    try:
        return _train_logged(engine, folder, config, record, log, progress)
    except (AuricleError, torch.OutOfMemoryError) as error:
        if log:
            log.write("alarm", message=str(error))
            log.write(
                "end", reason="diverged" if isinstance(error, Diverged) else "failed", seconds=0.0, message=str(error)
            )
        raise
    finally:
        if monitor:
            monitor.close()
        if log:
            log.close()
            text.close()


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
    record: dict,
    log: EventLog | None,
    progress: datasets.Progress | None,
) -> Outcome:
    def event(kind: str, **values: Any) -> None:
        if log:
            log.write(kind, **values)

    event(
        "run",
        device=engine.describe(),
        world=engine.world,
        versions=record["versions"],
        config=config.model_dump(mode="json"),
    )
    with engine.main_first():
        manifests = datasets.open_manifests(config.data, config.data.max_rejected, progress if engine.is_main else None)
    found = _starting_point(engine, folder, config.training, event)
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
    stages = _stages(config, rows, datasets.weights(config.data, training), assembly, record)
    if found is None and config.training.pretrained_model_path:
        event(
            "weights",
            path=config.training.pretrained_model_path,
            **vars(load_weights(assembly.model, Path(config.training.pretrained_model_path), partial=True)),
        )
    stop.install()
    return run_stages(engine, folder, stages, run, found)


def _starting_point(engine: Engine, folder: Path, config: TrainingConfig, event: Any) -> Path | None:
    """The checkpoint to resume from: the one asked for, else the newest of the run folder, else none."""
    if config.resume_from_checkpoint:
        return Path(config.resume_from_checkpoint)
    found = None
    if engine.is_main:
        checkpoint.directory.sweep(folder)
        checkpoint.directory.sweep(folder / "checkpoints")
        found = checkpoint.newest(folder, lambda message: event("alarm", message=message))
    return engine.from_main(found)


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
