"""Tensors as the bytes of a safetensors file that is yet to be written.

An image is laid out once, in a buffer that another process can read; filling it is one copy a tensor, and writing it
is writing bytes: nothing is serialised while training waits. Format: 8 bytes of header length, a JSON header with type,
shape and offsets of each tensor, the tensors (safetensors, format section of its README).
"""

import json
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from auricle.store.buffers import Buffer

TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
    torch.uint64: "U64",
}  # fmt: skip


class Image:
    """One file of tensors, in memory."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        header, offsets = layout(tensors)
        self.buffer = Buffer(len(header) + sum(tensor.nbytes for tensor in tensors.values()))
        self.buffer.memory[: len(header)] = header
        self._views = {
            name: _view(self.buffer.memory, len(header) + offsets[name], tensor) for name, tensor in tensors.items()
        }

    @torch.no_grad()
    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Copies the tensors' values of this moment; names and shapes are those that the image was made for."""
        for name, view in self._views.items():
            view.copy_(tensors[name])

    def close(self) -> None:
        self._views.clear()  # they hold the buffer's memory
        self.buffer.close()


def layout(tensors: Mapping[str, Tensor]) -> tuple[bytes, dict[str, int]]:
    """(the file's beginning, offset of each tensor after it). Wide types first, so that each lies aligned."""
    entries, offsets, end = {"__metadata__": {"format": "pt"}}, {}, 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])):
        offsets[name], end = end, end + tensor.nbytes
        entries[name] = {
            "dtype": TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offsets[name], end]
        }  # fmt: skip
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, offsets


def _view(memory: memoryview, offset: int, tensor: Tensor) -> Tensor:
    if not tensor.numel():
        return torch.empty_like(tensor, device="cpu")
    flat = torch.frombuffer(memory, dtype=tensor.dtype, count=math.prod(tensor.shape), offset=offset)
    return flat.view(tensor.shape)
