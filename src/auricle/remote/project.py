"""What this side keeps: the folder `.auricle` of the project, which git ignores.

    .auricle/known_hosts     host keys, pinned at first contact
    .auricle/machines.json   machines that were deployed to or rented, with their prices
"""

import contextlib
import fcntl
import json
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from auricle.core.errors import UsageError
from auricle.remote.target import Target, jumps, parse
from auricle.store.directory import write_text

HERE = ".auricle"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine of this project. No secret is in it."""

    address: str
    """As `Target` reads it."""
    jump: str | None = None
    folder: str | None = None
    """Where the project lies there; None before it was deployed."""
    provider: str = "ssh"
    id: str | None = None
    """At the provider."""
    run: str | None = None
    """What it was rented for: the provider's label, by which it is found again."""
    price_per_hour: float | None = None
    since: float = 0.0
    """Unix time of renting; of a machine that was named by hand, of its first start."""
    rented_here: bool = False
    """By this project, not found at its provider: until something is deployed to it, nothing lies on its disk."""

    @property
    def target(self) -> Target:
        return replace(parse(self.address), jump=jumps(self.jump))


@dataclass(frozen=True)
class Project:
    """The folder that is deployed."""

    root: Path
    machines_path: Path = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "machines_path", self.root / HERE / "machines.json")

    @property
    def name(self) -> str:
        """Of its folder on a machine."""
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.root.name).strip("-.") or "auricle"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def folder(self) -> Path:
        """`.auricle`, made where it is missing. Raises UsageError where it cannot be."""
        folder = self.root / HERE
        try:
            if not (folder / ".gitignore").exists():
                folder.mkdir(exist_ok=True)
                (folder / ".gitignore").write_text("*\n", encoding="ascii")
        except OSError as error:
            raise UsageError(f"'{folder}': cannot be written ({error.strerror}); host keys and machines are kept "
                             "there. Run this in a folder of your own") from None
        return folder

    def machines(self) -> list[Machine]:
        """Raises UsageError for a file that is no list of machines."""
        try:
            return [Machine(**row) for row in json.loads(self.machines_path.read_bytes())]
        except FileNotFoundError:
            return []
        except (ValueError, TypeError) as error:
            raise UsageError(f"'{self.machines_path}': not a list of machines ({error}); move it away, and deploy "
                             "again") from None

    def machine(self, target: Target) -> Machine:
        """What is known of a machine, also where its user was named then and is not now, or the other way about; a
        new one where nothing is."""
        new, known = Machine(address=str(target), jump=target.via, since=time.time()), self.machines()
        same = [machine for machine in known if machine.address == new.address]
        same = same or [machine for machine in known if _longer(machine.address, new.address)]
        return same[0] if len(same) == 1 else new

    def remember(self, target: Target, **facts: Any) -> Machine:
        """Notes facts of a machine (fields of `Machine`)."""
        with self._locked():
            known = self.machines()
            before = self.machine(target)
            address = _longer(before.address, str(target)) or before.address
            machine = replace(before, address=address, jump=target.via, **facts)
            others = [other for other in known if other.address != before.address]
            self._write([*others, machine])
        return machine

    def forget(self, address: str) -> None:
        with self._locked():
            self._write([known for known in self.machines() if known.address != address])

    def _write(self, machines: list[Machine]) -> None:
        write_text(self.machines_path, json.dumps([asdict(machine) for machine in machines], indent=1))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / "machines.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _longer(one: str, other: str) -> str:
    """Of two addresses that differ in that one names a user and the other none, the one that does; else empty.

    >>> _longer("10.0.0.7:22115", "root@10.0.0.7:22115")
    'root@10.0.0.7:22115'
    """
    is_same = one.rpartition("@")[2] == other.rpartition("@")[2] and ("@" in one) != ("@" in other)
    return max(one, other, key=len) if is_same else ""


def here() -> Project:
    """The project of the working directory: the nearest folder upwards that git tracks or that has a `.auricle`,
    or the working directory itself."""
    start = Path.cwd()
    marked = (folder for folder in (start, *start.parents) if (folder / ".git").exists() or (folder / HERE).is_dir())
    return Project(next(marked, start))
