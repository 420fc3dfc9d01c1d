"""Which parameters a stage means when it names components.

    encoder                 a component (an entry of `model.components()`)
    encoder.layers.0.norm   a module or a parameter inside it, by its path
    encoder.top(3)          the last three of the component's `layers`

Where several names cover a parameter, the longest path wins; two of the same length are an error. A component with
`owns = True` (adapters inside another one's layers) keeps its parameters to itself. Parameters go by
their canonical names: as in the bare model, whatever DDP, torch.compile or LoRA wrapped around it.
"""

import re
from collections.abc import Iterable

from torch import Tensor, nn

from auricle.core.errors import ModelError, nearest

Named = tuple[str, nn.Parameter]
WRAPPERS = frozenset({"module", "_orig_mod", "base_layer"})
TOP = re.compile(r"(?P<component>.+)\.top\((?P<count>\d+)\)")


def canonical(name: str) -> str:
    """
    >>> canonical("module._orig_mod.encoder.layers.0.project.base_layer.weight")
    'encoder.layers.0.project.weight'
    """
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, which hides everything but `forward`."""
    while not hasattr(model, "components"):
        model = model.module
    return model


def resolve(model: nn.Module, names: Iterable[str]) -> dict[str, list[Named]]:
    """Name → the parameters that it stands for, each with its canonical name; a parameter appears once.

    A tensor that is tied into several components belongs to the first of them that is named, under the first of its
    own names (`tied` tells the others). Raises ModelError for a name that covers no parameter, and for a tie.
    """
    model, names = unwrapped(model), list(dict.fromkeys(names))
    prefixes = {name: _prefixes(model, name) for name in names}
    owners: dict[int, str] = {}
    covering: set[str] = set()
    for path, parameter in _paths(model):
        lengths = {name: length for name in names if (length := _match(path, prefixes[name]))}
        covering |= lengths.keys()
        if lengths:
            owners.setdefault(id(parameter), _longest(path, lengths))
    for name in names:
        if name not in covering:
            raise ModelError(f"component '{name}' matches no parameter; {nearest(name, _known(model))}")
    found: dict[str, list[Named]] = {name: [] for name in names}
    for name, parameter in model.named_parameters():
        if id(parameter) in owners:
            found[owners[id(parameter)]].append((canonical(name), parameter))
    return found


def tied(model: nn.Module) -> dict[str, list[str]]:
    """Canonical name → the other names of the same tensor, where there are any."""
    names: dict[int, list[str]] = {}
    for name, parameter in unwrapped(model).named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(canonical(name))
    return {first: others for first, *others in names.values() if others}


def count(parameters: Iterable[Tensor]) -> int:
    """Numbers in the tensors, each tensor once."""
    return sum({id(parameter): parameter.numel() for parameter in parameters}.values())


def _paths(model: nn.Module) -> list[Named]:
    """Every parameter below its component's name: ("encoder.layers.0.norm.weight", …); a tied one under each."""
    components = model.components()
    own = {component: {id(p) for p in module.parameters()} for component, module in components.items()
           if getattr(module, "owns", False)}
    return [(f"{component}.{canonical(name)}", parameter) for component, module in components.items()
            for name, parameter in module.named_parameters(remove_duplicate=False)
            if not any(id(parameter) in owned for owner, owned in own.items() if owner != component)]


def _prefixes(model: nn.Module, name: str) -> list[str]:
    top = TOP.fullmatch(name)
    if not top:
        return [name]
    component, wanted = top["component"], int(top["count"])
    layers = getattr(model.components().get(component), "layers", None)
    if layers is None:
        raise ModelError(f"component '{name}': '{component}' has no layers; {nearest(name, _known(model))}")
    if not 1 <= wanted <= len(layers):
        raise ModelError(f"component '{name}': '{component}' has {len(layers)} layers; expected at most that many")
    return [f"{component}.layers.{number}" for number in range(len(layers) - wanted, len(layers))]


def _match(path: str, prefixes: list[str]) -> int:
    """Parts of the prefix that covers the path; 0 if none does."""
    return max((prefix.count(".") + 1 for prefix in prefixes if f"{path}.".startswith(f"{prefix}.")), default=0)


def _longest(path: str, lengths: dict[str, int]) -> str:
    best = [name for name, length in lengths.items() if length == max(lengths.values())]
    if len(best) > 1:
        raise ModelError(f"components '{best[0]}' and '{best[1]}' both name {path}; name it in one of them")
    return best[0]


def _known(model: nn.Module) -> list[str]:
    known = list(model.components())
    for component, module in model.components().items():
        if hasattr(module, "layers"):
            known.append(f"{component}.top({len(module.layers)})")
    return known
