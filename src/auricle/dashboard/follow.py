"""Trackers follow a run's `events.jsonl` from a process of their own, so that none can slow, prompt or stop training.

    train ──events.jsonl──► python -m auricle.dashboard.follow RUN --tracker wandb ──► tracker

Each start of a run that trains opens a new run in the tracker (`NAME`, then `NAME-resume1`, …) and sends it the whole
history that still holds, then what is written live. So the newest one is always complete: rows that a resume superseded
are not in it, and what an earlier follower missed (a killed machine, no network) is.
"""

import contextlib
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from auricle.core.errors import AuricleError
from auricle.core.events import Event, Sink, current, follow, read
from auricle.core.folder import find
from auricle.dashboard.numbers import numbers
from auricle.dashboard.trackers import Tracker

SENT = ("train", "eval", "system", "save")
RESULTS = ("train", "eval")
FAILED = "tracker failed: "
"""Begins the line of a tracker's log that says why."""
UPLOAD_SECONDS = 60.0
CLOSING_SECONDS = 10.0

OpenTracker = Callable[[str, Mapping[str, Any]], Tracker]
"""(name, config) → an open tracker."""


@dataclass(slots=True)
class Follower:
    """A tracker's process."""

    tracker: str
    log: Path
    process: subprocess.Popen[bytes]
    reported: bool = False


@contextlib.contextmanager
def trackers(run_folder: Path, names: Sequence[str], report: Callable[[str], None] | None = None) -> Iterator[Sink]:
    """A sink for the run's EventLog that starts these trackers with the run; on leaving they finish.

    Each failure goes to `report` (stderr without one) as one sentence, once. An unknown name raises ConfigError.
    """
    for name in names:
        find("dashboard.trackers", name)
    tell = report or _to_stderr
    started: list[Follower] = []
    ended = False

    def sink(event: Event) -> None:
        nonlocal ended
        if event.kind == "run":
            started.extend(_started(run_folder, names, event.segment, tell))
        ended = ended or event.kind == "end"
        _tell(map(failure, started), tell)

    try:
        yield sink
    finally:
        # Without an `end` event (a crash) nothing more will come, and nobody should wait for it.
        _tell((finish(follower, UPLOAD_SECONDS if ended else 0.0) for follower in started), tell)


def _started(run_folder: Path, names: Sequence[str], segment: int, tell: Callable[[str], None]) -> Iterator[Follower]:
    for name in names:
        try:
            yield start(run_folder, name, segment)
        except OSError as error:
            tell(f"tracker {name}: cannot be started ({error}); training goes on")


def _tell(sentences: Iterable[str | None], tell: Callable[[str], None]) -> None:
    for sentence in filter(None, sentences):
        tell(sentence)


def _to_stderr(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")


def start(run_folder: Path, name: str, segment: int = 0) -> Follower:
    """Starts the tracker's process for this segment of the run; its output goes to RUN/tracker-NAME.log."""
    log = run_folder / f"tracker-{name}.log"
    command = [sys.executable, "-m", "auricle.dashboard.follow", str(run_folder), "--tracker", name,
               "--segment", str(segment), "--parent", str(os.getpid())]
    with log.open("wb") as output:
        # A session of its own: Ctrl-C is for training, which then writes its `end`.
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                   start_new_session=True)
    return Follower(name, log, process)


def failure(follower: Follower) -> str | None:
    """A sentence about a tracker that has failed, the first time that it is asked for."""
    if follower.reported or not follower.process.poll():
        return None
    follower.reported = True
    lines = follower.log.read_text(encoding="utf-8", errors="replace").splitlines()
    reasons = [line.removeprefix(FAILED) for line in lines if line.startswith(FAILED)]
    reason = reasons[-1] if reasons else f"its process ended with exit code {follower.process.returncode}"
    return f"tracker {follower.tracker}: stopped ({reason}); the run itself has all its numbers; see {follower.log}"


def finish(follower: Follower, timeout: float) -> str | None:
    """Gives the tracker `timeout` seconds to send the rest, then ends it. Never raises; returns what `failure` says."""
    for seconds, then in ((timeout, follower.process.terminate), (CLOSING_SECONDS, follower.process.kill)):
        try:
            follower.process.wait(seconds)
        except subprocess.TimeoutExpired:
            then()
    follower.process.wait()
    return failure(follower)


@dataclass(slots=True)
class Stop:
    """Why following ends: the segment's `end` was read, SIGTERM asked for it, or whoever started it is gone."""

    parent: int | None = None
    asked: bool = False

    def __call__(self) -> bool:
        return self.asked or (self.parent is not None and os.getppid() != self.parent)

    def ask(self, *_signal: Any) -> None:
        self.asked = True


@dataclass(slots=True)
class Feed:
    """An open tracker and how far it is: `system` events have no step of their own."""

    tracker: Tracker
    step: int = 0

    def send(self, event: Event) -> None:
        if event.kind not in SENT:
            return
        if event.kind != "system":
            self.step = event.step
        of = [event.values["dataset"]] if "dataset" in event.values else []
        of += [event.values["decoder"]] if event.values.get("beside") else []
        if values := numbers(event.values, "/".join([event.kind, *of])):
            self.tracker.log(self.step, values)


def forward(events: Iterable[Event], segment: int, stop: Stop, open_tracker: OpenTracker) -> None:
    """Sends events to a tracker, which is opened at the first result of the segment, and not without one.

    By then the segment's `resume` has been read, so the history that still holds is known, and sent first.
    """
    history: list[Event] = []
    feed: Feed | None = None
    for event in events:
        if feed:
            feed.send(event)
        else:
            history.append(event)
            if event.segment >= segment and event.kind in RESULTS:
                feed = Feed(open_tracker(_name(event.run, segment), _config(history)))
                for past in current(history):
                    feed.send(past)
        if event.kind == "end" and event.segment >= segment:
            stop.ask()
    if feed:
        feed.tracker.close()


def _name(run: str, segment: int) -> str:
    return f"{run}-resume{segment}" if segment else run


def _config(history: Sequence[Event]) -> Mapping[str, Any]:
    return next((event.values.get("config") for event in reversed(history) if event.kind == "run"), None) or {}


def _newest_segment(path: Path) -> int:
    return max((event.segment for event in read(path) if event.kind in RESULTS), default=0)


def main(
    run_folder: Path,
    tracker: Annotated[str, typer.Option(help="An entry of dashboard/trackers.")],
    segment: Annotated[int | None, typer.Option(help="Which start of the run; else the newest with results.")] = None,
    parent: Annotated[int | None, typer.Option(help="The process that started this one; ends when it is gone.")] = None,
) -> None:
    """Follow a run with a tracker until the run ends; also sends a run of the past."""
    stop = Stop(parent)
    signal.signal(signal.SIGTERM, stop.ask)
    path = run_folder / "events.jsonl"
    try:
        module = find("dashboard.trackers", tracker)
        chosen = _newest_segment(path) if segment is None else segment
        forward(follow(path, stop), chosen, stop, lambda name, config: module.open(run_folder, name, config))
    except AuricleError as error:
        raise SystemExit(f"{FAILED}{error}") from None
    except Exception as error:  # a tracker may raise anything; it is reported, and the run does not notice
        traceback.print_exc()
        raise SystemExit(f"{FAILED}{type(error).__name__}: {error}") from None


if __name__ == "__main__":
    typer.run(main)
