"""Locks and secrets of a run's processes."""

import os
import subprocess
import sys

import pytest

from auricle.remote.machine import processes
from auricle.remote.machine.job import Runner
from auricle.remote.machine.processes import hold, holder
from auricle.store.run_lock import boot_id
from tests import faults
from tests.remote.machine.test_job import fill


def test_whoever_holds_a_lock_is_known(tmp_path):
    path = tmp_path / "guard.lock"
    path.write_text("4194304\n")
    assert holder(path) is None
    with hold(path):
        assert holder(path) == os.getpid()
    assert holder(path) is None


@pytest.mark.root
def test_a_full_disk_keeps_no_lock_from_being_taken(tmp_path):
    with faults.tmpfs(tmp_path / "small", 1 << 20) as disk:
        (disk / "guard.lock").write_text("12345\n")
        fill(disk)
        with hold(disk / "guard.lock"):
            assert holder(disk / "guard.lock") == os.getpid()
        with hold(disk / "launch.lock"):  # a new one has no room for the number
            assert holder(disk / "launch.lock") == 0
            assert hold(disk / "launch.lock") is None


def test_the_secrets_of_a_runner_are_those_of_its_trainer():
    trainer = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE,
                               env={"HF_TOKEN": "hf", "OTHER": "x"})
    runner = Runner(pid=1, trainer=trainer.pid, boot_id=boot_id(), starts=1, session=None, secrets=["HF_TOKEN", "GONE"])
    try:
        assert processes.secrets_of(runner) == {"HF_TOKEN": "hf"}
    finally:
        trainer.communicate(b"\n")
    assert processes.secrets_of(runner) == {}


def test_a_runner_is_killed_by_its_number_unless_another_process_bears_it(tmp_path, monkeypatch):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    Runner(pid=process.pid, trainer=None, boot_id=boot_id(), starts=1, session=None).write(tmp_path / "runner.json")
    assert not processes.kill_runner(tmp_path)
    assert process.poll() is None
    monkeypatch.setattr(processes, "_words", lambda pid: ["run", tmp_path.name, "socket"])
    assert processes.kill_runner(tmp_path)
    assert process.wait(10) == -9
    process.stdin.close()
    assert processes.kill_runner(tmp_path)  # it is gone already
