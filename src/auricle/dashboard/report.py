"""`report.html`: how a run stands, in one page that needs no other file and no network.

Every number is one of the run's events; transcripts come from the evaluation files that those name.
"""

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from auricle.core.errors import RunFolderError
from auricle.core.events import Event, current, read
from auricle.dashboard import facts, plot
from auricle.dashboard.curves import from_history
from auricle.dashboard.numbers import UNKNOWN, count, percent
from auricle.dashboard.runs import RunSummary, about, lead_evaluations, summarise
from auricle.dashboard.trainer_state import log_history
from auricle.dashboard.transcripts import Clips, Utterance, Words, differences, read_hypotheses, worst_and_best
from auricle.metrics import Counts
from auricle.metrics.parts.groups import by_duration, by_group
from auricle.store.directory import write_text

TRANSCRIPTS_EACH = 6
AUDIO_BYTES = 5_000_000
"""Of all clips together, as they stand in the page."""
ENDS = ("max_steps", "num_train_epochs", "max_audio_hours", "max_wall_hours")


@dataclass(frozen=True, slots=True)
class Transcript:
    utterance: Utterance
    words: list[Words]
    audio: str
    """A data: address, or empty."""
    missing: str
    """Why there is no audio."""


@dataclass(frozen=True, slots=True)
class Command:
    purpose: str
    line: str


def write_report(run_folder: Path, to: Path | None = None) -> Path:
    """Writes the report of a run, finished or not, to RUN/report.html or `to`; returns where it is.

    Raises RunFolderError where there is no run, and where the file cannot be written.
    """
    events = list(read(run_folder / "events.jsonl"))
    if not events:
        raise RunFolderError(f"{run_folder}: no events.jsonl with events; expected the folder of a run, "
                             "for example outputs/quickstart; `auricle runs` lists them")
    target = to or run_folder / "report.html"
    page = render(run_folder, events)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text(target, page)
    except OSError as error:
        raise RunFolderError(f"{target}: cannot be written ({error.strerror}); name another file with --to") from None
    return target


def render(run_folder: Path, events: Sequence[Event]) -> str:
    """The page as text. The only unescaped parts are our own template and matplotlib's SVG."""
    pages = Environment(loader=PackageLoader("auricle", "dashboard/templates"), autoescape=True,
                        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return pages.get_template("report.html.j2").render(describe(run_folder, events))


def describe(run_folder: Path, events: Sequence[Event]) -> dict[str, Any]:
    """What the template shows."""
    held = current(events)
    summary = summarise(run_folder, events, time.time())
    scores = _scores(run_folder, held)
    headline = scores[0] if scores else None
    utterances = read_hypotheses(run_folder / headline.hypotheses) if headline and headline.hypotheses else []
    worst, best = _transcripts(run_folder, utterances)
    record = about(run_folder)
    started = next((event.values for event in reversed(events) if event.kind == "run"), {})
    return {
        "summary": summary,
        "started": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(summary.started)),
        "experiment": record.get("experiment") or "",
        "device": started.get("device"),
        "world": started.get("world"),
        "headline": headline,
        "scores": scores,
        "charts": [(panel.title, Markup(plot.svg(panel))) for panel in _panels(summary.name, held)],
        "worst": worst,
        "best": best,
        "groups": _groups(utterances),
        "training": facts.training_facts(summary, events, held),
        "data": facts.data_facts(held),
        "system": facts.system_facts(events),
        "components": facts.component_rows(held),
        "rejected": facts.rejected_rows(events),
        "alarms": [str(event.values.get("message", "")) for event in events if event.kind == "alarm"],
        "commands": commands(run_folder, summary, record, started.get("config") or {},
                             saved=any(event.kind == "save" for event in held)),
        "config": _config_text(run_folder, started),
        "versions": dict(started.get("versions") or record.get("versions") or {}),
        "git": record.get("git"),
        "events": count(len(events)),
        "unknown": UNKNOWN,
    }


def _scores(run_folder: Path, held: Sequence[Event]) -> list[facts.Score]:
    """First the one that stands for the run, then the other newest ones, with those of `auricle eval`."""
    lead = facts.newest_scores(lead_evaluations(held))[:1]
    later = list(read(run_folder / "eval" / "evaluations.jsonl"))
    newest = facts.newest_scores([event for event in (*held, *later) if event.kind == "eval"])
    return [facts.score(event) for event in (*lead, *(event for event in newest if event not in lead))]


def _panels(name: str, held: Sequence[Event]) -> list[plot.Panel]:
    return plot.panels([from_history(name, log_history(held))])


def _transcripts(run_folder: Path, utterances: Sequence[Utterance]) -> tuple[list[Transcript], list[Transcript]]:
    clips = Clips(run_folder, AUDIO_BYTES)
    worst, best = worst_and_best(utterances, TRANSCRIPTS_EACH)
    return [_transcript(row, clips) for row in worst], [_transcript(row, clips) for row in best]


def _transcript(row: Utterance, clips: Clips) -> Transcript:
    return Transcript(row, differences(row.reference, row.hypothesis), *clips.embed(row))


def _groups(utterances: Sequence[Utterance]) -> list[tuple[str, list[tuple[str, str, float, str]]]]:
    """(title, rows of (name, WER, WER as a bar's length in per cent, words))"""
    by_source = by_group((row.source or "(no source named)", row.counts) for row in utterances)
    by_length = by_duration((row.seconds, row.counts) for row in utterances)
    named = (("By source", by_source), ("By duration", by_length))
    return [(title, [_bar(name, counts) for name, counts in groups.items()]) for title, groups in named if groups]


def _bar(name: str, counts: Counts) -> tuple[str, str, float, str]:
    return name, percent(counts.rate), round(100 * min(1.0, counts.rate), 2), count(counts.reference)


def commands(run_folder: Path, summary: RunSummary, record: Mapping[str, Any],
             config: Mapping[str, Any], *, saved: bool) -> list[Command]:
    """What can be typed next, as it must be typed; `saved` where there is a checkpoint, so a model to use."""
    folder = shlex.quote(str(run_folder))
    found = []
    if saved:
        found += [Command("Transcribe a recording", f"auricle transcribe {folder} RECORDING.wav"),
                  Command("Evaluate it on other data", f"auricle eval {folder} --data MANIFEST")]
    typed = str(record.get("command") or "")
    if typed and summary.state != "finished":
        found.append(Command("Go on where it stopped", typed))
    elif typed and (longer := _twice_as_long(typed, config)):
        found.append(Command("Train it twice as long, going on from here", longer))
    return [*found, Command("Compare its curves with another run's", f"auricle plot {folder} OTHER --to curves.png")]


def _twice_as_long(command: str, config: Mapping[str, Any]) -> str:
    """The same command with each end of its only stage doubled; empty for a run of several stages."""
    training = config.get("training") or {}
    ends = {f"training.{name}": 2 * training[name] for name in ENDS if training.get(name)}
    if config.get("stages") or not ends:
        return ""
    kept = [word for word in shlex.split(command) if word.lstrip("+").partition("=")[0] not in ends]
    return shlex.join([*kept, *(f"{name}={amount}" for name, amount in ends.items())])


def _config_text(run_folder: Path, started: Any) -> str:
    """As config.yaml has it, with the overrides as typed; else as the run's first event has it."""
    path = run_folder / "config.yaml"
    if path.is_file():
        return path.read_text(encoding="utf-8", errors="replace")
    config = started.get("config")
    return json.dumps(config, indent=2, ensure_ascii=False) if config else ""
