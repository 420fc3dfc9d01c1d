"""Checkpoints of a training that is sharded over ranks (FSDP2), and how they open on any number of ranks.

    checkpoints/step-000000500/
        config.json, encoder.safetensors …    the model folder, whole, as in every checkpoint
        optimizer/shard-0000N-….safetensors   moments by parameter name: the shards of rank N-1
        trainer.json, CHECKSUMS.json

Weights are gathered to rank 0, a tensor at a time, so that every reader of a model folder works unchanged. Moments are
twice as large and only training reads them: each rank writes its own shards through torch.distributed.checkpoint, as
safetensors whose header says where in the tensor a shard begins. There is no pickle, and ordinary files open alike.

All ranks must see the same run folder. Functions that take an engine are called by all ranks together.
"""

import contextlib
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.experimental import implicit_replication

from auricle.core.errors import AuricleError, CheckpointError
from auricle.models.parts.folder import load_weights
from auricle.models.parts.weights import write_tensors
from auricle.store import directory
from auricle.train.engine import Engine
from auricle.train.optim import allocate_moments, moments

OPTIMIZER = "optimizer"


def publish_sharded(
    target: Path,
    engine: Engine,
    write_rank0: Callable[[Path], None],
    tensors: Mapping[str, Tensor],
    *,
    weights: Mapping[str, Mapping[str, Tensor]] | None = None,
    replace: bool = False,
) -> Path:
    """Publishes a checkpoint: shards of `tensors`, whole `weights` by file name, and what `write_rank0` writes.

    An existing target is left as it is, or gives way with `replace`. Nothing is sealed before every rank has written
    and synced its shards. Raises CheckpointError on all ranks when one of them fails; its `__cause__` is what went
    wrong there, such as an OSError.
    """
    shards = target.parent / f"{directory.ASIDE}{target.name}-shards"
    if engine.is_main:
        shutil.rmtree(shards, ignore_errors=True)
    if engine.from_main(target.exists() and not replace):
        return target
    whole = {name: gather(content, engine) for name, content in (weights or {}).items()}

    def fill(aside: Path) -> None:
        shards.rename(aside / OPTIMIZER)
        for name, content in whole.items():
            write_tensors(aside / name, content)
        write_rank0(aside)

    failure: Exception | None = None
    try:
        write(shards, tensors, engine)
        if engine.is_main:
            try:
                directory.publish(target, fill, replace=replace)
            except (OSError, SafetensorError, AuricleError) as error:
                failure = error
    finally:
        if engine.is_main:
            shutil.rmtree(shards, ignore_errors=True)
    if failure := engine.from_main(failure):
        raise CheckpointError(f"{target}: not written: {failure}; is the disk full, or gone?") from failure
    return target


def gather(tensors: Mapping[str, Tensor], engine: Engine) -> dict[str, Tensor]:
    """Whole tensors in the main rank's host memory, one at a time over the network; empty on the others."""
    whole = {}
    for name, tensor in tensors.items():
        value = tensor.detach()
        if isinstance(value, DTensor):
            value = value.full_tensor()
        if engine.is_main:
            whole[name] = value.cpu().contiguous()
    return whole


def write(folder: Path, tensors: Mapping[str, Tensor], engine: Engine) -> None:
    """Each rank writes and syncs one file of its shards; of a tensor that all hold whole, one rank writes it.

    Raises CheckpointError on all ranks when one of them fails.
    """
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    with _dcp(folder):
        dcp.save(dict(tensors), storage_writer=writer, no_dist=engine.world == 1)


def read(folder: Path, tensors: Mapping[str, Tensor], engine: Engine) -> None:
    """Fills `tensors` in place, shards or whole, from the safetensors files of a folder, sharded or not, by name.

    The folder was verified before: a missing file is not noticed here. Raises CheckpointError on all ranks for a tensor
    that the folder lacks or has in another shape; what was filled by then keeps the new values.
    """
    _load(folder, tensors, no_dist=engine.world == 1)


def read_full(folder: Path) -> dict[str, Tensor]:
    """Whole tensors by name, in this process alone; the folder was verified before."""
    stored = _stored(folder)
    tensors = {name: torch.empty(about.size, dtype=about.properties.dtype) for name, about in stored.items()}
    _load(folder, tensors, no_dist=True)
    return tensors


def load_model(checkpoint: Path, model: nn.Module, engine: Engine) -> None:
    """Puts a checkpoint's weights, and the parts that it names, back into a model that trains, sharded or not.

    Each rank reads whole files and keeps what it holds of each tensor. Raises ModelError, see `load_weights`.
    """
    # A whole tensor that is copied into shards counts as held by every rank.
    with implicit_replication() if engine.shards else contextlib.nullcontext():
        load_weights(model, checkpoint)


def load_optimizer(checkpoint: Path, optimizer: torch.optim.Optimizer, engine: Engine) -> tuple[int, int]:
    """Carries moments by parameter name from a checkpoint, sharded or ordinary, into an optimizer, sharded or not.

    A parameter of which the checkpoint lacks a kind starts afresh, as where another optimizer wrote it. → (parameters
    whose moments were carried, parameters that start afresh).
    """
    allocate_moments(optimizer)
    folder = checkpoint / OPTIMIZER if (checkpoint / OPTIMIZER).is_dir() else checkpoint
    ours, stored = moments(optimizer), _stored(folder)
    fresh = {name.partition("/")[2] for name in ours.keys() - stored.keys()}
    carried = {name: tensor for name, tensor in ours.items() if name.partition("/")[2] not in fresh}
    read(folder, carried, engine)
    return len({name.partition("/")[2] for name in carried}), len(fresh)


def _stored(folder: Path) -> dict:
    """Name → torch's TensorStorageMetadata, from the files' headers."""
    try:
        return HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: {error}; expected safetensors files; use another checkpoint") from None


def _load(folder: Path, tensors: Mapping[str, Tensor], *, no_dist: bool) -> None:
    with _dcp(folder):
        dcp.load(dict(tensors), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=no_dist)


@contextlib.contextmanager
def _dcp(folder: Path) -> Iterator[None]:
    """Its exception is no Exception; and that there is one process only is no reason for a warning."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            yield
    except CheckpointException as failed:
        rank, (cause, _) = next(iter(failed.failures.items()))
        raise CheckpointError(
            f"{folder}: rank {rank} failed: {cause}; is the disk full or gone, or is this the checkpoint of another "
            "model?"
        ) from cause
