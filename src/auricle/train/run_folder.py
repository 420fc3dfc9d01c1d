"""The folder of a run: one experiment, one trainer at a time.

outputs/<run_name>/
    run.json  config.yaml  events.jsonl  trainer_log.txt  trainer_state.json
    config.json  model.safetensors  tokenizer …      the best model so far
    checkpoints/  latest.json  best.json  eval/  report.html
"""

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

from auricle.core.config import ExperimentConfig
from auricle.core.errors import RunFolderError
from auricle.store.directory import write_text

FREE_KEYS = frozenset(
    {
        "run_name",
        "output_dir",
        "max_steps",
        "num_train_epochs",
        "max_audio_hours",
        "max_wall_hours",
        "device",
        "bf16",
        "torch_compile",
        "dataloader_num_workers",
        "per_device_eval_batch_size",
        "logging_steps",
        "eval_steps",
        "eval_max_seconds",
        "metric_for_best_model",
        "save_steps",
        "save_minutes",
        "save_total_limit",
        "resume_from_checkpoint",
        "report_to",
        "price_per_hour",
    }
)
"""Training keys that may differ when a run goes on; any other change is another experiment."""

PACKAGES = ("torch", "transformers", "accelerate", "numpy", "soundfile", "jiwer")


def location(config: ExperimentConfig, experiment: str) -> Path:
    """`output_dir`, else outputs/<run_name>, else outputs/<experiment>."""
    training = config.training
    return (
        Path(training.output_dir)
        if training.output_dir
        else Path("outputs") / (training.run_name or experiment or "train")
    )


def set_aside(folder: Path) -> Path | None:
    """Renames a run folder (for --fresh), so that nothing is lost; the new name, or None where there was none."""
    if not folder.exists():
        return None
    number = 1
    while (target := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    folder.rename(target)
    return target


def make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise RunFolderError(
            f"run folder '{folder}': cannot be written ({error.strerror}); choose another with training.output_dir=…"
        ) from None


def lock(folder: Path) -> TextIO:
    """Holds the folder for this process until it ends, however it ends. A second trainer gets RunFolderError."""
    holder = (folder / "run.lock").open("a+", encoding="utf-8")
    try:
        fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder.seek(0)
        owner = holder.read().strip() or "another process"
        holder.close()
        raise RunFolderError(
            f"run folder '{folder}': already being trained by {owner}; wait for it, stop it, or choose "
            "another training.run_name"
        ) from None
    holder.truncate(0)
    holder.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
    holder.flush()
    return holder


def identity(config: ExperimentConfig) -> dict[str, Any]:
    """The part of a configuration that may not change within a run, flat: {"training.seed": 42, …}."""
    plain = config.model_dump(mode="json")
    for training in (plain["training"], *plain["stages"].values()):
        for key in FREE_KEYS & training.keys():
            del training[key]
    plain.pop("evaluation")
    return _flat(plain)


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict) or not values:
        return {prefix: values}
    return {
        key: value
        for name, inner in values.items()
        for key, value in _flat(inner, f"{prefix}.{name}" if prefix else name).items()
    }


def begin(folder: Path, config: ExperimentConfig, **facts: Any) -> dict[str, Any]:
    """Writes run.json at the first start, reads it at every other; RunFolderError for another experiment."""
    path = folder / "run.json"
    if not path.exists():
        strangers = [item.name for item in folder.iterdir() if item.name not in ("run.lock",)]
        if strangers:
            raise RunFolderError(
                f"run folder '{folder}': holds {', '.join(sorted(strangers)[:3])} but no run.json; "
                "expected an empty folder or a run. Choose another training.run_name, or move it away"
            )
        record = {
            "created": time.time(),
            "identity": identity(config),
            "config": config.model_dump(mode="json"),
            "versions": versions(),
            "git": git_revision(),
            **facts,
        }
        write_text(path, json.dumps(record, indent=1, ensure_ascii=False))
        return record
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunFolderError(f"{path}: not readable as JSON ({error}); move the folder away or use --fresh") from None
    refuse_changes(folder, record["identity"], json.loads(json.dumps(identity(config))))
    return record


def refuse_changes(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    if changed:
        listed = "; ".join(f"{key} was {old.get(key)!r}, is {new.get(key)!r}" for key in changed[:5])
        more = f"; and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise RunFolderError(
            f"run folder '{folder}': belongs to another experiment ({listed}{more}). Choose another "
            "training.run_name, undo the change, or start anew with --fresh (the old folder is kept)"
        )


def versions() -> dict[str, str]:
    """Python and the packages that decide numbers."""
    found = {"python": sys.version.split()[0], "auricle": version("auricle")}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_revision() -> str | None:
    """Commit of the working directory with `-dirty` where it is, or None outside of git."""
    asked = (
        subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"], capture_output=True, text=True, check=False
        )
        if _has_git()
        else None
    )
    return asked.stdout.strip() if asked and asked.returncode == 0 else None


def _has_git() -> bool:
    from shutil import which

    return which("git") is not None
