"""From an empty machine to one that `start` can use: files, system packages, environment, each only where it lacks.

Every step can be repeated: what is done is found done, and what was broken off goes on.
"""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auricle.remote.connection import RemoteError
from auricle.remote.place import Place
from auricle.remote.setup import environment, packages
from auricle.remote.setup.environment import Environment, Say
from auricle.remote.setup.facts import Facts, gather
from auricle.remote.setup.sync import Synced, sync
from auricle.remote.setup.torch_build import DEFAULT, Unfit, choose

if TYPE_CHECKING:
    from auricle.core.config import RemoteConfig

PINNED = "constraints-torch.txt"
NEEDED_FOR = {"tmux": "runs go on without it, and `attach` shows their log", "git": "runs are noted without the "
              "revision of their code"}
"""What happens without a package; without another one, installing tells."""


@dataclass(frozen=True, kw_only=True)
class Skip:
    """Steps that are left out."""

    setup: bool = False
    """System packages."""
    sync: bool = False
    deps: bool = False


@dataclass(frozen=True, kw_only=True)
class Deployed:
    facts: Facts
    synced: Synced | None
    environment: Environment | None


def deploy(place: Place, config: "RemoteConfig", say: Say, *, skip: Skip | None = None, **known: Any) -> Deployed:
    """Tells each step through `say`. `known`: facts of the machine to note in the project (`Machine`'s fields).

    Raises Unreachable, Refused, RemoteError, UsageError.
    """
    skip = skip or Skip()
    say("Testing SSH connection...")
    facts = gather(place, config.system_packages)
    say("SSH connection successful!")
    place = Place(place.connection, place.project, facts.folder)
    if not skip.setup:
        facts = _set_up(place, facts, config, say)
    synced = None if skip.sync else _sync(place, say)
    installed = None if skip.deps else _install(place, facts, config, say)
    place.project.remember(place.connection.target, folder=place.folder(), **known)
    say("Deployment finished!")
    return Deployed(facts=facts, synced=synced, environment=installed)


def torch_words(place: Place, facts: Facts, config: "RemoteConfig") -> str:
    """What pip installs for torch on that machine. Raises RemoteError where nothing fits its driver."""
    if config.torch:
        return config.torch
    default = f"-c {PINNED} torch" if (place.project.root / PINNED).is_file() else DEFAULT
    try:
        return choose(facts.driver, facts.cuda, [gpu.capability for gpu in facts.gpus], default)
    except Unfit as error:
        raise RemoteError(f"{place.connection.target}: {error}") from None


def _set_up(place: Place, facts: Facts, config: "RemoteConfig", say: Say) -> Facts:
    """Installs what is missing. → the facts after that. Raises RemoteError where it is needed and cannot be."""
    missing = list(facts.missing)
    if facts.python and not facts.python.has_venv:
        missing.append(environment.venv_package(facts.python))
    if not missing:
        return facts
    say(f"Installing system packages: {', '.join(missing)}...")
    refusal = packages.install(place, facts, missing)
    if refusal is None:
        say("System packages installed successfully!")
        return gather(place, config.system_packages)
    if "rsync" in missing:
        raise RemoteError(f"{place.connection.target}: has no rsync, and it cannot be installed: {refusal}. Install it "
                          "there (apt install rsync), or take another image")
    for name in missing:
        say(f"  {name} is missing, and cannot be installed: {refusal}{f'; {NEEDED_FOR[name]}' * (name in NEEDED_FOR)}")
    return facts


def _sync(place: Place, say: Say) -> Synced:
    say("Syncing project files...")
    done = sync(place, _progress(say))
    removed = f", {done.removed} removed" if done.removed else ""
    say(f"Project synced successfully! ({done.moved} of {done.total} files, {sized(done.bytes)}{removed})")
    return done


def _install(place: Place, facts: Facts, config: "RemoteConfig", say: Say) -> Environment:
    say("Installing dependencies...")
    torch = torch_words(place, facts, config)
    now = environment.standing(place)
    steps = environment.steps_of(place.project.root, now.sums, torch, config.extras, gpu=bool(facts.gpus))
    found = environment.installed(now, steps)
    if found is None:
        say(f"  torch by: pip install {torch}")
        found = environment.install(place, facts, steps, now, say)
    say(f"Python dependencies installed successfully!{'' if found.changed else ' (unchanged)'}")
    say(f"  torch {found.torch}, {gpu_line(facts)}")
    return found


def gpu_line(facts: Facts) -> str:
    """As "2 × NVIDIA GeForce RTX 4090 (25.8 GB), driver 580.65.06"."""
    if not facts.gpus:
        return "no GPU"
    first = facts.gpus[0]
    names = {dataclasses.replace(gpu, driver="") for gpu in facts.gpus}
    count = f"{len(facts.gpus)} × " if len(facts.gpus) > 1 and len(names) == 1 else ""
    others = "" if len(names) == 1 else f" and {len(facts.gpus) - 1} more"
    return f"{count}{first.name} ({first.gb:g} GB){others}, driver {first.driver}"


def sized(count: int) -> str:
    """
    >>> sized(4123)
    '4.1 kB'
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} bytes"


def _progress(say: Say) -> Callable[[int], None]:
    """A line every few seconds of a long transfer."""
    told = time.monotonic()

    def progress(count: int) -> None:
        nonlocal told
        if time.monotonic() - told > environment.LINE_SECONDS:
            told = time.monotonic()
            say(f"  {sized(count)} so far")

    return progress
