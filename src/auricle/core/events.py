"""The run's truth: one append-only file of JSON lines, one writer a file, many readers.

    {"time": 1790.1, "kind": "train", "run": "quickstart", "stage": "main", "step": 25, "loss": 8.34, …}

A `resume` event names the step that training returns to. Nothing is ever moved or deleted: readers skip the training
and evaluation rows that it supersedes (`current`), while time and cost rows stay. A torn last line (a killed writer)
is ignored by readers and closed by the next writer.
"""

import json
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HEADER = ("time", "kind", "run", "rank", "segment", "stage", "step")
SUPERSEDED_BY_RESUME = ("train", "eval", "save", "stage", "bad_step", "onset")


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One line of the log. `step` is the run's optimizer step, never a micro-batch; `segment` counts the starts."""

    kind: str
    time: float = 0.0
    run: str = ""
    rank: int = 0
    segment: int = 0
    stage: str = ""
    step: int = 0
    values: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        clash = set(HEADER) & set(self.values)
        assert not clash, f"event values may not be named {sorted(clash)}"
        head = {name: getattr(self, name) for name in HEADER}
        return json.dumps({**head, **_finite(self.values)}, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> "Event":
        row = json.loads(line)
        head = {name: row.pop(name) for name in HEADER if name in row}
        return cls(**head, values=row)


def _finite(value: Any) -> Any:
    """JSON has no NaN or infinity: they are written as strings, so that every reader can parse every line."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


Sink = Callable[[Event], None]


class EventLog:
    """Appends events and hands each to the sinks (console line, text log). Safe to call from two threads."""

    def __init__(
        self, path: Path, *, run: str = "", rank: int = 0, segment: int = 0, sinks: Iterable[Sink] = ()
    ) -> None:
        self.path, self.run, self.rank, self.segment = path, run, rank, segment
        self.sinks = list(sinks)
        self._lock = threading.Lock()
        torn = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
        self._file = path.open("a", encoding="utf-8")
        if torn:
            self._file.write("\n")

    def write(self, kind: str, *, stage: str = "", step: int = 0, **values: Any) -> Event:
        event = Event(
            kind=kind,
            time=time.time(),
            run=self.run,
            rank=self.rank,
            segment=self.segment,
            stage=stage,
            step=step,
            values=values,
        )
        with self._lock:
            self._file.write(event.to_json() + "\n")
            self._file.flush()
            for sink in self.sinks:
                sink(event)
        return event

    def close(self) -> None:
        self._file.close()


def read(path: Path) -> Iterator[Event]:
    """All events in the order written. Lines that are torn or foreign are passed over. A missing file has none."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                yield Event.from_json(line)
            except (json.JSONDecodeError, TypeError, AttributeError):
                continue


def current(events: Iterable[Event]) -> list[Event]:
    """The events that still hold: rows after the step that a `resume` event returns to are left out."""
    kept: list[Event] = []
    for event in events:
        if event.kind == "resume":
            kept = [e for e in kept if e.kind not in SUPERSEDED_BY_RESUME or e.step <= event.step]
        kept.append(event)
    return kept


def follow(path: Path, stop: Callable[[], bool], poll_seconds: float = 0.5) -> Iterator[Event]:
    """Events as they are written, from the start, until `stop()` is true and the file is read to its end."""
    position, rest = 0, b""
    while True:
        last_round = stop()
        if path.exists():
            with path.open("rb") as stream:
                stream.seek(position)
                chunk = stream.read()
            position += len(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                try:
                    yield Event.from_json(line.decode("utf-8", "replace"))
                except (json.JSONDecodeError, TypeError, AttributeError):
                    continue
        if last_round:
            return
        time.sleep(poll_seconds)


KIND = re.compile(rb'"kind": *"([^"]+)"')


class Newest:
    """The newest event of each kind that still holds, of a log that grows: only what was added is read, and only what
    is asked for is decoded.

    What a `resume` event supersedes is dropped: after it there may be no `train` event until one is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes = 0
        """Read so far."""
        self._file: int | None = None
        self._held: dict[str, bytes] = {}

    def __getitem__(self, kind: str) -> Event | None:
        try:
            return Event.from_json(self._held[kind].decode("utf-8", "replace"))
        except (KeyError, json.JSONDecodeError, TypeError, AttributeError):
            return None

    @property
    def last(self) -> Event | None:
        """Of any kind."""
        found = (event for kind in self._held if (event := self[kind]))
        return max(found, key=lambda event: event.time, default=None)

    def update(self) -> bool:
        """Reads on; → whether there was more. A file that was replaced is read anew, a torn last line later."""
        try:
            with self.path.open("rb") as stream:
                status = os.fstat(stream.fileno())
                if status.st_ino != self._file or status.st_size < self.bytes:
                    self._file, self.bytes, self._held = status.st_ino, 0, {}
                stream.seek(self.bytes)
                lines, end, _ = stream.read().rpartition(b"\n")
        except OSError:
            return False
        self.bytes += len(lines) + len(end)
        for line in lines.split(b"\n"):
            found = KIND.search(line)
            if found and line.endswith(b"}"):  # a torn line holds nothing
                self._take(found[1].decode("utf-8", "replace"), line)
        return bool(end)

    def _take(self, kind: str, line: bytes) -> None:
        self._held[kind] = line
        if kind == "resume" and (resume := self[kind]):
            steps = {held: event.step for held in SUPERSEDED_BY_RESUME if (event := self[held])}
            self._held = {held: text for held, text in self._held.items() if steps.get(held, 0) <= resume.step}
