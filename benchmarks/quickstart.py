"""The quickstart's own commands, from `make -n quickstart`, timed one by one in an empty folder."""

import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.results import Figure, store

ROOT = Path(__file__).resolve().parents[1]


def commands() -> list[str]:
    """What make would run after the installation."""
    listed = subprocess.run(["make", "-n", "quickstart"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [
        line.replace(".venv/bin/auricle", f"{shlex.quote(sys.executable)} -m auricle")
        for line in listed.splitlines()
        if "/auricle " in line
    ]


def run() -> None:
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for command in commands():
            began = time.perf_counter()
            subprocess.run(command, shell=True, cwd=folder, check=True)
            seconds[command.split(" -m auricle ")[1].split()[0]] = time.perf_counter() - began
        lines = (Path(folder) / "outputs/quickstart/eval/evaluations.jsonl").read_text(encoding="utf-8").splitlines()
        report = (Path(folder) / "outputs/quickstart/report.html").is_file()
    found = json.loads(lines[-1])
    assert report
    parts = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    store(
        "quickstart",
        "Quickstart",
        [
            Figure(
                what="from command to report, after installation",
                measured=f"{sum(seconds.values()):.0f} s",
                against="< 240 s",
                note=parts,
            ),
            Figure(
                what=f"WER on {found['utterances']} utterances of held-out voices and sentences (split test)",
                measured=f"{found['wer']:.2%} [{found['wer_low']:.2%}, {found['wer_high']:.2%}]",
                against="≤ 7 %",
                note=f"CER {found['cer']:.2%}; {found['decoder']}, {found['normalizer']} {found['normalizer_version']}",
            ),
        ],
    )
