"""Guards and runners of this machine, real ones, without tmux, boot hook and SSH."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from auricle.remote.machine import launch, starting
from auricle.remote.machine.job import Exit, Job, Runner
from auricle.remote.machine.processes import holder, runner_of
from tests.remote.machine import trainers
from tests.remote.machine.trainers import wait_for


class Pod:
    """A project of this machine."""

    def __init__(self, project: Path) -> None:
        self.project, self.folder = project, project / ".auricle" / "runs" / "run"
        self.started: list[subprocess.Popen] = []
        project.joinpath("outputs").mkdir(parents=True)

    def job(self, *words: str, **fields) -> Job:
        return trainers.job(self.project, *words, **fields)

    @property
    def guard(self) -> int | None:
        return holder(self.folder / "guard.lock")

    @property
    def runner(self) -> Runner | None:
        return runner_of(self.folder)

    @property
    def exit(self) -> Exit | None:
        return Exit.read(self.folder / "exit.json")

    def end(self) -> None:
        """All that was started, and what that started."""
        trainer = self.runner and self.runner.trainer
        guard = self.guard  # perhaps one that the runner has started
        for process in self.started:
            process.kill()
            process.wait()
        for pid in filter(None, (guard, trainer)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda: self.guard is None)


@pytest.fixture
def pod(tmp_path, monkeypatch) -> Iterator[Pod]:
    with pod_in(tmp_path / "pod", monkeypatch) as made:
        yield made


@contextlib.contextmanager
def pod_in(project: Path, monkeypatch) -> Iterator[Pod]:
    made, popen = Pod(project), subprocess.Popen

    def remembered(words, **settings):
        made.started.append(popen(words, **settings))
        return made.started[-1]

    monkeypatch.setattr(starting.shutil, "which", lambda name: None)
    monkeypatch.setattr(launch.boot, "install", lambda project: None)
    monkeypatch.setattr(starting.subprocess, "Popen", remembered)
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def dead_runners(monkeypatch) -> None:
    """Runners that hang in their imports; they are waited for half a second."""
    command = starting._command
    monkeypatch.setattr(starting, "_command", lambda verb, *words: ["sleep", "1000"] if verb == "run"
                        else command(verb, *words))
    monkeypatch.setattr(starting, "ALIVE_SECONDS", 0.5)


def full(*_) -> None:
    raise OSError(28, "No space left on device", "job.json")
