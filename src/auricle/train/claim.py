"""Taking hold of a run folder: lock, what earlier processes left, the checkpoint to go on from, what may have changed.

(empty: from a mirror) ─► lock ─► the old writer ends ─► sweep ─► newest good checkpoint ─► judge the changes
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from auricle.core.config import ExperimentConfig
from auricle.core.errors import RunFolderError
from auricle.store import steps
from auricle.store.directory import write_text
from auricle.store.mirror_restore import restore
from auricle.store.mirror_target import connect
from auricle.store.run_lock import Lock, lock
from auricle.store.writer import wait_for_writer
from auricle.train import machines, memory, run_folder
from auricle.train.checkpoint import TrainingState, load_state
from auricle.train.engine import Engine

WRITER_SECONDS = 600.0
"""A killed trainer's last save may take this long to end."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What was typed beside the configuration."""

    fresh: bool = False
    extend: bool = False
    allow_replan: bool = False


NOTHING_TYPED = Options()


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What every rank knows of the folder."""

    record: dict[str, Any]
    folder: Path
    """The run folder as this rank reads it (see machines.py)."""
    found: Path | None
    """The checkpoint to go on from."""
    state: TrainingState | None
    messages: tuple[str, ...] = ()
    """Alarms from before there was a log."""
    lock: Lock | None = field(default=None, compare=False)
    """On rank 0."""


@contextlib.contextmanager
def claimed(
    engine: Engine, folder: Path, config: ExperimentConfig, config_yaml: str, options: Options, **facts: Any
) -> Iterator[Claim]:
    """Rank 0 takes the folder and finds out where its run stands; the others are told. Held until the end."""
    with contextlib.ExitStack() as held:
        told: dict[str, Any] | None = None
        holder = None
        if engine.is_main:
            if options.fresh:
                run_folder.set_aside(folder)
            messages = [] if options.fresh else _from_mirrors(folder, config.mirror.targets)
            run_folder.make(folder)
            holder = held.enter_context(lock(folder))
            told = _stand(folder, config, options, messages, world=engine.world, **facts)
            write_text(folder / "config.yaml", config_yaml)
        told = engine.from_main(told)
        here = machines.folder_here(engine, folder)
        held.callback(machines.forget, engine, here)
        memory.agree(here, engine)
        found = machines.fetched(engine, here, told["found"])
        yield Claim(**{**told, "found": found}, folder=here, lock=holder)


def _stand(
    folder: Path, config: ExperimentConfig, options: Options, messages: list[str], **facts: Any
) -> dict[str, Any]:
    """Where the run of the folder stands. Call it while holding the lock."""
    if not wait_for_writer(folder, WRITER_SECONDS):
        raise RunFolderError(
            f"run folder '{folder}': the last save of the trainer before is still being written after "
            f"{WRITER_SECONDS:.0f} s; is its disk there? Wait, or choose another training.run_name"
        )
    steps.sweep(folder)
    asked = config.training.resume_from_checkpoint
    found = Path(asked) if asked else steps.newest(folder, messages.append)
    state = load_state(found) if found else None
    if state and not asked:  # a crash in the middle of showing the best model is mended
        best = steps.path_of(folder, state.best["step"]) if state.best else found
        steps.expose(folder, best if best.exists() else found)
    record = run_folder.begin(
        folder,
        config,
        extend=options.extend,
        allow_replan=options.allow_replan,
        progress=state.progress if state else None,
        stage=state.stage if state else next(iter(config.stage_configs())),
        **facts,
    )
    record["replan"] |= options.allow_replan  # the corpus may have changed where the configuration has not
    return {"record": record, "found": found, "state": state, "messages": tuple(messages)}


def _from_mirrors(folder: Path, targets: list[str]) -> list[str]:
    """On an empty machine: fetches the run from the first mirror that holds it. → messages

    Raises MirrorError where a mirror cannot say whether it does: training anew would not be going on.
    """
    if folder.exists() and any(folder.iterdir()):
        return []
    messages: list[str] = []
    for base in targets:
        target = connect(f"{base.rstrip('/')}/{folder.name}")
        if target.read("run.json") is None or not target.held():
            continue
        restored = restore(base, folder.name, folder, report=messages.append, progress=lambda *_: None)
        return [*messages, f"this folder was empty: going on from step {restored.step} of the mirror {base}"]
    return messages
