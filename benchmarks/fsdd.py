"""Spoken digits of real speakers: the official split with three seeds, and each speaker in turn held out.

The corpus is looked for in ../shared/data/fsdd, or where AURICLE_FSDD says.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.results import Figure, store

FSDD = Path(os.environ.get("AURICLE_FSDD", Path(__file__).resolve().parents[2] / "shared" / "data" / "fsdd"))
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo")


def train(folder: str, experiment: str, *overrides: str) -> tuple[float, float]:
    """(WER of the complete evaluation at the end, seconds) of one run."""
    began = time.perf_counter()
    command = [
        sys.executable,
        "-m",
        "auricle",
        "train",
        f"+experiments={experiment}",
        f"data.datasets.digits.source.folder={FSDD}",
        *overrides,
    ]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    name = next(item for item in overrides if item.startswith("training.run_name=")).partition("=")[2]
    events = map(
        json.loads, (Path(folder) / "outputs" / name / "events.jsonl").read_text(encoding="utf-8").splitlines()
    )
    return [event["wer"] for event in events if event["kind"] == "eval" and event["complete"]][-1], seconds


def listed(figures: dict[str, tuple[float, float]]) -> str:
    return ", ".join(f"{name} {wer:.2%} ({seconds:.0f} s)" for name, (wer, seconds) in figures.items())


def run() -> None:
    official, unseen = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in (1, 2, 3):
            official[f"seed {seed}"] = train(folder, "fsdd", f"training.seed={seed}", f"training.run_name=seed{seed}")
            print(official, flush=True)
        for speaker in SPEAKERS:
            unseen[speaker] = train(
                folder,
                "fsdd_unseen_speaker",
                f"training.run_name={speaker}",
                f"data.datasets.digits.source.test_speakers=[{speaker}]",
            )
            print(unseen, flush=True)
    means = [statistics.mean(wer for wer, _ in figures.values()) for figures in (official, unseen)]
    store(
        "fsdd",
        "FSDD (real speakers)",
        [
            Figure(
                what="WER, official split (recordings 0–4 test, 5–49 train), 5 speakers, mean of 3 seeds",
                measured=f"{means[0]:.2%}",
                against="≤ 2 %, ≤ 600 s each",
                note=listed(official),
            ),
            Figure(
                what="WER, trained on 4 speakers, tested on all 500 clips of the fifth, mean of 5",
                measured=f"{means[1]:.2%}",
                against="aim ≤ 10 %",
                note=listed(unseen),
            ),
        ],
    )
