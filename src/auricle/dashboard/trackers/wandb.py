"""Weights & Biases. Without a key it writes offline, under RUN/wandb, and never asks: send it later with `wandb sync`.

A key is found where W&B looks for it (WANDB_API_KEY, ~/.netrc, its settings); WANDB_MODE, where set, decides. The
project is WANDB_PROJECT or `auricle`; the starts of one run are a group.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from auricle.core.errors import MissingExtra


class WandbTracker:
    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


def open(run_folder: Path, name: str, config: Mapping[str, Any]) -> WandbTracker:
    # Read at import. An offline run reports nothing home, and a log file needs no progress lines.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_SILENT", "true")
    try:
        import wandb
    except ModuleNotFoundError:
        raise MissingExtra("the tracker wandb", "wandb") from None
    settings = wandb.Settings(console="off", disable_git=True, x_disable_stats=True)  # the run has `system` events
    run = wandb.init(project=os.environ.get("WANDB_PROJECT", "auricle"), group=run_folder.resolve().name, name=name,
                     dir=str(run_folder), config=dict(config), mode=_mode(wandb), settings=settings)
    return WandbTracker(run)


def _mode(wandb: Any) -> Literal["online", "offline"] | None:
    """None leaves the choice to WANDB_MODE."""
    if os.environ.get("WANDB_MODE"):
        return None
    return "online" if wandb.login(prompt=False, verify=False) else "offline"
