"""A recogniser alone, experiments/quickstart.yaml, from the first command to its report in an empty folder."""

import json
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.results import Figure, store

RUN = "outputs/quickstart"
COMMANDS = (
    "train +experiments=quickstart",
    f"eval {RUN} --split test",
    f"transcribe {RUN} $(ls data/commands-*/audio/test/*.wav | head -n 1)",
    f"report {RUN}",
)


def commands() -> list[str]:
    return [f"{shlex.quote(sys.executable)} -m auricle {command}" for command in COMMANDS]


def run() -> None:
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for command in commands():
            began = time.perf_counter()
            subprocess.run(command, shell=True, cwd=folder, check=True)
            seconds[command.split(" -m auricle ")[1].split()[0]] = time.perf_counter() - began
        run_folder = Path(folder) / "outputs" / "quickstart"
        test = last_evaluation(run_folder / "eval" / "evaluations.jsonl")
        dev = last_evaluation(run_folder / "events.jsonl")
        assert (run_folder / "report.html").is_file()
    parts = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    total = f"{sum(seconds.values()):.0f} s"
    store("quickstart", "A recogniser alone", [
        Figure(what="from command to report, after installation", measured=total, against="< 240 s", note=parts),
        wer("WER on 10 held-out voices and on held-out sentences (split test)", test),
        wer("WER on 5 other held-out voices (split dev, which chose the best checkpoint)", dev)])


def last_evaluation(path: Path) -> dict:
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [row for row in rows if row["kind"] == "eval" and row["complete"]][-1]


def wer(what: str, found: dict) -> Figure:
    note = f"{found['utterances']} utterances, CER {found['cer']:.2%}, {found['decoder']}, {found['normalizer']}"
    interval = f"[{found['wer_low']:.2%}, {found['wer_high']:.2%}]"
    return Figure(what=what, measured=f"{found['wer']:.2%} {interval}", against="≤ 7 %", note=note)
