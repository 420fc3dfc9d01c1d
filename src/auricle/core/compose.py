"""Hydra composes an experiment from YAML files and typed overrides. The only file that imports Hydra.

    config.yaml  <  +GROUP=default, for each key of the frame that nobody chooses  <  +experiments=NAME  <  key=value

`config.yaml` names no groups: had it any, an experiment could not choose its own with a plain `- /model: large`.
What exists is decided by the frame (`core/decode.py`), so `key=value` sets a key whether or not some YAML lists it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auricle.core.config import ExperimentConfig
from auricle.core.errors import ConfigError
from auricle.core.hints import meant
from auricle.core.library import EXPERIMENTS, USER_FOLDER, Library
from auricle.core.lines import Default, Document, Origins, read

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

ROOT = "config"


@dataclass(frozen=True)
class Composed:
    """`values` is plain data with its interpolations resolved; `overrides` are as typed."""

    values: dict[str, Any]
    overrides: tuple[str, ...]
    experiment: str | None
    origins: Origins = field(repr=False)


def compose(overrides: Iterable[str], *, user_folder: Path = USER_FOLDER) -> Composed:
    """Composes what was typed, as `["+experiments=quickstart", "model=large", "training.max_steps=10"]`.

    Raises ConfigError: an override that is none, a group, option or experiment that does not exist (with the nearest
    name), YAML that is broken or holds a key twice, an interpolation without a target.
    """
    library = Library(user_folder)
    typed = _parse(overrides)
    choices, values = _sorted_out(typed, library.groups())
    chosen, documents = _read_files(library, choices)
    experiment = _option(choices.pop(EXPERIMENTS, None))
    arguments = [*_group_arguments(library, choices, chosen),
                 *([f"+{EXPERIMENTS}@_global_={experiment}"] if experiment else []),
                 *(_value_argument(override) for override in values)]
    config, layers = _composed_by_hydra(library, arguments, values, documents)
    set_by = tuple((str(o.input_line), o.key_or_group, o.value()) for o in values if not o.is_delete())
    origins = Origins(layers, set_by)
    return Composed(_resolved(config, origins), tuple(str(o.input_line) for o in typed), experiment, origins)


def _parse(overrides: Iterable[str]) -> "list[Override]":
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser, parsed, mistakes = OverridesParser.create(), [], []
    for text in overrides:
        key = text.partition("=")[0]
        try:
            override = parser.parse_override(text)
        except HydraException as error:
            quotes = f"; a value with special characters goes in quotes: '{key}=\"…\"'"
            mistakes.append(f"override '{text}': {_said(error) + quotes if '=' in text else 'expected key=value'}")
            continue
        if not override.key_or_group:
            mistakes.append(f"override '{text}': no key before '='; expected key=value")
        elif override.is_sweep_override():
            mistakes.append(f"override '{text}': several values; expected one, or a list in brackets: '{key}=[…]'")
        else:
            parsed.append(override)
    _refuse(mistakes)
    return parsed


def _sorted_out(typed: "list[Override]", groups: set[str]) -> "tuple[dict[str, Override], list[Override]]":
    """Choices (`model=large`, `~model`) by group, and the overrides that set or delete single keys."""
    choices: dict[str, Override] = {}
    values, mistakes = [], []
    known = groups | set(ExperimentConfig.model_fields)
    for override in typed:
        key, where = override.key_or_group, f"override '{override.input_line}'"
        if key not in groups or override.package:
            values.append(override)
            if (head := key.partition(".")[0]) not in known:
                mistakes.append(f"{where}: no group or key '{head}'; {meant(head, known)}")
        elif key in choices:
            mistakes.append(f"{where}: '{key}' is chosen twice, first by '{choices[key].input_line}'; keep one of them")
        elif isinstance(override.value(), dict | list):
            mistakes.append(f"{where}: '{key}' is a group; expected the name of an option, or {key}.NAME=value")
        else:
            choices[key] = override
    _refuse(mistakes)
    return choices, values


def _option(choice: "Override | None") -> str | None:
    """None where a group is deleted or set to null."""
    return None if choice is None or choice.is_delete() or choice.value() is None else str(choice.value())


def _read_files(library: Library, choices: "Mapping[str, Override]") -> tuple[set[str], list[Document]]:
    """(groups that files choose, files): follows the defaults lists of the root, the experiment and the options.

    Every file that will take part is read, so that a mistake in one is found with its line before Hydra meets it.
    """
    chosen: set[str] = set()
    documents: list[Document] = []
    pending: list[tuple[str, str, str, tuple[Document, ...]]] = [("", ROOT, "auricle", ())]
    pending += [(group, option, f"override '{choice.input_line}'", ()) for group, choice in choices.items()
                if (option := _option(choice)) is not None]
    while pending:
        group, option, where, above = pending.pop()
        document = read(library.find(group, option, where))
        if document in above:
            raise ConfigError(f"{where}: '{option}' is built on itself; remove one of the lines that lead back to it")
        documents.append(document)
        for entry in document.defaults:
            named, overrides = _target(entry, f"{group}/{option}".rpartition("/")[0])
            if entry.key and not overrides:
                chosen.add(named)
            replaced = entry.key and named in choices and named != EXPERIMENTS
            if not (replaced or entry.option in (None, "_self_") or "$" in entry.option or _is_hydras(named)):
                pending.append((named, entry.option, document.at(entry.line), (*above, document)))
    return chosen, documents


def _target(entry: Default, folder: str) -> tuple[str, bool]:
    """(group, whether it overrides a choice instead of making one) of an entry in a file of the group `folder`."""
    words = entry.key.split()
    if not words:
        return folder.strip("/"), False
    name = words[-1].partition("@")[0]
    group = name[1:] if name.startswith("/") else f"{folder}/{name}".strip("/")
    return group, "override" in words


def _is_hydras(group: str) -> bool:
    return group.partition("/")[0] == "hydra"


def _group_arguments(library: Library, choices: "Mapping[str, Override]", chosen: set[str]) -> Iterator[str]:
    """What Hydra needs: a group that no file chooses is added, one that a file chooses is overridden.

    A typed choice of an added group is said twice: an experiment's `override /model: …` would win over the addition.
    """
    expected = {group for group in ExperimentConfig.model_fields if "default" in library.options(group)}
    for group in sorted(expected | set(choices)):
        choice = choices.get(group)
        option = _option(choice)
        if group not in chosen and not (choice and option is None):
            yield f"+{group}={'default' if option is None else option}"
        if option is not None:
            yield f"{group}={option}"
        elif choice and group in chosen:
            yield f"~{group}"


def _value_argument(override: "Override") -> str:
    text = str(override.input_line)
    return text if override.is_delete() or override.package else f"++{text.lstrip('+')}"


def _composed_by_hydra(
    library: Library, arguments: list[str], values: "list[Override]", documents: list[Document]
) -> "tuple[DictConfig, tuple[tuple[str, Document], ...]]":
    """(what Hydra made, the files in the order of merging, each with the dotted key that it fills)."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf.errors import OmegaConfBaseException

    first, *others = library.folders
    # Hydra looks for a root in the first folder only; the packaged one is empty, so a user's folder does without
    root = ROOT if (first / f"{ROOT}.yaml").is_file() else None
    arguments = [*arguments, f"hydra.searchpath={json.dumps([f'file://{folder}' for folder in others])}"]
    try:
        with initialize_config_dir(str(first), job_name="auricle", version_base="1.3"):
            config = hydra_compose(root, overrides=arguments)
            merged = GlobalHydra.instance().config_loader().compute_defaults_list(root, arguments, RunMode.RUN).defaults
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # Hydra's own of a bad `# @package`
        raise ConfigError(f"{_culprit(error, values, documents)}: {_said(error)}") from None
    return config, tuple((layer.package or "", read(library.find("", layer.config_path, "auricle"))) for layer in merged
                         if layer.config_path and not _is_hydras(layer.config_path))


def _resolved(config: "DictConfig", origins: Origins) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    try:
        plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        return plain
    except OmegaConfBaseException as error:
        key = error.full_key or ""
        said = f"'???'; expected a value: {key}=…" if isinstance(error, MissingMandatoryValue) else _said(error)
        raise ConfigError(f"{origins.where(key)}: {key}: {said}") from None


def _culprit(error: Exception, values: "list[Override]", documents: list[Document]) -> str:
    """The override or the lines that an error is about, as far as Hydra tells."""
    typed = [f"override '{o.input_line}'" for o in values if f"'{o.key_or_group}'" in str(error)]
    key = getattr(error.__cause__, "full_key", None)
    lines = [document.at(document.lines[key]) for document in documents if key and key in document.lines]
    return " or ".join(typed or lines) or "config"


def _said(error: Exception) -> str:
    """The first sentence of Hydra's or OmegaConf's several lines."""
    lines = (str(error).strip() or str(error.__cause__).strip()).splitlines()
    return " ".join(lines[:2 if lines[0].endswith(":") else 1]).rstrip(" .")


def _refuse(mistakes: list[str]) -> None:
    if mistakes:
        raise ConfigError("\n".join(mistakes))
