"""A YAML file as people see it: which key stands on which line, and what stands there twice.

Hydra and OmegaConf hand back values without their places; this reads the same text again for the places alone.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from auricle.core.errors import ConfigError

NULL = "tag:yaml.org,2002:null"
PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in
         ("map", "seq", "str", "int", "float", "bool", "null", "timestamp", "value")}


@dataclass(frozen=True)
class Default:
    """One choice of a file's `defaults` list: `- /model: large`, or `- base` (a file of the same group)."""

    key: str
    """Empty for a file of the same group."""
    option: str | None
    line: int


@dataclass(frozen=True)
class Document:
    """`lines` maps a dotted key to its line, counted from 1; the empty key is the file itself."""

    path: Path
    title: str
    """The first line of the comment at its head."""
    lines: dict[str, int]
    defaults: tuple[Default, ...]

    def at(self, line: int) -> str:
        return f"{shown(self.path)}:{line}"


@dataclass(frozen=True)
class Origins:
    """Who had the last word on each key of a composed configuration."""

    layers: tuple[tuple[str, Document], ...]
    """(the dotted key that the file fills, the file), in the order of merging."""
    overrides: tuple[tuple[str, str, Any], ...]
    """(as typed, dotted key, value); these come after all files."""

    def where(self, key: str) -> str:
        """Dotted key → `override 'a.b=1'` or `file.yaml:12`, of the key itself or else of the nearest one above it."""
        parts = key.split(".") if key else []
        above = (parts[:end] for end in range(len(parts), -1, -1))
        return next(filter(None, map(self._set_by, above)), "config")

    def _set_by(self, parts: list[str]) -> str | None:
        for typed, key, value in reversed(self.overrides):
            top = key.split(".")
            if top == parts[:len(top)] and _holds(value, parts[len(top):]):
                return f"override '{typed}'"
        for package, document in reversed(self.layers):
            top = package.split(".") if package else []
            below = ".".join(parts[len(top):])
            if top == parts[:len(top)] and below in document.lines:
                return document.at(document.lines[below])
        return None


def _holds(value: Any, parts: list[str]) -> bool:
    for part in parts:
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return False
    return True


def shown(path: Path) -> str:
    """Relative to the working directory where it lies below it, as users type it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def read(path: Path) -> Document:
    """Raises ConfigError with file and line: broken YAML, a key that stands twice, a file that cannot be read."""
    try:
        changed = path.stat().st_mtime_ns
        return _read(path, changed)
    except OSError as error:
        raise ConfigError(f"{shown(path)}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{shown(path)}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None


@lru_cache(maxsize=256)
def _read(path: Path, changed: int) -> Document:  # noqa: ARG001 (a changed file is read again)
    text = path.read_text(encoding="utf-8")
    root = _parsed(path, text)
    twice: list[str] = []
    lines = {"": 1} | dict(_walk(root, "", path, twice))
    if twice:
        raise ConfigError("\n".join(twice))
    return Document(path, _title(text), lines, tuple(_defaults(root, path)))


def _parsed(path: Path, text: str) -> yaml.Node | None:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{shown(path)}{line}: not YAML: {error.problem or error.context}; check the indentation, "
                          "colons and quotes there") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{shown(path)}: not YAML: {str(error).splitlines()[0]}") from None
    if root is not None and not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{shown(path)}:{_line(root)}: expected 'key: value' lines, got a {root.id}")
    return root


def _walk(node: yaml.Node | None, prefix: str, path: Path, twice: list[str],
          above: tuple[yaml.Node, ...] = ()) -> Iterator[tuple[str, int]]:
    """(dotted key, line) of everything below `node`; keys that stand twice are told to `twice`."""
    if node is None:
        return
    if node in above:
        raise ConfigError(f"{shown(path)}:{_line(node)}: '{prefix[:-1]}' holds itself; remove the alias")
    if node.tag not in PLAIN:
        raise ConfigError(f"{shown(path)}:{_line(node)}: a value with the tag {node.tag}; expected a plain value")
    above = (*above, node)
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == NULL:
                raise ConfigError(f"{shown(path)}:{_line(key)}: expected a word before the colon")
            dotted, line = f"{prefix}{key.value}", _line(key)
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                twice.append(f"{shown(path)}:{line}: key '{dotted}' stands twice, first in line {seen[key.value]}; "
                             "keep one of them (merge what is below them)")
            seen[key.value] = line
            yield dotted, line
            yield from _walk(value, f"{dotted}.", path, twice, above)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield f"{prefix}{index}", _line(value)
            yield from _walk(value, f"{prefix}{index}.", path, twice, above)


def _defaults(root: yaml.Node | None, path: Path) -> Iterator[Default]:
    listed = next((value for key, value in root.value if key.value == "defaults"), None) if root else None
    if listed and not isinstance(listed, yaml.SequenceNode):
        raise ConfigError(f"{shown(path)}:{_line(listed)}: 'defaults' is no list; expected lines as '- /model: large'")
    for item in listed.value if listed else ():
        pairs = item.value if isinstance(item, yaml.MappingNode) else [(None, item)]
        for key, value in pairs:
            options = value.value if isinstance(value, yaml.SequenceNode) else [value]
            if len(pairs) > 1 or not all(isinstance(option, yaml.ScalarNode) for option in options):
                raise ConfigError(f"{shown(path)}:{_line(item)}: not a choice; expected one line as '- /model: large'")
            for option in options:
                yield Default(key.value if key else "", None if option.tag == NULL else option.value, _line(item))


def _title(text: str) -> str:
    for line in text.splitlines():
        words = line.lstrip("#").strip()
        if not line.startswith("#"):
            return ""
        if words and not words.startswith(("@package", "yaml-language-server")):
            return words
    return ""


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1
