"""The curves of a run: of one of our run folders, or of any Hugging Face `trainer_state.json`."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from auricle.core.errors import RunFolderError
from auricle.core.events import current, read
from auricle.dashboard.numbers import number
from auricle.dashboard.trainer_state import log_history

Points = Mapping[int, float]
"""step → value; of several values at one step the last."""

EVAL_KEY = re.compile(r"eval_(?:(?P<dataset>.+)_)?(?P<what>wer|loss)")
LARGEST_PLAUSIBLE_WER = 2.0


@dataclass(frozen=True, slots=True)
class Curves:
    """What a plot shows of one run. Word error rates are fractions (0–1), by dataset ("" where there is only one)."""

    name: str
    loss: Points = field(default_factory=dict)
    learning_rate: Points = field(default_factory=dict)
    eval_loss: Mapping[str, Points] = field(default_factory=dict)
    wer: Mapping[str, Points] = field(default_factory=dict)
    onsets: tuple[int, ...] = ()
    """Steps at which the loss of a speech LLM began to fall ("it clicks")."""

    def __bool__(self) -> bool:
        return bool(self.loss or self.learning_rate or self.eval_loss or self.wer)


def read_curves(path: Path) -> Curves:
    """Curves of a run folder, of a `trainer_state.json`, or of a folder that holds one (there or in checkpoint-N).

    Raises RunFolderError for anything else, and where nothing is logged yet.
    """
    if (path / "events.jsonl").is_file():
        curves = from_history(path.resolve().name, log_history(current(read(path / "events.jsonl"))))
    else:
        curves = _read_trainer_state(path)
    if not curves:
        raise RunFolderError(f"{path}: nothing to plot yet; the first row comes after training.logging_steps steps")
    return curves


def from_history(name: str, history: Iterable[Mapping[str, Any]]) -> Curves:
    """Curves of the rows of a `log_history`; rows without a step are passed over."""
    loss: dict[int, float] = {}
    learning_rate: dict[int, float] = {}
    evaluated: dict[str, dict[str, dict[int, float]]] = {"loss": {}, "wer": {}}
    onsets: list[int] = []
    for row in history:
        step = row.get("step")
        if not isinstance(step, int):
            continue
        for key, value in row.items():
            if (plain := number(value)) is None:
                continue
            if key == "loss":
                loss[step] = plain
            elif key == "learning_rate":
                learning_rate[step] = plain
            elif key == "onset_began":
                onsets.append(int(plain))
            elif match := EVAL_KEY.fullmatch(key):
                evaluated[match["what"]].setdefault(match["dataset"] or "", {})[step] = plain
    return Curves(name, loss, learning_rate, evaluated["loss"], evaluated["wer"], tuple(onsets))


def _read_trainer_state(path: Path) -> Curves:
    file = _trainer_state_file(path)
    try:
        history = json.loads(file.read_text(encoding="utf-8"))["log_history"]
        curves = from_history(_run_name(file), history)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise RunFolderError(f"{file}: not a trainer state; expected a JSON object with a list 'log_history', "
                             "as Hugging Face's Trainer writes it") from None
    rates = {dataset: _as_fraction(points) for dataset, points in curves.wer.items()}
    return replace(curves, wer=rates)


def _trainer_state_file(path: Path) -> Path:
    if path.is_file():
        return path
    saved = sorted(path.glob("checkpoint-*/trainer_state.json"), key=_checkpoint_step)
    found = [file for file in (path / "trainer_state.json", *reversed(saved)) if file.is_file()]
    if not found:
        problem = "no events.jsonl and no trainer_state.json in it" if path.is_dir() else "no such file or folder"
        raise RunFolderError(f"{path}: {problem}; expected a run folder or a Hugging Face trainer_state.json")
    return found[0]


def _checkpoint_step(file: Path) -> int:
    digits = file.parent.name.rpartition("-")[2]
    return int(digits) if digits.isdecimal() else -1


def _run_name(file: Path) -> str:
    folder = file.resolve().parent
    return folder.parent.name if re.fullmatch(r"checkpoint-\d+", folder.name) else folder.name


def _as_fraction(points: Points) -> Points:
    """Many fine-tuning scripts log `eval_wer` in per cent: no run keeps a median of more than 200 % errors."""
    if median(points.values()) <= LARGEST_PLAUSIBLE_WER:
        return points
    return {step: value / 100 for step, value in points.items()}


def distinct_names(curves: Sequence[Curves], paths: Sequence[Path]) -> list[Curves]:
    """Where two runs share a name, each is called by its path instead."""
    names = [run.name for run in curves]
    return [replace(run, name=str(path)) if names.count(run.name) > 1 else run
            for run, path in zip(curves, paths, strict=True)]
