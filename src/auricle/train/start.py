"""From a decoded experiment to a finished run: `train` is what the command line calls.

claim the folder ─► data ─► tokenizer, model, task ─► where it stands ─► each stage ─► complete evaluation ─► end
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from auricle.core.config import DataConfig, ExperimentConfig, TrainingConfig
from auricle.core.errors import AuricleError, ConfigError, Diverged, Preempted, nearest
from auricle.core.events import EventLog, Sink, read
from auricle.core.frame import Block
from auricle.data import outages
from auricle.data.augment import Augment
from auricle.data.judge import Rejection, count_by_reason
from auricle.data.loader import TrainingSet
from auricle.data.manifest import Manifest
from auricle.data.streamed import Report, StreamedOrder, mean_seconds
from auricle.data.streamed_set import StreamedSet
from auricle.data.tokenizers import DESCRIPTION, Tokenizer, load_tokenizer
from auricle.models.parts.folder import load_weights, read_config
from auricle.store import steps
from auricle.store.hub import refuse_without_token
from auricle.store.mirror_pusher import start_pusher
from auricle.tasks.parts.assembly import Assembly, assemble, tokenizer_for
from auricle.tasks.parts.media import refuse_changes_of_audio, refuse_other_media
from auricle.tasks.parts.vocabulary import refuse_other_labels, refuse_other_tokenizer
from auricle.train import datasets, machines, run_folder
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
    if config.training.hub_model_id:
        refuse_without_token(config.training.hub_model_id)
    engine = Engine(config.training)
    folder = run_folder.location(config, start.experiment)
    facts = {"experiment": start.experiment, "command": start.command, "run": folder.name}
    try:
        with (
            engine.among_others(),
            claimed(engine, folder, config, start.config_yaml, options, **facts) as claim,
        ):
            machines.refuse_other_experiments(engine, claim.folder, config)
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
        with engine.among_others():
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
    mirrored, outage = MirrorEvents(folder, log), ""

    def beat() -> None:
        nonlocal outage
        claim.lock.beat()
        mirrored.look()
        told, outage = outage, outages.current() or ""
        if outage and not told:
            log.write("alarm", message=outage)

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

    with engine.first_on_each_machine():
        shown = None if engine.local_rank else progress
        manifests = datasets.open_manifests(config.data, config.data.max_rejected, shown)
    found = claim.found
    assemblies = _assemblies(config, manifests, found, claim.state.stage if claim.state else None)
    stages, judgements = _stages(config, manifests, assemblies, claim.record, event)
    machines.refuse_other_data(engine, [stage.data.order.digest for stage in stages])
    for judged in judgements:
        if judged.rejections:
            event(
                "rejected",
                dataset=judged.name,
                rows=len(judged.manifest) + len(judged.rejections),
                count_by_reason=count_by_reason(judged.rejections),
                listed=[[r.id, r.reason, r.detail] for r in judged.rejections[:100]],
            )
    for name, rows in _trained_on(stages).items():
        languages = sorted(set(rows.column("language")) - {""})
        hours = float(rows.seconds[rows.has_audio].sum()) / 3600
        event("data", dataset=name, utterances=len(rows), audio_hours=hours, languages=languages)
    stop = StopRequest()
    run = Run(engine=engine, folder=claim.folder, log=log, config=config, stages=stages, stop=stop)
    model = stages[0].assembly.model
    state = None
    if claim.state:
        state, stages = take_up(claim.folder, stages, claim.state, found, allowed=claim.record["replan"], event=event)
    if engine.is_main:
        keep_orders(folder, stages)
    if found is None and config.training.pretrained_model_path:
        refuse_other_labels(stages[0].assembly, Path(config.training.pretrained_model_path))
        event(
            "weights",
            path=config.training.pretrained_model_path,
            **vars(load_weights(model, Path(config.training.pretrained_model_path), partial=True)),
        )
    stop.install()
    try:
        return run_stages(engine, folder, stages, run, found, state)
    finally:
        run.close()


def _assemblies(
    config: ExperimentConfig, manifests: dict, found: Path | None, stage_found: str | None
) -> dict[str, Assembly]:
    """Stage → the one model, with fresh weights or with those of the checkpoint, around that stage's task."""

    def texts() -> Iterator[str]:
        for name, entry in config.data.datasets.items():
            if entry.train_split is not None:
                where = f"data.datasets.{name}.train_split"
                yield from datasets.split_of(manifests[name], entry.train_split, where).texts

    def tokenizer_of(task: Block, home: Path | None) -> Tokenizer:
        return load_tokenizer(home) if home else tokenizer_for(task, config.model, texts())

    names = list(config.stage_configs())
    tasks = {name: config.stage_task(name) for name in names}
    tokenizers: list[tuple[Block, Tokenizer]] = []
    for name, task in [*tasks.items(), ("", config.task)]:
        if task not in [known for known, _ in tokenizers]:
            tokenizers.append((task, tokenizer_of(task, _home(config, name, task, found, stage_found))))
    torch.manual_seed(config.training.seed)
    first = assemble(config.model, config.task, _of(config.task, tokenizers))
    if found:
        load_weights(first.model, found)
    made = [(task, first if task == config.task else first.for_task(task, tokenizer)) for task, tokenizer in tokenizers]
    return {name: _of(task, made) for name, task in tasks.items()}


def _of(task: Block, pairs: list[tuple[Block, Any]]) -> Any:
    return next(value for known, value in pairs if known == task)


def _home(
    config: ExperimentConfig, stage: str, task: Block, found: Path | None, stage_found: str | None
) -> Path | None:
    """The folder that holds the tokenizer of a stage: the checkpoint, or the model that training starts from."""
    if found and stage_found is not None and config.stage_task(stage_found) == task:
        return found
    if found:
        kept = found / steps.STAGES / stage
        return kept if (kept / DESCRIPTION).is_file() else None
    start = config.training.pretrained_model_path and Path(config.training.pretrained_model_path)
    if not start or (saved := read_config(start)).task.get("kind") != task.kind:
        return None
    refuse_other_tokenizer(task, start, saved)
    return start


def _stages(
    config: ExperimentConfig, manifests: dict, assemblies: dict[str, Assembly], record: dict, event: Callable[..., Any]
) -> tuple[list[Stage], list[datasets.Judged]]:
    """The stages, and all rows that were judged for them. Stages of the same data and task share the judgement."""
    stages, judgements = [], {}
    for number, (name, training) in enumerate(config.stage_configs().items()):
        assembly, data = assemblies[name], datasets.chosen(config.data, training.datasets)
        data = data.model_copy(update={"augment": config.stage_augment(name)})
        _refuse_unknown_instructions(data, assembly)
        key = (tuple(data.datasets), id(assembly.task), data.augment.model_dump_json())
        if key not in judgements:
            judgements[key] = (
                datasets.training_rows(data, manifests, assembly.task.checks(), config.training.seed),
                datasets.evaluation_rows(data, manifests, config.training.seed),
            )
        judged, evaluations = judgements[key]
        # The first start's world size fixes the effective batch where only accumulation is given.
        augment = Augment(data.augment, config.training.seed, assembly.task.frontend.sample_rate)
        _refuse_masks_of_waveforms(augment, assembly)
        _refuse_other_media(assembly, augment, [*judged, *evaluations])
        report = partial(_report_window, event)
        training_set = _training_set(training, data, judged, assembly, augment, record["world"], report)
        stages.append(
            Stage(
                name=name,
                number=number,
                config=training,
                assembly=assembly,
                data=training_set,
                total_steps=total_steps(training, training_set),
                listed=tuple(judged),
                evaluations=tuple(evaluations),
                judged_as_before=not stages
                or (stages[-1].assembly.task, stages[-1].evaluations) == (assembly.task, tuple(evaluations)),
            )
        )
    return stages, [found for pair in judgements.values() for part in pair for found in part]


def _training_set(
    training: TrainingConfig,
    data: DataConfig,
    judged: list[datasets.Judged],
    assembly: Assembly,
    augment: Augment,
    world: int,
    report: Report,
) -> TrainingSet:
    collate, rate = assembly.task.collate, assembly.task.frontend.sample_rate
    if members := datasets.members_of(data, judged):
        order = StreamedOrder(
            members,
            budget=budget(training, world, mean_seconds(members, training.seed)),
            seed=training.seed,
            checks=datasets.training_checks(data, assembly.task.checks()),
            max_rejected=data.max_rejected,
            window=data.bucket_window,
            augment=augment,
            report=report,
        )
        return StreamedSet(order, collate=collate, sample_rate=rate)
    listed = datasets.rows_of(judged)
    return TrainingSet(
        listed,
        collate=collate,
        sample_rate=rate,
        budget=budget(training, world, float(listed.seconds.mean()) if len(listed) else 1.0),
        seed=training.seed,
        window=data.bucket_window,
        weights=datasets.weights(data, judged),
        augment=augment,
    )


def _report_window(event: Callable[..., Any], dataset: str, rejections: Sequence[Rejection], rows: int) -> None:
    event(
        "rejected",
        dataset=f"{dataset} (a window)",
        rows=rows,
        count_by_reason=count_by_reason(rejections),
        listed=[[r.id, r.reason, r.detail] for r in rejections[:100]],
    )


def _trained_on(stages: list[Stage]) -> dict[str, Manifest]:
    """Name → the rows of each data set that is listed and not streamed."""
    return {judged.name: judged.manifest for stage in stages for judged in stage.listed
            if isinstance(judged.manifest, Manifest)}


def _refuse_unknown_instructions(data: DataConfig, assembly: Assembly) -> None:
    """Of a task that has instructions; to another one they say nothing."""
    known = getattr(assembly.task, "instructions", {})
    for name, entry in data.datasets.items():
        if known and entry.instruction is not None and entry.instruction not in known:
            raise ConfigError(f"data.datasets.{name}.instruction: no '{entry.instruction}'; "
                              f"{nearest(entry.instruction, known)}. task.instructions adds others")


def _refuse_other_media(assembly: Assembly, augment: Augment, found: Sequence[datasets.Judged]) -> None:
    frontend = assembly.task.frontend
    for judged in found:
        layouts = judged.manifest.layouts if isinstance(judged.manifest, Manifest) else {None}
        refuse_other_media(frontend, layouts, f"data set '{judged.name}'")
    refuse_changes_of_audio(frontend, augment.config)


def _refuse_masks_of_waveforms(augment: Augment, assembly: Assembly) -> None:
    if augment.config.spec_augment and assembly.task.frontend.n_mels == 1:
        raise ConfigError("data.augment.spec_augment: masks bands of a spectrum, and this encoder takes the waveform; "
                          "set it to null, or augment the audio (speeds, noise, gain_db)")
