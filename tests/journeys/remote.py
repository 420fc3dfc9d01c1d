"""What the journeys to rented machines share: a laptop with a project, typed commands, and waiting for what happens."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from auricle.core.events import Event, read
from auricle.remote.machine.job import RUNS, Exit, Job, Record, Runner, State, key_of
from tests.hosts import Host
from tests.speech import digits_manifest

EXPERIMENT = """# @package _global_
model: {{kind: conformer, width: 16, layers: 1, heads: 2, subsampling: 2, subsampling_channels: 4}}
task: {{kind: ctc}}
data:
  datasets: {{digits: {{manifest: {manifest}, eval_split: test}}}}
training: {{run_name: run, max_steps: 1000000, batch_seconds: 4, save_steps: 20, save_minutes: null, eval_steps: null,
           logging_steps: 1, dataloader_num_workers: 0, lr_scheduler_type: constant_with_warmup}}
remote: {{idle_minutes: null}}
"""
RUN = "run"


@dataclass
class Laptop:
    """A project folder, and what is typed in it."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def popen(self, *words: str) -> "subprocess.Popen[str]":
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **self.environment}
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        command = [sys.executable, "-m", "auricle", *words]
        return subprocess.Popen(command, cwd=self.folder, env=environment, **pipes)

    def type(self, *words: str, code: int = 0, seconds: float = 280) -> str:
        """Runs `auricle WORDS` → what it printed, both ways."""
        process = self.popen(*words)
        stdout, stderr = process.communicate(timeout=seconds)
        assert process.returncode == code, f"auricle {' '.join(words)} → {process.returncode}\n{stdout}\n{stderr}"
        return stdout + stderr

    def remote(self, verb: str, *words: str, code: int = 0, seconds: float = 280) -> str:
        return self.type("remote", verb, *words, code=code, seconds=seconds)


def laptop(folder: Path, key: Host, *, mirror: str | None = None, **environment: str) -> Laptop:
    """With an experiment `digits` that never ends, and the way to the machines that accept the key."""
    groups = folder / "speech" / "configs" / "hydra"
    for group in ("experiments", "data"):
        (groups / group).mkdir(parents=True)
    manifest = digits_manifest(folder / "digits").folder
    text = EXPERIMENT.format(manifest=manifest) + (f"mirror: {{targets: [\"{mirror}\"]}}\n" if mirror else "")
    (groups / "data" / "default.yaml").write_text("{}\n")
    (groups / "experiments" / "digits.yaml").write_text(text)
    (folder / "speech" / ".gitignore").write_text(".venv\noutputs/\n.auricle/\n")
    subprocess.run(["git", "init", "-q", folder / "speech"], check=True)
    config = {"AURICLE_SSH_CONFIG": str(key.server.client_config)}
    return Laptop(folder / "speech", {**config, **environment})


@dataclass(frozen=True)
class There:
    """A project on a machine, seen through this one's disk."""

    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / "outputs" / RUN

    def record(self, kind: type[Record], name: str) -> Any:
        return kind.read(self.folder / RUNS / key_of(RUN) / name)

    @property
    def state(self) -> State | None:
        return self.record(State, "state.json")

    @property
    def exit(self) -> Exit | None:
        return self.record(Exit, "exit.json")

    @property
    def runner(self) -> Runner | None:
        return self.record(Runner, "runner.json")

    @property
    def job(self) -> Job | None:
        return self.record(Job, "job.json")

    def events(self, kind: str, file: str = "events.jsonl") -> list[Event]:
        return [event for event in read(self.run / file) if event.kind == kind]

    def step(self) -> int:
        return max((event.step for event in self.events("train")), default=0)

    def console(self) -> str:
        path = self.folder / RUNS / key_of(RUN) / "console.log"
        return path.read_text() if path.exists() else ""


def until(true: Callable[[], Any], what: str, *, seconds: float = 120, poll: float = 0.1) -> Any:
    """Waits for something that is true → it."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(poll)
    return found


def rows(printed: str) -> list[dict[str, Any]]:
    """What `--json` printed, without what stderr said."""
    return json.loads(printed[printed.index("["):printed.rindex("]") + 1])
