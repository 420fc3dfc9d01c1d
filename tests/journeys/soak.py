"""Kills a training run at random instants, thousands of times, and looks each time at what is left.

    python -m tests.journeys.soak --kills 2000 --log docs/soak.jsonl

A trial starts the same training in the same folder, kills it after a random time and looks as a new start would. Where
a run reaches its end between two deaths, it is compared with one that was never killed, and another begins.
The log has a line for each batch of trials and is counted first: the same command goes on where it stopped.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from safetensors.numpy import load_file

from auricle.core.events import Event
from auricle.store import directory, steps
from auricle.store.writer import wait_for_writer
from auricle.train.checkpoint import TRAINER
from tests.journeys.children import Trainer, losses, tensors
from tests.speech import digits_manifest

BATCH = 50
LONGEST_START_SECONDS, LONGEST_TRAINING_SECONDS = 0.5, 1.0
STARTING, AMID_A_SAVE = 0.25, 0.35
"""Shares of trials whose trainer dies while it starts, and while a save is under way; of the others it trains."""
WITH_WORKERS, WITH_WRITER = 0.25, 0.4
"""Shares of trials with loader workers, and of those in which the writer dies too, as when a machine does."""
FAULTS = ("acknowledged lost", "best lost", "torn", "manual steps", "not the uninterrupted run")
"""What may never be found."""
SETTINGS = {
    "batch_seconds": 0.6,
    "gradient_accumulation_steps": 1,
    "max_steps": 60,
    "save_steps": 3,
    "save_total_limit": 2,
    "eval_steps": 20,
}


@dataclass
class Found:
    """What trials found."""

    counts: Counter = field(default_factory=Counter)
    """Kills by the moment they came at, faults by kind, runs that reached their end."""
    sentences: list[str] = field(default_factory=list)
    """What each fault was."""

    def fault(self, kind: str, sentence: str) -> None:
        self.counts[kind] += 1
        self.sentences.append(f"{kind}: {sentence}")


class Soak:
    """Trials in folders below `home`."""

    def __init__(self, home: Path, seed: int) -> None:
        self._home, self._rng, self._runs = home, random.Random(seed), 0
        self._manifest = digits_manifest(home / "digits").folder
        self._data = {
            "datasets": {"digits": {"manifest": str(self._manifest), "eval_split": "train"}},  # the smaller one
            "augment": {"speeds": [0.9, 1.0, 1.1], "spec_augment": {}},
        }
        self._straight = self._trainer("straight", 0)
        assert self._straight.run() == 0, self._straight.printed()
        self._expected = tensors(self._straight.folder)
        self._losses = losses(self._straight)
        self._next_run()

    def _trainer(self, name: str, workers: int) -> Trainer:
        (self._home / name).mkdir(exist_ok=True)
        settings = {**SETTINGS, "data": self._data, "manifest": self._manifest, "dataloader_num_workers": workers}
        return Trainer(home=self._home / name, settings=settings)

    def _next_run(self) -> None:
        self._runs += 1
        self._name, self._acknowledged = f"run-{self._runs}", 0

    def trial(self, found: Found) -> None:
        """One death, or one run's end."""
        rng, before = self._rng, self._acknowledged
        trainer = self._trainer(self._name, rng.choice([1, 2]) if rng.random() < WITH_WORKERS else 0)
        known = len(trainer.events())
        status = self._live(trainer)
        aside = _aside(trainer.folder)
        if not wait_for_writer(trainer.folder, 30.0):
            found.fault("manual steps", "a writer holds the folder 30 s after its trainer died")
        events = trainer.events()
        newest = self._look(trainer, events, found)
        self._look_at_start(events[known:], before, found)
        if status == -9:
            found.counts["kills"] += 1
            found.counts[_moment(events[known:], aside, newest, self._acknowledged)] += 1
        elif status == 0:
            self._compare(trainer, found)
            self._next_run()
        else:
            found.fault("manual steps", f"a start ended with status {status}: {trainer.printed()}")
            self._next_run()

    def _live(self, trainer: Trainer) -> int:
        """Starts a trainer and kills it. → its exit status"""
        rng, with_writer = self._rng, self._rng.random() < WITH_WRITER
        process, kind = trainer.start(), rng.random()
        if kind < STARTING:
            process.join(rng.uniform(0.0, LONGEST_START_SECONDS))
        else:
            log = trainer.folder / "events.jsonl"
            known = log.stat().st_size if log.exists() else 0
            _wait_until(process, lambda: b'"kind": "train"' in _behind(log, known), seconds=30.0)
            process.join(rng.uniform(0.0, LONGEST_TRAINING_SECONDS))
        if kind > 1.0 - AMID_A_SAVE:
            there = _names(trainer.folder)
            _wait_until(process, lambda: _names(trainer.folder) != there, seconds=0.5)
            time.sleep(rng.uniform(0.0, 0.02))
        writers = _writers(process.pid) if with_writer and process.is_alive() else []
        process.kill()
        for writer in writers:
            writer.kill()
        process.join()
        return process.exitcode

    def _look(self, trainer: Trainer, events: list[Event], found: Found) -> int:
        """→ the newest good step; 0 for none"""
        folder = trainer.folder
        for path in steps.all_steps(folder):
            if wrong := steps.problems(path):
                found.fault("torn", f"{path}: {wrong[0]}")
        steps.sweep(folder)  # brings back what a replacement had renamed
        saved = max((event.step for event in events if event.kind == "save"), default=0)
        self._acknowledged = max(self._acknowledged, saved)
        newest = steps.newest(folder, lambda sentence: None)
        step = steps.step_of(newest.name) if newest else 0
        if step < self._acknowledged:
            found.fault("acknowledged lost", f"{folder}: {self._acknowledged} was saved, the newest good is {step}")
        if newest:
            self._read(newest, found)
        return step

    def _read(self, newest: Path, found: Found) -> None:
        """Loads a checkpoint that verifies: it is what its name says, and its best is there."""
        state = json.loads((newest / TRAINER).read_text(encoding="utf-8"))
        weights = [tensor for path in newest.glob("*.safetensors") for tensor in load_file(path).values()]
        if state["progress"]["run_steps"] != steps.step_of(newest.name) or not weights:
            found.fault("torn", f"{newest} holds step {state['progress']['run_steps']}")
        if not all(np.isfinite(tensor).all() for tensor in weights):
            found.fault("torn", f"{newest} has weights that are not finite")
        best = state["best"] and newest.with_name(steps.name_of(state["best"]["step"]))
        if best and (not best.exists() or steps.problems(best)):
            found.fault("best lost", f"{newest} names {best.name}, which is not there")

    def _look_at_start(self, events: list[Event], before: int, found: Found) -> None:
        """The start went on by itself, from what had been acknowledged before it or later."""
        resumed = next((event.step for event in events if event.kind == "resume"), None)
        trained = next((event.step for event in events if event.kind == "train"), None)
        if (resumed is not None and resumed < before) or (trained is not None and trained <= before):
            found.fault("acknowledged lost", f"step {before} was saved; went on from {resumed}, first step {trained}")

    def _compare(self, trainer: Trainer, found: Found) -> None:
        found.counts["runs that reached their end"] += 1
        if tensors(trainer.folder) != self._expected:
            found.fault("not the uninterrupted run", f"{trainer.folder}: weights or moments")
        if losses(trainer) != self._losses:
            found.fault("not the uninterrupted run", f"{trainer.folder}: losses")
        if not found.sentences:
            shutil.rmtree(trainer.home)


def _wait_until(process: BaseProcess, true: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while process.is_alive() and time.monotonic() < until and not true():
        time.sleep(0.002)


def _behind(log: Path, known: int) -> bytes:
    """What was written behind the first `known` bytes."""
    if not log.exists():
        return b""
    with log.open("rb") as stream:
        stream.seek(known)
        return stream.read()


def _names(run_folder: Path) -> set[str]:
    return {path.name for path in steps.checkpoints_of(run_folder).glob("*")}


def _aside(run_folder: Path) -> list[str]:
    """Checkpoints that are being written, replaced or removed, or were."""
    return [name for name in _names(run_folder) if name.startswith(".") and steps.PREFIX in name]


def _writers(pid: int) -> list[psutil.Process]:
    """Its writer process, and not its loader workers: those have to notice by themselves."""
    try:
        children = psutil.Process(pid).children()
        return [child for child in children if "auricle.store.writer" in child.cmdline()]
    except psutil.NoSuchProcess:
        return []


def _moment(events: list[Event], aside: list[str], newest: int, acknowledged: int) -> str:
    """What a trainer was at when it died, from what it left."""
    kinds = [event.kind for event in events]
    step = max((event.step for event in events if event.kind == "train"), default=0)
    evaluated = max((event.step for event in events if event.kind == "eval"), default=0)
    moments = {
        "pruning": any(name.startswith(directory.TRASH) for name in aside),
        "saving": bool(aside),
        "before its log": "run" not in kinds,
        "starting": "train" not in kinds,
        "evaluating": step % SETTINGS["eval_steps"] == 0 and evaluated < step,
        "saved and not yet acknowledged": newest > acknowledged,
        "training before its first save": "save" not in kinds,
    }
    return next((moment for moment, is_it in moments.items() if is_it), "training")


def soak(kills: int, log: Path) -> Counter:
    """Makes the trials that `log` lacks; returns what all of them found."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    batches = [line for line in lines if "batch" in line]
    total, done = Counter(), 0
    for line in batches:
        total.update(line["counts"])
    began = time.monotonic()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        while total["kills"] < kills:
            number = len(batches) + done
            home, found, started = Path(folder) / f"batch-{number}", Found(), time.monotonic()
            home.mkdir()
            trials = Soak(home, seed=number)
            while found.counts["kills"] < min(BATCH, kills - total["kills"]):
                trials.trial(found)
            total.update(found.counts)
            done += 1
            _append(log, {"batch": number, "seconds": round(time.monotonic() - started, 1), **_said(found)})
            seconds = (time.monotonic() - began) / done * max(kills - total["kills"], 0) / BATCH
            _tell(f"{total['kills']} of {kills} kills, {_faults(total)} faults, {seconds / 60:.0f} minutes to go")
            if not found.sentences:
                shutil.rmtree(home, ignore_errors=True)
    if done:
        _append(log, {"summary": True, "counts": dict(sorted(total.items()))})
    return total


def _said(found: Found) -> dict[str, Any]:
    counts = {**dict.fromkeys(FAULTS, 0), **found.counts}
    return {"counts": dict(sorted(counts.items())), "faults": found.sentences}


def _faults(counts: Counter) -> int:
    return sum(counts[kind] for kind in FAULTS)


def _append(log: Path, line: dict[str, Any]) -> None:
    with log.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(line, ensure_ascii=False) + "\n")


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")


def main() -> int:
    """→ exit code 1 when any fault was found"""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=2000)
    parser.add_argument("--log", type=Path, required=True)
    options = parser.parse_args()
    total = soak(options.kills, options.log)
    _tell(json.dumps(dict(sorted(total.items()))))
    return int(_faults(total) > 0)


if __name__ == "__main__":
    sys.exit(main())
