"""`auricle eval`: error rates of one model, or of two with a paired interval, on one data set."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from auricle.cli.console import show_table
from auricle.core.config import ALL
from auricle.core.errors import DataError, UsageError, nearest
from auricle.metrics import Counts

if TYPE_CHECKING:
    from auricle.tasks.parts.assembly import Assembly


def evaluate(
    model: Annotated[str, typer.Argument(help="A run, checkpoint or exported folder, or a hub id.")],
    data: Annotated[
        str, typer.Option("--data", help="A manifest folder, or a data set of the run; the run's only one by default.")
    ] = "",
    split: Annotated[str, typer.Option("--split", help="Split of the manifest; `all` takes every row.")] = "test",
    decoder: Annotated[
        str, typer.Option("--decoder", help="Empty is the model's own; `all` sets every one beside the others.")
    ] = "",
    normalizer: Annotated[str, typer.Option("--normalizer", help="none, basic, whisper_english or hebrew.")] = "basic",
    compare: Annotated[
        str, typer.Option("--compare", help="A second model: prints the paired 95 % interval of the difference.")
    ] = "",
    hotwords: Annotated[
        Path | None, typer.Option("--hotwords", help="A file with a phrase a line, which beams are to prefer.")
    ] = None,
    hotword_bonus: Annotated[
        float | None, typer.Option("--hotword-bonus", min=0.0, help="What each label of a phrase adds, in nats.")
    ] = None,
    chunk_seconds: Annotated[
        float | None, typer.Option("--chunk-seconds", help="The model hears chunks of this length, as in a stream.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cuda, mps or cpu.")] = "auto",
    batch_seconds: Annotated[float, typer.Option("--batch-seconds", help="Audio a batch, padding included.")] = 120.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Evaluate a model: corpus WER and CER with intervals, by source and by duration."""
    from auricle.data.manifest import Manifest

    if compare and decoder == ALL:
        raise UsageError("--compare: sets two models beside each other, and --decoder all the decoders of one; leave "
                         "out one of the two")
    decoding = Decoding(decoder, hotwords, hotword_bonus, chunk_seconds)
    folder = _data_folder(model, data)
    manifest = Manifest.open(folder)
    rows = manifest if split == "all" else manifest.where(split=split)
    if not len(rows):
        known = sorted(set(manifest.column("split")))
        raise DataError(f"--split: no utterance in split '{split}' of {folder}; {nearest(split, known)}")
    name = f"{data or folder.name}-{split}".replace("/", "_")
    results = [
        (which, result)
        for which in filter(None, [model, compare])
        for result in _run(which, name, rows, decoding, normalizer, device, batch_seconds)
    ]
    figures = [_figures(which, result) for which, result in results]
    for (which, result), figure in zip(results, figures, strict=True):
        if which == model:
            _store(Path(model), name, figure, result)
    difference = _difference(results, of_models=decoder != ALL)
    if as_json:
        print(json.dumps({"evaluations": figures, "difference": difference}, ensure_ascii=False))
    else:
        _show(figures, difference, of_models=decoder != ALL)


@dataclass(frozen=True)
class Decoding:
    """How the models are to be asked."""

    decoder: str
    hotwords: Path | None
    hotword_bonus: float | None
    chunk_seconds: float | None

    def __call__(self, assembly: "Assembly") -> "Assembly":
        """The same model with a task that decodes in this way. Raises UsageError."""
        from auricle.inference.hotwords import with_hotwords

        known = assembly.task.decoders
        if self.decoder not in (*known, ALL, ""):
            raise UsageError(f"--decoder: no decoder '{self.decoder}'; {nearest(self.decoder, (*known, ALL))}")
        if self.chunk_seconds is not None:
            assembly = _in_chunks(assembly, self.chunk_seconds)
        return with_hotwords(assembly, self.hotwords, self.hotword_bonus, self.decoder)


def _in_chunks(assembly: "Assembly", seconds: float) -> "Assembly":
    from auricle.models.voxformer.config import chunk_frames

    config = assembly.task_config
    if not hasattr(config, "chunk_seconds"):
        raise UsageError(f"--chunk-seconds: the task '{config.kind}' hears whole utterances alone; leave it out")
    try:
        chunk_frames(seconds)
    except ValueError as error:
        raise UsageError(f"--chunk-seconds: {error}") from None
    return assembly.for_task(config.model_copy(update={"chunk_seconds": seconds}), assembly.tokenizer)


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


def _run(model: str, name: str, rows: Any, decoding: Decoding, normalizer: str, device: str,
         batch_seconds: float) -> Sequence[Any]:
    """One evaluation a decoder, that of the default one first."""
    from auricle.core.config import EvaluationConfig, TrainingConfig
    from auricle.core.decode import decode_model
    from auricle.data.plan import Budget
    from auricle.inference.load import open_model
    from auricle.tasks.parts.media import refuse_other_media
    from auricle.train.engine import Engine
    from auricle.train.evaluate import evaluate

    assembly = open_model(model)
    refuse_other_media(assembly.task.frontend, rows.layouts, f"--data: {rows.folder}")
    assembly = decoding(assembly)
    settings = {"max_steps": 1, "batch_seconds": batch_seconds, "device": device}
    engine = Engine(decode_model(TrainingConfig, settings, "auricle eval"))
    return evaluate(
        name,
        rows,
        assembly.task,
        assembly.model.to(engine.device),
        engine,
        EvaluationConfig(normalizer=normalizer, decoder=decoding.decoder),
        budget=Budget(seconds=batch_seconds),
    ) or ()


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


def _difference(results: Sequence[tuple[str, Any]], *, of_models: bool) -> dict[str, Any] | None:
    """Of two models, the second less the first; of the decoders of one model, its own less the best of the others."""
    from auricle.metrics.parts.bootstrap import paired_interval

    if len(results) < 2:
        return None
    if of_models:
        (against, base), (of, judged) = results
    else:
        (_, judged), *others = results
        base = min((other for _, other in others), key=lambda other: sum(other.counts("wer"), Counts()).rate)
        of, against = judged.decoder, base.decoder
    found = paired_interval(base.counts("wer"), judged.counts("wer"))
    return {"of": of, "against": against, **asdict(found)} if found else None


def _show(figures: Sequence[dict[str, Any]], difference: dict[str, Any] | None, *, of_models: bool) -> None:
    for figure in figures if of_models else figures[:1]:
        print("\n".join(_lines(figure)))
    if not of_models and len(figures) > 1:
        print()
        show_table(map(_row, figures))
        print()
    if difference:
        judged = difference["of"]
        interval = f"[{difference['low']:+.2%}, {difference['high']:+.2%}]"
        first, second = ("first", "second") if of_models else (f"{difference['against']}, the best other", judged)
        print(f"difference ({second} − {first}): {difference['rate']:+.2%}, paired 95 % interval {interval}, "
              f"probability that {'the second' if of_models else judged} is better {difference['improvement']:.0%}")


def _row(figure: Mapping[str, Any]) -> dict[str, str]:
    """A decoder's line of the table."""
    return {"decoder": figure["decoder"], "WER": f"{figure['wer']:.2%}", "95 % interval": _interval(figure),
            "CER": f"{figure['cer']:.2%}", "empty": f"{figure['empty_rate']:.2%}",
            "stuck": f"{figure['repetition_rate']:.2%}",
            "cut": f"{figure['cut_rate']:.2%}" if "cut_rate" in figure else "",
            "× real time": f"{_speed(figure):.0f}"}


def _interval(figure: Mapping[str, Any]) -> str:
    low, high = figure["wer_low"], figure["wer_high"]
    return "" if low is None else f"[{low:.2%}, {high:.2%}]"


def _speed(figure: Mapping[str, Any]) -> float:
    return figure["audio_seconds"] / max(figure["seconds"], 1e-9)


def _lines(figure: dict[str, Any]) -> Iterator[str]:
    hours, interval = figure["audio_seconds"] / 3600, _interval(figure)
    yield f"{figure['model']} on {figure['dataset']} ({figure['utterances']} utterances, {hours:.2f} h)"
    yield f"  WER {figure['wer']:.2%}{interval and f'  95 % interval {interval}'}   CER {figure['cer']:.2%}"
    kinds = ", ".join(f"{kind} {figure[kind]}" for kind in ("substitutions", "deletions", "insertions"))
    yield f"  {kinds} of {figure['words']} words"
    cut = f", cut off {figure['cut_rate']:.2%}" if "cut_rate" in figure else ""
    yield f"  utterances empty {figure['empty_rate']:.2%}, stuck in a loop {figure['repetition_rate']:.2%}{cut}"
    yield (f"  decoder {figure['decoder']}, normaliser {figure['normalizer']} {figure['normalizer_version']}, "
           f"{_speed(figure):.0f} × real time")
    for title in ("by_source", "by_duration"):
        for name, entry in figure[title].items():
            yield f"  {title.replace('_', ' ')} {name or '(none)'}: {entry['wer']:.2%} of {entry['words']} words"
    if figure["rejected"]:
        yield f"  counted as errors because unreadable: {figure['rejected']}"
