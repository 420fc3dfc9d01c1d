"""A run of a machine in a folder here: what it printed and measured, and its newest and best checkpoint, verified.

    outputs/RUN there, .auricle/runs/RUN/*.log  ──rsync──►  outputs/RUN here      small files, each replaced in one step
    checkpoints/parts/…, checkpoints/step-…     ──rsync──►  aside, verified, renamed    what they name goes before them

A second pull moves what is new. Training can go on in the folder here. The run's lock is held meanwhile, so that nobody
trains here at the same time, and no two pulls meet.
"""

import contextlib
import json
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from auricle.core.errors import AuricleError, RunFolderError
from auricle.remote.connection import LOST_SECONDS, DiskFull, RemoteError, Unreachable
from auricle.remote.look import Run
from auricle.remote.machine.job import EXIT, JOB, RUNNER, STATE, STOP
from auricle.remote.place import Place
from auricle.store import directory, steps
from auricle.store.mirror import BEST, CHECKPOINTS, best_of, is_checkpoint
from auricle.store.mirror_restore import fetch_newest, fetched_best, finish
from auricle.store.run_lock import LOCKS, lock, owner
from auricle.store.steps import Retention
from auricle.store.targets import MirrorError
from auricle.store.targets.parts.transfer import INCOMING
from auricle.store.targets.ssh import Ssh

RUN_JSON, EVENTS = "run.json", "events.jsonl"
LEFT_OUT = (".*", "*.lock", "/checkpoints/", "/mirrors/*.held/", "*.safetensors", "/config.json", "/latest.json",
            *(f"/{name}" for name in (RUN_JSON, JOB, RUNNER, EXIT, STOP, STATE)))
"""Of the small files: the model at the root is that of the checkpoint that came, and so is the hint."""
KEEP = 2

Report = Callable[[str], None]
Transfer = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """What is here now."""

    step: int | None
    """Of the newest checkpoint; None where the run has saved none."""
    arrived: list[str]
    """Checkpoints that came with this pull."""


def pull(place: Place, run: Run, folder: Path, *, keep: int = KEEP, report: Report, progress: Transfer) -> Pulled:
    """Brings the folder up to date. `keep`: newest checkpoints that stay here, beside the best one.

    Raises RunFolderError for a folder of another run, one that is being trained in, one that was trained in since, and
    one that cannot be written; Unreachable when the machine does not answer any more: all that came is kept, and the
    same call goes on; RemoteError for all else, as a disk that is full here.
    """
    with _opened(place, run, folder) as target:
        _fetch_files(place, run, folder)
        there = {path.name for path in steps.all_steps(folder)}
        if not any(map(is_checkpoint, target.held())):
            return Pulled(step=None, arrived=[])
        newest = fetch_newest(target, folder, report, progress)
        best = f"{CHECKPOINTS}/{best_of(_read(folder / BEST))}"
        exposed = best if best == newest or fetched_best(target, best, folder, report, progress) else newest
        finish(folder, newest, exposed)
        steps.prune(folder, Retention(newest=keep, best=best.rpartition("/")[2]), {exposed.rpartition("/")[2]})
        _sweep(folder)
    arrived = [path.name for path in steps.all_steps(folder) if path.name not in there]
    return Pulled(step=steps.step_of(newest.rpartition("/")[2]), arrived=arrived)


def pull_files(place: Place, run: Run, folder: Path) -> None:
    """The small files alone. Raises as `pull` does."""
    with _opened(place, run, folder):
        _fetch_files(place, run, folder)


@contextlib.contextmanager
def _opened(place: Place, run: Run, folder: Path) -> Iterator[Ssh]:
    """The run's folder there, while the one here is held. What breaks off within is Unreachable only where the machine
    does not answer."""
    connection, path = place.connection, f"{place.folder()}/{run.job.run_folder}"
    target = Ssh(f"{connection.target}:{path}", connection.client(), connection.destination, path)
    try:
        record = target.read(RUN_JSON)
        if record is None:
            raise RemoteError(f"{connection.target}: {run.name} has no {RUN_JSON} in {path}; it is about to start, or "
                              "failed at once: auricle remote logs shows why")
        _refuse_another_run(record, run, place, folder)
        folder.mkdir(parents=True, exist_ok=True)
        with _held(folder):
            _refuse_trained_since(place, run, folder)
            if _read(folder / RUN_JSON) != record:
                directory.write_text(folder / RUN_JSON, record.decode("utf-8"))
            yield target
    except (MirrorError, Unreachable, DiskFull, OSError) as error:
        raise _broken_off(place, folder, error) from None


def _broken_off(place: Place, folder: Path, error: MirrorError | RemoteError | OSError) -> AuricleError:
    if isinstance(error, DiskFull) or "No space left" in str(error):  # nothing is written there
        return RemoteError(f"{place.connection.target}: the disk of '{folder}', here, is full; free some, and the same "
                           "command goes on")
    if isinstance(error, OSError):
        return RunFolderError(f"'{folder}': cannot be written ({error.strerror or error}); mend that, or name another "
                              "place with --to")
    try:
        place.connection.run(":", timeout=LOST_SECONDS)
    except RemoteError:
        return error if isinstance(error, Unreachable) else Unreachable(
            f"{error}; what came over is kept, and the same command goes on")
    return RemoteError(str(error))


def _fetch_files(place: Place, run: Run, folder: Path) -> None:
    sources = (f"{place.folder()}/{path}/" for path in (run.job.run_folder, run.folder))
    place.connection.rsync(["--recursive", "--times", "--partial-dir=.partial",
                            *(f"--exclude={name}" for name in LEFT_OUT), *map(place.connection.remote, sources),
                            f"{folder}/"])


def _refuse_another_run(record: bytes, run: Run, place: Place, folder: Path) -> None:
    here = _read(folder / RUN_JSON)
    if here is not None:
        mine, theirs = _created(here), _created(record)
        if mine != theirs:
            raise RunFolderError(f"run folder '{folder}': holds another run (of {_day(mine)}) than {run.name} on "
                                 f"{place.connection.target} (of {_day(theirs)}); choose another with --to DIR, or "
                                 "move this one away")
    elif folder.exists():
        strangers = [path.name for path in folder.iterdir() if path.name not in LOCKS and path.name[0] != "."]
        if strangers:
            raise RunFolderError(f"'{folder}': holds {', '.join(sorted(strangers)[:3])} but no {RUN_JSON}; expected "
                                 "the folder of this run, or one to make. Choose another with --to DIR")


def _refuse_trained_since(place: Place, run: Run, folder: Path) -> None:
    """The newest start that is on record here must be on record there too: then the events there may replace ours."""
    start = _newest_start(_read(folder / EVENTS) or b"")
    if start is None:
        return
    done = place.run(f"grep -qxF -f - {shlex.quote(run.job.run_folder)}/{EVENTS}", stdin=start + b"\n", timeout=120.0)
    if done.code == 1:
        raise RunFolderError(f"run folder '{folder}': was trained in here, or elsewhere, since it was pulled from "
                             f"{place.connection.target}, which knows nothing of its newest start; choose another with "
                             "--to DIR, or move this one away")


def _newest_start(log: bytes) -> bytes | None:
    """The line of the newest `run` event; one that is cut off does not count."""
    whole = log.rfind(b"\n") + 1
    found = log.rfind(b'"kind": "run"', 0, whole)
    return log[log.rfind(b"\n", 0, found) + 1:log.index(b"\n", found)] if found >= 0 else None


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    try:
        held = lock(folder)
    except RunFolderError:
        raise RunFolderError(f"run folder '{folder}': in use here by {owner(folder) or 'another process'}, which "
                             "trains in it or pulls into it; wait for it, or choose another with --to DIR") from None
    with held:
        yield


def _sweep(folder: Path) -> None:
    """What earlier pulls began and nobody will go on with."""
    for parent in (steps.checkpoints_of(folder), steps.parts_of(folder)):
        for left in parent.glob(f"{INCOMING}*"):
            shutil.rmtree(left, ignore_errors=True)


def _created(record: bytes) -> float | None:
    try:
        return json.loads(record).get("created")
    except (ValueError, AttributeError):
        return None


def _day(created: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(created)) if created else "an unknown day"


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
