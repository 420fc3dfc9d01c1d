"""Whether a mirror target works from here: a small directory goes there, is verified there and removed again."""

import contextlib
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
    target, name = connect(url), f"{NAME}{os.urandom(4).hex()}"  # a folder of its own: two may probe at once
    target.probe()
    try:
        with tempfile.TemporaryDirectory() as folder:
            target.put(publish(Path(folder) / name, _fill), f"{name}/noise", _nothing)
        if wrong := target.problems(f"{name}/noise"):
            raise MirrorError(f"{target.url}: a copy that was put there is damaged there: {wrong[0]}")
    except MirrorError:
        with contextlib.suppress(MirrorError):
            target.remove(name)
        raise
    target.remove(name)
    return Probed(time.monotonic() - started, target.is_own_disk)


def _fill(folder: Path) -> dict[str, str]:
    return {"noise": write_file(folder / "noise", [os.urandom(PROBE_BYTES)])}


def _nothing(count: int) -> None:
    """A megabyte needs no progress."""
