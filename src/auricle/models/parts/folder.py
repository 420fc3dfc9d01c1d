"""A model's part of a model folder.

    config.json               format, version of Auricle, model and task blocks, vocabulary's size, weights, parts
    encoder.safetensors …     the weights of each component
    model.safetensors         those of no component, where there are any

A component that does not change need not be held; under `parts` config.json names it instead: by the hash of a file
of tensors, which lies in parts/ of this folder, in parts/ beside it (a checkpoint) or in checkpoints/parts/ (a run), or
as weights of the hub, which building the model fetches.
"""

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import xxhash
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

import auricle
from auricle.core.errors import ModelError
from auricle.core.frame import Block, Frame
from auricle.models.parts.weights import component_tensors, named_tensors, weight_files, weights_hash, write_tensors

CONFIG, PARTS, PART_WEIGHTS = "config.json", "parts", "weights.safetensors"
MODEL_TYPE = "auricle"

Hash = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
FileName = Annotated[str, Field(pattern=r"^[^/\\]+\.safetensors$")]


class StoredPart(Frame):
    """A component that is held in parts/<hash>/weights.safetensors."""

    part: Hash
    """xxh3-128 of that file."""


class HubPart(Frame):
    """A component whose weights are those of a model on the hub."""

    hub: str
    revision: str
    hash: Hash
    """`weights_hash` of its tensors."""


Part = StoredPart | HubPart


class FolderConfig(Frame):
    """What config.json holds."""

    format: Literal["auricle-2"] = "auricle-2"
    model_type: Literal["auricle"] = MODEL_TYPE
    """By which transformers finds the class (inference/auto.py)."""
    auricle: str
    model: dict[str, Any]
    task: dict[str, Any]
    vocabulary: int
    weights: tuple[FileName, ...]
    """The folder's own files; another one that lies there is none of the model's."""
    parts: dict[str, Part]
    """Component → what to take for it."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What became of the tensors of a model folder."""

    loaded: int
    missing: tuple[str, ...] = ()
    """The model's, not in the folder; they keep their values."""
    unexpected: tuple[str, ...] = ()
    """The folder's, not in the model."""


def write_static(folder: Path, model: nn.Module, *, model_config: Block, task_config: Block, vocabulary: int,
                 parts: Mapping[str, Part] | None = None) -> None:
    """Writes config.json into an existing folder: what training does not change while `parts` stay the same."""
    config = FolderConfig(
        auricle=auricle.__version__, model=model_config.model_dump(mode="json"),
        task=task_config.model_dump(mode="json"), vocabulary=vocabulary,
        weights=tuple(weight_files(model, parts or ())), parts=dict(parts or {}))
    (folder / CONFIG).write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")


def save_model(folder: Path, model: nn.Module, *, parts: Mapping[str, Part] | None = None, **static: Any) -> None:
    """Writes config.json, with what `write_static` takes, and the weights of all that `parts` does not name."""
    write_static(folder, model, parts=parts, **static)
    for name, tensors in weight_files(model, parts or ()).items():
        write_tensors(folder / name, tensors)


def read_config(folder: Path) -> FolderConfig:
    """Raises ModelError."""
    path = folder / CONFIG
    try:
        return FolderConfig.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ModelError(f"{folder}: no {CONFIG}; expected a model folder that Auricle wrote") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise ModelError(f"{path}: {key}: {first['msg']}; expected a model folder that Auricle wrote") from None


def load_weights(model: nn.Module, folder: Path, *, partial: bool = False) -> Loaded:
    """Copies the folder's weights and parts into the model.

    Raises ModelError, and leaves the model as it was, when a file or a part is missing or damaged, when a tensor has
    another shape, when nothing matches, or when tensors are missing or left over; `partial` allows the last (a
    weights-only start for a model with a new head).
    """
    config, ours = read_config(folder), named_tensors(model)
    there, absent = _hub_tensors(model, config)
    with ExitStack() as stack:
        stored = _opened(_weight_paths(folder, config), stack)
        _refuse_other_shapes(ours, stored, folder)
        common = ours.keys() & stored.keys()
        known = common | there
        report = Loaded(loaded=len(known), missing=tuple(sorted(ours.keys() - known)),
                        unexpected=tuple(sorted((stored.keys() - common) | absent)))
        if not known or (not partial and (report.missing or report.unexpected)):
            raise ModelError(f"{folder}: has {len(known)} of the model's {len(ours)} tensors; missing: "
                             f"{_listed(report.missing)}; not in the model: {_listed(report.unexpected)}; "
                             "are these the weights of another model?")
        with torch.no_grad():
            for name in common:
                ours[name].copy_(stored[name].get_tensor(name))
    return report


def stored_names(folder: Path) -> set[str]:
    """Names of the tensors that the folder holds. Raises ModelError."""
    with ExitStack() as stack:
        return set(_opened(_weight_paths(folder, read_config(folder)), stack))


def verify_hub_part(component: str, part: HubPart, tensors: Mapping[str, Tensor]) -> None:
    """Raises ModelError unless the component, as built, has the weights that the model was trained with."""
    found = weights_hash(tensors)
    if found != part.hash:
        raise ModelError(f"component '{component}': the weights of {part.hub} at revision {part.revision} have the "
                         f"hash {found}; expected {part.hash}, those that this model was trained with. Remove "
                         f"{part.hub} from the hub's cache to fetch it again, or name that revision in the model block")


def _hub_tensors(model: nn.Module, config: FolderConfig) -> tuple[set[str], set[str]]:
    """→ (names of the model's tensors that are verified to be the hub's, hub components that the model lacks)."""
    ours, there, absent = component_tensors(model), set(), set()
    for component, part in config.parts.items():
        if isinstance(part, HubPart) and component in ours:
            verify_hub_part(component, part, ours[component])
            there |= ours[component].keys()
        elif isinstance(part, HubPart):
            absent.add(component)
    return there, absent


def _weight_paths(folder: Path, config: FolderConfig) -> list[Path]:
    """The files that hold the model's tensors, those of parts verified."""
    return [folder / name for name in config.weights] + [
        _part_path(folder, component, part.part)
        for component, part in config.parts.items() if isinstance(part, StoredPart)]


def _part_path(folder: Path, component: str, part: str) -> Path:
    home = folder.resolve()  # so that "." has a parent
    places = [home / PARTS, home.parent / PARTS, home / "checkpoints" / PARTS]
    damaged = []
    for path in (place / part / PART_WEIGHTS for place in places):
        if path.is_file() and (found := _digest(path)) == part:
            return path
        if path.is_file():
            damaged.append(f"{path} is damaged (its hash is {found})")
    if damaged:
        raise ModelError(f"{folder}: component '{component}': {_listed(damaged)}; expected the frozen part {part}. "
                         "Put a good copy in its place, from a mirror or another copy of the run")
    raise ModelError(f"{folder}: component '{component}': the frozen part {part} is missing, looked for in "
                     f"{_listed(map(str, places))}. Copy it there from the run's checkpoints/{PARTS} or from a mirror")


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, xxhash.xxh3_128).hexdigest()
    except OSError as error:
        raise ModelError(f"{path}: unreadable ({error}); copy it again") from None


def _opened(paths: Iterable[Path], stack: ExitStack) -> dict[str, Any]:
    """Name of a tensor → the open file that holds it; only headers are read. Raises ModelError."""
    stored: dict[str, Any] = {}
    for path in paths:
        try:
            file = stack.enter_context(safe_open(path, framework="pt"))
        except FileNotFoundError:
            raise ModelError(f"{path}: no such file; expected the weights that {CONFIG} names. Fetch or save the "
                             "model again") from None
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path}: damaged ({error}); fetch or save it again") from None
        stored |= dict.fromkeys(file.keys(), file)
    return stored


def _refuse_other_shapes(ours: dict[str, Tensor], stored: dict[str, Any], folder: Path) -> None:
    shapes = {name: tuple(stored[name].get_slice(name).get_shape()) for name in ours.keys() & stored.keys()}
    other = [f"{name} is {shapes[name]}, the model's is {tuple(tensor.shape)}"
             for name, tensor in ours.items() if shapes.get(name, tensor.shape) != tensor.shape]
    if other:
        raise ModelError(f"{folder}: {_listed(other)}; the configurations of the two models differ")


def _listed(items: Iterable[str]) -> str:
    items = list(items)
    return (", ".join(items[:5]) + (f" and {len(items) - 5} more" if len(items) > 5 else "")) or "none"
