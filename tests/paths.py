"""Where tests find real data, and what lies in a folder. Where it is missing, tests run on synthetic speech instead."""

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
HAVE_DATA = DATA.is_dir()


def has(folder: Path, prefix: str) -> bool:
    """Whether a name below it begins so; what vanishes meanwhile is passed over, which `rglob` does not do."""
    return any(name.startswith(prefix) for _, folders, names in os.walk(folder) for name in (*folders, *names))


def contents_below(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Path and content of each file below it, but for links and what vanishes meanwhile."""
    for where, _, names in os.walk(folder):
        for name in names:
            path = Path(where) / name
            try:
                if path.is_file() and not path.is_symlink():
                    yield str(path), path.read_bytes()
            except OSError:
                continue
