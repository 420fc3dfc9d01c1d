"""What a guard sees of its run and of the machine, from files alone: events, checkpoints, mirrors, disk and GPU."""

import functools
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from auricle.core.events import Event, Newest
from auricle.remote.machine.processes import holder
from auricle.store import hub, mirror, steps

FRESH_ERRORS = 3
"""A mirror that failed so often in a row is worth an alarm; once may be the network's mood."""
SHORTEST_PERIOD = 60.0


@dataclass(frozen=True, kw_only=True)
class Mirrored:
    """How the mirrors of a run stand."""

    saved_step: int | None
    """Of the newest checkpoint here."""
    safe_step: int | None
    """Of the newest one that some mirror elsewhere was verified to hold."""
    is_complete: bool
    """At no target of the run, nor on the hub, anything waits or failed since `since`."""
    is_elsewhere: bool = True
    """Not all targets that were reached so far lie on this machine's own disks."""
    has_copy: bool = False
    """One target elsewhere holds all, whatever the others say."""
    failing: str = ""
    """What a target that fails again and again says."""

    @property
    def is_safe(self) -> bool:
        return self.saved_step is None or (self.safe_step is not None and self.safe_step >= self.saved_step)


def mirrored(run_folder: Path, since: float) -> Mirrored:
    """`since`: Unix time of the run's end; what a mirror last looked at before is not all."""
    targets, hubs = _records(run_folder)
    elsewhere = [record for record in targets if not record.get("own_disk")]
    saved = [steps.step_of(path.name) for path in steps.all_steps(run_folder)]
    safe = [steps.step_of(name) for name in steps.verified_on_mirrors(run_folder, own_disk=False)]
    return Mirrored(
        saved_step=max(saved, default=None), safe_step=max(safe, default=None),
        is_complete=all(_is_done(record, since) for record in (*targets, *hubs)),
        is_elsewhere=not targets or bool(elsewhere),
        has_copy=any(record and _is_done(record, since) for record in elsewhere),
        failing=next((str(record["error"]) for record in (*targets, *hubs)
                      if record.get("error") and record.get("tries", 0) >= FRESH_ERRORS), ""))


def _is_done(record: dict[str, Any], since: float) -> bool:
    """A model that is on the hub without its card has an error and no failed tries."""
    return not record.get("pending") and not record.get("tries") and record.get("time", 0.0) >= since


def _records(run_folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Of the targets that the run has now, and of its hub repository; empty ones where nothing was reached yet. Records
    of earlier targets count where nobody can read which there are now."""
    hub_path = hub.record_path(run_folder)
    try:
        path = run_folder / "config.yaml"
        targets, has_hub = _settings(path, path.stat().st_mtime_ns)
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError):
        paths, has_hub = sorted({*(run_folder / "mirrors").glob("*.json")} - {hub_path}), hub_path.exists()
    else:
        paths = [mirror.record_path(run_folder, target) for target in targets]
    return [_record(path) for path in paths], [_record(hub_path)] if has_hub else []


@functools.lru_cache(maxsize=64)
def _settings(config: Path, changed: int) -> tuple[list[str], bool]:  # noqa: ARG001
    """The targets of a config.yaml, and whether it names a hub repository. `changed`: when it was, in nanoseconds."""
    settings = yaml.safe_load(config.read_bytes()) or {}
    targets = (settings.get("mirror") or {}).get("targets") or []
    return [str(target) for target in targets], bool((settings.get("training") or {}).get("hub_model_id"))


def _record(path: Path) -> dict[str, Any]:
    """One that cannot be read vouches for nothing."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def is_mirroring(run_folder: Path) -> bool:
    """Whether a process keeps the run's mirrors up to date."""
    return any(holder(path) is not None for path in (run_folder / "mirrors").glob("*.lock"))


class Lag:
    """For how long the newest checkpoint has been on no mirror, in periods between two saves."""

    def __init__(self) -> None:
        self._saved: int | None = None
        self._saved_at = 0.0
        self._period = SHORTEST_PERIOD
        self._unsafe_since: float | None = None

    def periods(self, seen: Mirrored, now: float) -> float:
        """`now`: seconds of a clock that nobody sets."""
        if seen.saved_step != self._saved:
            if self._saved is not None:
                self._period = max(SHORTEST_PERIOD, now - self._saved_at)
            self._saved, self._saved_at = seen.saved_step, now
        if seen.is_safe:
            self._unsafe_since = None
        elif self._unsafe_since is None:
            self._unsafe_since = now
        return 0.0 if self._unsafe_since is None else (now - self._unsafe_since) / self._period


class Growth:
    """The events of a run, and when there were new ones."""

    def __init__(self, path: Path, steady: Callable[[], float]) -> None:
        self.newest, self._steady, self._grew = Newest(path), steady, steady()

    def look(self) -> float:
        """Reads on; → seconds since there was something new; 0 where there are no events (of several machines one has
        them)."""
        if self.newest.update() or not self.newest.bytes:
            self._grew = self._steady()
        return self._steady() - self._grew


def figures(newest: Newest) -> dict[str, Any]:
    """Of a run's events, as fields of `State`."""
    train, evaluated, derived = newest["train"], newest["eval"], newest["derived"]
    values = train.values if train else {}
    last = newest.last
    reached = [event for kind in ("train", "save", "resume", "end") if (event := newest[kind])]
    stage = max((event for event in (train, derived, newest["stage"]) if event), key=lambda event: event.time,
                default=None)
    return {
        "stage": stage.stage if stage else "", "step": max((event.step for event in reached), default=0),
        "total_steps": _total_steps(train),
        "loss": _number(values.get("loss")), "wer": _number(evaluated.values.get("wer")) if evaluated else None,
        "eta_seconds": _number(values.get("eta_seconds")), "last_event": last.time if last else None,
        "events_bytes": newest.bytes}


def _total_steps(train: Event | None) -> int | None:
    """Those of the stages before, and those that this one plans."""
    planned = _number(train.values.get("total_steps")) if train else None
    if train is None or planned is None:
        return None
    return int(train.step - train.values.get("stage_step", train.step) + planned)


def _number(value: Any) -> Any:
    """What is not finite is written as text."""
    return value if isinstance(value, int | float) else None


def checkpoint_bytes(run_folder: Path) -> int:
    """Size of the newest checkpoint, without the parts that it shares with others."""
    newest = steps.all_steps(run_folder)[-1:]
    return sum(path.stat().st_size for folder in newest for path in folder.rglob("*") if path.is_file())


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


class Gpus:
    """Load and memory of this machine's GPUs; nothing where NVIDIA's library finds none."""

    def __init__(self) -> None:
        import pynvml

        self._handles: list[Any] = []
        try:
            pynvml.nvmlInit()
            self._handles = [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(pynvml.nvmlDeviceGetCount())]
        except pynvml.NVMLError:
            return

    def look(self) -> tuple[float | None, float | None]:
        """(per cent, GB) of the one with most."""
        import pynvml

        try:
            loads = [float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu) for handle in self._handles]
            used = [int(pynvml.nvmlDeviceGetMemoryInfo(handle).used) / 1e9 for handle in self._handles]
        except pynvml.NVMLError:
            return None, None
        return max(loads, default=None), round(max(used), 3) if used else None
