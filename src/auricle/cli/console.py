"""What verbs share of the terminal: errors, events, progress, tables, JSON."""

import ast
import contextlib
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from auricle.core.errors import AuricleError
from auricle.core.events import Event

LONG_AUDIO = 60.0
"""Seconds of audio from which on transcribing shows a bar."""
SECONDS_BETWEEN_LINES = 5.0
LONG_BYTES = 100_000_000
"""A transfer larger than this tells how far it is."""


def show_error(error: AuricleError) -> None:
    """One `error: …` line on stderr for each line of the message."""
    for line in str(error).splitlines() or [type(error).__name__]:
        print(f"error: {line}", file=sys.stderr)


def show_event(event: Event) -> None:
    """The event's line, where it has one for eyes."""
    from auricle.train.lines import line

    if text := line(event):
        print(text, flush=True)


@contextlib.contextmanager
def preparing() -> Iterator[Callable[[int, int, float], None]]:
    """Gives `report(rows done, rows in all, seconds of audio done)`, which draws a bar a data set on stderr.

    What was prepared before draws none; without a terminal each bar is one line, at its end.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar: Progress | None = None

    def report(done: int, rows: int, seconds: float) -> None:
        nonlocal bar
        if bar is None and done < rows:
            bar = Progress(TextColumn("Preparing"), BarColumn(), MofNCompleteColumn(), TextColumn("utterances,"),
                           TextColumn("{task.fields[hours]:.2f} h of audio"), TimeRemainingColumn(),
                           console=Console(stderr=True))
            bar.add_task("", total=rows, hours=0.0)
            bar.start()
        if bar is not None:
            bar.update(bar.task_ids[0], completed=done, hours=seconds / 3600)
            if done >= rows:
                bar.stop()
                bar = None

    try:
        yield report
    finally:
        if bar is not None:
            bar.stop()


@contextlib.contextmanager
def transcribing(seconds: float) -> Iterator[tuple[Callable[[float], None], Callable[[str], None]]]:
    """Gives `report(seconds of audio done)` and `show(line)`, for so much audio in all.

    With more than a minute of it, a terminal's stderr has a bar with the time left; lines go to stdout, clear of it.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    bar = Progress(TextColumn("Transcribing"), BarColumn(), TextColumn("{task.fields[done]:.1f} of"),
                   TextColumn(f"{seconds / 60:.1f} min of audio"), TimeRemainingColumn(), console=console,
                   transient=True, redirect_stdout=False, redirect_stderr=False, speed_estimate_period=600)
    bar.add_task("", total=seconds, done=0.0)
    drawn = console.is_terminal and seconds > LONG_AUDIO

    def report(done: float) -> None:
        bar.update(bar.task_ids[0], completed=done, done=done / 60)

    def show(line: str) -> None:
        if drawn:
            bar.stop()
        print(line, flush=True)
        if drawn:
            bar.start()

    if drawn:
        bar.start()
    try:
        yield report, show
    finally:
        if drawn:
            bar.stop()


def say(sentence: str) -> None:
    print(sentence, flush=True)


def transferring() -> Callable[[str, int, int], None]:
    """Gives `tell(what, bytes done, bytes in all or 0)`, which prints a line every few seconds of a long transfer."""
    said = time.monotonic()

    def tell(what: str, done: int, size: int) -> None:
        nonlocal said
        if max(done, size) > LONG_BYTES and time.monotonic() - said > SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            say(f"{what}: {done / 1e6:,.0f}{f' of {size / 1e6:,.0f}' if size else ''} MB")

    return tell


def show_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2))


def show_table(rows: Iterable[Mapping[str, Any]]) -> None:
    """Plain aligned columns, which stay readable in a pipe; the keys of the first row are the heads."""
    rows = [{key: "" if value is None else str(value) for key, value in row.items()} for row in rows]
    if not rows:
        return
    heads = list(rows[0])
    table = [heads, *([row.get(head, "") for head in heads] for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(heads))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def first_sentence(path: Path, function: str = "") -> str:
    """Of the docstring of a module, or of a function of it where there is one; read as text, so nothing is imported."""
    module = ast.parse(path.read_text(encoding="utf-8"))
    found = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == function]
    docstring = ast.get_docstring(found[0] if found else module) or ""
    paragraph = docstring.partition("\n\n")[0].replace("\n", " ")
    return re.split(r"(?<=\.)\s+(?=[A-Z])", paragraph)[0].rstrip(".")
