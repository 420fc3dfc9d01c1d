"""What a tracker is, and how to add one.

Add a tracker: one file `dashboard/trackers/NAME.py` with `open(run_folder, name, config) -> Tracker`, and an extra of
the same name in pyproject.toml. Trackers follow `events.jsonl` from a process of their own (`dashboard/follow.py`);
one that fails is reported once and stops nothing.
"""

from collections.abc import Mapping
from typing import Protocol


class Tracker(Protocol):
    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one event, named `train/loss`, `eval/wer`, `system/gpu_percent` …"""
        ...

    def close(self) -> None: ...
