"""What was measured, kept in docs/benchmarks.json, shown in docs/benchmarks.md."""

import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
STORE, PAGE = DOCS / "benchmarks.json", DOCS / "benchmarks.md"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured number with its baseline or goal, in words that stand alone."""

    what: str
    measured: str
    against: str = ""
    """The named baseline of the same run, or the goal."""
    note: str = ""


def machine() -> str:
    """Cores and accelerator, without anything that names the machine."""
    import torch

    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), {accelerator}, torch {torch.__version__}"


def store(name: str, title: str, figures: list[Figure]) -> None:
    """Replaces the section `name` and writes the page anew."""
    sections = json.loads(STORE.read_text(encoding="utf-8")) if STORE.exists() else {}
    sections[name] = {
        "title": title,
        "command": f"python -m benchmarks {name}",
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
        "figures": [asdict(figure) for figure in figures],
    }
    STORE.write_text(json.dumps(sections, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    PAGE.write_text(page(sections), encoding="utf-8")


def page(sections: dict) -> str:
    lines = [
        "# Benchmarks",
        "",
        "Every figure was measured by the command beside it, which also wrote this page. Absolute times belong to the",
        "machine named; ratios are against the baseline of the same run.",
        "",
    ]
    for section in sections.values():
        lines += [
            f"## {section['title']}",
            "",
            f"`{section['command']}` · {section['date']} · {section['machine']}",
            "",
            "| what | measured | baseline or goal | note |",
            "|---|---|---|---|",
        ]
        lines += [
            "| " + " | ".join(figure[key] for key in ("what", "measured", "against", "note")) + " |"
            for figure in section["figures"]
        ]
        lines.append("")
    return "\n".join(lines)
