import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from auricle.core.errors import RunFolderError
from auricle.core.events import EventLog
from auricle.store import run_lock
from auricle.store.run_lock import RUN_LOCK, is_locked, lock, owner
from auricle.train.system import SystemMonitor

HOLD = """
import os, sys, time
from pathlib import Path
from auricle.store.run_lock import lock
held = lock(Path(sys.argv[1]))
child = os.fork() if "fork" in sys.argv else 1
if child:
    print(child, flush=True)
time.sleep(60)
"""


def holder(folder, *options: str) -> tuple[subprocess.Popen, int]:
    """A process that holds the folder, and the child that it forked since."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder), *options], stdout=subprocess.PIPE, text=True)
    return process, int(process.stdout.readline())


def end(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_trainer_is_refused_and_a_dead_ones_lock_is_taken_over(tmp_path):
    process, _ = holder(tmp_path)
    with pytest.raises(RunFolderError, match=rf"already being trained by process {process.pid} on .* since \d{{4}}-"):
        lock(tmp_path)
    assert is_locked(tmp_path)
    assert owner(tmp_path).pid == process.pid
    end(process)
    assert not is_locked(tmp_path)
    with lock(tmp_path):
        assert owner(tmp_path).pid == os.getpid()
    assert owner(tmp_path) is None


def test_a_forked_worker_that_outlives_its_trainer_holds_nothing(tmp_path):
    process, child = holder(tmp_path, "fork")
    end(process)
    try:
        os.kill(child, 0)
        lock(tmp_path).close()
    finally:
        os.kill(child, signal.SIGKILL)


def test_asking_who_holds_the_folder_gives_nothing_up(tmp_path):
    with lock(tmp_path):
        assert is_locked(tmp_path)
        assert owner(tmp_path).pid == os.getpid()
        with pytest.raises(RunFolderError, match=f"process {os.getpid()} on"):
            lock(tmp_path)
        asked = "from pathlib import Path; import sys; from auricle.store.run_lock import is_locked; " \
                "sys.exit(is_locked(Path(sys.argv[1])))"
        assert subprocess.run([sys.executable, "-c", asked, str(tmp_path)], check=False).returncode == 1


def left_by(folder, *, age: float, **who) -> None:
    values = {"host": "elsewhere", "pid": 17, "boot_id": "another", "since": 1.7e9, **who}
    (folder / RUN_LOCK).write_text(json.dumps(values))
    then = time.time() - age
    os.utime(folder / RUN_LOCK, (then, then))


def test_a_heartbeat_of_another_machine_is_respected_until_it_is_old(tmp_path):
    left_by(tmp_path, age=30)
    with pytest.raises(RunFolderError, match=r"process 17 on elsewhere since .* (29|30|31) s old; .* older than 60 s"):
        lock(tmp_path)
    assert owner(tmp_path).host == "elsewhere"
    assert [path.name for path in tmp_path.iterdir()] == [RUN_LOCK]
    left_by(tmp_path, age=61)
    lock(tmp_path).close()


def test_clocks_of_machines_need_not_agree(tmp_path, monkeypatch):
    left_by(tmp_path, age=30)
    monkeypatch.setattr(time, "time", lambda: 4e9)
    with pytest.raises(RunFolderError, match="elsewhere"):
        lock(tmp_path)


@pytest.mark.parametrize("who", [
    {"host": socket.gethostname()},  # restarted since
    {"boot_id": run_lock.boot_id()},  # another container of this machine: the kernel's lock says that it is dead
])
def test_a_fresh_heartbeat_of_this_machine_without_its_lock_is_of_a_dead_one(tmp_path, who):
    left_by(tmp_path, age=1, **who)
    lock(tmp_path).close()


@pytest.mark.parametrize("text", ["", '{"host": "elsew', "[]", '{"host": "x"}', "process 1 on x since 2026"])
def test_a_torn_lock_file_is_no_owner(tmp_path, text):
    (tmp_path / RUN_LOCK).write_text(text)
    assert owner(tmp_path) is None
    lock(tmp_path).close()


def test_the_monitor_keeps_the_heartbeat_and_a_closed_lock_has_none(tmp_path):
    held, beaten = lock(tmp_path), threading.Event()
    os.utime(tmp_path / RUN_LOCK, (1.0, 1.0))

    def beat() -> None:
        held.beat()
        beaten.set()

    log = EventLog(tmp_path / "events.jsonl")
    monitor = SystemMonitor(log, tmp_path, beat)
    assert beaten.wait(60)
    monitor.close()
    log.close()
    assert (tmp_path / RUN_LOCK).stat().st_mtime > 1.0
    held.close()
    os.utime(tmp_path / RUN_LOCK, (1.0, 1.0))
    held.beat()
    held.close()
    assert (tmp_path / RUN_LOCK).stat().st_mtime == 1.0


def test_a_folder_without_a_lock_is_free_and_one_that_cannot_be_written_is_said(tmp_path):
    assert not is_locked(tmp_path)
    assert owner(tmp_path) is None
    with pytest.raises(RunFolderError, match=r"cannot be written .*training\.output_dir"):
        lock(tmp_path / "missing")
