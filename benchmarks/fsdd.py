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
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from benchmarks.results import Figure, store

FSDD = Path(os.environ.get("AURICLE_FSDD", Path(__file__).resolve().parents[2] / "shared" / "data" / "fsdd"))
TITLE = "FSDD (real speakers)"
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
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # two runs at a time, one core each
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    name = next(item for item in overrides if item.startswith("training.run_name=")).partition("=")[2]
    events = map(
        json.loads, (Path(folder) / "outputs" / name / "events.jsonl").read_text(encoding="utf-8").splitlines()
    )
    return [event["wer"] for event in events if event["kind"] == "eval" and event["complete"]][-1], seconds


def listed(figures: dict[str, tuple[float, float]]) -> str:
    return ", ".join(f"{name} {wer:.2%} ({seconds:.0f} s)" for name, (wer, seconds) in figures.items())


def official(folder: str, seed: int) -> tuple[float, float]:
    return train(folder, "fsdd", f"training.seed={seed}", f"training.run_name=seed{seed}")


def unseen(folder: str, speaker: str) -> tuple[float, float]:
    held_out = f"data.datasets.digits.source.test_speakers=[{speaker}]"
    return train(folder, "fsdd_unseen_speaker", f"training.run_name={speaker}", held_out)


def run() -> None:
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        seeds = {f"seed {seed}": pool.submit(official, folder, seed) for seed in (1, 2, 3)}
        speakers = {speaker: pool.submit(unseen, folder, speaker) for speaker in SPEAKERS}
        what = "WER, official split (recordings 0–4 test, 5–49 train), 5 speakers, mean of 3 seeds"
        figures = [_figure(what, seeds, "≤ 2 %, ≤ 600 s each")]
        store("fsdd", TITLE, figures)
        what = "WER, trained on 4 speakers, tested on all 500 clips of the fifth, mean of 5"
        store("fsdd", TITLE, [*figures, _figure(what, speakers, "aim ≤ 10 %")])


def _figure(what: str, futures: dict[str, Future], against: str) -> Figure:
    found = {name: future.result() for name, future in futures.items()}
    mean = statistics.mean(wer for wer, _ in found.values())
    note = f"{listed(found)}"
    return Figure(what=what, measured=f"{mean:.2%}", against=against, note=note)
