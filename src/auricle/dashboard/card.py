"""The model card: the README.md of a hub repository, with its head, from what the run measured.

Every number is one of the run's events, up to the checkpoint that the card is about. What is not known is left out.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from auricle.core.events import Event, current, read
from auricle.dashboard import facts
from auricle.dashboard.numbers import UNKNOWN, count, decimal, number
from auricle.dashboard.runs import about, last_value, summarise
from auricle.store import steps

USAGE = """\
```bash
auricle transcribe {repository} recording.wav
```

```python
import auricle.inference.auto
from transformers import AutoModel

text = AutoModel.from_pretrained("{repository}").transcribe(samples, sampling_rate=16_000)
```
"""
PIPELINE = "automatic-speech-recognition"
SHOWN = ("Steps", "Loss", "Alignment onset", "Wall time", "Audio heard", "Speed", "Cost")
"""Of the report's facts about training."""
REACHED = ("train", "eval", "save")
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
HUB_DATA = re.compile(r"hf://datasets/([^/@]+/[^/@]+)")
LANGUAGE = re.compile(r"[a-z]{2,3}")
"""Codes of ISO 639, all that the hub takes."""


def card(run_folder: Path, checkpoint: Path, repository: str, usage: str = USAGE) -> str:
    """README.md of the model of a checkpoint; `usage` says how to load it, with `{repository}` where its name goes."""
    step = steps.step_of(checkpoint.name)
    events = _until(list(read(run_folder / "events.jsonl")), step)
    held = current(events)
    summary = summarise(run_folder, events, events[-1].time if events else 0.0)
    started = next((event.values for event in reversed(held) if event.kind == "run"), {})
    config, record = started.get("config") or {}, about(run_folder)
    parts = json.loads((checkpoint / steps.CONFIG).read_bytes()).get("parts", {})
    evaluations = facts.newest_scores([event for event in held if event.kind == "eval" and event.step == step])
    head = {"config": config, "parts": parts, "evaluations": evaluations, "data": _data(held)}
    pages = Environment(loader=PackageLoader("auricle", "dashboard/templates"), undefined=StrictUndefined,
                        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    pages.filters["cell"] = _cell
    return pages.get_template("card.md.j2").render(
        head=_head(summary.name, **head),
        name=summary.name,
        step=count(step),
        experiment=record.get("experiment") or "",
        device=started.get("device"),
        scores=[facts.score(event) for event in evaluations],
        usage=usage.replace("{repository}", repository).strip(),
        origins=[(name, part["hub"], part["revision"]) for name, part in parts.items() if "hub" in part],
        parameters=count(last_value(held, "stage", "parameters")),
        stages=list(_stages(held)),
        data=[(name, _hub_data(config, name), *_amounts(values)) for name, values in head["data"].items()],
        training=[fact for fact in facts.training_facts(summary, events, held)
                  if fact.label in SHOWN and fact.value != UNKNOWN],
        command=str(record.get("command") or ""),
        versions=dict(started.get("versions") or record.get("versions") or {}),
        git=record.get("git"),
        unknown=UNKNOWN,
    )


def _until(events: Sequence[Event], step: int) -> Sequence[Event]:
    """What was done for the checkpoint; it owes nothing to what came later."""
    last = max((place for place, event in enumerate(events) if event.kind in REACHED and event.step <= step), default=0)
    return events[: last + 1]


def _head(name: str, config: Mapping[str, Any], parts: Mapping[str, Any], evaluations: Sequence[Event],
          data: Mapping[str, Mapping[str, Any]]) -> str:
    """The YAML that the hub reads."""
    results = [result for event in evaluations for result in _results(event, config)]
    languages = {language for values in data.values() for language in values.get("languages", ())}
    datasets = dict.fromkeys(filter(None, (_hub_data(config, name) for name in _datasets(config))))
    return ModelCardData(
        library_name="auricle",
        pipeline_tag=PIPELINE,
        language=sorted(filter(LANGUAGE.fullmatch, languages)) or None,
        base_model=_bases(config, parts) or None,
        datasets=list(datasets) or None,
        tags=list(filter(None, ["auricle", (config.get("model") or {}).get("kind")])),
        metrics=sorted({result.metric_type for result in results}) or None,
        **({"model_name": name, "eval_results": results} if results else {}),
    ).to_yaml()


def _results(event: Event, config: Mapping[str, Any]) -> Iterator[EvalResult]:
    """Rates in per cent, as the hub shows them."""
    values, name = event.values, str(event.values.get("dataset"))
    ends = [round(100 * end, 2) for key in ("wer_low", "wer_high") if (end := number(values.get(key))) is not None]
    judged = facts.score(event)
    for metric, more in (("wer", {"interval_95": ends} if len(ends) == 2 else {}), ("cer", {})):
        rate = number(values.get(metric))
        if rate is not None and math.isfinite(rate):
            yield EvalResult(
                task_type=PIPELINE, dataset_type=_hub_data(config, name) or name, dataset_name=name,
                dataset_split=(_datasets(config).get(name) or {}).get("eval_split"), metric_type=metric,
                metric_name=metric.upper(), metric_value=round(100 * rate, 2),
                metric_args={"normalizer": judged.normalizer, "decoder": judged.decoder, **more})


def _bases(config: Mapping[str, Any], parts: Mapping[str, Any]) -> list[str]:
    """Hub models that this one is made of, whether or not they were trained further."""
    named = [part["hub"] for part in parts.values() if "hub" in part] + _pretrained(config.get("model"))
    return list(dict.fromkeys(name for name in named if HUB_ID.fullmatch(name) and not Path(name).exists()))


def _pretrained(block: Any) -> list[str]:
    if not isinstance(block, Mapping):
        return []
    own = [block["pretrained"]] if isinstance(block.get("pretrained"), str) else []
    return own + [name for inner in block.values() for name in _pretrained(inner)]


def _datasets(config: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    return (config.get("data") or {}).get("datasets") or {}


def _hub_data(config: Mapping[str, Any], name: str) -> str:
    """The hub's name of a data set, empty where it is not from there."""
    found = HUB_DATA.search(json.dumps(_datasets(config).get(name)))
    return found[1] if found else ""


def _data(held: Sequence[Event]) -> dict[str, Mapping[str, Any]]:
    """Data set that was trained on → its utterances, hours and languages; each start of the run says it anew."""
    return {str(event.values["dataset"]): event.values for event in held if event.kind == "data"}


def _amounts(values: Mapping[str, Any]) -> tuple[str, str, str]:
    return (count(values.get("utterances")), decimal(values.get("audio_hours"), 2),
            ", ".join(values.get("languages", ())) or UNKNOWN)


def _stages(held: Sequence[Event]) -> Iterator[tuple[str, str, str, str, str]]:
    """(stage, what trains in it with its parameters, utterances, hours of audio, end)"""
    derived = {event.stage: event.values for event in held if event.kind == "derived"}
    for name, event in {event.stage: event for event in held if event.kind == "stage"}.items():
        numbers = derived.get(name, {})
        trained = ", ".join(f"{component} {count(size)}" for component, size in event.values["components"].items())
        yield (name, trained, count(numbers.get("utterances")), decimal(numbers.get("audio_hours"), 2),
               str(event.values.get("ends") or UNKNOWN))


def _cell(value: Any) -> str:
    """Text in a table."""
    return " ".join(str(value).split()).replace("|", r"\|")
