"""What a save costs training: the stall of the loop, and how much slower steps are while the checkpoint is written.

100 M trained parameters with AdamW (1.2 GB of state) are saved while a small network goes on taking steps beside them.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

from auricle.core.config import TrainingConfig
from auricle.core.extents import Progress
from auricle.models.parts.weights import weight_files
from auricle.train.checkpoint import TrainingState
from auricle.train.optim import allocate_moments, build_optimizer, moments, trainable
from auricle.train.saver import Saver
from benchmarks.results import Figure, store

SAVES, BLOCKING_SAVES, STEPS = 10, 3, 60


class Large(nn.Module):
    """100.4 M parameters in the shapes of a Transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(768, 12, 3072, batch_first=True) for _ in range(12))
        self.head = nn.Linear(768, 20_000)

    def components(self) -> dict[str, nn.Module]:
        return {"layers": self.layers, "head": self.head}


def stepper() -> Callable[[], float]:
    """A step of some 50 ms of matrix work and a little Python; returns its seconds."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(512, 2048), nn.GELU(), nn.Linear(2048, 512))
    inputs = torch.randn(256, 512)

    def step() -> float:
        began = time.perf_counter()
        for _ in range(4):
            model(inputs).square().mean().backward()
        model.zero_grad()
        return time.perf_counter() - began

    return step


def blocking(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    """The baseline: torch.save of both into a file, synced, renamed; seconds that training waits."""
    began = time.perf_counter()
    aside = folder / "blocking.tmp"
    with aside.open("wb") as stream:
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, stream)
        stream.flush()
        os.fsync(stream.fileno())
    aside.rename(folder / "blocking.pt")
    return time.perf_counter() - began


def run() -> None:
    model = Large()
    config = TrainingConfig(max_steps=1, batch_seconds=1.0, save_total_limit=1)
    optimizer = build_optimizer(trainable(model, config), config)
    allocate_moments(optimizer)
    stage = SimpleNamespace(name="main", config=config)
    step = stepper()
    alone = statistics.median(step() for _ in range(STEPS))
    saves: list[dict] = []
    meanwhile: list[float] = []
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        saver = Saver(folder, lambda kind, *_, **values: saves.append(values) if kind == "save" else None, lambda: None)
        saver.enter(lambda: weight_files(model), lambda: moments(optimizer), lambda _: None)
        for number in range(1, SAVES + 1):
            saver.save(stage, TrainingState(stage="main", progress=Progress(steps=number, run_steps=number)))
            while len(saves) < number:
                meanwhile.append(step())
                saver.is_due(None)
        saver.close()
        plain = [blocking(folder, model, optimizer) for _ in range(BLOCKING_SAVES)]
    stalls, total = [save["stall_seconds"] for save in saves], [save["seconds"] for save in saves]
    beside = statistics.median(meanwhile) / alone - 1
    parameters = sum(p.numel() for p in model.parameters())
    what = f"{parameters / 1e6:.0f} M trained parameters + AdamW, {saves[0]['bytes'] / 1e9:.1f} GB, {SAVES} saves"
    store(
        "checkpoint",
        "Checkpoints",
        [
            Figure(
                what=f"stall of the loop per save: {what}",
                measured=f"{statistics.median(stalls):.2f} s median, {max(stalls):.2f} s worst",
                against=f"≤ 0.3 s median, ≤ 0.6 s worst; blocking torch.save + fsync: {statistics.median(plain):.1f} s",
                note="buffers are allocated once, when a stage begins",
            ),
            Figure(
                what="step time while the writer process writes",
                measured=f"{beside:+.0%}",
                against=f"alone {alone * 1000:.0f} ms a step; a blocking save makes none",
                note=f"durable after {statistics.median(total):.1f} s median; {len(meanwhile)} steps made meanwhile",
            ),
        ],
    )
