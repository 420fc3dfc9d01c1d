"""Several machines train one run, whose folder is on the first one's disk.

    outputs/RUN/  (first machine)  ──checkpoint, order of the data──►  outputs/.visiting-RUN/  (each other machine)

Where the others see that disk too, all read the run folder itself. Where they do not, they fetch what a start reads of
it from rank 0, and verify it; their copy is gone at the end. What a run writes, the first machine writes.
"""

import json
import os
import shutil
import socket
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from auricle.core.config import ExperimentConfig
from auricle.core.errors import CheckpointError, ConfigError, DataError
from auricle.store import steps
from auricle.store.directory import ASIDE
from auricle.train.checkpoint import TRAINER
from auricle.train.config_changes import Kind, changes
from auricle.train.engine import Engine
from auricle.train.orders import ORDERS

VISITING = ".visiting-"
SHARED = ("fsdp", "cache_frozen")
"""Keys of `training` whose files all ranks write together."""
PIECE = 64 << 20
"""Bytes that go over at a time."""


def folder_here(engine: Engine, folder: Path) -> Path:
    """The run folder as this rank reads it: itself, or the copy on a machine that does not see it."""
    if engine.machines == 1:
        return folder
    probe = folder / f"{ASIDE}probe-{uuid.uuid4().hex}" if engine.is_main else None
    if probe:
        probe.touch()
    name = engine.from_main(probe and probe.name)
    seen = (folder / name).exists()
    engine.wait_patiently()
    if probe:
        probe.unlink(missing_ok=True)
    if seen:
        return folder
    here = folder.with_name(f"{VISITING}{folder.name}")
    here.mkdir(parents=True, exist_ok=True)
    return here


def is_copy(here: Path) -> bool:
    return here.name.startswith(VISITING)


def fetched(engine: Engine, here: Path, found: Path | None) -> Path | None:
    """The checkpoint that rank 0 found, as this rank reads it. All ranks call it together.

    Raises CheckpointError where what came over does not verify, or cannot be written.
    """
    if found is None or engine.machines == 1:
        return found
    visits = is_copy(here)
    local = steps.checkpoints_of(here) / found.name if visits else found
    asks = visits and engine.local_rank == 0
    lacking: list[int] = engine.gather([engine.rank] if asks and steps.problems(local) else [])
    if lacking:
        files = engine.from_main(list(_files(here, found)) if engine.is_main else None)
        for rank in lacking:
            if engine.is_main:
                _send(engine, [path for path, _, _ in files], rank)
            elif engine.rank == rank:
                _receive(engine, here, files)
        engine.wait_patiently()
    if asks and (wrong := steps.problems(local)):
        raise CheckpointError(f"{local}: {wrong[0]}; it came over from the first machine like that. Is the disk full "
                              "here? Run the same command again")
    return local


def _files(folder: Path, found: Path) -> Iterator[tuple[Path, str, int]]:
    """Of a checkpoint, its parts and the order that it was made under: (where it is on the first machine, its name
    within the run folder, bytes)."""
    order = json.loads((found / TRAINER).read_text(encoding="utf-8"))["order"]
    checkpoints = steps.checkpoints_of(Path()).as_posix()
    homes = [(found, f"{checkpoints}/{found.name}")]
    homes += [(found.parent / "parts" / part, f"{checkpoints}/parts/{part}") for part in steps.named_parts(found)]
    homes += [(folder / ORDERS / order, f"{ORDERS}/{order}")]
    for home, name in homes:
        for path in sorted(home.rglob("*")):
            if path.is_file():
                yield path, f"{name}/{path.relative_to(home).as_posix()}", path.stat().st_size


def _send(engine: Engine, paths: Iterable[Path], rank: int) -> None:
    for path in paths:
        with path.open("rb") as file:
            while piece := bytearray(file.read(PIECE)):
                engine.send(torch.frombuffer(piece, dtype=torch.uint8), rank)


def _receive(engine: Engine, here: Path, files: list[tuple[Path, str, int]]) -> None:
    """In the place of what was fetched before."""
    for old in (steps.checkpoints_of(here), here / ORDERS):
        shutil.rmtree(old, ignore_errors=True)
    try:
        for _, name, size in files:
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            with (here / name).open("wb") as file:
                for begin in range(0, size, PIECE):
                    piece = torch.empty(min(PIECE, size - begin), dtype=torch.uint8)
                    engine.receive(piece)
                    file.write(piece.numpy().data)
    except OSError as error:
        raise CheckpointError(f"'{here}': the checkpoint of the first machine cannot be written here "
                              f"({error.strerror}); this machine needs room for one") from None


def forget(engine: Engine, here: Path) -> None:
    """Removes what was fetched; nothing on the first machine."""
    if is_copy(here) and engine.local_rank == 0:
        shutil.rmtree(here, ignore_errors=True)


# -- what must be the same on all of them -----------------------------------------------------------------------------


def refuse_other_experiments(engine: Engine, here: Path, config: ExperimentConfig) -> None:
    """Raises ConfigError, on every rank, where a machine was started with another experiment than the first, or where
    the experiment needs a disk that all machines see."""
    if engine.machines == 1:
        return
    mine = config.model_dump(mode="json")
    found = changes(engine.from_main(mine), mine)
    other = [str(change) for change in found if change.kind is not Kind.OPERATIONAL]
    needs = [f"training.{key}" for stage in config.stage_configs().values() for key in SHARED if getattr(stage, key)]
    for name, differing, alone in engine.gather([(machine(), other, is_copy(here))]):
        if differing:
            raise ConfigError(f"machine {name}: was started with another experiment than the first machine: "
                              f"{'; '.join(differing[:3])}. Start the same command on every machine")
        if needs and alone:
            raise ConfigError(f"{needs[0]}: on several machines it needs a disk that all of them see, and machine "
                              f"{name} does not see the run folder of the first. Leave it out, or put the project on "
                              "a shared disk")


def refuse_other_data(engine: Engine, digests: Any) -> None:
    """Raises DataError, on every rank, where a machine prepared other training data than the first."""
    if engine.machines == 1:
        return
    first = engine.from_main(digests)
    for name, same in engine.gather([(machine(), first == digests)]):
        if not same:
            raise DataError(f"machine {name}: its training data are not those of the first machine, so steps would mix "
                            "them. Prepare the same source there, or copy the prepared folder (data.prepared_dir)")


def machine() -> str:
    return f"{os.environ.get('GROUP_RANK', '0')} ({socket.gethostname()})"
