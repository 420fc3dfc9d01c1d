"""The folder of a run: one experiment, one trainer at a time.

outputs/<run_name>/
    run.json  changes.json  config.yaml  events.jsonl  trainer_log.txt  trainer_state.json
    config.json  encoder.safetensors …  tokenizer …  the best model so far
    checkpoints/  latest.json  best.json  eval/  report.html
    run.lock                                         who trains here (see run_lock)
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from auricle.core.config import ExperimentConfig
from auricle.core.errors import RunFolderError
from auricle.core.extents import Progress
from auricle.store.directory import ASIDE, write_text
from auricle.store.run_lock import LOCKS, file_system_now, lock
from auricle.train.config_changes import Change, Kind, changes, moved_rate

CHANGES = "changes.json"
"""What was accepted after the first start: [{"time", "step", "replan", "changes": {key: [old, new]}, "config"}, …]."""
PACKAGES = ("torch", "transformers", "accelerate", "numpy", "soundfile", "jiwer")


@dataclass(frozen=True, kw_only=True)
class Start:
    """What was typed, for the record."""

    experiment: str = ""
    command: str = ""
    config_yaml: str = ""


def run_record(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(run.json, the configuration as it was last accepted) of a run. Raises RunFolderError."""
    if not (folder / "run.json").is_file():
        raise RunFolderError(f"run folder '{folder}': has no run.json; expected the folder of a run")
    record, accepted = _read(folder / "run.json"), _read(folder / CHANGES) if (folder / CHANGES).exists() else []
    return record, accepted[-1]["config"] if accepted else record["config"]


def location(config: ExperimentConfig, experiment: str) -> Path:
    """`output_dir`, else outputs/<run_name>, else outputs/<experiment>."""
    training = config.training
    return (
        Path(training.output_dir)
        if training.output_dir
        else Path("outputs") / (training.run_name or experiment or "train")
    )


def set_aside(folder: Path) -> Path | None:
    """Renames a run folder (for --fresh), so that nothing is lost; the new name, or None where there was none.

    Raises RunFolderError while it is being trained in.
    """
    if not folder.exists():
        return None
    number = 1
    while (target := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    with lock(folder):
        folder.rename(target)
    return target


def make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file_system_now(folder)
    except OSError as error:
        raise RunFolderError(
            f"run folder '{folder}': cannot be written ({error.strerror}); choose another with training.output_dir=…"
        ) from None


def begin(
    folder: Path,
    config: ExperimentConfig,
    *,
    extend: bool = False,
    allow_replan: bool = False,
    progress: Progress | None = None,
    stage: str = "main",
    **facts: Any,
) -> dict[str, Any]:
    """Writes run.json at the first start; at every other reads it and judges what changed since.

    `progress` is how far `stage` has come, from the checkpoint that training goes on from; None where there is none.
    Returns the record, with `replan`: whether that checkpoint was made before a change of budget or data that was
    accepted. Raises RunFolderError for another experiment, and for changes that were not asked for.
    """
    path, now = folder / "run.json", config.model_dump(mode="json")
    if not path.exists():
        _refuse_strangers(folder)
        record = {"created": time.time(), "config": now, "versions": versions(), "git": git_revision(), **facts}
        write_text(path, json.dumps(record, indent=1, ensure_ascii=False))
        return record | {"replan": False}
    record, before = run_record(folder)
    accepted, now = _read(folder / CHANGES) if (folder / CHANGES).exists() else [], json.loads(json.dumps(now))
    found = [change for change in changes(before, now) if change.kind is not Kind.OPERATIONAL]
    _refuse(folder, found, allow_replan=allow_replan)
    if progress and progress.steps and not extend and (moved := moved_rate(before, now, stage, progress)):
        ends = _listed([change for change in found if change.kind is Kind.EXTENDING])
        raise RunFolderError(f"run folder '{folder}': {ends}: {moved}. Undo the change, or take it with --extend")
    if found:
        accepted.append(_entry(found, now, progress.run_steps if progress else 0))
        write_text(folder / CHANGES, json.dumps(accepted, indent=1, ensure_ascii=False))
    # A checkpoint of the step at which a change was accepted, or of an earlier one, was made under the plan before it.
    replan = progress and any(entry["replan"] and entry["step"] >= progress.run_steps for entry in accepted)
    return record | {"replan": bool(replan)}


def _entry(found: Sequence[Change], config: dict[str, Any], step: int) -> dict[str, Any]:
    return {
        "time": time.time(),
        "step": step,
        "replan": any(change.kind is Kind.PLANNING for change in found),
        "changes": {change.key: [change.old, change.new] for change in found},
        "config": config,
    }


def _refuse_strangers(folder: Path) -> None:
    strangers = [item.name for item in folder.iterdir() if item.name not in LOCKS and not item.name.startswith(ASIDE)]
    if strangers:
        raise RunFolderError(
            f"run folder '{folder}': holds {', '.join(sorted(strangers)[:3])} but no run.json; "
            "expected an empty folder or a run. Choose another training.run_name, or move it away"
        )


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunFolderError(f"{path}: not readable as JSON ({error}); move the folder away or use --fresh") from None


def _refuse(folder: Path, found: Sequence[Change], *, allow_replan: bool) -> None:
    """Raises RunFolderError for changes of identity, and for those of the plan unless they are allowed."""
    if changed := [change for change in found if change.kind is Kind.IDENTITY]:
        raise RunFolderError(
            f"run folder '{folder}': belongs to another experiment ({_listed(changed)}). Choose another "
            "training.run_name, undo the change, or start anew with --fresh (the old folder is kept)"
        )
    if (changed := [change for change in found if change.kind is Kind.PLANNING]) and not allow_replan:
        raise RunFolderError(
            f"run folder '{folder}': {_listed(changed)}: the steps of the epoch in hand would be others than those "
            "that were planned, and utterances would be met twice or never. Undo the change, or plan anew what the "
            "epoch has not yet seen with --allow-replan"
        )


def _listed(changed: Sequence[Change]) -> str:
    more = f"; and {len(changed) - 5} more" if len(changed) > 5 else ""
    return "; ".join(map(str, changed[:5])) + more


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
