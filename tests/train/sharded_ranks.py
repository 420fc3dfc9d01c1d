"""What one rank of test_sharded.py does: python -m torch.distributed.run … tests/train/sharded_ranks.py FOLDER

The test itself takes the same steps as a single process.
"""

import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.distributed.checkpoint import HuggingFaceStorageWriter
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from auricle.core.config import TrainingConfig
from auricle.core.errors import CheckpointError
from auricle.models.conformer.config import Config as ModelConfig
from auricle.models.conformer.model import build as build_model
from auricle.models.parts.components import canonical
from auricle.models.parts.folder import load_weights, save_model, write_static
from auricle.models.parts.weights import weight_files
from auricle.store import directory
from auricle.tasks.ctc.config import Config as TaskConfig
from auricle.tasks.ctc.task import build as build_task
from auricle.tasks.ctc.task import tokenizer_for
from auricle.train import sharded
from auricle.train.engine import Engine
from auricle.train.loop import train_step
from auricle.train.optim import build_optimizer, freeze_others, load_moments, moments, train_mode, trainable
from tests.utterances import utterance

SAVED, LAST, MICRO_BATCHES = 3, 8, 3
CONFIG = ModelConfig.model_validate({
    "kind": "conformer", "width": 16, "layers": 2, "heads": 2, "feedforward_factor": 2, "subsampling": 2,
    "subsampling_channels": 3, "dropout": 0.0, "frontend": {"n_mels": 20},
}, strict=False)  # fmt: skip


def settings(**changed) -> TrainingConfig:
    return TrainingConfig(max_steps=LAST, batch_seconds=4.0, device="cpu", learning_rate=3e-3, fsdp=True, **changed)


class Training:
    """One model with its optimizer, trained on synthetic speech by whatever ranks there are."""

    def __init__(self, engine: Engine, checkpoint: Path | None = None) -> None:
        torch.manual_seed(0)
        tokenizer = tokenizer_for(TaskConfig(), CONFIG, ["abcdefg"])
        self.engine, self.model = engine, build_model(CONFIG, tokenizer.size)
        self.task = build_task(TaskConfig(), self.model, tokenizer)
        if checkpoint:
            load_weights(self.model, checkpoint)
        self.static = {"model_config": CONFIG, "task_config": TaskConfig(), "vocabulary": tokenizer.size}
        self.optimizer = None
        self.enter(settings())
        self.carried = sharded.load_optimizer(checkpoint, self.optimizer, engine) if checkpoint else None

    def enter(self, config: TrainingConfig) -> None:
        """Begins a stage, with the moments of the one before."""
        carried = moments(self.optimizer) if self.optimizer else {}
        freeze_others(self.model, trainable(self.model, config))
        self.wrapped = self.engine.wrap(self.model, compiled=False)
        learning = trainable(self.model, config)
        freeze_others(self.model, learning)
        self.optimizer = build_optimizer(learning, config)
        load_moments(self.optimizer, carried)

    def weights(self) -> dict[str, torch.Tensor]:
        return {canonical(name): parameter for name, parameter in self.model.named_parameters()}

    def batch(self, step: int, index: int):
        if index >= MICRO_BATCHES:
            return self.task.collate([])
        texts = ["abc"[: 1 + (step + index) % 3], "defg"[: 1 + (step * index) % 4]]
        return self.task.collate([utterance(0.3 + 0.05 * (step + index + len(text)), text) for text in texts])

    def steps(self, first: int, last: int) -> list[list[float]]:
        """[loss, gradient norm] of each step, over all ranks."""
        engine, found = self.engine, []
        train_mode(self.model)
        rounds = -(-MICRO_BATCHES // engine.world)
        for step in range(first, last):
            micro = [self.batch(step, turn * engine.world + engine.rank) for turn in range(rounds)]
            counts = engine.sum({"ctc": sum(batch.counts["ctc"] for batch in micro)})
            result = train_step(self.wrapped, self.optimizer, self.task, micro, counts, engine, 1.0)
            found.append([engine.sum(result.sums)["ctc"] / counts["ctc"], result.grad_norm])
        return found

    def predicted(self, batches: int) -> list[float]:
        self.model.eval()
        with torch.inference_mode():
            losses = [self.task.loss(self.model, self.batch(0, index)) for index in range(batches)]
        return [loss.terms["ctc"].sum.item() for loss in losses]

    def publish(self, target: Path, **options) -> Path:
        def rest(folder: Path) -> None:
            write_static(folder, self.model, **self.static)

        weights = weight_files(self.model)
        return sharded.publish_sharded(target, self.engine, rest, moments(self.optimizer), weights=weights, **options)

    def save_ordinary(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        save_model(folder, self.model, **self.static)
        save_file(moments(self.optimizer), folder / "optimizer.safetensors")

    def go_back(self, checkpoint: Path) -> None:
        sharded.load_model(checkpoint, self.model, self.engine)
        self.optimizer.state.clear()
        sharded.load_optimizer(checkpoint, self.optimizer, self.engine)


def switched(training: Training) -> list[list[float]]:
    """Only the head learns, and then all do: what is frozen changes while the model stays sharded."""
    found = []
    for names, first in ((["ctc_head", "encoder.layers.1"], 0), (None, 3)):
        training.enter(settings(trainable=names))
        found += training.steps(first, first + 3)
    return found


def failures(training: Training, folder: Path) -> list[str]:
    """What every rank is told when rank 0 cannot write its part, and when rank 1 cannot."""
    found, engine = [], training.engine

    def full(*_):
        raise OSError(28, "No space left on device")

    writes = HuggingFaceStorageWriter.write_data
    for failing, rank0 in ((None, full), (1, lambda folder: None)):
        HuggingFaceStorageWriter.write_data = full if engine.rank == failing else writes
        try:
            sharded.publish_sharded(folder / "failed", engine, rank0, moments(training.optimizer))
        except CheckpointError as error:
            found.append(f"{type(error.__cause__).__name__} {error}")
    HuggingFaceStorageWriter.write_data = writes
    return found


def uneven(engine: Engine, folder: Path) -> bool:
    """Fewer rows than ranks, an odd number of them, and no dimension at all: written as shards, read as shards."""
    mesh = init_device_mesh("cpu", (engine.world,))
    whole = {"one": torch.arange(3.0).reshape(1, 3), "odd": torch.randn(5, 2, generator=torch.manual_seed(1))}
    shards = {name: distribute_tensor(tensor, mesh, [Shard(0)]) for name, tensor in whole.items()}
    sharded.write(folder / "uneven", shards | {"step": torch.tensor(7.0)}, engine)
    engine.wait()
    blank = {name: torch.zeros_like(shard) for name, shard in shards.items()} | {"step": torch.tensor(0.0)}
    sharded.read(folder / "uneven", blank, engine)
    return blank["step"] == 7 and all(torch.equal(blank[name].full_tensor(), whole[name]) for name in whole)


def in_bf16(engine: Engine) -> dict:
    """Three steps with bf16 compute, for how far the losses may move and what the weights are."""
    engine.bf16, autocast = True, engine.autocast
    engine.autocast = lambda: torch.autocast("cpu", torch.bfloat16)
    training = Training(engine)
    losses = training.steps(0, 3)
    engine.bf16, engine.autocast = False, autocast
    kept = [*training.weights().values(), *moments(training.optimizer).values()]
    return {"losses": losses, "types": sorted({str(tensor.dtype) for tensor in kept})}


def main(folder: Path) -> None:
    engine, found = Engine(settings()), {}
    training = Training(engine)
    found["names"] = sorted(training.weights())
    found["sharded"] = all(isinstance(tensor, DTensor) for tensor in training.weights().values())
    found["run"] = training.steps(0, SAVED)
    training.publish(folder / "two")
    found["run"] += training.steps(SAVED, LAST)
    found["switched"] = switched(training)
    again = Training(engine, folder / "two")
    with engine.evaluating(again.model):
        found["evaluated"] = again.predicted(0 if engine.is_main else MICRO_BATCHES)
    found["resumed"], found["carried"] = again.steps(SAVED, LAST), again.carried
    with engine.evaluating(again.model):
        found["late"] = again.predicted(MICRO_BATCHES if engine.is_main else 1)
    again.go_back(folder / "two")
    found["returned"] = again.steps(SAVED, LAST)
    other = again.publish(folder / "other")
    again.go_back(folder / "two")
    before = directory.digest(other / directory.CHECKSUMS)
    again.publish(other)
    found["left_as_it_was"] = directory.digest(other / directory.CHECKSUMS) == before
    again.publish(other, replace=True)
    found["from_one"] = Training(engine, folder / "one").steps(SAVED, LAST)
    found["failures"], found["left"] = failures(again, folder), sorted(path.name for path in folder.iterdir())
    found["uneven"], found["bf16"] = uneven(engine, folder), in_bf16(engine)
    engine.shards = False
    found["copied"] = Training(engine).steps(0, LAST)
    (folder / f"rank{engine.rank}.json").write_text(json.dumps(found))
    engine.wait()
    os._exit(0)  # gloo can abort while the interpreter ends


if __name__ == "__main__":
    main(Path(sys.argv[1]))
