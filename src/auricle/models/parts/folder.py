"""A model's part of a model folder.

    config.json         format, version of Auricle, model block, task block, size of the vocabulary
    model.safetensors   weights under their canonical names, a tied tensor once
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import auricle
from auricle.core.errors import ModelError
from auricle.core.frame import Block, Frame
from auricle.models.parts.components import canonical, unwrapped

CONFIG, WEIGHTS = "config.json", "model.safetensors"


class FolderConfig(Frame):
    """What config.json holds."""

    format: Literal["auricle-1"] = "auricle-1"
    auricle: str
    model: dict[str, Any]
    task: dict[str, Any]
    vocabulary: int


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What became of the tensors of a weights file."""

    loaded: int
    missing: tuple[str, ...] = ()
    """The model's, not in the file; they keep their values."""
    unexpected: tuple[str, ...] = ()
    """The file's, not in the model."""


def save_model(folder: Path, model: nn.Module, *, model_config: Block, task_config: Block, vocabulary: int) -> None:
    """Writes both files into an existing folder."""
    config = FolderConfig(auricle=auricle.__version__, model=model_config.model_dump(mode="json"),
                          task=task_config.model_dump(mode="json"), vocabulary=vocabulary)
    (folder / CONFIG).write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _tensors(model).items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def read_config(folder: Path) -> dict[str, Any]:
    """What config.json holds: format, auricle, model, task, vocabulary. Raises ModelError."""
    path = folder / CONFIG
    try:
        return FolderConfig.model_validate_json(path.read_bytes()).model_dump()
    except FileNotFoundError:
        raise ModelError(f"{folder}: no {CONFIG}; expected a model folder that Auricle wrote") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise ModelError(f"{path}: {key}: {first['msg']}; expected a model folder that Auricle wrote") from None


def load_weights(model: nn.Module, folder: Path, *, partial: bool = False) -> Loaded:
    """Copies the folder's weights into the model.

    Raises ModelError, and leaves the model as it was, when a tensor has another shape, when nothing matches, or when
    tensors are missing or left over; `partial` allows the last (a weights-only start for a model with a new head).
    """
    path = folder / WEIGHTS
    ours, stored = _tensors(model), _read(path)
    _refuse_other_shapes(ours, stored, path)
    common = ours.keys() & stored.keys()
    report = Loaded(loaded=len(common), missing=tuple(sorted(ours.keys() - common)),
                    unexpected=tuple(sorted(stored.keys() - common)))
    if not common or (not partial and (report.missing or report.unexpected)):
        raise ModelError(f"{path}: has {len(common)} of the model's {len(ours)} tensors; missing: "
                         f"{_listed(report.missing)}; not in the model: {_listed(report.unexpected)}; "
                         "are these the weights of another model?")
    with torch.no_grad():
        for name in common:
            ours[name].copy_(stored[name])
    return report


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Canonical name → parameter or buffer, a tied one once, under the first of its names."""
    first: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in unwrapped(model).state_dict(keep_vars=True).items():
        first.setdefault(id(tensor), (canonical(name), tensor))
    return dict(first.values())


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; expected the weights of a model that Auricle saved") from None
    except SafetensorError as error:
        raise ModelError(f"{path}: damaged ({error}); fetch or save it again") from None


def _refuse_other_shapes(ours: dict[str, Tensor], stored: dict[str, Tensor], path: Path) -> None:
    other = [f"{name} is {tuple(stored[name].shape)}, the model's is {tuple(tensor.shape)}"
             for name, tensor in ours.items() if name in stored and stored[name].shape != tensor.shape]
    if other:
        raise ModelError(f"{path}: {_listed(other)}; the configurations of the two models differ")


def _listed(items: Iterable[str]) -> str:
    items = list(items)
    return (", ".join(items[:5]) + (f" and {len(items) - 5} more" if len(items) > 5 else "")) or "none"
