"""A run folder on an empty machine, from a mirror: the newest good checkpoint, the best one, and all small files."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import xxhash

from auricle.core.errors import RunFolderError
from auricle.store import directory, steps
from auricle.store.mirror import BEST, CHECKPOINTS, Report, Transfer, best_of, is_checkpoint, parts_at
from auricle.store.mirror_target import connect
from auricle.store.targets import BrokenOff, MirrorError, Target
from auricle.store.targets.parts import transfer

REMOVED = "it was removed"
"""While it was being fetched: its run goes on, and keeps the newest few."""


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What came back."""

    step: int
    """Of the newest checkpoint."""
    bytes: int


def restore(base: str, run_name: str | None, run_folder: Path, *, report: Report, progress: Transfer) -> Restored:
    """Makes `run_folder` of the mirror `base`/`run_name` (without a name, `base` is the run's own folder there).

    All is fetched into a folder beside and renamed at the end; a restore that broke off goes on where it was. A copy
    that is damaged there is passed over for the next older one, with a report. Raises RunFolderError for a folder that
    is not empty, MirrorError for a target that fails or holds no good checkpoint.
    """
    target = connect(f"{base.rstrip('/')}/{run_name}" if run_name else base.rstrip("/"))
    if run_folder.exists() and (not run_folder.is_dir() or any(run_folder.iterdir())):
        raise RunFolderError(f"'{run_folder}': is not empty; expected a folder to make. Choose another with --to DIR, "
                             "or move this one away")
    tag = xxhash.xxh3_64_hexdigest(target.url.encode())[:8]
    aside = run_folder.parent / f"{transfer.INCOMING}{run_folder.resolve().name}-{tag}"
    aside.mkdir(parents=True, exist_ok=True)
    newest = fetch_newest(target, aside, report, progress)
    best = f"{CHECKPOINTS}/{best_of(target.read(BEST))}"
    exposed = best if best == newest or fetched_best(target, best, aside, report, progress) else newest
    target.get_files(aside)
    size = sum(path.stat().st_size for path in aside.rglob("*") if path.is_file())
    finish(aside, newest, exposed)
    aside.rename(run_folder)
    directory.sync_directory(run_folder.parent)
    return Restored(step=steps.step_of(newest.rpartition("/")[2]), bytes=size)


def verified(url: str) -> Iterator[tuple[str, list[str]]]:
    """Each directory that a mirrored run holds at its URL, with what is wrong with it there; parts that a checkpoint
    names and that are missing count. Raises MirrorError."""
    target = connect(url.rstrip("/"))
    held = target.held()
    for name in sorted(held):
        wrong = target.problems(name)
        if not wrong and is_checkpoint(name):
            wrong = [f"{part} is missing" for part in sorted(parts_at(target, name) - held.keys())]
        yield name, wrong


def fetch_newest(target: Target, aside: Path, report: Report, progress: Transfer) -> str:
    """→ the newest checkpoint of the target that verifies, which is here now with its parts."""
    passed_over: set[str] = set()
    while True:
        held = {name: own for name, own in target.held().items() if own}
        names = sorted((name for name in held if is_checkpoint(name) and name not in passed_over), reverse=True)
        if not names:
            raise MirrorError(f"{target.url}: holds no checkpoint that verifies; expected the URL of a mirrored run, "
                              "as `auricle mirror status RUN` shows it")
        if not (wrong := fetch(target, names[0], held, aside, progress)):
            return names[0]
        passed_over.add(names[0])
        if wrong != REMOVED:
            report(f"{names[0]} at {target.url} is damaged ({wrong}); passed over for the one before it")


def fetched_best(target: Target, best: str, aside: Path, report: Report, progress: Transfer) -> bool:
    held = {name: own for name, own in target.held().items() if own}
    if best not in held:
        return False
    if wrong := fetch(target, best, held, aside, progress):
        report(f"{best}, the best one at {target.url}, is damaged ({wrong}); the newest one takes its place")
    return not wrong


def fetch(target: Target, name: str, held: dict[str, str], folder: Path, progress: Transfer) -> str:
    """Fetches a checkpoint into a run folder, the parts that it names before it, where they are not there yet.
    → what is wrong with the copy at the target, or ""."""
    try:
        parts = sorted(parts_at(target, name))
    except ValueError as error:
        return str(error)
    for part in parts:
        wrong = "it is missing" if part not in held else _fetch_one(target, part, held[part], folder, progress)
        if wrong:
            return f"part {part.rpartition('/')[2]}: {wrong}"
    return _fetch_one(target, name, held[name], folder, progress)


def _fetch_one(target: Target, name: str, identity: str, aside: Path, progress: Transfer) -> str:
    """Raises MirrorError when it fails though the copy there is good: the same call goes on later."""
    to = aside / name
    if to.exists() and transfer.identity(to) == identity:
        return ""
    if to.exists():
        directory.retire(to)
    try:
        target.get(name, to, lambda done: progress(name, done, 0))
    except BrokenOff:
        raise
    except MirrorError:
        if name not in target.held():
            return REMOVED
        if wrong := target.problems(name):
            return wrong[0]
        raise
    return ""


def finish(aside: Path, newest: str, exposed: str) -> None:
    """The hint and the model at the root are of what came back, whatever the mirror's run had since."""
    steps.expose(aside, aside / exposed)
    name = newest.rpartition("/")[2]
    directory.write_text(aside / "latest.json", json.dumps({"step": steps.step_of(name), "checkpoint": name}))
