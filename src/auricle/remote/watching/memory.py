"""What `watch` remembers between two starts, in `.auricle/watch.json`: nothing is told twice, nothing is missed.

    time      of the last round: what happened before the first one ever is not news
    holding   machine, or machine and run → the conditions that were told and still hold
    told      machine and run → how far its events were read, which end was told, what was tried for it
"""

import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from auricle.core.errors import UsageError

FILE, LOCK = "watch.json", "watch.lock"


@dataclass
class Memory:
    """Shared by the threads of all machines."""

    path: Path
    since: float
    """Unix time here; what happened before is known."""
    holding: dict[str, list[str]] = field(default_factory=dict)
    told: dict[str, dict[str, Any]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def begins(self, scope: str, kind: str) -> bool:
        """Notes that a condition holds. → whether it did not before"""
        with self.lock:
            held = self.holding.setdefault(scope, [])
            is_new = kind not in held
            if is_new:
                held.append(kind)
        return is_new

    def ends(self, scope: str, kind: str) -> bool:
        """Notes that a condition does not hold. → whether it did before"""
        with self.lock:
            held = self.holding.get(scope, [])
            was = kind in held
            if was:
                held.remove(kind)
        return was

    def holds(self, scope: str, kind: str) -> bool:
        with self.lock:
            return kind in self.holding.get(scope, [])

    def get(self, scope: str, name: str, default: Any = None) -> Any:
        with self.lock:
            return self.told.get(scope, {}).get(name, default)

    def note(self, scope: str, **values: Any) -> None:
        with self.lock:
            self.told.setdefault(scope, {}).update(values)

    def save(self) -> None:
        """A full disk stops no watching."""
        with self.lock:
            text = json.dumps({"time": time.time(), "holding": self.holding, "told": self.told}, indent=1)
        aside = self.path.with_name(f".{self.path.name}-{os.getpid()}")
        with contextlib.suppress(OSError):
            aside.write_text(text + "\n", encoding="utf-8")
            aside.replace(self.path)


@contextlib.contextmanager
def remembered(folder: Path) -> Iterator[Memory]:
    """Of a project's `.auricle`, while no other watch has it; written at the end. Raises UsageError."""
    with (folder / LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"watch: another one watches for this project ('{folder / LOCK}' is taken); end it first, "
                             "or run this in another folder") from None
        memory = read(folder / FILE)
        try:
            yield memory
        finally:
            memory.save()


def read(path: Path) -> Memory:
    """Of the last start; a new one where there was none that can be read."""
    try:
        known = json.loads(path.read_bytes())
        return Memory(path, float(known["time"]), dict(known["holding"]), dict(known["told"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Memory(path, time.time())
