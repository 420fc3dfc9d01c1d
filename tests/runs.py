"""A run folder as training leaves it, made in milliseconds: the file that each reader of a run is tested on."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import soundfile

from auricle.core.events import EventLog

CONFIG = {
    "model": {"kind": "conformer", "width": 144},
    "task": {"kind": "ctc"},
    "training": {
        "max_steps": 600,
        "num_train_epochs": None,
        "logging_steps": 25,
        "eval_steps": 200,
        "save_steps": 200,
        "run_name": "quickstart",
        "per_device_train_batch_size": None,
    },
    "evaluation": {"normalizer": "basic", "decoder": "greedy"},
}
COMPONENTS = {"encoder": 1_600_000, "head": 34_816}
VERSIONS = {"auricle": "0.1.0", "torch": "2.13.0", "python": "3.11.9"}
TRANSCRIPTS = (
    ("open the gate", "open the gate"),
    ("light the second torch", "light a second torch now"),
    ("cast fire on the troll", "cast wire on the"),
    ("go north", "go north"),
    ("drop the <silver> key & run", "drop the <silver> key & run"),
    ("שלום עולם", "שלום עולה"),
)


class Clock:
    """Events of hours, written at once."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def write_run(
    folder: Path,
    *,
    steps: int = 600,
    started: float | None = None,
    end: str | None = "finished",
    evaluate: bool = True,
    audio: bool = False,
) -> Path:
    """A run of `steps` of 600 steps at a second a step, evaluated each 200. `end` None leaves it without an end.

    Without `started` its newest event is of this moment; with `audio` there is a tone for each utterance.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clock = Clock(time.time() - steps if started is None else started)
    with patch("auricle.core.events.time.time", clock):
        log = EventLog(folder / "events.jsonl", run=folder.name)
        _write_start(log)
        train(log, clock, range(1, steps + 1), evaluate_to=folder if evaluate else None, audio=audio)
        if end:
            log.write("end", step=steps, reason=end, seconds=float(steps))
        log.close()
    _write_files(folder)
    return folder


def resume_run(folder: Path, *, at: int, steps: int, seconds_later: float = 0.0) -> None:
    """Goes on from step `at`, in a second segment, with losses that are 100 higher (to tell them apart)."""
    clock = Clock(time.time() + seconds_later)
    with patch("auricle.core.events.time.time", clock):
        log = EventLog(folder / "events.jsonl", run=folder.name, segment=1)
        log.write("run", config=CONFIG, device="cpu", world=1, versions=VERSIONS)
        log.write("resume", stage="main", step=at, epoch=at // 100, epoch_step=at % 100, checkpoint=f"step-{at:09d}")
        train(log, clock, range(at + 1, at + steps + 1), evaluate_to=None, offset=100.0)
        log.close()


def train(
    log: EventLog, clock: Clock, steps: range, *, evaluate_to: Path | None, audio: bool = False, offset: float = 0.0
) -> None:
    for step in steps:
        clock.now += 1.0
        if step % 10 == 0:
            log.write("system", cpu_percent=180.0 + step % 7, ram_gb=2.5, disk_free_gb=41.0)
        if step % 25 == 0:
            log.write("train", stage="main", step=step, **_train_values(step, offset))
        if step % 200 == 0 and evaluate_to:
            log.write("eval", stage="main", step=step, **_eval_values(evaluate_to, step, audio))
        if step % 200 == 0:
            log.write("save", stage="main", step=step, checkpoint=f"step-{step:09d}", seconds=0.4, bytes=26_000_000)


def _write_start(log: EventLog) -> None:
    log.write("run", config=CONFIG, device="cpu", world=1, versions=VERSIONS)
    log.write(
        "rejected",
        dataset="speech",
        rows=4221,
        count_by_reason={"too_long": 8, "unreadable": 3},
        listed=[["voice1-001", "too_long", "31.000 s > 30 s"]],
    )
    log.write(
        "derived",
        stage="main",
        steps_per_epoch=100,
        total_steps=600,
        micro_batches_per_step=2,
        padding_percent=1.8,
        audio_hours=2.0,
        utterances=4210,
        parameters=1_634_816,
        trainable_parameters=COMPONENTS,
        checkpoint_bytes=26_000_000,
    )
    log.write("stage", stage="main", components=COMPONENTS, trainable=1_634_816, parameters=1_634_816, ends="600 steps")


def _train_values(step: int, offset: float) -> Mapping[str, Any]:
    loss = offset + 8.0 * math.exp(-step / 120) + 0.05 + 0.01 * math.sin(step)
    return {
        "loss": loss,
        "terms": {"ctc": loss},
        "grad_norm": 2.0,
        "learning_rate": 1e-3 * (1 - step / 600),
        "epoch": step / 100,
        "stage_step": step,
        "total_steps": 600,
        "seconds": float(step),
        "eta_seconds": 600.0 - step,
        "audio_hours": step / 50,
        "audio_hours_per_hour": 72.0,
        "padding_percent": 1.8,
        "data_wait_percent": 0.6,
        "cost": step / 1000,
    }


def _eval_values(folder: Path, step: int, audio: bool) -> Mapping[str, Any]:
    name = f"eval/step-{step:09d}-dev.jsonl"
    rows = hypotheses(folder, audio)
    (folder / "eval").mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    totals = {key: sum(row[key] for row in rows) for key in ("substitutions", "deletions", "insertions", "words")}
    errors = totals["substitutions"] + totals["deletions"] + totals["insertions"]
    wer = errors / totals["words"] + (600 - step) / 1000
    return {
        "dataset": "dev",
        "decoder": "greedy",
        "normalizer": "basic",
        "normalizer_version": "1",
        "wer": wer,
        "cer": wer / 3,
        "wer_low": wer - 0.02,
        "wer_high": wer + 0.02,
        **totals,
        "utterances": len(rows),
        "loss": 0.4,
        "seconds": 12.0,
        "share_of_wall_percent": 6.0,
        "complete": step == 600,
        "best": True,
        "hypotheses": name,
    }


def hypotheses(folder: Path, audio: bool = False) -> list[dict[str, Any]]:
    """One row of an evaluation file for each of TRANSCRIPTS, of two sources."""
    counts = ((0, 0, 0), (1, 0, 1), (1, 1, 0), (0, 0, 0), (0, 0, 0), (1, 0, 0))
    rows = []
    for index, (reference, hypothesis) in enumerate(TRANSCRIPTS):
        path = folder / "clips" / f"{index}.wav"
        if audio:
            path.parent.mkdir(exist_ok=True)
            soundfile.write(path, 0.1 * np.sin(np.arange(8000 + 40000 * index) * (0.1 + index / 50)), 16000)
        substitutions, deletions, insertions = counts[index]
        rows.append(
            {
                "id": f"voice{index}-{index:03d}",
                "source": ("rooms", "studio")[index % 2],
                "seconds": 0.5 + 2.5 * index,
                "reference": reference,
                "hypothesis": hypothesis,
                "audio": str(path),
                "words": len(reference.split()),
                "substitutions": substitutions,
                "deletions": deletions,
                "insertions": insertions,
            }
        )
    return rows


def _write_files(folder: Path) -> None:
    about = {
        "run": folder.name,
        "experiment": "quickstart",
        "command": "auricle train +experiments=quickstart",
        "versions": VERSIONS,
        "git": "1f2e3d4",
    }
    (folder / "run.json").write_text(json.dumps(about), encoding="utf-8")
    (folder / "config.yaml").write_text("model:\n  kind: conformer\n  width: 144\n", encoding="utf-8")
