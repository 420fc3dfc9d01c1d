"""Secrets that are handed to a run that goes on, and stopping on a full disk; real runners, small trainers."""

import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from auricle.core.errors import RunFolderError, UsageError
from auricle.remote.machine import ending, launch
from auricle.remote.machine.job import Budget, Job, State
from tests import faults
from tests.remote.machine.pods import Pod, pod, pod_in  # noqa: F401
from tests.remote.machine.test_job import fill
from tests.remote.machine.trainers import wait_for

BOTH = {"HF_TOKEN": "hf_of_the_hub", "WANDB_API_KEY": "of_the_tracker"}


def begin(pod: Pod, **fields) -> Job:  # noqa: F811
    """A run that a restart left with the one of its two secrets that the machine's login brings."""
    job = pod.job(secrets=sorted(BOTH), created=7.0, **fields)
    launch.again(pod.project, pod.folder, job, {"WANDB_API_KEY": BOTH["WANDB_API_KEY"]})
    wait_for(lambda: trains_with(pod))
    return job


def trains_with(pod: Pod) -> tuple[set[str], list[str]] | None:  # noqa: F811
    """The trainer's secrets, and its words."""
    runner = pod.runner
    there = Path(f"/proc/{runner and runner.trainer}")
    if not (there / "environ").exists():
        return None
    words = (there / "cmdline").read_bytes().decode().split("\0")
    environ = (there / "environ").read_bytes().decode().split("\0")
    return {name for name, value in BOTH.items() if f"{name}={value}" in environ}, words


def test_what_a_run_holds_stays_when_it_gets_what_it_lacks(pod):  # noqa: F811
    begin(pod)
    assert trains_with(pod)[0] == {"WANDB_API_KEY"}
    said = ending.reconnect(pod.project, "run", {"HF_TOKEN": BOTH["HF_TOKEN"]}, 60.0)
    assert said == "run 'run' goes on with HF_TOKEN"
    assert wait_for(lambda: trains_with(pod))[0] == set(BOTH)
    assert pod.runner.secrets == sorted(BOTH)
    assert "has its secrets already" in ending.reconnect(pod.project, "run", {}, 60.0)


def test_a_run_whose_trainer_does_not_show_what_it_holds_goes_on_as_it_is(pod, monkeypatch):  # noqa: F811
    begin(pod)
    before = pod.runner.pid
    monkeypatch.setattr(ending, "TRAINER_SECONDS", 0.1)
    monkeypatch.setattr(ending, "secrets_of", lambda runner: {})
    with pytest.raises(RunFolderError, match="could keep WANDB_API_KEY"):
        ending.reconnect(pod.project, "run", {"HF_TOKEN": BOTH["HF_TOKEN"]}, 60.0)
    assert pod.runner.pid == before


def test_a_start_of_a_run_that_lacks_secrets_starts_what_was_typed(pod):  # noqa: F811
    begin(pod)
    new = pod.job("steps=4000", nproc=1, secrets=["HF_TOKEN"], budget=Budget(max_hours=5.0))
    answer = ending.start(pod.project, new, {"HF_TOKEN": BOTH["HF_TOKEN"]})
    secrets, words = wait_for(lambda: trains_with(pod))
    assert answer["pid"] == pod.runner.pid
    assert "steps=4000" in words
    assert secrets == set(BOTH)
    assert Job.read(pod.folder / "job.json") == replace(new, secrets=sorted(BOTH), created=7.0)


@pytest.mark.parametrize(("fields", "error"), [
    ({"budget": asdict(Budget(since=1.0, max_hours=1.0))}, "max_hours 1 is reached"),
    ({"environment": {"TOKEN": BOTH["WANDB_API_KEY"]}}, "the value of WANDB_API_KEY is among its words"),
])
def test_a_start_that_is_refused_ends_nothing(pod, fields, error):  # noqa: F811
    begin(pod)
    before = pod.runner.pid
    with pytest.raises(UsageError, match=error):
        ending.start(pod.project, replace(pod.job(), **fields), {"HF_TOKEN": BOTH["HF_TOKEN"]})
    assert pod.runner.pid == before


@pytest.mark.root
def test_on_a_full_disk_a_run_is_stopped_all_the_same(tmp_path, monkeypatch):
    with faults.tmpfs(tmp_path / "small", 4 << 20) as disk, pod_in(disk / "pod", monkeypatch) as there:
        launch.launch(there.project, there.job("pause=8", budget=Budget(idle_minutes=30.0)), {})
        console = there.folder / "console.log"
        wait_for(lambda: console.exists() and "step 1\n" in console.read_text())
        fill(disk)
        time.sleep(2.5)  # a heartbeat may have been under way, and left room
        fill(disk)
        with pytest.raises(RunFolderError, match="is still saving"):
            ending.stop(there.project, "run", reason="by hand", seconds=0.5)
        assert (there.folder / "stop.json").exists()
        age = time.time() - State.read(there.folder / "state.json").time
        (disk / "fill").unlink()
        assert wait_for(lambda: there.exit).code == 75
        assert age < 2.5
        assert there.guard
