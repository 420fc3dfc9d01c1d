"""The checkpoints of a run by their step: which there are, which is good, which stay.

    checkpoints/step-000000500/          one published directory a step; its config.json may name parts by hash
    checkpoints/parts/<hash>/            weights that several checkpoints share, published once
    checkpoints/damaged-step-000000500/  did not verify; kept for whoever wants to look
    mirrors/<name>.json                  what a mirror holds: {"verified": {"step-000000500": self hash}, …}

Order is by step number, never by a file's time: clocks jump, and copies are younger than what they copy.
"""

import json
import re
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from auricle.core.errors import CheckpointError
from auricle.store import directory

PREFIX, DAMAGED = "step-", "damaged-"
NAME = re.compile(rf"{PREFIX}\d{{9,}}")
CONFIG = "config.json"
STAGES = "stages"
"""What the run's other stages need beside the model, by their names."""
STATE = frozenset({"optimizer.safetensors", "optimizer", "trainer.json", "seen.npy", STAGES, directory.CHECKSUMS})
"""What a checkpoint holds beside its model; `optimizer` is the folder of a sharded one."""


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Which checkpoints stay. The newest one that a mirror holds always does."""

    newest: int
    """How many of the newest; at least one stays whatever this says."""
    every: int | None = None
    """Those whose step is a multiple of it."""
    best: str | None = None
    """Name of the best one."""


def name_of(step: int) -> str:
    """
    >>> name_of(500)
    'step-000000500'
    """
    return f"{PREFIX}{step:09d}"


def step_of(name: str) -> int:
    """Raises ValueError for a name that `name_of` does not give."""
    if not NAME.fullmatch(name):
        raise ValueError(f"'{name}' is no checkpoint's name; expected one such as {name_of(500)}")
    return int(name.removeprefix(PREFIX))


def path_of(run_folder: Path, step: int) -> Path:
    return checkpoints_of(run_folder) / name_of(step)


def checkpoints_of(run_folder: Path) -> Path:
    return run_folder / "checkpoints"


def parts_of(run_folder: Path) -> Path:
    return checkpoints_of(run_folder) / "parts"


def all_steps(run_folder: Path) -> list[Path]:
    """Published checkpoints, oldest first."""
    found = checkpoints_of(run_folder).glob(f"{PREFIX}*")
    return sorted((path for path in found if NAME.fullmatch(path.name)), key=lambda path: step_of(path.name))


def problems(checkpoint: Path) -> list[str]:
    """What is wrong with a checkpoint of a run folder or with a part that it names; empty when all verifies."""
    if wrong := directory.problems(checkpoint):
        return wrong
    parts = checkpoint.parent / "parts"
    return [
        f"part {part}: {problem}"
        for part in sorted(named_parts(checkpoint))
        for problem in directory.problems(parts / part)
    ]


def named_parts(model_folder: Path) -> set[str]:
    """Hashes of the parts that a model folder's config.json names. Raises ValueError when it cannot be read."""
    try:
        config = json.loads((model_folder / CONFIG).read_bytes())
        return {entry["part"] for entry in config.get("parts", {}).values() if "part" in entry}
    except FileNotFoundError:
        return set()
    except (AttributeError, TypeError, KeyError) as error:
        raise ValueError(f"{model_folder / CONFIG}: no config of a model folder ({error})") from None


def newest(run_folder: Path, report: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that verifies, its parts included. Call it while holding the run's lock.

    A damaged one is renamed to `damaged-…` and reported in a sentence. So is a damaged part, silently: under its own
    name it would stand in the way of a good copy.
    """
    for path in reversed(all_steps(run_folder)):
        if not (wrong := problems(path)):
            return path
        broken = [] if directory.problems(path) else _damaged_parts(run_folder, path)
        for part in broken:
            _set_aside(part)
        name = _set_aside(path).name
        report(f"checkpoint {path.name} is damaged ({wrong[0]}) and was set aside as {name}; trying the one before it")
    return None


def _damaged_parts(run_folder: Path, checkpoint: Path) -> list[Path]:
    parts = [parts_of(run_folder) / name for name in named_parts(checkpoint)]
    return [part for part in parts if part.exists() and directory.problems(part)]


def _set_aside(path: Path) -> Path:
    target, number = path.with_name(f"{DAMAGED}{path.name}"), 1
    while target.exists():
        number += 1
        target = path.with_name(f"{DAMAGED}{path.name}-{number}")
    path.rename(target)
    directory.sync_directory(target.parent)
    return target


def verified_on_mirrors(run_folder: Path, *, own_disk: bool = True) -> set[str]:
    """Names of the checkpoints that some mirror holds, as they are here or were when they were removed here.

    `own_disk`: mirrors that are lost with this machine count too.
    """
    return {
        name
        for record in (run_folder / "mirrors").glob("*.json")
        for name, identity in _verified(record, own_disk).items()
        if NAME.fullmatch(name) and _is_still(checkpoints_of(run_folder) / name, identity)
    }


def _verified(record: Path, own_disk: bool) -> dict[str, str]:
    """An unreadable record vouches for nothing."""
    try:
        found = json.loads(record.read_bytes())
        verified = {} if found.get("own_disk") and not own_disk else found.get("verified", {})
    except (OSError, ValueError, AttributeError):
        return {}
    return verified if isinstance(verified, dict) else {}


def _is_still(checkpoint: Path, identity: str) -> bool:
    try:
        return not checkpoint.exists() or directory.self_hash(checkpoint) == identity
    except CheckpointError:
        return False


def prune(run_folder: Path, retention: Retention, also: Collection[str] = ()) -> tuple[str, ...]:
    """Removes checkpoints that neither `retention` nor `also` keeps, and parts only they named. → names removed."""
    steps = all_steps(run_folder)
    mirrored = verified_on_mirrors(run_folder)
    kept = {path.name for path in steps[-max(retention.newest, 1) :]} | {retention.best, *also}
    kept |= set([path.name for path in steps if path.name in mirrored][-1:])
    if retention.every:
        kept |= {path.name for path in steps if step_of(path.name) % retention.every == 0}
    return remove(run_folder, [path for path in steps if path.name not in kept])


def make_room(run_folder: Path, keep: Collection[str | None]) -> tuple[str, ...]:
    """Removes every checkpoint that a mirror holds but those in `keep` and the newest good one. → names removed."""
    steps, mirrored = all_steps(run_folder), verified_on_mirrors(run_folder)
    good = next((path.name for path in reversed(steps) if not problems(path)), None)
    return remove(run_folder, [path for path in steps if path.name in mirrored and path.name not in {good, *keep}])


def remove(run_folder: Path, checkpoints: Collection[Path]) -> tuple[str, ...]:
    """Removes checkpoints, then the parts that they alone named.

    Other parts stay though nothing names them: a save that is under way may be about to.
    """
    candidates = {part for path in checkpoints for part in _readable_parts(path)}
    for path in checkpoints:
        directory.retire(path)
    _remove_unnamed(run_folder, candidates)
    return tuple(path.name for path in checkpoints)


def _readable_parts(folder: Path) -> set[str]:
    try:
        return named_parts(folder)
    except (OSError, ValueError):
        return set()


def _remove_unnamed(run_folder: Path, candidates: set[str]) -> None:
    """Of `candidates`, what no checkpoint names: not a damaged one either, nor the exposed model."""
    parts = [path for path in parts_of(run_folder).glob("*") if path.name in candidates]
    if not parts:
        return
    try:
        named = {part for folder in (run_folder, *all_steps(run_folder)) for part in named_parts(folder)}
    except (OSError, ValueError):  # one that cannot be read may name any
        return
    for damaged in checkpoints_of(run_folder).glob(f"{DAMAGED}*"):
        named |= _readable_parts(damaged)
    for path in parts:
        if path.name not in named:
            directory.retire(path)


def sweep(run_folder: Path) -> None:
    """Removes what killed processes left aside, unnamed parts included.

    Call it at the start, while holding the run's lock and after `writer.wait_for_writer`.
    """
    for parent in (run_folder, checkpoints_of(run_folder), parts_of(run_folder)):
        directory.sweep(parent)
    parts = {path.name for path in parts_of(run_folder).glob("*")}
    _remove_unnamed(run_folder, {name for name in parts if not name.startswith(DAMAGED)})


def expose(run_folder: Path, checkpoint: Path) -> None:
    """Makes the checkpoint's model the one at the run folder's root, file by file, config.json last.

    Files are hard links where the file system has them. A crash in the middle leaves a mixture until the next call.
    """
    names = [path.relative_to(checkpoint) for path in checkpoint.rglob("*") if path.is_file()]
    stale = _weights_of(run_folder) - _weights_of(checkpoint)  # of a stage that trained other components
    for name in sorted((name for name in names if name.parts[0] not in STATE), key=lambda name: name.name == CONFIG):
        path, target = checkpoint / name, run_folder / name
        if target.exists() and target.samefile(path):
            continue  # renaming one link of a file over another does nothing and would leave both
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = run_folder / f"{directory.ASIDE}{path.name}"
        aside.unlink(missing_ok=True)
        try:
            aside.hardlink_to(path)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, aside)
            directory.sync_file(aside)
        aside.replace(target)
    for name in stale:
        (run_folder / name).unlink(missing_ok=True)
    directory.sync_directory(run_folder)


def _weights_of(model_folder: Path) -> set[str]:
    """Files of weights that its config.json names; another one that lies there is somebody's own."""
    try:
        return set(json.loads((model_folder / CONFIG).read_bytes()).get("weights", ()))
    except (OSError, ValueError, AttributeError):
        return set()
