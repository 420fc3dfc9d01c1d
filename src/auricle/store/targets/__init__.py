"""What a mirror's target is, and how to add one.

Add a kind of target: one file `store/targets/NAME.py` with `connect(url) -> Target`, its scheme in
`store/mirror_target.py` (any other scheme is fsspec's), and a line in `tests/store/targets/test_targets.py`, whose
tests every kind passes.

A target is one folder that copies one run folder. What has its final name there was verified there:

    checkpoints/step-000000500/   checkpoints/parts/<hash>/   committed directories, each with its CHECKSUMS.json
    run.json  events.jsonl  eval/ …                           small files, each replaced in one step
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from auricle.core.errors import AuricleError

Progress = Callable[[int], None]
"""Told how many bytes of a transfer have gone over so far."""


class MirrorError(AuricleError):
    """A target that cannot be reached, written or read, or a copy there that is not what was sent: try again."""

    exit_code = 6


class BrokenOff(MirrorError):
    """No connection, or one that was lost: nothing is known of what is there, and asking again costs a time-out."""


class Target(Protocol):
    """Every method raises MirrorError, in a sentence that begins with the URL, for whatever fails at the target."""

    url: str
    """As shown to people: without a password."""

    @property
    def is_own_disk(self) -> bool:
        """Whether it is lost with the machine: a copy there is no reason to give the machine back."""
        ...

    def probe(self) -> None:
        """Makes the folder where it is missing, and raises unless it can be written."""
        ...

    def held(self) -> dict[str, str | None]:
        """Committed directories → the self hash of their CHECKSUMS.json; None where that is missing or damaged."""
        ...

    def put(self, folder: Path, name: str, progress: Progress) -> None:
        """Copies a published directory aside, verifies its hashes at the target, then gives it its name there.

        One that has the name already gives way. Raises CheckpointError where the local directory is the damaged one.
        """
        ...

    def get(self, name: str, to: Path, progress: Progress) -> None:
        """Fetches a directory aside, verifies it, then renames it to `to`."""
        ...

    def problems(self, name: str) -> list[str]:
        """What is wrong with a committed directory; empty when every byte is as it was sent."""
        ...

    def remove(self, name: str) -> None: ...

    def put_files(self, folder: Path, names: Sequence[str]) -> None:
        """Copies small files of a run folder; a reader there sees the old one or the new one."""
        ...

    def get_files(self, to: Path) -> None:
        """Fetches all small files."""
        ...

    def read(self, name: str) -> bytes | None:
        """A small file, also of a committed directory; None where there is none."""
        ...
