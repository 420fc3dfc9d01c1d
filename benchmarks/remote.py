"""What looking at machines costs: one machine over the connection that stays, and twenty at once, cold and warm.

The machines are SSH servers on loopback, each with a home of its own; servers and clients share this machine's cores.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from auricle.remote.connection import Connection
from auricle.remote.project import Project
from benchmarks.results import Figure, store
from tests.hosts import Host, host
from tests.remote.there import add_run

RUNS, MACHINES = 9, 20


@contextlib.contextmanager
def machines(folder: Path) -> Iterator[list[Host]]:
    """Twenty, with a run each, known to the project of the working directory."""
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(host(folder / "0"))
        os.environ["AURICLE_SSH_CONFIG"] = str(first.server.client_config)
        project, found = Project(Path.cwd()), [first]
        found += [stack.enter_context(host(folder / str(number), key_of=first)) for number in range(1, MACHINES)]
        for number, machine in enumerate(found):
            add_run(machine.project("speech"), f"run-{number}")
            project.remember(machine.target, folder=str(machine.project("speech")))
        yield found
        disconnect(found)


def disconnect(found: list[Host]) -> None:
    for machine in found:
        Connection(machine.target, Project(Path.cwd())).close()


def seconds(command: list[str], rows: int = 0) -> float:
    """Of a command; `rows`: that it must print as JSON."""
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, check=True)
    took = time.perf_counter() - began
    if rows and len(json.loads(done.stdout)) != rows:
        raise RuntimeError(f"expected {rows} runs: {done.stdout.decode()}")
    return took


def run() -> None:
    status = [sys.executable, "-m", "auricle", "remote", "status", "--json"]
    with tempfile.TemporaryDirectory() as name:
        home = Path(name) / "laptop"
        home.mkdir()
        before = Path.cwd()
        os.chdir(home)
        try:
            with machines(Path(name)) as found:
                cold, warm = [], []
                for _ in range(3):
                    disconnect(found)
                    cold.append(seconds(status, MACHINES))
                    warm += [seconds(status, MACHINES) for _ in range(3)]
                one = [*status, *found[0].words]
                plain = ["ssh", "-F", os.environ["AURICLE_SSH_CONFIG"], "-o", "StrictHostKeyChecking=no", "-p",
                         str(found[0].server.port), found[0].server.address, "true"]
                pairs = [(seconds(one, 1), seconds(plain)) for _ in range(RUNS)][1:]
        finally:
            os.chdir(before)
    ours, bare = (statistics.median(times) for times in zip(*pairs, strict=True))
    store("remote", "Looking at machines", [
        Figure(what="`auricle remote status` of one machine, warm connection",
               measured=f"{ours:.2f} s ({ours / bare:.1f} × the baseline)",
               against=f"≤ 0.5 s; plain `ssh HOST true` without a connection that stays: {bare:.2f} s",
               note=f"the interpreter's start included; medians of {RUNS - 1}, in turn"),
        Figure(what=f"`auricle remote status` of {MACHINES} machines, no connection open",
               measured=f"{statistics.median(cold):.2f} s",
               against=f"≤ 3 s; one after the other by plain `ssh`: {MACHINES * bare:.1f} s",
               note=f"median of {len(cold)}; clients and servers on the same cores"),
        Figure(what="the same, warm connections", measured=f"{statistics.median(warm):.2f} s", against="≤ 3 s",
               note=f"median of {len(warm)}"),
    ])
