"""What a frozen encoder makes of each utterance, computed once and kept on disk (`cache_frozen`).

    rows ──longest first──► encoder ──► PREPARED_DIR/frames-<hash>/ ──► the loader reads frames in the place of audio

The hash names the encoder's weights, its configuration and the rows, so that runs share what is equal. The size is
known before the first batch.
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import nn

from auricle.core.config import AugmentConfig, ExperimentConfig
from auricle.core.errors import ConfigError
from auricle.data.frames import Frames, FramesWriter, describe
from auricle.data.loader import EvaluationSet, Rows, TrainingSet, batches
from auricle.data.plan import Budget, in_length_order
from auricle.models.parts.weights import weights_hash
from auricle.store.directory import ASIDE, sync_directory, sync_file
from auricle.train.engine import Engine
from auricle.train.stage import Stage

MOST_OF_THE_DISK = 0.5


def with_frozen_cache(stage: Stage, config: ExperimentConfig, engine: Engine, event: Callable[..., None],
                      beat: Callable[[], None]) -> Stage:
    """The stage with its encoder's frames in the place of audio, where it asks for that. Raises ConfigError."""
    if not stage.config.cache_frozen:
        return stage
    model = stage.assembly.model
    _refuse(stage, model, config.stage_augment(stage.name))
    folder = Path(config.data.prepared_dir) / f"frames-{_name(stage, model, engine.bf16)}"
    size = _bytes(stage, model)
    if not (folder / "frames.json").exists():
        _refuse_large(stage.name, size, folder)
        event("caching", stage=stage.name, bytes=size, folder=str(folder), rows=len(stage.data.rows))
        _fill(folder, stage, model, engine, beat)
    return replace(stage, data=stage.data.with_frames(Frames(folder)))


def _refuse(stage: Stage, model: nn.Module, augment: AugmentConfig) -> None:
    where = f"stage {stage.name}: cache_frozen"
    if not hasattr(model, "encode") or any(p.requires_grad for p in model.components()["encoder"].parameters()):
        raise ConfigError(f"{where}: no frozen encoder; take 'encoder' out of training.trainable, or cache_frozen")
    if not getattr(stage.task, "takes_frames", False):
        raise ConfigError(f"{where}: the task '{stage.assembly.task_config.kind}' reads no frames from disk; expected "
                          "'chat'. Leave cache_frozen out")
    random = [name for name, value in augment if value and name != "text"]
    if random:
        raise ConfigError(f"{where}: data.augment.{random[0]} gives the encoder another input each time; set it to "
                          "null (augmenting the input of a frozen encoder seldom helps), or leave cache_frozen out")
    if type(stage.data) is not TrainingSet:
        raise ConfigError(f"{where}: the lengths of this data set are not known; prepare it with durations first")


def _name(stage: Stage, model: nn.Module, bf16: bool) -> str:
    """Of the weights, of how they are used, and of the rows in their order."""
    encoder = model.components()["encoder"]
    hasher = xxhash.xxh3_128(weights_hash(encoder.state_dict()).encode())
    settings = {key: value for key, value in vars(encoder.frontend).items() if isinstance(value, bool | int | str)}
    hasher.update(repr((encoder.configuration, settings, model.config.encoder_window, bf16)).encode())
    hasher.update(repr([manifest.fingerprint for manifest in stage.data.rows.manifests]).encode())
    return hasher.hexdigest()[:16]


def _bytes(stage: Stage, model: nn.Module) -> int:
    encoder, rows = model.components()["encoder"], stage.data.rows
    samples = torch.from_numpy((rows.seconds * stage.data.sample_rate).astype("int64"))
    size = next(encoder.parameters()).element_size()
    return int(model.output_lengths(samples).sum()) * encoder.width * size


def _refuse_large(stage: str, size: int, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if size > MOST_OF_THE_DISK * free:
        raise ConfigError(f"stage {stage}: cache_frozen would take {size / 1e9:.1f} GB in {folder.parent}, more than "
                          f"half of the {free / 1e9:.1f} GB that are free; leave it out, or set data.prepared_dir to a "
                          "larger disk")


def _fill(folder: Path, stage: Stage, model: nn.Module, engine: Engine, beat: Callable[[], None]) -> None:
    """Each rank encodes its share; rank 0 publishes the whole."""
    rows, aside = stage.data.rows, folder.with_name(f"{ASIDE}{folder.name}")
    if engine.is_main:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
    engine.wait()
    writer = FramesWriter(aside, engine.rank)
    dtype = _encode(writer, stage, model, engine, rows, beat)
    writer.close()
    parts = engine.gather([(writer.rows, writer.lengths)])
    if engine.is_main:
        describe(aside, parts, len(rows), model.components()["encoder"].width, dtype)
        for path in aside.iterdir():
            sync_file(path)
        sync_directory(aside)
        aside.rename(folder)
        sync_directory(folder.parent)
    engine.wait()


@torch.no_grad()
def _encode(writer: FramesWriter, stage: Stage, model: nn.Module, engine: Engine, rows: Rows,
            beat: Callable[[], None]) -> torch.dtype:
    model.eval()
    budget = Budget(seconds=stage.config.batch_seconds, utterances=stage.config.per_device_train_batch_size)
    places = in_length_order(rows.seconds, budget)[engine.rank :: engine.world]
    data = EvaluationSet(rows, collate=stage.task.collate, sample_rate=stage.data.sample_rate)
    dtype = next(model.components()["encoder"].parameters()).dtype
    for place, batch in zip(places, batches(data, places, stage.config.dataloader_num_workers), strict=True):
        there: Any = batch.to(engine.device)
        with engine.autocast():
            encoded, lengths = model.encode(there.features, there.feature_lengths)  # (B, E, D), (B,)
        dtype = encoded.dtype
        unreadable = {rejection.id for rejection in batch.rejections}
        for row, name, frames, length in zip(place, batch.ids, encoded, lengths.tolist(), strict=True):
            writer.skip(row) if name in unreadable else writer.add(row, frames[:length])
        beat()
    return dtype
