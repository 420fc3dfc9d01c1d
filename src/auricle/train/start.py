"""From a decoded experiment to a finished run: `train` is what the command line calls.

    folder and lock ─► data ─► tokenizer, model, task ─► (resume) ─► each stage ─► complete evaluation ─► end
"""

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from auricle.core.config import ExperimentConfig, TrainingConfig
from auricle.core.errors import AuricleError, Diverged, ModelError
from auricle.core.events import EventLog, Sink, read
from auricle.core.extents import Progress
from auricle.data.augment import Augment
from auricle.data.judge import count_by_reason
from auricle.data.loader import Rows, TrainingSet
from auricle.data.plan import micro_batches
from auricle.data.tokenizers import Tokenizer, load_tokenizer
from auricle.models.parts.folder import load_weights
from auricle.store.directory import write_text
from auricle.tasks.parts.assembly import Assembly, assemble, tokenizer_for
from auricle.train import checkpoint, datasets, run_folder
from auricle.train.checkpoint import TrainingState
from auricle.train.engine import Engine
from auricle.train.lines import line
from auricle.train.loop import run_stage
from auricle.train.optim import build_optimizer, freeze_others, load_moments, moments, trainable
from auricle.train.run import Run, StopRequest
from auricle.train.schedule import fraction_done
from auricle.train.stage import Stage, budget, derived, refuse_nothing_to_train, total_steps
from auricle.train.system import SystemMonitor


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a start of a run ended."""

    folder: Path
    reason: str
    """finished, interrupted, or already finished."""
    step: int


@dataclass(frozen=True, kw_only=True)
class Start:
    """What was typed, for the record."""

    experiment: str = ""
    command: str = ""
    config_yaml: str = ""


def train(config: ExperimentConfig, start: Start, *, fresh: bool = False, sinks: Iterable[Sink] = (),
          progress: datasets.Progress | None = None) -> Outcome:
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
            record = run_folder.begin(folder, config, experiment=start.experiment, command=start.command,
                                      run=folder.name, world=engine.world)
            write_text(folder / "config.yaml", start.config_yaml)
        yield engine.from_main(record)


def _train(engine: Engine, folder: Path, config: ExperimentConfig, record: dict, sinks: Iterable[Sink],
           progress: datasets.Progress | None) -> Outcome:
    text = _TextLog(folder / "trainer_log.txt") if engine.is_main else None
    log = _open_log(folder, [text, *sinks]) if text else None
    monitor = SystemMonitor(log, folder) if log else None
    try:
        return _train_logged(engine, folder, config, record, log, progress)
    except (AuricleError, torch.OutOfMemoryError) as error:
        if log:
            log.write("alarm", message=str(error))
            log.write("end", reason="diverged" if isinstance(error, Diverged) else "failed", seconds=0.0, message=str(error))
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


def _train_logged(engine: Engine, folder: Path, config: ExperimentConfig, record: dict, log: EventLog | None,
                  progress: datasets.Progress | None) -> Outcome:
    def event(kind: str, **values: Any) -> None:
        if log:
            log.write(kind, **values)

    event("run", device=engine.describe(), world=engine.world, versions=record["versions"], config=config.model_dump(mode="json"))
    with engine.main_first():
        manifests = datasets.open_manifests(config.data, config.data.max_rejected, progress if engine.is_main else None)
    found = _starting_point(engine, folder, config.training, event)
    assembly = _assembly(config, manifests, found)
    training = datasets.training_rows(config.data, manifests, assembly.task.checks(), config.training.seed)
    evaluations = datasets.evaluation_rows(config.data, manifests, config.training.seed)
    for judged in (*training, *evaluations):
        if judged.rejections:
            event("rejected", dataset=judged.name, rows=len(judged.manifest) + len(judged.rejections),
                  count_by_reason=count_by_reason(judged.rejections),
                  listed=[[r.id, r.reason, r.detail] for r in judged.rejections[:100]])
    stop = StopRequest()
    rows = datasets.rows_of(training)
    run = Run(engine=engine, folder=folder, log=log, assembly=assembly, config=config, evaluations=evaluations, stop=stop,
              training_rows=len(rows))
    stages = _stages(config, rows, datasets.weights(config.data, training), assembly, record)
    if found is None and config.training.pretrained_model_path:
        event("weights", path=config.training.pretrained_model_path,
              **vars(load_weights(assembly.model, Path(config.training.pretrained_model_path), partial=True)))
    stop.install()
    return _run_stages(engine, folder, stages, run, found)


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
    texts = [text for name, entry in config.data.datasets.items() if entry.train_split is not None
             for text in datasets.split_of(manifests[name], entry.train_split, f"data.datasets.{name}.train_split").texts]
    return tokenizer_for(config.task, texts)


def _stages(config: ExperimentConfig, rows: Rows, weights: tuple[float, ...] | None, assembly: Assembly, record: dict) -> list[Stage]:
    mean_seconds = float(rows.seconds.mean()) if len(rows) else 1.0
    sample_rate = assembly.task.frontend.sample_rate
    augment = Augment(config.data.augment, config.training.seed, sample_rate)
    stages = []
    for number, (name, training) in enumerate(config.stage_configs().items()):
        # The first start's world size fixes the effective batch where only accumulation is given.
        data = TrainingSet(rows, collate=assembly.task.collate, sample_rate=sample_rate,
                           budget=budget(training, record["world"], mean_seconds), seed=training.seed,
                           window=config.data.bucket_window, weights=weights, augment=augment)
        stages.append(Stage(name=name, number=number, config=training, data=data, total_steps=total_steps(training, data)))
    return stages


def _run_stages(engine: Engine, folder: Path, stages: list[Stage], run: Run, found: Path | None) -> Outcome:
    state = checkpoint.load_state(found) if found else TrainingState(stage=stages[0].name)
    begin = [stage.name for stage in stages].index(state.stage)
    if state.finished and begin == len(stages) - 1 and fraction_done(stages[begin].config, state.progress) >= 1.0:
        run.event("end", state.stage, state.progress.run_steps, reason="already finished", seconds=0.0)
        return Outcome(folder=folder, reason="already finished", step=state.progress.run_steps)
    if found:
        run.event("resume", state.stage, state.progress.run_steps, epoch=state.position[0], epoch_step=state.position[1],
                  checkpoint=found.name)
    carried: dict[str, torch.Tensor] = {}
    for stage in stages[begin:]:
        if stage.name != state.stage:
            state = TrainingState(stage=stage.name, progress=Progress(run_steps=state.progress.run_steps), best=state.best,
                                  earlier_hours=state.earlier_hours + state.progress.wall_hours)
        state, carried = _one_stage(engine, stage, state, run, carried, found if stage is stages[begin] else None)
        if run.stopping():
            return _end(folder, run, state, "interrupted", f"saved; run the same command to go on from step {state.progress.run_steps}")
    state = run.evaluate(stages[-1], state, complete=True)
    run.save(stages[-1], replace(state, finished=True))
    return _end(folder, run, state, "finished")


def _one_stage(engine: Engine, stage: Stage, state: TrainingState, run: Run, carried: dict[str, torch.Tensor],
               found: Path | None) -> tuple[TrainingState, dict[str, torch.Tensor]]:
    """Enters a stage and trains it; `carried` are the moments of the stage before it in this process."""
    model, step = run.assembly.model, state.progress.run_steps
    learning = trainable(model, stage.config)
    loss_before = probe_loss(stage, state, model, run) if carried else 0.0
    freeze_others(model, learning)
    wrapped = engine.wrap(model, compiled=stage.config.torch_compile)
    optimizer = build_optimizer(learning, stage.config)
    if found:
        checkpoint.load_optimizer(found, optimizer)
    elif carried:
        kept, fresh = load_moments(optimizer, carried)
        loss_after = probe_loss(stage, state, wrapped, run)
        run.event("switch", stage.name, step, loss_before=loss_before, loss_after=loss_after, moments_carried=kept, moments_fresh=fresh)
        refuse_moved_loss(stage, loss_before, loss_after, exact=not (engine.bf16 or stage.config.torch_compile))
    numbers = derived(stage, model, engine)
    counted = numbers["trainable_parameters"]
    refuse_nothing_to_train(counted, stage.name)
    run.event("derived", stage.name, step, **numbers)
    run.event("stage", stage.name, step, components=counted, trainable=sum(counted.values()), parameters=numbers["parameters"],
              ends=numbers["ends"])
    run.enter(stage, state, optimizer)
    state = run_stage(stage, state, wrapped, optimizer, run.assembly.task, run)
    run.save(stage, state)
    return state, moments(optimizer)


@torch.no_grad()
def probe_loss(stage: Stage, state: TrainingState, model: torch.nn.Module, run: Run) -> float:
    """The loss of the stage's first micro-batch in eval mode, on this rank."""
    place = next(micro_batches(stage.data.plan, state.position, run.engine.rank, run.engine.world))
    model.eval()
    with run.engine.autocast():
        terms = run.assembly.task.loss(model, stage.data[place].to(run.engine.device)).terms
    return sum(float(term.weight * term.sum) / max(term.count, 1.0) for term in terms.values())


def refuse_moved_loss(stage: Stage, before: float, after: float, *, exact: bool) -> None:
    """A stage switch changes no number that it need not change: 1e-6 in fp32, 1 % where precision or kernels may differ."""
    if abs(after - before) > (1e-6 if exact else 0.01) * max(1.0, abs(before)):
        raise ModelError(f"stage {stage.name}: the loss on the same batch moved from {before:.6g} to {after:.6g} at the switch; "
                         "expected it unchanged. Something other than what trains was changed; please report this run")


def _end(folder: Path, run: Run, state: TrainingState, reason: str, message: str = "") -> Outcome:
    run.event("end", state.stage, state.progress.run_steps, reason=reason, message=message, seconds=time.monotonic() - run.started)
    return Outcome(folder=folder, reason=reason, step=state.progress.run_steps)
