"""What read-only verbs cost to start, beside an interpreter that does nothing."""

import statistics
import subprocess
import sys
import time

from benchmarks.results import Figure, store

RUNS = 9


def median(command: list[str]) -> float:
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def run() -> None:
    nothing = median([sys.executable, "-c", "pass"])
    figures = []
    for words in (["--help"], ["runs", "."]):
        seconds = median([sys.executable, "-m", "auricle", *words])
        figures.append(
            Figure(
                what=f"`auricle {words[0]}`",
                measured=f"{seconds:.2f} s",
                against=f"≤ 0.5 s; an empty interpreter: {nothing:.2f} s",
                note=f"median of {RUNS - 1} processes; torch is not imported (tests/cli/test_main.py)",
            )
        )
    store("startup", "Start-up of read-only verbs", figures)
