"""VoxFormer at its small sizes: synthetic speech, real digits, AN4, a thawed front end, streams of chunks.

Corpora are looked for in ../shared/data, or where AURICLE_DATA says. One training at a time, on all cores.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from auricle.core.events import read
from auricle.data.manifest import Manifest
from auricle.inference.live import blocks_of_file
from auricle.inference.load import open_model
from benchmarks.results import Figure, store

DATA = Path(os.environ.get("AURICLE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
SEEDS = (1, 2, 3)
CHUNKS = (0.32, 0.64, 1.28)
TITLE = "VoxFormer, small, on two CPU cores"


def auricle(folder: Path, *words: str) -> str:
    return subprocess.run([sys.executable, "-m", "auricle", *words], cwd=folder, check=True, text=True,
                          stdout=subprocess.PIPE).stdout


def trained(home: Path, experiment: str, *overrides: str) -> tuple[Path, float]:
    """→ (the run's folder, seconds that the command took)"""
    began = time.perf_counter()
    auricle(home, "train", f"+experiments={experiment}", *overrides)
    name = next((word.partition("=")[2] for word in overrides if word.startswith("training.run_name=")), experiment)
    return home / "outputs" / name, time.perf_counter() - began


def evaluated(home: Path, run: Path, *words: str) -> dict[str, Any]:
    """Decoder → its figures; "" → the paired difference of the joint one and the better of the others."""
    found = json.loads(auricle(home, "eval", str(run), "--decoder", "all", "--json", *words))
    return {figures["decoder"]: figures for figures in found["evaluations"]} | {"": found["difference"]}


def last_evaluations(run: Path, stage: str | None = None) -> dict[str, dict[str, Any]]:
    """Decoder → the complete evaluation at the end of a stage, or of the run."""
    events = [event for event in read(run / "events.jsonl") if event.kind == "eval" and event.values["complete"]]
    return {event.values["decoder"]: event.values for event in events if stage in (None, event.stage)}


def rate(figures: dict[str, Any]) -> str:
    return f"{figures['wer']:.2%} [{figures['wer_low']:.2%}, {figures['wer_high']:.2%}]"


def share(run: Path) -> float:
    """Per cent of wall time that evaluations took."""
    return [event.values["share_of_wall_percent"] for event in read(run / "events.jsonl") if event.kind == "eval"][-1]


def synthetic(home: Path) -> list[Figure]:
    run, seconds = trained(home, "voxformer_tiny")
    found = evaluated(home, run, "--data", "commands", "--split", "test")
    paired = found[""]
    return [
        *(Figure(what=f"WER on 10 held-out voices, `voxformer_tiny`, decoder {name}", measured=rate(found[name]),
                 against="≤ 8 %", note=f"repetition {found[name]['repetition_rate']:.2%}, "
                                       f"empty {found[name]['empty_rate']:.2%}")
          for name in ("ctc", "ctc_beam", "attention", "attention_beam", "joint")),
        Figure(what="the same, joint minus the better of CTC and attention", measured=f"{paired['rate']:+.2%}",
               against="not worse by the paired 95 % interval", note=f"[{paired['low']:+.2%}, {paired['high']:+.2%}]"),
        Figure(what="the same, the command that trains it, corpus and all evaluations included",
               measured=f"{seconds:.0f} s", against="≤ 600 s", note=""),
        Figure(what="the same, share of wall time that evaluations take", measured=f"{share(run):.1f} %",
               against="≤ 10 % (the seed: 33 %)", note=""),
    ]


def digits(home: Path) -> Figure:
    folder = f"data.datasets.digits.source.folder={DATA / 'fsdd'}"
    runs = {seed: trained(home, "voxformer_fsdd", folder, f"training.seed={seed}", f"training.run_name=digits{seed}")
            for seed in SEEDS}
    found = {seed: last_evaluations(run) for seed, (run, _) in runs.items()}
    mean = {name: statistics.mean(one[name]["wer"] for one in found.values()) for name in found[SEEDS[0]]}
    each = ", ".join(f"seed {seed} {one['joint']['wer']:.2%} ({runs[seed][1]:.0f} s)" for seed, one in found.items())
    others = ", ".join(f"{name} {value:.2%}" for name, value in mean.items() if name != "joint")
    return Figure(what="WER on FSDD, official split, `voxformer_fsdd`, joint, mean of 3 seeds",
                  measured=f"{mean['joint']:.2%}", against="≤ 2 %", note=f"{each}; other decoders: {others}")


def census(home: Path) -> list[Figure]:
    run, seconds = trained(home, "voxformer_an4", f"data.datasets.an4.source.folder={DATA / 'an4_mfcc'}")
    found = last_evaluations(run)
    return [Figure(what=f"WER on AN4, a tenth of the speakers held back, `voxformer_an4`, decoder {name}",
                   measured=rate(figures), against="aim ≤ 25 %", note=f"trained in {seconds:.0f} s")
            for name, figures in found.items()]


def two_stages(home: Path) -> list[Figure]:
    run, seconds = trained(home, "voxformer_two_stages")
    switch = next(event.values for event in read(run / "events.jsonl") if event.kind == "switch")
    steps = [event.step for event in read(run / "events.jsonl") if event.kind == "stage"]
    checkpoints = [run / "checkpoints" / f"step-{step:09d}" for step in (steps[1], last_step(run))]
    found = json.loads(auricle(home, "eval", str(checkpoints[0]), "--compare", str(checkpoints[1]), "--json",
                               "--data", str(next((home / "data").glob("commands-*"))), "--split", "test"))
    before, after = found["evaluations"]
    paired = found["difference"]
    return [
        Figure(what="loss on the same batch before and after the switch, `voxformer_two_stages`",
               measured=f"{switch['loss_before']:.6f} → {switch['loss_after']:.6f}", against="unchanged", note=""),
        Figure(what="the same, joint WER on 10 held-out voices after the front end's top layers thawed",
               measured=rate(after), against=f"not worse than before: {rate(before)}",
               note=f"difference {paired['rate']:+.2%} [{paired['low']:+.2%}, {paired['high']:+.2%}]; {seconds:.0f} s"),
    ]


def last_step(run: Path) -> int:
    return [event.step for event in read(run / "events.jsonl") if event.kind == "end"][-1]


def streams(home: Path) -> list[Figure]:
    """WER and latency against the length of a chunk, each utterance played as if it were being spoken."""
    run, _ = trained(home, "voxformer_streaming_tiny")
    whole = evaluated(home, run, "--data", "commands", "--split", "test")
    figures = [Figure(what="WER of `voxformer_streaming_tiny` that sees whole utterances",
                      measured=f"joint {rate(whole['joint'])}, CTC {rate(whole['ctc'])}", against="baseline", note="")]
    for seconds in CHUNKS:
        found = evaluated(home, run, "--data", "commands", "--split", "test", "--chunk-seconds", str(seconds))
        mean, worst, real_time = latency(home, run, seconds)
        figures.append(Figure(
            what=f"the same in chunks of {seconds} s", against="reported",
            measured=f"joint {rate(found['joint'])}, CTC {rate(found['ctc'])}",
            note=f"partial text {mean:.2f} s after what is spoken on average, at most {worst:.2f} s; {real_time:.0f} × "
                 "real time"))
    return figures


def latency(home: Path, run: Path, chunk_seconds: float, clips: int = 40) -> tuple[float, float, float]:
    """(mean and largest seconds from what is spoken to its partial text, × real time), for clips played as they are
    spoken: what is spoken waits for its chunk to end, half of it on average, and then for the computation."""
    assembly, lags, computing, audio = open_model(str(run)), [], 0.0, 0.0
    task, model, rate = assembly.task, assembly.model, assembly.task.frontend.sample_rate
    manifest = Manifest.open(next((home / "data").glob("commands-*"))).where(split="test")
    for number in range(clips):
        listener, clock, arrived = task.listener(model, chunk_seconds), 0.0, 0
        for block in blocks_of_file(manifest.row(number).audio, rate):
            arrived += len(block)
            began = time.perf_counter()
            told = list(listener.feed(block))
            spent = time.perf_counter() - began
            clock, computing = max(clock, arrived / rate) + spent, computing + spent
            lags += [clock - heard.stop for heard in told if not heard.final]
        audio += manifest.row(number).seconds
    return chunk_seconds / 2 + float(np.mean(lags)), chunk_seconds + max(lags), audio / computing


def run() -> None:
    wanted = os.environ.get("AURICLE_PARTS", "synthetic digits census two_stages streams").split()
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as name:
        for part in wanted:
            made = globals()[part](Path(name))
            figures += made if isinstance(made, list) else [made]
            store("voxformer", TITLE, figures)
