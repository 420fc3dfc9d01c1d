"""Which key was meant: the nearest name among its siblings, or the same name elsewhere in the frame."""

import types
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from auricle.core.config import ExperimentConfig
from auricle.core.errors import nearest


def meant(name: str, siblings: Iterable[str]) -> str:
    """The end of a sentence about an unknown key.

    >>> meant("warmup_step", ["warmup_steps", "seed"])
    "did you mean 'warmup_steps'?"
    >>> meant("learning_rate", ["model", "training"])
    "did you mean 'training.learning_rate'?"
    """
    elsewhere = _homes()
    close = elsewhere.get(name) or get_close_matches(name, known := list(siblings), n=1, cutoff=0.6)
    if not close:
        close = [home for leaf in get_close_matches(name, elsewhere, n=1, cutoff=0.8) for home in elsewhere[leaf]]
    return f"did you mean {' or '.join(repr(key) for key in close)}?" if close else nearest(name, known)


@cache
def _homes() -> dict[str, list[str]]:
    """Name of a key → the dotted keys of the frame that end in it."""
    homes = defaultdict(list)
    for dotted in _dotted_keys(ExperimentConfig):
        homes[dotted.rpartition(".")[2]].append(dotted)
    return dict(homes)


def _dotted_keys(cls: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in cls.model_fields.items():
        yield f"{prefix}{name}"
        through = "NAME." if get_origin(field.annotation) is dict else ""
        for inner in models_in(field.annotation):
            yield from _dotted_keys(inner, f"{prefix}{name}.{through}")


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The frames that a field may hold: `NoiseConfig | None`, `dict[str, DatasetConfig]` → that frame."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for argument in get_args(annotation):
        yield from models_in(argument)


def fields_at(cls: type[BaseModel], key: Iterable[str | int], mapping: Any = None) -> list[str]:
    """Names of the keys that may stand below `key` of a frame; `mapping` tells which of several kinds it is."""
    classes = [cls]
    for part in key:
        classes = _inside(classes, part)
        mapping = mapping.get(part) if isinstance(mapping, Mapping) else None
    kind = mapping.get("kind") if isinstance(mapping, Mapping) else None
    classes = [c for c in classes if _kind(c) == kind] or classes
    return sorted({name for c in classes for name in c.model_fields})


def kinds_at(cls: type[BaseModel], key: Iterable[str | int]) -> list[str]:
    """The kinds of block that may stand at `key`."""
    classes = [cls]
    for part in key:
        classes = _inside(classes, part)
    return sorted(kind for c in classes if (kind := _kind(c)))


def _inside(classes: list[type[BaseModel]], part: str | int) -> list[type[BaseModel]]:
    found = [c.model_fields[part].annotation for c in classes if part in c.model_fields]
    # a part that is no field is a name in a mapping or an index of a list: its frame is the one at hand
    return [inner for annotation in found for inner in models_in(annotation)] if found else classes


def _kind(cls: type[BaseModel]) -> str | None:
    default = cls.model_fields["kind"].default if "kind" in cls.model_fields else None
    return default if isinstance(default, str) else None
