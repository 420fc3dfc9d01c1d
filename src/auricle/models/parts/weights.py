"""The tensors of a model by name, component and file, and what they hash to.

Names are the canonical ones of the whole model.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
import xxhash
from safetensors.torch import save_file
from torch import Tensor, nn

from auricle.models.parts.components import canonical, unwrapped

REST = "model"
"""Where tensors of no component are counted."""


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Canonical name → parameter or buffer, a tied one once, under the first of its names."""
    first: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in unwrapped(model).state_dict(keep_vars=True).items():
        first.setdefault(id(tensor), (canonical(name), tensor))
    return dict(first.values())


def component_tensors(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Component → canonical name → the live parameter or buffer, each once, with the first component that owns it.

    A component all of whose tensors belong to earlier ones is left out; what no component owns is under `REST`.
    """
    owners: dict[int, str] = {}
    for component, module in unwrapped(model).components().items():
        for tensor in module.state_dict(keep_vars=True).values():
            owners.setdefault(id(tensor), component)
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in named_tensors(model).items():
        found.setdefault(owners.get(id(tensor), REST), {})[name] = tensor
    return found


def weight_files(model: nn.Module, without: Collection[str] = ()) -> dict[str, dict[str, Tensor]]:
    """File name → canonical name → the live tensor, for all but the components that are stored elsewhere."""
    return {f"{component}.safetensors": tensors for component, tensors in component_tensors(model).items()
            if component not in without}


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """The same tensors give the same bytes."""
    path.touch()
    mode = path.stat().st_mode
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path,
              metadata={"format": "pt"})
    path.chmod(mode)  # safetensors lets nobody else read it, whatever the umask is


def weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """xxh3-128 over the name, type, shape and bytes of each tensor, in the order of their names."""
    hasher = xxhash.xxh3_128()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return hasher.hexdigest()
