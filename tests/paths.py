"""Where tests find real data, and what lies in a folder. Where it is missing, tests run on synthetic speech instead."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
HAVE_DATA = DATA.is_dir()


def has(folder: Path, prefix: str) -> bool:
    """Whether a name below it begins so; what vanishes meanwhile is passed over, which `rglob` does not do."""
    return any(name.startswith(prefix) for _, folders, names in os.walk(folder) for name in (*folders, *names))
