"""`auricle eval`: error rates of one model, or of two with a paired interval, on one data set."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from auricle.core.errors import DataError, UsageError, nearest


def evaluate(
    model: Annotated[str, typer.Argument(help="A run, checkpoint or exported folder, or a hub id.")],
    data: Annotated[
        str, typer.Option("--data", help="A manifest folder, or a data set of the run; the run's only one by default.")
    ] = "",
    split: Annotated[str, typer.Option("--split", help="Split of the manifest; `all` takes every row.")] = "test",
    decoder: Annotated[str, typer.Option("--decoder", help="Empty is the model's own.")] = "",
    normalizer: Annotated[str, typer.Option("--normalizer", help="none, basic, whisper_english or hebrew.")] = "basic",
    compare: Annotated[
        str, typer.Option("--compare", help="A second model: prints the paired 95 % interval of the difference.")
    ] = "",
    device: Annotated[str, typer.Option("--device", help="auto, cuda, mps or cpu.")] = "auto",
    batch_seconds: Annotated[float, typer.Option("--batch-seconds", help="Audio a batch, padding included.")] = 120.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Evaluate a model: corpus WER and CER with intervals, by source and by duration."""
    from auricle.data.manifest import Manifest

    folder = _data_folder(model, data)
    manifest = Manifest.open(folder)
    rows = manifest if split == "all" else manifest.where(split=split)
    if not len(rows):
        known = sorted(set(manifest.column("split")))
        raise DataError(f"--split: no utterance in split '{split}' of {folder}; {nearest(split, known)}")
    name = f"{data or folder.name}-{split}".replace("/", "_")
    results = [
        _run(which, name, rows, decoder, normalizer, device, batch_seconds) for which in filter(None, [model, compare])
    ]
    figures = [_figures(which, result) for which, result in zip([model, compare], results, strict=False)]
    _store(Path(model), name, figures[0], results[0])
    paired = _paired(results) if compare else None
    if as_json:
        print(json.dumps({"evaluations": figures, "difference": paired}, ensure_ascii=False))
    else:
        _show(figures, paired)


def _data_folder(model: str, data: str) -> Path:
    """A manifest folder as named, or the prepared folder of one of the run's data sets."""
    if data and (Path(data) / "manifest.parquet").is_file():
        return Path(data)
    run = Path(model) / "run.json"
    if not run.is_file():
        raise UsageError(
            f"--data: '{data}' is no manifest folder, and {model} is no run folder that would know data sets; "
            "prepare one with `auricle data prepare`"
        )
    from auricle.core.decode import decode_block
    from auricle.data.prepare import folder_of

    settings = json.loads(run.read_text(encoding="utf-8"))["config"]["data"]
    names = settings["datasets"]
    if not data and len(names) == 1:
        data = next(iter(names))
    if data not in names:
        raise UsageError(
            f"--data: '{data}' is neither a manifest folder nor a data set of {model}; {nearest(data, names)}"
        )
    if names[data]["manifest"]:
        return Path(names[data]["manifest"])
    return folder_of(
        decode_block("data.sources", names[data]["source"], str(run)), Path(settings["prepared_dir"]), data
    )


def _run(model: str, name: str, rows: Any, decoder: str, normalizer: str, device: str, batch_seconds: float) -> Any:
    from auricle.core.config import EvaluationConfig, TrainingConfig
    from auricle.core.decode import decode_model
    from auricle.data.plan import Budget
    from auricle.inference.load import open_model
    from auricle.train.engine import Engine
    from auricle.train.evaluate import evaluate

    assembly = open_model(model)
    if decoder and decoder not in assembly.task.decoders:
        raise UsageError(f"--decoder: no decoder '{decoder}'; {nearest(decoder, assembly.task.decoders)}")
    settings = {"max_steps": 1, "batch_seconds": batch_seconds, "device": device}
    engine = Engine(decode_model(TrainingConfig, settings, "auricle eval"))
    return evaluate(
        name,
        rows,
        assembly.task,
        assembly.model.to(engine.device),
        engine,
        EvaluationConfig(normalizer=normalizer, decoder=decoder),
        budget=Budget(seconds=batch_seconds),
    )


def _figures(model: str, result: Any) -> dict[str, Any]:
    from auricle.metrics.parts.groups import by_duration, by_group

    by_source = by_group((row.source, row.counts["wer"]) for row in result.scored)
    by_length = by_duration((row.seconds, row.counts["wer"]) for row in result.scored)
    rates = [
        {name: {"wer": counts.rate, "words": counts.reference} for name, counts in group.items()}
        for group in (by_source, by_length)
    ]
    return {"model": model, **result.summary(), "by_source": rates[0], "by_duration": rates[1]}


def _store(model: Path, name: str, figures: dict[str, Any], result: Any) -> None:
    """Beside the model: hypotheses, and one more line in evaluations.jsonl; a hub model leaves nothing behind."""
    if not model.is_dir():
        return
    from auricle.core.events import EventLog
    from auricle.train.evaluate import write_hypotheses

    path = model / "eval" / f"{name}-{result.decoder}.jsonl"
    write_hypotheses(path, result)
    log = EventLog(model / "eval" / "evaluations.jsonl", run=model.name)
    values = {key: value for key, value in figures.items() if key != "model"}
    log.write("eval", hypotheses=str(path.relative_to(model)), evaluated=time.strftime("%Y-%m-%d %H:%M:%S"), **values)
    log.close()


def _paired(results: list[Any]) -> dict[str, float] | None:
    from auricle.metrics.parts.bootstrap import paired_interval

    difference = paired_interval(results[0].counts("wer"), results[1].counts("wer"))
    return asdict(difference) if difference else None


def _show(figures: list[dict[str, Any]], paired: dict[str, float] | None) -> None:
    for figure in figures:
        print("\n".join(_lines(figure)))
    if paired:
        interval = f"[{paired['low']:+.2%}, {paired['high']:+.2%}]"
        print(f"difference (second − first): {paired['rate']:+.2%}, paired 95 % interval {interval}, "
              f"probability that the second is better {paired['improvement']:.0%}")


def _lines(figure: dict[str, Any]) -> Iterator[str]:
    low, high, hours = figure["wer_low"], figure["wer_high"], figure["audio_seconds"] / 3600
    interval = "" if low is None else f"  95 % interval [{low:.2%}, {high:.2%}]"
    yield f"{figure['model']} on {figure['dataset']} ({figure['utterances']} utterances, {hours:.2f} h)"
    yield f"  WER {figure['wer']:.2%}{interval}   CER {figure['cer']:.2%}"
    kinds = ", ".join(f"{kind} {figure[kind]}" for kind in ("substitutions", "deletions", "insertions"))
    yield f"  {kinds} of {figure['words']} words; empty hypotheses {figure['empty_hypotheses']}"
    speed = figure["audio_seconds"] / max(figure["seconds"], 1e-9)
    yield (f"  decoder {figure['decoder']}, normaliser {figure['normalizer']} {figure['normalizer_version']}, "
           f"{speed:.0f} × real time")
    for title in ("by_source", "by_duration"):
        for name, entry in figure[title].items():
            yield f"  {title.replace('_', ' ')} {name or '(none)'}: {entry['wer']:.2%} of {entry['words']} words"
    if figure["rejected"]:
        yield f"  counted as errors because unreadable: {figure['rejected']}"
