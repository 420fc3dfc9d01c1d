"""The runs of a folder at a glance, from their event logs alone."""

import json
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auricle.core.errors import UsageError
from auricle.core.events import Event, current
from auricle.dashboard.numbers import number
from auricle.store import steps

ROUTINE = (b'"kind": "train"', b'"kind": "system"')
NOT_ROUTINE = re.compile(rb'"kind": "(?!train"|system")')
PROGRESS = ("train", "eval", "save", "resume")
BESIDE_TRAINING = ("system", "mirror")
STALLED_SECONDS = 120.0
"""A live run writes a `system` event every 10 s."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSummary:
    """One line about a run. What its events do not tell is None."""

    name: str
    path: str
    state: str
    """running, finished, interrupted, failed, diverged, hung; stalled: no end was written, and nothing for two minutes.
    """
    step: int = 0
    total_steps: int | None = None
    safe_step: int | None = None
    """Of the newest checkpoint that a mirror was verified to hold; nothing else is safe."""
    loss: float | None = None
    wer: float | None = None
    """Newest word error rate on the first dataset that is evaluated, 0–1."""
    best_wer: float | None = None
    wall_seconds: float = 0.0
    """Over all starts, without the time between them."""
    cost: float | None = None
    started: float | None = None
    """Unix time of the first event."""
    message: str = ""
    """Why it ended, where the run says so."""


def runs(folder: Path) -> list[RunSummary]:
    """The runs in a folder (or of one run folder), newest first. Raises UsageError where there is no such folder."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; expected a folder of runs; `auricle train` writes to outputs, "
                         "another is named by: auricle runs DIR")
    now = time.time()
    found = [summarise(path, sketch(path / "events.jsonl"), now) for path in _run_folders(folder)]
    return sorted(found, key=lambda run: run.started or 0.0, reverse=True)


def _run_folders(folder: Path) -> list[Path]:
    if (folder / "events.jsonl").is_file():
        return [folder]
    return [path.parent for pattern in ("*/events.jsonl", "*/*/events.jsonl") for path in sorted(folder.glob(pattern))]


def sketch(path: Path) -> list[Event]:
    """The events that tell how a run stands; of the routine rows only the last of each kind before another event.

    Lines are found by searching bytes and few are decoded: a log of 100 hours takes some 15 ms.
    """
    log = path.read_bytes()
    log = log[:log.rfind(b"\n") + 1]
    starts, before = {0} if log else set(), 0
    for place in (*(found.start() for found in NOT_ROUTINE.finditer(log)), len(log)):
        routine = (log.rfind(kind, before, place) for kind in ROUTINE)
        starts |= {log.rfind(b"\n", 0, found) + 1 for found in (*routine, place) if 0 <= found < len(log)}
        before = place
    return list(_decoded(log[start:log.index(b"\n", start)] for start in sorted(starts)))


def _decoded(lines: Iterable[bytes]) -> Iterator[Event]:
    for line in lines:
        try:
            yield Event.from_json(line.decode("utf-8", "replace"))
        except (json.JSONDecodeError, TypeError, AttributeError):
            continue


def summarise(path: Path, events: Sequence[Event], now: float) -> RunSummary:
    """How the run of these events (all, or a sketch of them) stands at the Unix time `now`."""
    held = current(events)
    rows = [event for event in held if event.kind == "train"]
    rates = [rate for event in lead_evaluations(held) if (rate := number(event.values.get("wer"))) is not None]
    ended = _end(events)
    return RunSummary(
        name=next((event.run for event in events if event.run), path.name),
        path=str(path),
        state=_state(events, ended, now),
        step=max((event.step for event in held if event.kind in PROGRESS or event is ended), default=0),
        total_steps=_total_steps(events),
        safe_step=max(map(steps.step_of, steps.verified_on_mirrors(path)), default=None),
        loss=number(rows[-1].values.get("loss")) if rows else None,
        wer=rates[-1] if rates else None,
        best_wer=min(rates, default=None),
        wall_seconds=wall_seconds(events),
        cost=last_value(events, "train", "cost"),
        started=events[0].time if events else None,
        message=str(ended.values.get("message") or "") if ended else "",
    )


def about(run_folder: Path) -> dict[str, Any]:
    """run.json; empty where it is none."""
    try:
        found = json.loads((run_folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _total_steps(events: Iterable[Event]) -> int | None:
    """Planned steps of the stages that were entered so far."""
    planned = {event.stage: number(event.values.get("total_steps")) for event in events if event.kind == "derived"}
    return int(sum(steps for steps in planned.values() if steps)) or None


def lead_evaluations(held: Iterable[Event]) -> list[Event]:
    """Evaluations with the first dataset and decoder that this run reports: the ones a single number speaks for."""
    found = [event for event in held if event.kind == "eval"]
    return [event for event in found if evaluated_with(event) == evaluated_with(found[0])]


def evaluated_with(event: Event) -> tuple[str, str]:
    """(dataset, decoder)"""
    return str(event.values.get("dataset", "")), str(event.values.get("decoder", ""))


def last_value(events: Sequence[Event], kind: str, name: str) -> float | None:
    """The newest number of that name in events of that kind."""
    found = (number(event.values.get(name)) for event in reversed(events) if event.kind == kind)
    return next((value for value in found if value is not None), None)


def wall_seconds(events: Iterable[Event]) -> float:
    """Seconds between the first and the last event of each segment, summed."""
    spans: dict[int, tuple[float, float]] = {}
    for event in events:
        first, last = spans.get(event.segment, (event.time, event.time))
        spans[event.segment] = min(first, event.time), max(last, event.time)
    return sum(last - first for first, last in spans.values())


def _end(events: Sequence[Event]) -> Event | None:
    """The `end` event, unless the run was started again after it."""
    active = next((event for event in reversed(events) if event.kind not in BESIDE_TRAINING), None)
    return active if active and active.kind == "end" else None


def _state(events: Sequence[Event], ended: Event | None, now: float) -> str:
    if ended:
        return str(ended.values.get("reason", "finished")).removeprefix("already ")
    fresh = events and now - max(event.time for event in events) < STALLED_SECONDS
    return "running" if fresh else "stalled"
