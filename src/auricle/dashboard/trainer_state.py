"""`trainer_state.json`: the run's events in the schema of Hugging Face's Trainer, so that existing scripts plot them.

    state = json.load(open("outputs/quickstart/trainer_state.json"))
    losses = [row["loss"] for row in state["log_history"] if "loss" in row]
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from auricle.core.events import Event, current, read
from auricle.dashboard.numbers import number
from auricle.dashboard.runs import last_value, lead_evaluations
from auricle.store.directory import write_text

WRITTEN_AT = ("eval", "save", "end")
TRAIN_KEYS = ("loss", "grad_norm", "learning_rate", "epoch")
EVAL_KEYS = {"loss": "loss", "wer": "wer", "cer": "cer", "seconds": "runtime", "utterances": "samples"}


def keep_trainer_state(run_folder: Path) -> Callable[[Event], None]:
    """A sink for the run's EventLog: replaces `trainer_state.json` at each evaluation, save and end."""
    def sink(event: Event) -> None:
        if event.kind in WRITTEN_AT:
            state = trainer_state(read(run_folder / "events.jsonl"))
            write_text(run_folder / "trainer_state.json", json.dumps(state, indent=2) + "\n")
    return sink


def trainer_state(events: Iterable[Event]) -> dict[str, Any]:
    """The state that transformers' TrainerState.load_from_json reads. Values that are not finite stay NaN, as there."""
    held = current(events)
    training = _training_config(held)
    history = log_history(held)
    best = _best(held)
    steps_per_epoch, max_steps = (last_value(held, "derived", name) for name in ("steps_per_epoch", "total_steps"))
    epochs = training.get("num_train_epochs") or (max_steps or 0) / (steps_per_epoch or math.inf)
    return {
        "best_global_step": best.step if best else None,
        "best_metric": number(best.values.get("wer")) if best else None,
        "best_model_checkpoint": _checkpoint_at(held, best.step) if best else None,
        "epoch": max((row["epoch"] for row in history if "epoch" in row), default=0.0),
        "eval_steps": training.get("eval_steps") or 0,
        "global_step": max((row["step"] for row in history), default=0),
        "is_hyper_param_search": False,
        "is_local_process_zero": True,
        "is_world_process_zero": True,
        "log_history": history,
        "logging_steps": training.get("logging_steps") or 0,
        "max_steps": int(max_steps or 0),
        "num_input_tokens_seen": 0,
        "num_train_epochs": math.ceil(epochs),
        "save_steps": training.get("save_steps") or 0,
        "stateful_callbacks": {},
        "total_flos": 0.0,
        "train_batch_size": training.get("per_device_train_batch_size"),
        "trial_name": None,
        "trial_params": None,
    }


def log_history(held: Sequence[Event]) -> list[dict[str, Any]]:
    """Rows `{"loss", "grad_norm", "learning_rate", "epoch", "step"}` and `{"eval_loss", "eval_wer", …, "step"}`.

    An alignment onset is a row of its own, `{"onset_began", "epoch", "step"}`. With several datasets each has keys of
    its own, `eval_NAME_wer`, as Hugging Face's Trainer names them. What other decoders said beside is left out.
    """
    several = len({event.values.get("dataset") for event in held if event.kind == "eval"}) > 1
    rows, epoch = [], 0.0
    for event in held:
        if event.kind == "train":
            row = _picked(event, {name: name for name in TRAIN_KEYS})
            epoch = row.setdefault("epoch", epoch)
        elif event.kind == "eval" and not event.values.get("beside"):
            prefix = f"eval_{event.values.get('dataset')}_" if several else "eval_"
            row = {**_picked(event, {name: prefix + key for name, key in EVAL_KEYS.items()}), "epoch": epoch}
        elif event.kind == "onset":
            row = {**_picked(event, {"began": "onset_began"}), "epoch": epoch}
        else:
            continue
        rows.append({**row, "step": event.step})
    return rows


def _picked(event: Event, keys: Mapping[str, str]) -> dict[str, float]:
    found = {key: number(event.values.get(name)) for name, key in keys.items()}
    return {key: value for key, value in found.items() if value is not None}


def _training_config(held: Sequence[Event]) -> Mapping[str, Any]:
    config = next((event.values.get("config") for event in reversed(held) if event.kind == "run"), None)
    training = config.get("training") if isinstance(config, Mapping) else None
    return training if isinstance(training, Mapping) else {}


def _best(held: Sequence[Event]) -> Event | None:
    return next((event for event in reversed(lead_evaluations(held)) if event.values.get("best")), None)


def _checkpoint_at(held: Sequence[Event], step: int) -> str | None:
    saved = (event.values.get("checkpoint") for event in held if event.kind == "save" and event.step == step)
    return next((str(checkpoint) for checkpoint in saved if checkpoint), None)
