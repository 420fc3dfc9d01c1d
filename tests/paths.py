"""Where tests find real data. Where it is missing, tests run on synthetic speech instead."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
HAVE_DATA = DATA.is_dir()
