"""The numbers of a run for its report, each from the run's events."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median

from auricle.core.events import Event
from auricle.dashboard.numbers import UNKNOWN, count, decimal, duration, number, parameters, percent
from auricle.dashboard.runs import RunSummary, evaluated_with, last_value
from auricle.data.judge import FILTERS


@dataclass(frozen=True, slots=True)
class Fact:
    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """An evaluation as a table's row and as the headline."""

    dataset: str
    wer: str
    interval: str
    cer: str
    edits: str
    words: str
    utterances: str
    scope: str
    decoder: str
    empty: str
    """Share of utterances of which nothing was heard although something was said …"""
    stuck: str
    """… of those in which the same words come again and again …"""
    cut: str
    """… and of those that were cut off at the decoder's limit."""
    normalizer: str
    step: int
    hypotheses: str


def score(event: Event) -> Score:
    """The values of an `eval` event for reading."""
    values = event.values
    low, high = (percent(values.get(name)) for name in ("wer_low", "wer_high"))
    complete = values.get("complete", True)
    return Score(
        dataset=str(values.get("dataset") or "the evaluation set"),
        wer=percent(values.get("wer")), cer=percent(values.get("cer")),
        interval=UNKNOWN if UNKNOWN in (low, high) else f"{low.removesuffix(' %')} – {high}",
        edits=" / ".join(count(values.get(name)) for name in ("substitutions", "deletions", "insertions")),
        words=count(values.get("words")), utterances=count(values.get("utterances")),
        scope="whole set" if complete else "fixed random subset", decoder=str(values.get("decoder") or UNKNOWN),
        empty=percent(values.get("empty_rate")), stuck=percent(values.get("repetition_rate")),
        cut=percent(values.get("cut_rate")),
        normalizer=f"{values.get('normalizer') or UNKNOWN} {values.get('normalizer_version') or ''}".strip(),
        step=event.step, hypotheses=str(values.get("hypotheses") or ""))


def newest_scores(evaluations: Sequence[Event]) -> list[Event]:
    """Of each dataset, decoder and normaliser the newest evaluation; a complete one before one of a subset."""
    newest: dict[tuple[str, ...], Event] = {}
    for event in evaluations:
        key = (*evaluated_with(event), str(event.values.get("normalizer")))
        if event.values.get("complete", True) or not (key in newest and newest[key].values.get("complete", True)):
            newest[key] = event
    return list(newest.values())


def training_facts(summary: RunSummary, events: Sequence[Event], held: Sequence[Event]) -> list[Fact]:
    """Time, speed and cost of the training. Shares and speeds are medians over the logged rows."""
    saves = [seconds for event in events if event.kind == "save"
             if (seconds := number(event.values.get("seconds"))) is not None]
    heard = {event.stage: hours for event in held if event.kind == "train"
             if (hours := number(event.values.get("audio_hours"))) is not None}  # a stage counts its own
    facts = [
        Fact("Steps", _of(summary.step, summary.total_steps), f"{_last(held, 'train', 'epoch')} epochs"),
        Fact("Loss", decimal(summary.loss, 4), "last logged row"),
        Fact("Wall time", duration(summary.wall_seconds), _starts(events)),
        Fact("Audio heard", decimal(sum(heard.values()) if heard else None, 2, "hours")),
        Fact("Speed", decimal(_median(held, "audio_hours_per_hour"), 0, "hours of audio per hour")),
        Fact("Padding", decimal(_median(held, "padding_percent"), 2, "% of frames")),
        Fact("Waiting for data", decimal(_median(held, "data_wait_percent"), 1, "% of the time")),
        Fact("Evaluation", decimal(last_value(held, "eval", "share_of_wall_percent"), 1, "% of wall time")),
        Fact("Checkpoints", f"{len(saves)} saved", f"in {duration(sum(saves))}" if saves else ""),
        Fact("Safe on a mirror", UNKNOWN if summary.safe_step is None else f"step {count(summary.safe_step)}",
             "verified there" if summary.safe_step is not None else "no verified copy"),
        Fact("Cost", "$" + decimal(summary.cost, 2) if summary.cost is not None else UNKNOWN,
             "" if summary.cost is not None else "no training.price_per_hour given"),
    ]
    facts[2:2] = [_onset(event) for event in held if event.kind == "onset"]
    if summary.state == "running":
        facts.insert(3, Fact("Still to go", duration(last_value(held, "train", "eta_seconds")), "estimate"))
    return facts


def data_facts(held: Sequence[Event]) -> list[Fact]:
    """What was trained on, and how the plan cuts it into steps; of the newest stage."""
    return [
        Fact("Utterances", count(last_value(held, "derived", "utterances"))),
        Fact("Audio", decimal(last_value(held, "derived", "audio_hours"), 2, "hours")),
        Fact("Steps per epoch", count(last_value(held, "derived", "steps_per_epoch"))),
        Fact("Micro-batches per step", count(last_value(held, "derived", "micro_batches_per_step"))),
        Fact("Padding of the plan", decimal(last_value(held, "derived", "padding_percent"), 2, "% of frames")),
        Fact("Checkpoint size", decimal((last_value(held, "derived", "checkpoint_bytes") or 0) / 1e6, 1, "MB")),
    ]


def system_facts(events: Sequence[Event]) -> list[Fact]:
    """Mean and extreme of what the machine reported every ten seconds."""
    named = (("cpu_percent", "CPU", "%"), ("ram_gb", "Memory", "GB"), ("gpu_percent", "GPU", "%"),
             ("vram_gb", "GPU memory", "GB"))
    facts = []
    for name, label, unit in named:
        if values := _series(events, "system", name):
            facts.append(Fact(label, decimal(mean(values), 1, unit), f"at most {decimal(max(values), 1, unit)}"))
    if free := _series(events, "system", "disk_free_gb"):
        facts.append(Fact("Disk free", decimal(free[-1], 1, "GB"), f"at least {decimal(min(free), 1, 'GB')}"))
    return facts


def component_rows(held: Sequence[Event]) -> list[tuple[str, str, str, str]]:
    """(stage, its end, component, parameters that train in it)"""
    stages = {event.stage: event for event in held if event.kind == "stage"}
    return [(name, str(event.values.get("ends", "")), component, parameters(size))
            for name, event in stages.items() for component, size in dict(event.values.get("components") or {}).items()]


def rejected_rows(events: Sequence[Event]) -> list[tuple[str, str, str, int]]:
    """(dataset, reason, filtered or rejected, rows). Each start judges anew, so the newest one of a dataset counts."""
    counted: dict[str, tuple[int, Counter[str]]] = {}
    for event in events:
        if event.kind == "rejected":
            dataset = str(event.values.get("dataset") or "all data")
            segment, reasons = counted.get(dataset, (event.segment, Counter()))
            fresh = reasons if segment == event.segment else Counter()
            counted[dataset] = event.segment, fresh + Counter(event.values.get("count_by_reason") or {})
    return [(dataset, reason.replace("_", " "), "filtered" if reason in FILTERS else "rejected", rows)
            for dataset, (_, reasons) in counted.items() for reason, rows in reasons.most_common()]


def _onset(event: Event) -> Fact:
    before, after = (decimal(event.values.get(name), 2) for name in ("loss_before", "loss_after"))
    return Fact("Alignment onset", f"step {count(event.values.get('began'))}", f"loss {before} → {after}")


def _starts(events: Sequence[Event]) -> str:
    resumes = [f"{event.step:,}" for event in events if event.kind == "resume"]
    if resumes:
        return f"resumed from step {', '.join(resumes)}"
    starts = len({event.segment for event in events if event.kind == "train"})
    return "without interruption" if starts < 2 else f"started {starts} times"


def _of(part: int, whole: int | None) -> str:
    return f"{part:,} of {whole:,}" if whole else f"{part:,}"


def _last(held: Sequence[Event], kind: str, name: str) -> str:
    return decimal(last_value(held, kind, name), 2)


def _series(events: Sequence[Event], kind: str, name: str) -> list[float]:
    found = (number(event.values.get(name)) for event in events if event.kind == kind)
    return [value for value in found if value is not None]


def _median(held: Sequence[Event], name: str) -> float | None:
    values = _series(held, "train", name)
    return median(values) if values else None
