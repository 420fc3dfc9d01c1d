"""Whether a mirror target works from here: a small directory goes there, is verified there and removed again."""

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from auricle.store.directory import publish, write_file
from auricle.store.mirror_target import connect
from auricle.store.targets import MirrorError

PROBE_BYTES = 1_000_000
NAME = "auricle-probe-"


@dataclass(frozen=True)
class Probed:
    seconds: float
    own_disk: bool
    """Whether the target is lost with this machine."""


def probe(url: str) -> Probed:
    """The round trip. Raises MirrorError, UsageError; nothing stays there that could be removed."""
    started = time.monotonic()
    target, name = connect(url), f"{NAME}{os.urandom(4).hex()}"
    target.probe()
    with tempfile.TemporaryDirectory() as folder:
        made = publish(Path(folder) / name, _fill)
        target.put(made, name, _nothing)
    try:
        wrong = target.problems(name)
    finally:
        target.remove(name)
    if wrong:
        raise MirrorError(f"{target.url}: a copy that was put there is damaged there: {wrong[0]}")
    return Probed(time.monotonic() - started, target.is_own_disk)


def _fill(folder: Path) -> dict[str, str]:
    return {"noise": write_file(folder / "noise", [os.urandom(PROBE_BYTES)])}


def _nothing(count: int) -> None:
    """A megabyte needs no progress."""
