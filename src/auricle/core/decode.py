"""Plain values become frozen configuration, strictly; every mistake is one sentence, and all are told at once.

    FILE:12: training.max_steps is "ten"; expected a whole number
    override 'training.warmup_step=5': no key 'training.warmup_step' (5); did you mean 'warmup_steps'?

Values are read by the rules of JSON: a YAML list fills a tuple and 1 is a number with a fraction, but "1" is text.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from auricle.core.compose import Composed
from auricle.core.config import AUGMENT, TASK, AugmentConfig, ExperimentConfig, TrainingConfig, training_keys
from auricle.core.errors import ConfigError, nearest
from auricle.core.folder import find, names
from auricle.core.frame import Block
from auricle.core.hints import fields_at, kinds_at, meant

Key = tuple[str | int, ...]
Where = str | Callable[[str], str]
"""The place that a mapping comes from (`run.json`), or a function that gives the place of a dotted key."""

SomeModel = TypeVar("SomeModel", bound=BaseModel)

BLOCKS = {"model": "models", "task": "tasks"}
"""Key of the frame → the room that decodes it; sources of data sets come on top."""

EXPECTED = {
    "int_type": "a whole number", "int_from_float": "a whole number", "float_type": "a number",
    "bool_type": "true or false", "list_type": "a list", "tuple_type": "a list",
    "string_type": "text (a number that is meant as text goes in quotes)",
    "dict_type": "keys with values below it", "model_type": "keys with values below it",
}
"""pydantic's error type → what a person would say."""


def decode(source: Composed | Mapping[str, Any], where: Where = "config") -> ExperimentConfig:
    """The frame, with its blocks decoded by their rooms. Raises ConfigError with one line a mistake.

    A composed configuration knows the place of each key; `where` is for values that come from elsewhere.
    """
    if isinstance(source, Composed):
        source, where = source.values, source.origins.where
    frame = json.loads(_json(source))
    mistakes: list[str] = []
    blocks: dict[Key, Block] = {}
    for key, room in list(_blocks_of(frame)):
        parent = _at(frame, key[:-1])
        try:
            blocks[key] = decode_block(room, parent[key[-1]], where, key)
        except ConfigError as error:
            mistakes.append(str(error))
        parent[key[-1]] = {"kind": "decoded above"}
    if wrong := list(_mistakes_in_stages(frame, where)):
        mistakes += wrong
        del frame["stages"]
    try:
        config = decode_model(ExperimentConfig, frame, where)
    except ConfigError as error:
        raise ConfigError("\n".join([*mistakes, str(error)])) from None
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return _with_blocks(config, blocks)


def decode_block(room: str, mapping: Any, where: Where = "config", key: Key = ()) -> Block:
    """`{kind: conformer, …}` → the `Config` in `models/conformer/config.py`.

    `key` is where the mapping stands in the configuration, for the sentences. Raises ConfigError, one line a mistake.
    """
    dotted, of_kind = _dotted(key), (*key, "kind")
    place = _place(where, of_kind)
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{_place(where, key)}: {dotted} is {_shown(mapping)}; expected keys below it, first 'kind'")
    kind = mapping.get("kind")
    if not kind or not isinstance(kind, str):
        what = f"the kind {_shown(kind)}" if "kind" in mapping else "no 'kind'"
        raise ConfigError(f"{place}: {dotted} has {what}; expected one of: {', '.join(names(room))}")
    try:
        module = find(room, kind, part="config")
    except ConfigError as error:
        raise ConfigError(f"{place}: {_dotted(of_kind)}: {error}") from None
    if not hasattr(module, "Config"):
        raise ConfigError(f"{place}: {module.__name__} has no class Config, which auricle.{room} asks for")
    return decode_model(module.Config, mapping, where, key)


def decode_model(cls: type[SomeModel], mapping: Any, where: Where = "config", key: Key = ()) -> SomeModel:
    """Any frame, with the same sentences. Raises ConfigError with one line a mistake."""
    try:
        return _validate(cls, mapping)
    except ValidationError as error:
        sentences = (_sentence(detail, cls, mapping, where, key) for detail in error.errors(include_url=False))
        raise ConfigError("\n".join(dict.fromkeys(sentences))) from None


def to_plain(config: BaseModel) -> dict[str, Any]:
    """What JSON and YAML can hold; `decode(to_plain(config)) == config`."""
    return config.model_dump(mode="json")


def to_yaml(config: BaseModel, overrides: Iterable[str] = ()) -> str:
    """The resolved configuration with every default, and above it the overrides as they were typed."""
    head = "# Resolved configuration, with every default. Typed on the command line:\n"
    typed = "".join(f"#   {override}\n" for override in overrides) or "#   nothing\n"
    return head + typed + yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True, width=120)


def _validate(cls: type[SomeModel], mapping: Any) -> SomeModel:
    return cls.model_validate_json(_json(mapping), strict=True)


def _json(value: Any) -> str:
    return json.dumps(value, default=repr, ensure_ascii=False)


def _blocks_of(frame: Mapping[str, Any]) -> Iterator[tuple[Key, str]]:
    """(key, room) of every block that is there."""
    yield from (((key,), room) for key, room in BLOCKS.items() if key in frame)
    stages = frame.get("stages")
    for name, changes in stages.items() if isinstance(stages, Mapping) else ():
        if isinstance(changes, Mapping) and TASK in changes:
            yield ("stages", name, TASK), BLOCKS[TASK]
    datasets = _at(frame, ("data", "datasets"))
    for name, dataset in datasets.items() if isinstance(datasets, Mapping) else ():
        if isinstance(dataset, Mapping) and dataset.get("source") is not None:
            yield ("data", "datasets", name, "source"), "data.sources"


def _at(values: Any, key: Key) -> Any:
    """None where the key leads nowhere."""
    for part in key:
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def _mistakes_in_stages(frame: Mapping[str, Any], where: Where) -> Iterator[str]:
    """What is wrong with `stages`, but not what is wrong with the `training` that they inherit."""
    training, stages = frame.get("training"), frame.get("stages")
    if not isinstance(training, Mapping) or not isinstance(stages, Mapping):
        return
    inherited = {detail["loc"] for detail in _details(TrainingConfig, training)}
    for name, changes in stages.items():
        key = ("stages", name)
        if not isinstance(changes, Mapping):
            yield f"{_place(where, key)}: {_dotted(key)} is {_shown(changes)}; expected keys of 'training' below it"
            continue
        for detail in _details(AugmentConfig, changes.get(AUGMENT, {})):
            yield _sentence(detail, AugmentConfig, changes[AUGMENT], where, (*key, AUGMENT))
        changes = training_keys(changes)
        merged = {**training, **changes}
        for detail in _details(TrainingConfig, merged):
            if detail["loc"][:1] in {(own,) for own in changes} or detail["loc"] not in inherited:
                yield _sentence(detail, TrainingConfig, merged, where, key)


def _details(cls: type[BaseModel], mapping: Any) -> list[ErrorDetails]:
    try:
        _validate(cls, mapping)
    except ValidationError as error:
        return error.errors(include_url=False)
    return []


def _with_blocks(config: ExperimentConfig, blocks: Mapping[Key, Block]) -> ExperimentConfig:
    datasets = {name: dataset.model_copy(update={"source": blocks.get(("data", "datasets", name, "source"))})
                for name, dataset in config.data.datasets.items()}
    stages = {name: {key: blocks.get(("stages", name, key), value) for key, value in changes.items()}
              for name, changes in config.stages.items()}
    data = config.data.model_copy(update={"datasets": datasets})
    return config.model_copy(update={"data": data, "stages": stages, **{key: blocks[(key,)] for key in BLOCKS}})


def _sentence(detail: ErrorDetails, cls: type[BaseModel], mapping: Any, where: Where, key: Key) -> str:
    path = _path(detail, mapping)
    full = (*key, *path)
    place, dotted, kind, value = _place(where, full), _dotted(full), detail["type"], _shown(detail["input"])
    if kind == "extra_forbidden":
        return f"{place}: no key '{dotted}' ({value}); {meant(str(path[-1]), fields_at(cls, path[:-1], mapping))}"
    if kind == "missing":
        return f"{place}: '{dotted}' is missing; give it a value"
    if kind.startswith("union_tag"):  # a block of several kinds within a block
        kinds = kinds_at(cls, path)
        tag = detail.get("ctx", {}).get("tag")
        wrong = f'{dotted} has no "kind"' if tag is None else f"{dotted}.kind is {_shown(tag)}"
        return f"{place}: {wrong}; {nearest(str(tag), kinds)}"
    said = detail["msg"].removeprefix("Value error, ")
    if kind == "value_error" and isinstance(detail["input"], dict):
        return f"{place}: {dotted}: {said}"
    if kind == "value_error":
        return f"{place}: {dotted} is {value}; {said}"
    return f"{place}: {dotted} is {value}; {_expectation(kind, said, detail['input'])}"


def _expectation(kind: str, said: str, value: Any) -> str:
    if kind in EXPECTED:
        return f"expected {EXPECTED[kind]}"
    said = re.sub("^Input should be (?=greater|less)", "expected a value ", said).replace("Input should be", "expected")
    if kind in ("too_short", "too_long"):
        return said.partition(" should ")[2].replace("have", "expected", 1).replace(" after validation", "")
    if kind == "literal_error" and (close := get_close_matches(str(value), re.findall("'([^']*)'", said), n=1)):
        return f"{said}; did you mean '{close[0]}'?"
    return said


def _path(detail: ErrorDetails, mapping: Any) -> Key:
    """The keys that lead to the mistake; pydantic's `loc` also holds the names of the union members that it tried."""
    path: list[str | int] = []
    for part in detail["loc"]:
        inside: Any = dict(enumerate(mapping)) if isinstance(mapping, list) else mapping
        if isinstance(inside, Mapping) and part in inside:
            path.append(part)
            mapping = inside[part]
    return (*path, detail["loc"][-1]) if detail["type"] == "missing" else tuple(path)


def _place(where: Where, key: Key) -> str:
    return where if isinstance(where, str) else where(_dotted(key, empty=""))


def _dotted(key: Key, empty: str = "the block") -> str:
    return ".".join(map(str, key)) or empty


def _shown(value: Any) -> str:
    """As it would stand in YAML, cut to a readable length."""
    text = _json(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
