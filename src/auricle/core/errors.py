"""What can go wrong, as a tree. Each error is a sentence for the user; the CLI prints it without a traceback.

    AuricleError              exit 1
    ├── UsageError            exit 2   what was typed or written in YAML
    │   └── ConfigError       exit 2   a config key, group, type or value
    ├── DataError             exit 3   audio, transcripts, manifests
    ├── ModelError            exit 4   a model folder, its weights, a component name
    ├── RunFolderError        exit 5   a run folder that is locked, foreign or damaged
    ├── CheckpointError       exit 5   a checkpoint that does not verify
    ├── MissingExtra          exit 7   an optional package that is not installed
    ├── Preempted             exit 75  stopped or broken from outside, with all saved: the same command goes on
    └── Diverged              exit 76  a loss or gradient that is not finite again and again: restarting will not help

Sentence form: where: what is wrong, the value; what was expected or near; what to do.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class AuricleError(Exception):
    """Something the user can mend; its message is the whole report."""

    exit_code = 1


class UsageError(AuricleError):
    exit_code = 2


class ConfigError(UsageError):
    pass


class DataError(AuricleError):
    exit_code = 3


class ModelError(AuricleError):
    exit_code = 4


class RunFolderError(AuricleError):
    exit_code = 5


class CheckpointError(AuricleError):
    exit_code = 5


class Preempted(AuricleError):
    exit_code = 75


class Diverged(AuricleError):
    exit_code = 76


class MissingExtra(AuricleError):
    """An optional package is needed: names the extra that brings it."""

    exit_code = 7

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the extra [{extra}]; install it with: pip install 'auricle[{extra}]'")


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint that ends a sentence about an unknown name: the nearest known one, then all of them.

    >>> nearest("warmup_step", ["warmup_steps", "seed"])
    "did you mean 'warmup_steps'? Known: seed, warmup_steps"
    """
    names = sorted(known)
    if not names:
        return "nothing is known by that kind of name"
    close = get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}Known: {', '.join(names)}"
