"""Trainers that can be killed: each is forked from a process that has imported everything and run no tensor operation.

So a start costs a second and not five, and hundreds of them can die in a test.
"""

import contextlib
import itertools
import json
import multiprocessing
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest import mock

from auricle.core.events import Event, read
from auricle.store import steps
from auricle.train.checkpoint import TRAINER
from tests.experiments import tiny
from tests.faults import kill_at

FORKS = multiprocessing.get_context("forkserver")
IMPORTED_LATE = ["auricle.tasks.ctc.task", "auricle.models.conformer.model", "torch._dynamo", "rapidfuzz", "numpy.fft"]
FORKS.set_forkserver_preload(["auricle.train.start", *IMPORTED_LATE])


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """One start of the tiny experiment in `home`, in a process of its own. What it prints is in home/printed.txt."""

    home: Path
    settings: dict[str, Any]
    """As `tiny` takes them."""
    kill: tuple[int, str] | None = None
    """As `kill_at` takes them."""
    environment: dict[str, str] | None = None

    @property
    def folder(self) -> Path:
        return self.home / "run"

    def start(self) -> BaseProcess:
        process = FORKS.Process(target=_train, args=(self,))
        process.start()
        return process

    def run(self) -> int:
        """→ its exit status: 0, 1 for an exception, -9 for a SIGKILL"""
        process = self.start()
        process.join(120)
        if process.is_alive():
            process.kill()
            process.join()
            raise TimeoutError(f"the trainer hung; it printed: {self.printed()}")
        return process.exitcode

    def printed(self) -> str:
        """The end of what trainers of this home printed."""
        path = self.home / "printed.txt"
        return path.read_text(encoding="utf-8", errors="replace")[-3000:] if path.exists() else ""

    def events(self) -> list[Event]:
        return list(read(self.folder / "events.jsonl"))


def ranks(trainer: Trainer, world: int) -> list[BaseProcess]:
    """Starts `world` processes of one training, with the environment that torchrun gives them."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
    shared["LOCAL_WORLD_SIZE"] = str(world)
    started = []
    for rank in map(str, range(world)):
        environment = {**shared, "RANK": rank, "LOCAL_RANK": rank}
        one = Trainer(home=trainer.home, settings=trainer.settings, kill=trainer.kill, environment=environment)
        started.append(one.start())
    return started


def _train(trainer: Trainer) -> None:
    import torch

    from auricle.train.start import Start, train

    os.environ.update(trainer.environment or {})
    printed = os.open(trainer.home / "printed.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(printed, sys.stdout.fileno())
    os.dup2(printed, sys.stderr.fileno())
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of loader workers, as in a trainer that was not forked
    with kill_at(*trainer.kill) if trainer.kill else contextlib.nullcontext(), _recorded(trainer.home):
        train(tiny(trainer.home, **trainer.settings), Start())


# -- what a run was made of -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _recorded(home: Path) -> Iterator[None]:
    """Writes down which utterances each step met, on this rank."""
    from auricle.train import loop

    rank, world = os.environ.get("RANK", "0"), int(os.environ.get("WORLD_SIZE", "1"))
    start = os.environ.get("MASTER_PORT", str(os.getpid()))
    met: list[str] = []
    next_step, advance = loop.next_step, loop.advance

    def loaded(*args: Any) -> Any:
        step = next_step(*args)
        met[:] = [identity for batch in step.micro for identity in batch.ids]
        return step

    def advanced(*args: Any) -> Any:
        state = advance(*args)
        with (home / f"utterances-{start}-{rank}.jsonl").open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"start": start, "world": world, "step": state.progress.run_steps, "ids": met}))
            lines.write("\n")
        return state

    with mock.patch.object(loop, "next_step", loaded), mock.patch.object(loop, "advance", advanced):
        yield


def utterances(home: Path) -> dict[int, set[tuple[str, ...]]]:
    """Step → what it met over all ranks, the ids in order; several where it was made several times and not the same."""
    made: dict[tuple[int, str], list[list[str]]] = {}
    found: dict[int, set[tuple[str, ...]]] = {}
    for path in sorted(home.glob("utterances-*.jsonl")):
        for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            of_ranks = made.setdefault((line["step"], line["start"]), [])
            of_ranks.append(line["ids"])
            if len(of_ranks) == line["world"]:
                found.setdefault(line["step"], set()).add(tuple(sorted(itertools.chain(*of_ranks))))
    return found


def losses(trainer: Trainer) -> dict[int, set[str]]:
    """Step → every loss that was ever logged for it, to the bit."""
    found: dict[int, set[str]] = {}
    for event in trainer.events():
        if event.kind == "train":
            found.setdefault(event.step, set()).add(event.values["loss"].hex())
    return found


def tensors(folder: Path) -> dict[str, bytes]:
    """The weights and moments that a run ended with, byte for byte, those of frozen parts included."""
    newest = steps.all_steps(folder)[-1]
    files = [*newest.rglob("*.safetensors"), *steps.parts_of(folder).rglob("*.safetensors")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def standing(folder: Path) -> dict[str, Any]:
    """Where the newest checkpoint says that training stands, without the hours that it took."""
    state = json.loads((steps.all_steps(folder)[-1] / TRAINER).read_text(encoding="utf-8"))
    del state["earlier_hours"], state["progress"]["wall_hours"]
    return state
