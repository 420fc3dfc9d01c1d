"""Every `auricle remote` command that the documents print is run, in their order, on machines of this one.

The page's addresses stand for SSH servers with a home and processes of their own, its VPS for another one that is the
jump host and holds the mirror; RunPod and Vast.ai are stand-ins that rent two of the machines out. The experiments have
the page's names, are of seconds a save, and never end by themselves.
"""

import contextlib
import getpass
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from auricle.core.events import read
from auricle.remote.machine.job import EXIT, JOB, RUNS, Job
from auricle.remote.project import Project
from tests.hosts import Host, give_environment, host, needs_hosts
from tests.journeys.remote import EXPERIMENT, Laptop, laptop, until
from tests.journeys.test_remote import look
from tests.paths import ROOT
from tests.remote.providers.runpod_server import serving_runpod
from tests.remote.providers.vast_server import serving_vast
from tests.speech import write_audio
from tests.test_documents import PAGES, REMOTE_PAGE, commands_of

pytestmark = [*needs_hosts, pytest.mark.slow, pytest.mark.long, pytest.mark.root, pytest.mark.timeout(1200)]
VPS = "developer@198.51.100.4:22"
MACHINES = ("203.0.113.5 22005", "root@203.0.113.7:22115", "203.0.113.8 22116", "root@203.0.113.9:10648")
"""As the page writes them; RunPod rents the second out, and Vast.ai the last."""
EXPERIMENTS = ("quickstart", "voxformer", "voxformer_tiny")
AFTER_STEPS = ("logs", "attach", "stop", "pull", "watch")
"""Verbs that wait until the run has made some steps, as a reader does."""
UNSAFE = 10


@dataclass
class Reader:
    """Who types what the page says."""

    here: Laptop
    machines: dict[str, Host]
    """By the page's address."""
    mirror: str
    vps: Host
    said: dict[str, str] = field(default_factory=dict)
    """Command as the page prints it → what it printed."""

    def translated(self, command: str) -> str:
        """With the addresses of this machine."""
        words = {f"{VPS}/runs": self.mirror, VPS: self.vps.address}
        for written, machine in self.machines.items():
            words[written] = f"{getpass.getuser()}@{machine.address}" if "@" in written else " ".join(machine.words)
            words[written.replace(" ", ":")] = words[written].replace(" ", ":")
        for written, real in words.items():
            command = command.replace(written, real)
        return command

    def type(self, command: str) -> None:
        words = shlex.split(command)
        if words[:2] == ["auricle", "remote"] and words[2] in AFTER_STEPS:
            for name, machine in self.machines.items():
                if name in command or name.replace(" ", ":") in command:
                    until(lambda machine=machine: trains_or_ended(machine), f"steps, for {command}", seconds=240)
        if words[1:3] == ["remote", "attach"]:
            self.said[command] = look(self.here, shlex.split(self.translated(command))[1:])
            return
        code, printed = self._run(command)
        while code == UNSAFE and "release" in words:  # until the mirror holds it
            time.sleep(1)
            code, printed = self._run(command)
        assert code == 0, f"{command} → {code}\n{printed[-3000:]}"
        self.said[command] = printed

    def _run(self, command: str) -> tuple[int, str]:
        line = self.translated(command).replace("auricle ", f"{shlex.quote(sys.executable)} -m auricle ", 1)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "220", **self.here.environment}
        done = subprocess.run(["bash", "-c", line], cwd=self.here.folder, env=environment, capture_output=True,
                              text=True, check=False, stdin=subprocess.DEVNULL, timeout=280)
        return done.returncode, done.stdout + done.stderr


def trains_or_ended(machine: Host) -> bool:
    """Every run there has made steps since it was started, or writes them on another machine, or has ended."""
    runs = [path.parent for path in (machine.project("speech") / RUNS).glob(f"*/{JOB}")]
    return bool(runs) and all(_trains_or_ended(machine.project("speech"), run) for run in runs)


def _trains_or_ended(project: Path, run: Path) -> bool:
    job = Job.read(run / JOB)
    if job is None or job.node_rank > 0 or (run / EXIT).exists():
        return job is not None
    events = read(project / job.run_folder / "events.jsonl")
    return sum(event.kind == "train" and event.time > job.created for event in events) > 3


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[Reader]:
    with contextlib.ExitStack() as running:
        vps = running.enter_context(host(folder / "vps"))
        environment = {"AURICLE_SSH_CONFIG": str(vps.server.client_config)}
        machines = {name: running.enter_context(host(folder / f"machine{number}", key_of=vps, environment=environment))
                    for number, name in enumerate(MACHINES)}
        runpod, vast = running.enter_context(serving_runpod()), running.enter_context(serving_vast())
        for server, name in ((runpod, MACHINES[1]), (vast, MACHINES[3])):
            server.host = (machines[name].server.address, machines[name].server.port, getpass.getuser())
        keys = {"AURICLE_RUNPOD_URL": runpod.url, "RUNPOD_API_KEY": runpod.key, "AURICLE_VAST_URL": vast.url,
                "VAST_API_KEY": vast.key}
        here = laptop(folder / "laptop", vps, **keys)
        manifest = folder / "laptop" / "digits" / "manifest"
        for name in EXPERIMENTS:
            text = EXPERIMENT.format(manifest=manifest).replace("run_name: run", f"run_name: {name}")
            (here.folder / "configs" / "hydra" / "experiments" / f"{name}.yaml").write_text(text)
        write_audio(here.folder / "recordings" / "3.wav")
        for machine in machines.values():
            give_environment(machine.project("speech"))
        yield Reader(here, machines, f"{vps.address}{folder}/runs", vps)
        assert not runpod.pods, "a pod of RunPod bills on"
        assert not vast.instances, "an instance of Vast.ai bills on"


def test_every_command_of_the_page_runs_and_nothing_bills_at_its_end(tmp_path):
    commands = commands_of([REMOTE_PAGE])
    with reading(tmp_path) as reader:
        for command in commands:
            reader.type(command)
        outputs = reader.here.folder / "outputs"
        assert (outputs / "quickstart" / "report.html").is_file()
        assert (reader.here.folder / "voxformer.sky.yaml").is_file()
        there = reader.machines["203.0.113.8 22116"].project("speech") / "outputs"
        (resumed,) = [event.step for event in read(there / "voxformer" / "events.jsonl") if event.kind == "resume"]
        assert resumed > 3  # of the machine that is gone
        for run, ranks in (("ranks", "× 2"), ("machines", "× 2 on 2 machines")):
            begun = next(event for event in read(there / run / "events.jsonl") if event.kind == "run")
            assert ranks in begun.values["device"]
        (attached,) = [printed for command, printed in reader.said.items() if " attach " in command]
        assert "Step " in attached
        assert [machine.provider for machine in Project(reader.here.folder).machines()] == ["ssh", "ssh"]


def test_the_commands_of_other_pages_run(tmp_path):
    commands = [command for page in PAGES if page != REMOTE_PAGE for command in commands_of([page])
                if command.startswith("auricle remote ")]
    assert commands
    with reading(tmp_path) as reader:
        for command in commands:
            reader.type(command.replace("203.0.113.7 22115", "203.0.113.5 22005"))
        reader.type("auricle remote stop 203.0.113.5 22005")


def test_every_verb_is_on_the_page():
    from auricle.cli.remote import VERBS

    text = (ROOT / "docs" / "remote.md").read_text(encoding="utf-8")
    for verb in VERBS.keys() - {"machine"}:
        assert f"auricle remote {verb} " in text, verb
