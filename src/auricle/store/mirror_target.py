"""From a URL to the target that it names, and to the copy of a run there."""

import json
from pathlib import Path

from auricle.core.errors import UsageError
from auricle.core.folder import find
from auricle.store.targets import Target
from auricle.store.targets.parts.urls import without_password

KINDS = {"": "folder", "file": "folder", "ssh": "ssh"}
"""Scheme → the file of `store/targets`; fsspec has the others."""
RUN = "run.json"


def connect(url: str) -> Target:
    """The target at a URL or a plain path; nothing is opened yet. Raises UsageError."""
    scheme = url.partition("://")[0] if "://" in url else ""
    try:
        return find("store.targets", KINDS.get(scheme, "remote_file_system")).connect(url)
    except ValueError as error:  # a port that is no number
        raise UsageError(f"mirror target '{without_password(url)}': {error}") from None


def home_of(base: str, run_folder: Path) -> Target:
    """The folder below `base` that copies this run: its name, or NAME.2, NAME.3 … where other runs have taken that.

    Another run of the same name (after --fresh) would otherwise be pruned by step number among this one's checkpoints.
    run.json tells whose folder it is, and is written first to claim a free one. Raises MirrorError.
    """
    own = (run_folder / RUN).read_bytes() if (run_folder / RUN).is_file() else None
    number = 1
    while True:
        suffix = "" if number == 1 else f".{number}"
        target = connect(f"{base.rstrip('/')}/{run_folder.resolve().name}{suffix}")
        target.probe()
        theirs = target.read(RUN)
        if theirs is None or _created(theirs) == _created(own):
            break
        number += 1
    if theirs is None and own is not None:
        target.put_files(run_folder, [RUN])
    return target


def _created(record: bytes | None) -> float | None:
    try:
        return json.loads(record or b"{}").get("created")
    except (ValueError, AttributeError):
        return None
