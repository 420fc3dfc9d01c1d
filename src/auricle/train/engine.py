"""Devices and ranks. The only file that imports accelerate; the loop asks it for sums, autocast and gradients."""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, gather_object
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from auricle.core.config import TrainingConfig
from auricle.core.errors import ConfigError, Preempted

PATIENCE = timedelta(days=7)
"""What is not training may take long: fetching a checkpoint, preparing a corpus on another machine."""
LOST = re.compile(r"Connection (closed|reset|refused)|Broken pipe|[Tt]imed out|remote process exited|was aborted")
"""In what torch says when another rank does not answer any more."""


class Engine:
    """One rank's device, precision and way to the other ranks."""

    def __init__(self, config: TrainingConfig) -> None:
        self.bf16 = _use_bf16(config)
        self._accelerator = Accelerator(
            cpu=_on_cpu(config.device), mixed_precision="bf16" if self.bf16 else "no",
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=False, broadcast_buffers=False),
                             InitProcessGroupKwargs(timeout=timedelta(seconds=config.ddp_timeout))])
        self.device = self._accelerator.device
        self.rank, self.world = self._accelerator.process_index, self._accelerator.num_processes
        self.local_rank = self._accelerator.local_process_index
        self.machines = int(os.environ.get("GROUP_WORLD_SIZE", "1"))
        self._patient = torch.distributed.new_group(backend="gloo", timeout=PATIENCE) if self.world > 1 else None
        _refuse_missing_device(config.device, self.device)
        self.shards = config.fsdp and self.world > 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def describe(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
        machines = f" on {self.machines} machines" if self.machines > 1 else ""
        precision = "bf16 autocast, fp32 weights" if self.bf16 else "fp32"
        return f"{name} × {self.world}{machines}{' (sharded)' if self.shards else ''}, {precision}"

    def wrap(self, model: nn.Module, *, compiled: bool) -> nn.Module:
        """The model as the loop calls it: on the device, compiled if asked for, with gradients averaged over ranks.

        With shards it is the model itself, changed in place, and its parameters are new objects: resolve names, freeze
        and build the optimizer afterwards. A model that was sharded before stays as it is.
        """
        model = model.to(self.device)
        if self.shards:
            return model if isinstance(model, FSDPModule) else self._shard(model, compiled)
        if compiled:
            model = torch.compile(model)
        return self._accelerator.prepare_model(model) if self.world > 1 else model

    def _shard(self, model: nn.Module, compiled: bool) -> nn.Module:
        """FSDP2 (Zhao et al. 2023) over all ranks: each layer of a component is gathered as a whole, then the rest.

        Weights, gradients and moments are fp32; with bf16 they are gathered in bf16 and reduced in fp32. Inputs are
        left to autocast, as they are without shards, so that the residual stream keeps its precision. Everything is
        given back after the forward pass, the root too: outside of it the parameters are always the shards.
        """
        options = {
            "mesh": init_device_mesh(self.device.type, (self.world,)),
            "reshard_after_forward": True,
            "mp_policy": MixedPrecisionPolicy(
                param_dtype=torch.bfloat16 if self.bf16 else None,
                reduce_dtype=torch.float32 if self.bf16 else None,
                cast_forward_inputs=False,
            ),
        }
        layers = (layer for component in model.components().values() for layer in getattr(component, "layers", ()))
        for layer in layers:
            if compiled:
                layer.compile()
            fully_shard(layer, **options)
        return fully_shard(model, **options)

    def autocast(self) -> contextlib.AbstractContextManager:
        return self._accelerator.autocast()

    def backward(self, objective: torch.Tensor) -> None:
        self._accelerator.backward(objective)

    def accumulating(self, model: nn.Module, *, last: bool) -> contextlib.AbstractContextManager:
        """Gradients are exchanged at the last micro-batch of a step only."""
        if isinstance(model, FSDPModule):
            model.set_requires_gradient_sync(last)
            return contextlib.nullcontext()
        return contextlib.nullcontext() if last or self.world == 1 else self._accelerator.no_sync(model)

    def grad_norm(self, parameters: Iterable[torch.Tensor], max_norm: float) -> torch.Tensor:
        """Scales the gradients down to `max_norm`; returns their L2 norm before, over all shards, as a plain tensor."""
        norm = nn.utils.clip_grad_norm_(parameters, max_norm)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    @contextlib.contextmanager
    def evaluating(self, model: nn.Module) -> Iterator[None]:
        """Whole parameters on every rank: forward passes talk to no other rank, so each may make as many as it has.

        Entered and left by all ranks together. Read no weights in it: with bf16 the gathered ones are rounded.
        """
        shards = [module for module in model.modules() if isinstance(module, FSDPModule)]
        for module in shards:
            module.set_reshard_after_forward(False, recurse=False)
            module.unshard()
        try:
            yield
        finally:
            for module in shards:
                module.set_reshard_after_forward(True, recurse=False)
                module.reshard()

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sums numbers over ranks, in float64, by name. Every rank must bring the same names."""
        if self.world == 1:
            return dict(values)
        names = sorted(values)
        kind = torch.float64 if self.device.type != "mps" else torch.float32
        numbers = torch.tensor([values[name] for name in names], dtype=kind, device=self.device)
        return dict(zip(names, self._accelerator.reduce(numbers, "sum").tolist(), strict=True))

    def any(self, flag: bool) -> bool:
        """True on all ranks when it is true on one."""
        return self.sum({"flag": float(flag)})["flag"] > 0

    def from_main(self, value: Any) -> Any:
        """What rank 0 decided, however long that takes it."""
        if self.world == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0, group=self._patient, device=torch.device("cpu"))
        return box[0]

    def send(self, piece: torch.Tensor, rank: int) -> None:
        """Sends a tensor in host memory to a rank that receives it."""
        torch.distributed.send(piece, dst=rank, group=self._patient)

    def receive(self, piece: torch.Tensor) -> None:
        """Fills a tensor in host memory with what rank 0 sends."""
        torch.distributed.recv(piece, src=0, group=self._patient)

    def gather(self, items: Iterable[Any]) -> list[Any]:
        """All ranks' items, rank by rank."""
        return list(items) if self.world == 1 else gather_object(list(items))

    def wait(self) -> None:
        self._accelerator.wait_for_everyone()

    def wait_patiently(self) -> None:
        """`wait` for what may take longer than `ddp_timeout`."""
        if self._patient is not None:
            torch.distributed.barrier(group=self._patient)

    @contextlib.contextmanager
    def first_on_each_machine(self) -> Iterator[None]:
        """One rank of each machine goes first, all machines at once; the others follow when all are done."""
        if self.local_rank:
            self.wait_patiently()
        yield
        if not self.local_rank:
            self.wait_patiently()

    @contextlib.contextmanager
    def among_others(self) -> Iterator[None]:
        """Raises Preempted where another rank is gone or did not come within `ddp_timeout`."""
        try:
            yield
        except RuntimeError as error:
            found = LOST.search(str(error))
            if self.world == 1 or not found:
                raise
            raise Preempted(f"rank {self.rank}: another rank is gone, or did not come within training.ddp_timeout "
                            f"({found.group()}); what it printed says why. Run the same command, on every machine, to "
                            "go on from the last checkpoint") from error

    def close(self) -> None:
        """Ends the process group: without it a rank can abort at exit although all went well."""
        self._accelerator.end_training()


def _on_cpu(wanted: str) -> bool:
    """Said outright, because accelerate joins ranks on the CPU only when it is told that there is nothing else."""
    there = torch.cuda.is_available() or torch.backends.mps.is_available()
    return wanted == "cpu" or (wanted == "auto" and not there)


def _use_bf16(config: TrainingConfig) -> bool:
    on_cuda = config.device in ("auto", "cuda") and torch.cuda.is_available()
    if config.bf16 is None:
        return on_cuda and torch.cuda.is_bf16_supported()
    return config.bf16


def _refuse_missing_device(wanted: str, found: torch.device) -> None:
    if wanted not in ("auto", found.type):
        raise ConfigError(f"training.device: '{wanted}' is not available here, found {found.type}; use device=auto or "
                          f"install a torch build for {wanted}")
