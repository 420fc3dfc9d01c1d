"""`auricle mirror`: verified copies of a run elsewhere, and runs back from them."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from auricle.cli.console import say, transferring
from auricle.core.errors import RunFolderError, UsageError

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None)


@app.command()
def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    to: Annotated[
        list[str] | None, typer.Option("--to", help="A target in place of the configured ones; repeatable.")] = None,
    keep: Annotated[int | None, typer.Option("--keep", min=1, help="Newest checkpoints to keep there.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on until the run has ended and all is there, failing or not.")] = False,
) -> None:
    """Bring the run's mirrors up to date: checkpoints, verified there, then logs and evaluations."""
    from auricle.store.mirror import Mirror
    from auricle.store.mirror_pusher import push_once

    config = _config(run)
    settings = config.get("mirror") or {}
    targets = to or settings.get("targets") or []
    repository = None if to else (config.get("training") or {}).get("hub_model_id")
    if not targets and not repository:
        raise UsageError(f"'{run}': no mirror target is configured; name one with --to URL, or in the experiment with "
                         "mirror.targets=[URL]")
    mirrors = [Mirror(run, target, keep=keep or settings.get("keep") or 2, report=say, progress=transferring())
               for target in targets]
    if follow:
        _follow(run, mirrors, repository)
        return
    for mirror in mirrors:
        push_once(mirror)
        print(f"{run}: up to date at {mirror.shown}")
    if repository:
        _hub_copy(run, repository).push(ended=True)


def _follow(run: Path, mirrors: list, repository: str | None) -> None:
    import os

    from auricle.store.mirror_pusher import NICE, push_forever
    from auricle.store.run_lock import is_locked

    def is_running() -> bool:
        return is_locked(run)

    os.nice(NICE)
    also = [lambda: _hub_copy(run, repository).follow(is_running)] if repository else []
    push_forever(mirrors, is_running, also)


def _hub_copy(run: Path, repository: str) -> Any:
    from auricle.dashboard.card import card
    from auricle.store.hub import HubCopy

    return HubCopy(run, repository, card=card, report=say)


@app.command()
def pull(
    url: Annotated[str, typer.Argument(metavar="URL", help="A target and the run's name, as `mirror status` shows.")],
    to: Annotated[Path | None, typer.Option("--to", help="The folder to make; outputs/NAME by default.")] = None,
) -> None:
    """Make a run folder of a mirror, for the run to go on here: the newest good checkpoint, the best one, the logs."""
    from auricle.store.mirror_restore import restore

    folder = to or Path("outputs") / url.rstrip("/").rpartition("/")[2]
    back = restore(url, None, folder, report=say, progress=transferring())
    print(f"{folder}: step {back.step}, {back.bytes / 1e6:,.1f} MB, all verified; the command that trained it goes on")


@app.command()
def verify(
    url: Annotated[str, typer.Argument(metavar="URL", help="A target and the run's name, as `mirror status` shows.")],
) -> None:
    """Verify every byte of a mirror where it lies; a damaged copy makes the exit code 1."""
    from auricle.store.mirror_restore import verified

    damaged, seen = 0, 0
    for name, wrong in verified(url):
        print(f"{name}  {wrong[0] if wrong else 'ok'}", flush=True)
        damaged, seen = damaged + bool(wrong), seen + 1
    if not seen:
        print(f"{url}: holds no checkpoint")
    if damaged:
        raise typer.Exit(1)


@app.command()
def probe(
    url: Annotated[str, typer.Argument(metavar="URL", help="A target, as in mirror.targets.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    secrets: Annotated[
        bool, typer.Option("--secrets", hidden=True, help="Read variables as JSON from standard input.")] = False,
) -> None:
    """Try a target: a megabyte goes there, is verified there and removed again."""
    import os
    import sys

    from auricle.cli.console import show_json
    from auricle.store.mirror_probe import PROBE_BYTES, probe
    from auricle.store.mirror_target import without_password

    if secrets:
        import json

        os.environ.update(json.load(sys.stdin))
    probed, shown = probe(url), without_password(url)
    if as_json:
        show_json({"target": shown, "bytes": PROBE_BYTES, "seconds": probed.seconds, "own_disk": probed.own_disk})
        return
    print(f"{shown}: {PROBE_BYTES / 1e6:.0f} MB went there, was verified there and removed, in {probed.seconds:.1f} s")
    if probed.own_disk:
        print("It lies on a disk of this machine, and is lost with it.")


@app.command()
def status(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """Show what each mirror of a run holds: newest verified step, what waits, failures."""
    from auricle.cli.console import show_json, show_table

    found = _standing(run)
    if as_json:
        show_json(found)
    elif found:
        show_table(map(_cells, found))
    else:
        print(f"{run}: no mirror; `auricle mirror push {run} --to URL` makes one")


def _standing(run: Path) -> list[dict[str, Any]]:
    """A row a mirror, the configured ones that were never reached among them."""
    from auricle.store.mirror import read_record, record_path
    from auricle.store.mirror_target import without_password
    from auricle.store.steps import step_of

    targets = (_config(run).get("mirror") or {}).get("targets") or []
    unreached = {record_path(run, target): without_password(target) for target in targets}
    rows = []
    for path in sorted({*unreached, *(run / "mirrors").glob("*.json")}):
        record = read_record(path)
        if record is None and path not in unreached:
            continue
        rows.append({
            "target": record.target if record else unreached[path],
            "verified_step": max(map(step_of, record.verified), default=None) if record else None,
            "pending": record.pending if record else [], "tries": record.tries if record else 0,
            "error": record.error if record else None,
            "age_seconds": time.time() - record.time if record and record.time else None})
    return [*rows, *_hub_standing(run)]


def _hub_standing(run: Path) -> list[dict[str, Any]]:
    from auricle.store.hub import read_record
    from auricle.store.steps import step_of

    record = read_record(run)
    if record is None:
        return []
    step = step_of(record.checkpoint) if record.checkpoint else None
    return [{"target": f"hub {record.repository}", "verified_step": step, "pending": [], "tries": record.tries,
             "error": record.error, "age_seconds": time.time() - record.time if record.time else None}]


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    from auricle.dashboard.numbers import UNKNOWN, duration

    age, step = row["age_seconds"], row["verified_step"]
    return {"target": row["target"], "verified step": UNKNOWN if step is None else step,
            "reached": "never" if age is None else f"{duration(age)} ago", "waiting": len(row["pending"]),
            "failures": row["tries"], "last error": row["error"] or ""}


def _config(run: Path) -> dict[str, Any]:
    """The run's configuration at its last start (mirrors may be others than at the first); empty for a folder of
    checkpoints without one. Raises RunFolderError."""
    import yaml

    if not run.is_dir():
        raise RunFolderError(f"'{run}': no such folder; expected a run folder, as outputs/NAME")
    try:
        return yaml.safe_load((run / "config.yaml").read_bytes()) or {}
    except FileNotFoundError:
        return {}
    except (yaml.YAMLError, AttributeError) as error:
        raise RunFolderError(f"{run / 'config.yaml'}: not readable as YAML ({error})") from None
