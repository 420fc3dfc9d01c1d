"""`auricle data`: prepare a corpus, and look at what was prepared."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from auricle.core.errors import DataError, UsageError

if TYPE_CHECKING:
    from auricle.data.manifest import Manifest

REJECTIONS_SHOWN = 20

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None)


@app.command()
def prepare(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A source, as fsdd; `auricle list sources` has all.")],
    to: Annotated[Path, typer.Option("--to", help="The folder to make.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="Its keys, as folder=corpus/fsdd.")
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Processes; one a core by default.")] = None,
    max_rejected: Annotated[
        float, typer.Option("--max-rejected", help="Fraction of damaged rows to put up with.")
    ] = 0.01,
) -> None:
    """Prepare a corpus: decode, judge and measure every utterance, then publish a manifest."""
    from auricle.cli.console import preparing
    from auricle.core.decode import decode_block
    from auricle.data.prepare import prepare

    values = {"kind": source, **_mapping(settings or [])}
    config = decode_block("data.sources", values, f"auricle data prepare {source}")
    with preparing() as progress:
        manifest = prepare(config, to, workers=workers, max_rejected=max_rejected, progress=progress)
    print(
        f"{to}: {len(manifest)} utterances, {manifest.summary['hours']:.2f} h, "
        f"{len(manifest.rejections)} filtered or rejected; `auricle data inspect {to}` shows more"
    )


def _mapping(settings: list[str]) -> dict[str, Any]:
    """`["text.file=a.txt", "pitch=[30, 70]"]` → nested keys with YAML values."""
    from omegaconf import OmegaConf
    from yaml import YAMLError

    for text in settings:
        if not text.partition("=")[0] or "=" not in text:
            raise UsageError(f"'{text}' is no setting; expected KEY=VALUE, as folder=corpus/fsdd")
        try:
            OmegaConf.from_dotlist([text])
        except YAMLError:
            raise UsageError(f"'{text}' has a value that is no YAML; expected text, a number, a list …") from None
    return cast("dict[str, Any]", OmegaConf.to_container(OmegaConf.from_dotlist(settings)))


@app.command()
def inspect(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="A prepared folder.")],
    verified: Annotated[
        bool, typer.Option("--verify", help="Read every file again, and tell those that are not what they were.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary and all rejections as JSON.")] = False,
) -> None:
    """Show what a manifest holds: hours, splits, lengths, languages, alphabet, and what was left out and why."""
    from auricle.cli.console import show_json
    from auricle.data.manifest import Manifest
    from auricle.data.verify import verify

    found = Manifest.open(manifest)
    damaged = verify(found) if verified else []
    if as_json:
        rejections = [{"id": r.id, "reason": r.reason, "detail": r.detail} for r in found.rejections]
        show_json({**found.summary, "rejections": rejections, "damaged": [asdict(one) for one in damaged]})
    else:
        _show(found)
    if verified and not as_json:
        print(f"verified   {len(found) - len(damaged)} of {len(found)} files")
    if damaged:
        raise DataError(f"{manifest}: {len(damaged)} of {len(found)} files are not what was prepared; first: "
                        f"{'; '.join(f'{one.file} is {one.what}' for one in damaged[:3])}. Fetch them again")


def _show(manifest: "Manifest") -> None:
    from auricle.cli.console import show_table

    summary = manifest.summary
    print(
        f"{manifest.folder}: {summary['utterances']} utterances, {summary['hours']:.2f} h, "
        f"{summary['speakers']} speakers"
    )
    print(f"source {summary['source']['kind']}, fingerprint {summary['fingerprint']}\n")
    show_table({"split": name, **entry, "hours": f"{entry['hours']:.2f}"} for name, entry in summary["splits"].items())
    for layout in filter(None, manifest.layouts):
        print(f"\nfeatures   {layout.width} values, {layout.frame_rate:g} frames a second")
    print(f"\nseconds    {_listed(summary['seconds'])}")
    print(f"languages  {_listed({name or 'unknown': count for name, count in summary['languages'].items()})}")
    print(f"alphabet   {len(summary['alphabet'])} characters: {summary['alphabet']!r}")
    print(f"filtered   {_listed(summary['filtered']) or 'none'}")
    print(f"rejected   {_listed(summary['rejected']) or 'none'}")
    _show_rejections(manifest)


def _show_rejections(manifest: "Manifest") -> None:
    from auricle.cli.console import show_table

    if manifest.rejections:
        print()
        show_table({"id": r.id, "reason": r.reason, "detail": r.detail} for r in manifest.rejections[:REJECTIONS_SHOWN])
    if (more := len(manifest.rejections) - REJECTIONS_SHOWN) > 0:
        print(f"… and {more} more; --json lists all")


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


@app.command()
def plan(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="A prepared folder.")],
    split: Annotated[str, typer.Option("--split", help="The split to plan.")] = "train",
    batch_seconds: Annotated[
        float, typer.Option("--batch-seconds", help="Audio a micro-batch, padding included.")
    ] = 120.0,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="At most so many utterances a micro-batch.")
    ] = None,
    micro_batches: Annotated[int, typer.Option("--micro-batches", help="Micro-batches a step, over all ranks.")] = 1,
    seed: Annotated[int, typer.Option("--seed")] = 42,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Show what an epoch would be: steps, utterances a step, padding, beside batches at random."""
    from auricle.cli.console import show_json
    from auricle.data.manifest import Manifest
    from auricle.data.plan import Budget, plan

    found = Manifest.open(manifest).where(split=split)
    if not len(found):
        raise UsageError(
            f"--split: no utterance in split '{split}' of {manifest}; `auricle data inspect {manifest}` lists them"
        )
    budget = Budget(seconds=batch_seconds, utterances=batch_size, micro_batches=micro_batches)
    figures = _planned(found.seconds, plan(found.seconds, seed=seed, epoch=0, budget=budget, groups=found.groups), seed)
    if as_json:
        show_json(figures)
    else:
        print("\n".join(f"{name.replace('_', ' '):28} {value:,}" for name, value in figures.items()))


def _planned(seconds: Any, made: Any, seed: int) -> dict[str, float]:
    from auricle.data.draws import permutation

    size = max(1, round(len(seconds) / made.micro_batches))
    order = permutation(len(seconds), seed, "batches at random")
    batches = [seconds[order[first : first + size]] for first in range(0, len(order), size)]
    padded = sum(float(batch.max()) * len(batch) for batch in batches)
    return {
        "utterances": len(seconds),
        "audio_hours": round(float(seconds.sum()) / 3600, 3),
        "steps": made.steps,
        "micro_batches": made.micro_batches,
        "utterances_a_micro_batch": round(len(seconds) / made.micro_batches, 1),
        "longest_seconds": round(float(seconds.max()), 2),
        "padding_percent": round(100 * made.padding(seconds), 2),
        "padding_percent_at_random": round(100 * (1 - float(seconds.sum()) / padded), 2),
    }
