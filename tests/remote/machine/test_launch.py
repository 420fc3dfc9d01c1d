"""Starts that fail, and what becomes of the machine then."""

import signal

import psutil
import pytest

from auricle.core.errors import RunFolderError
from auricle.remote.machine import launch, starting
from auricle.remote.machine.job import Budget, Job, State
from auricle.remote.machine.meter import Memory
from tests.remote.machine import trainers
from tests.remote.machine.pods import dead_runners, full, pod  # noqa: F401
from tests.remote.machine.trainers import wait_for


def test_a_start_whose_runner_does_not_come_leaves_the_guard_and_says_how_it_ended(pod, dead_runners):  # noqa: F811
    with pytest.raises(RunFolderError, match="its runner did not start"):
        launch.launch(pod.project, pod.job(budget=Budget(max_hours=5.0)), {})
    assert pod.guard
    assert pod.exit.code == 1
    assert "its runner did not start" in pod.exit.reason
    assert pod.started[-1].wait(10) == -signal.SIGTERM  # it would train later, and nobody would know
    wait_for(lambda: State.read(pod.folder / "state.json").phase == "failed")


def test_a_start_that_the_disk_does_not_take_leaves_the_guard_of_the_run_before(pod, monkeypatch):  # noqa: F811
    trainers.written(pod.project, pod.job(budget=Budget(idle_minutes=30.0)))
    monkeypatch.setattr(Job, "write", full)
    with pytest.raises(RunFolderError, match="No space left on device"):
        launch.launch(pod.project, pod.job(), {})
    assert pod.guard
    assert pod.runner is None


def test_a_first_start_that_the_disk_does_not_take_leaves_nothing(pod, monkeypatch):  # noqa: F811
    monkeypatch.setattr(Job, "write", full)
    monkeypatch.setattr(starting, "start_guard", lambda *_: pytest.fail("there is nothing to watch over"))
    with pytest.raises(RunFolderError, match="No space left on device"):
        launch.launch(pod.project, pod.job(), {})


def test_a_full_disk_keeps_no_machine_from_being_watched(pod, monkeypatch):  # noqa: F811
    trainers.written(pod.project, pod.job(budget=Budget(idle_minutes=30.0)))
    Memory(time=1.0, hours=1.0, limit="reached").write(pod.folder / "guard.json")
    monkeypatch.setattr(Memory, "write", full)
    launch.watch_again(pod.project, pod.folder, idle_only=True)
    wait_for(lambda: pod.guard)
    assert psutil.Process(pod.guard).cmdline()[-2:] == ["guard", "run"]
