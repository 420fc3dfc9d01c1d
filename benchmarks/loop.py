"""What the loop costs: time a step of `run_stage` beside a bare loop: same model, loss, optimizer, batches."""

import copy
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from auricle.core.config import TrainingConfig
from auricle.core.events import EventLog
from auricle.data.plan import Budget
from auricle.models.conformer.config import Config as Conformer
from auricle.tasks.ctc.config import Config as Ctc
from auricle.tasks.parts.assembly import assemble, tokenizer_for
from auricle.tasks.parts.labels import LabelledBatch
from auricle.train.checkpoint import TrainingState
from auricle.train.engine import Engine
from auricle.train.loop import run_stage
from auricle.train.optim import allocate_moments, build_optimizer, trainable
from auricle.train.run import Run, StopRequest
from auricle.train.stage import Stage
from benchmarks.results import Figure, store

STEPS, ROUNDS, UTTERANCES, FRAMES, LABELS = 40, 3, 16, 250, 30


class Premade:
    """In the place of a training set: the same batches again and again, nothing to load."""

    def __init__(self, batches: list[LabelledBatch], plan) -> None:
        self.batches, self._plan = batches, plan

    def plan(self, _epoch: int):
        return self._plan

    def epochs(self, position: tuple[int, int]) -> float:
        return position[0] + position[1] / STEPS

    def __getitem__(self, place) -> LabelledBatch:
        return self.batches[place.step % len(self.batches)]


def premade(labels: int) -> list[LabelledBatch]:
    torch.manual_seed(0)
    found = []
    for number in range(4):
        lengths = torch.randint(FRAMES - 20, FRAMES, (UTTERANCES,))
        lengths[0] = FRAMES
        found.append(
            LabelledBatch(
                ids=tuple(f"{number}-{n}" for n in range(UTTERANCES)),
                references=("",) * UTTERANCES,
                seconds=UTTERANCES * FRAMES / 100,
                counts={"ctc": float(UTTERANCES * LABELS)},
                frames=int(lengths.sum()),
                padded_frames=UTTERANCES * FRAMES,
                features=torch.randn(UTTERANCES, FRAMES, 80),
                feature_lengths=lengths,
                labels=torch.randint(0, labels, (UTTERANCES * LABELS,)),
                label_lengths=torch.full((UTTERANCES,), LABELS),
                utterance_seconds=(FRAMES / 100,) * UTTERANCES,
            )
        )
    return found


def bare(model: nn.Module, task, optimizer: torch.optim.Optimizer, batches: list[LabelledBatch]) -> None:
    """The baseline: what one writes in twenty lines."""
    model.train()
    for step in range(STEPS):
        batch = batches[step % len(batches)]
        term = task.loss(model, batch).terms["ctc"]
        (term.sum / term.count).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def measure(device: str) -> tuple[float, float]:
    """Median seconds a step of (the loop, the bare loop), taken in turn."""
    from auricle.data.plan import plan

    config = TrainingConfig(
        max_steps=STEPS,
        batch_seconds=1e9,
        device=device,
        dataloader_num_workers=0,
        save_steps=None,
        save_minutes=5.0,
        logging_steps=10,
        bf16=False,
    )
    engine = Engine(config)
    assembly = assemble(
        Conformer(layers=4, subsampling_channels=32),
        Ctc(),
        tokenizer_for(Ctc(), Conformer(), ["abcdefghijklmnopqrstuvwxyz '"]),
    )
    batches = premade(assembly.tokenizer.size)
    order = plan(torch.ones(STEPS).numpy(), seed=1, epoch=0, budget=Budget(utterances=1))
    stage = Stage(
        name="main", number=0, config=config, assembly=assembly, data=Premade(batches, order), total_steps=STEPS)
    on_device = [batch.to(engine.device) for batch in batches]
    times: dict[str, list[float]] = {"loop": [], "bare": []}
    with tempfile.TemporaryDirectory() as folder:
        log = EventLog(Path(folder) / "events.jsonl")
        for _ in range(ROUNDS + 1):
            for which in times:
                model = copy.deepcopy(assembly.model).to(engine.device)
                optimizer = build_optimizer(trainable(model, config), config)
                allocate_moments(optimizer)
                run = Run(
                    engine=engine,
                    folder=Path(folder),
                    log=log,
                    config=_Experiment(config),
                    stages=[stage],
                    stop=StopRequest(),
                )
                began = time.perf_counter()
                if which == "loop":
                    run_stage(stage, TrainingState(stage="main"), model, optimizer, assembly.task, run)
                else:
                    bare(model, assembly.task, optimizer, on_device)
                if engine.device.type == "cuda":
                    torch.cuda.synchronize()
                times[which].append((time.perf_counter() - began) / STEPS)
                run.close()
        log.close()
    return statistics.median(times["loop"][1:]), statistics.median(times["bare"][1:])


class _Experiment:
    """The one section that `Run` reads while the loop runs."""

    def __init__(self, training: TrainingConfig) -> None:
        self.training = training


def run() -> None:
    loop, bare_loop = measure("auto")
    store(
        "loop",
        "Loop overhead",
        [
            Figure(
                what="wall time a step, 2.0 M-parameter Conformer, 40 s of audio a step, events logged every 10 steps",
                measured=f"{loop * 1000:.1f} ms ({loop / bare_loop - 1:+.1%})",
                against=f"≤ +5 %; bare 20-line PyTorch loop: {bare_loop * 1000:.1f} ms",
                note=f"medians of {ROUNDS} rounds of {STEPS} steps each, in turn",
            )
        ],
    )
