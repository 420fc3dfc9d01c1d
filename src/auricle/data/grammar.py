"""Sentences to speak: drawn from rewriting rules, or from the lines of a file.

    sentence:  [<move>, "wait <number> seconds"]        a name is a list of alternatives
    move:      ["go <direction>"]                       <name> stands for one of its alternatives

The drawing starts at `sentence`; each alternative of a rule is equally likely.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Self

import yaml
from pydantic import model_validator

from auricle.core.errors import ConfigError, nearest
from auricle.core.frame import Frame
from auricle.data.draws import key

START = "sentence"
REFERENCE = re.compile(r"<(\w+)>")
BUNDLED = files("auricle.data") / "grammars"
HELD_OUT_PERCENT = {"test": 10, "dev": 10}
"""Of all sentences, by their hash."""


class Grammar:
    """Rules that were checked: every reference has a rule, and none leads back to itself. Raises ConfigError."""

    def __init__(self, rules: Mapping[str, list[str]], where: str) -> None:
        self.rules, self.where = rules, where
        self._check(START, ())

    def _check(self, name: str, path: tuple[str, ...]) -> None:
        if name not in self.rules:
            raise ConfigError(f"{self.where}: no rule '{name}'{f' as {path[-1]} asks' if path else ''}; "
                              f"{nearest(name, self.rules)}")
        if name in path:
            raise ConfigError(f"{self.where}: rule '{name}' contains itself ({' > '.join((*path, name))}); "
                              "expected rules that come to an end")
        for reference in {found for line in self.rules[name] for found in REFERENCE.findall(line)}:
            self._check(reference, (*path, name))

    def sentence(self, *parts: object) -> str:
        """One sentence, the same for the same parts."""
        text, draws = f"<{START}>", 0
        while match := REFERENCE.search(text):
            alternatives = self.rules[match[1]]
            text = text[: match.start()] + alternatives[key(*parts, draws) % len(alternatives)] + text[match.end() :]
            draws += 1
        return text

    @property
    def words(self) -> set[str]:
        return {word for lines in self.rules.values() for line in lines for word in REFERENCE.sub(" ", line).split()}


class Text(Frame):
    """What is said; one of the two."""

    grammar: str | None = None
    """A bundled grammar (`game_commands`), or a YAML file of rules."""
    file: str | None = None
    """A text file, one sentence a line."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.grammar is None) == (self.file is None):
            raise ValueError("give either 'grammar' (a name or a .yaml file) or 'file' (sentences, one a line)")
        return self

    def open(self) -> "Grammar | Lines":
        return Lines(Path(self.file)) if self.file else grammar(self.grammar)


def split_of(sentence: str, held_out: Mapping[str, int]) -> str:
    """The split that a sentence belongs to by its hash; `held_out` are percents by split, the rest is `train`."""
    place = key("sentence", sentence) % 100
    for name, percent in held_out.items():
        if place < percent:
            return name
        place -= percent
    return "train"


class Lines:
    """The lines of a text file, blank ones left out."""

    def __init__(self, file: Path) -> None:
        if not file.is_file():
            raise ConfigError(f"text.file: no file '{file}' (seen from {Path.cwd()}); expected one sentence a line")
        self.lines = list(_lines(file))
        if not self.lines:
            raise ConfigError(f"text.file: '{file}' is empty; expected one sentence a line")

    def sentence(self, *parts: object) -> str:
        return self.lines[key(*parts) % len(self.lines)]


def _lines(file: Path) -> Iterator[str]:
    return (line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip())


@cache
def grammar(name: str) -> Grammar:
    """A bundled grammar by its name, or a YAML file by its path. Raises ConfigError with the nearest name."""
    file = Path(name) if name.endswith((".yaml", ".yml")) else BUNDLED / f"{name}.yaml"
    if not file.is_file():
        known = [entry.name.removesuffix(".yaml") for entry in BUNDLED.iterdir()]
        raise ConfigError(f"text.grammar: no grammar '{name}'; {nearest(name, known)}. A file of yours ends in .yaml")
    try:
        rules = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not YAML ({error}); expected names with lists of texts") from None
    return Grammar(_rules(rules, str(file)), str(file))


def _rules(rules: object, where: str) -> dict[str, list[str]]:
    if not isinstance(rules, dict):
        raise ConfigError(f"{where}: no rules; expected names with lists of texts, as 'colour: [red, blue]'")
    for name, lines in rules.items():
        if not (isinstance(lines, list) and lines and all(isinstance(line, str) for line in lines)):
            raise ConfigError(f"{where}: '{name}' is {lines!r}; expected a list of texts (quote yes, no, on, off)")
    return rules
