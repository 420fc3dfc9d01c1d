"""Starting the ranks of one machine with torchrun, alone or together with those of other machines.

    auricle train … --nproc 8 --nnodes 2 --node-rank 1 --rendezvous 10.0.0.7:29500
    └─ torchrun's agent, in this process: meets the agents of the other machines
       └─ one `auricle train …` a GPU

Ranks are numbered by machine: rank 0, which writes the run, is on the machine whose node rank is 0.
"""

import os
import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from auricle.core.errors import Preempted, UsageError

MEETING_SECONDS = 900
"""Machines wait so long for each other at the start."""
SAVING_SECONDS = 60
"""From the wish that ranks end to the end of those that do not."""
KILLED = 128
WITH_VALUE = ("--nproc", "--nnodes", "--node-rank", "--rendezvous")


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """How many there are, and which of them are on this machine."""

    nproc: int = 1
    nnodes: int = 1
    node_rank: int = 0
    rendezvous: str | None = None
    """HOST:PORT of the first machine, as the others reach it."""

    def __post_init__(self) -> None:
        """Raises UsageError."""
        if self.node_rank >= self.nnodes:
            raise UsageError(f"--node-rank {self.node_rank}: expected 0 to {self.nnodes - 1}, one for each of the "
                             f"{self.nnodes} machines of --nnodes")
        if self.nnodes > 1 and self.rendezvous is None:
            raise UsageError(f"--nnodes {self.nnodes}: the machines need a place to meet; add --rendezvous HOST:PORT, "
                             "an address of the first machine that the others reach, and a port that is free there")
        if self.rendezvous is not None and not self._meeting[1].isdigit():
            raise UsageError(f"--rendezvous {self.rendezvous}: expected HOST:PORT, as 10.0.0.7:29500")

    @property
    def _meeting(self) -> tuple[str, str]:
        host, _, port = (self.rendezvous or "").rpartition(":")
        return host.strip("[]"), port if host else ""

    @property
    def needed(self) -> bool:
        """Whether this process is to start ranks; one that torchrun started, or that is alone, trains itself."""
        return (self.nproc > 1 or self.nnodes > 1) and "RANK" not in os.environ

    def options(self, run: str) -> list[str]:
        """Of torchrun."""
        each = [f"--nproc-per-node={self.nproc}", "--max-restarts=0", f"--shutdown-timeout={SAVING_SECONDS}"]
        if self.nnodes == 1:
            return ["--standalone", *each]
        host, port = self._meeting
        return [*each, f"--nnodes={self.nnodes}", f"--node-rank={self.node_rank}", "--rdzv-backend=static",
                f"--rdzv-id={run}", f"--rdzv-conf=timeout={MEETING_SECONDS}", f"--master-addr={host}",
                f"--master-port={port}"]


def run_ranks(ranks: Ranks, words: Sequence[str], folder: Path, split: str = "split.json") -> int:
    """Runs the command line on every rank of this machine; → its exit code.

    Once more where a rank had too little memory and split its micro-batches; of several machines, which have to meet
    again, each ends with the code that says so.
    """
    if ranks.nnodes > 1:
        _name_the_way(*ranks._meeting)
    while True:
        before = _content(folder / split)
        code = _once(ranks, words, folder.name)
        if not code or ranks.nnodes > 1 or _content(folder / split) == before:
            return code


def _once(ranks: Ranks, words: Sequence[str], run: str) -> int:
    from torch.distributed import DistError
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    arguments = torchrun.parse_args([*ranks.options(run), "-m", "auricle", *without_ranks(words)])
    try:
        torchrun.run(arguments)
    except ChildFailedError as failed:
        return code_of([failure.exitcode for failure in failed.failures.values()], alone=ranks.nnodes == 1)
    except SignalException:
        return Preempted.exit_code
    except DistError as error:
        raise Preempted(
            f"--rendezvous {ranks.rendezvous}: the {ranks.nnodes} machines did not meet there "
            f"({str(error).splitlines()[0]}); is it an address of the first machine that the others reach, is the port "
            "open, and was the command started on all of them? The same command tries again") from None
    return 0


def code_of(codes: Collection[int], *, alone: bool) -> int:
    """Of ranks that ended by themselves: what will not get better counts more than that another rank was missed.

    A rank that was killed is told as a shell tells it; to several machines it is one more that was missed, and they
    begin again together.
    """
    own = [code for code in codes if code > 0 and code != Preempted.exit_code]
    if own or Preempted.exit_code in codes or not alone:
        return own[0] if own else Preempted.exit_code
    return KILLED - min(codes)


def without_ranks(words: Sequence[str]) -> list[str]:
    """A command line without what was meant for this process: torchrun would take it for options of its own."""
    kept, left = [], list(words)
    while left:
        word = left.pop(0)
        if word in WITH_VALUE:
            left.pop(0)
        elif not word.startswith(tuple(f"{option}=" for option in WITH_VALUE)):
            kept.append(word)
    return kept


def _name_the_way(host: str, port: str) -> None:
    """Gloo would take the address that the machine's own name stands for, which is often the loopback."""
    import psutil

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        try:
            way.connect((host, int(port)))  # sends nothing
            ours = way.getsockname()[0]
        except OSError:
            return
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == ours for address in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""
