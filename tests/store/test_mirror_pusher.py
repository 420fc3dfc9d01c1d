"""The pusher as a process: killed at any instant, started twice, with a target that is away for a while."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest

from auricle.core.errors import RunFolderError
from auricle.store import directory, mirror_pusher, steps
from auricle.store.mirror import read_record
from auricle.store.mirror_pusher import push_forever, push_once
from auricle.store.mirror_target import connect
from tests.mirrored import add_checkpoint, contents, make_run, mirror
from tests.sshd import needs_sshd, serving

KILLS = 25


def in_child(work):
    """Runs `work` in a fork of this process. → its pid"""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def kill_uploads(run, there, upload):
    """Saves, prunes, uploads and kills the uploader, until `KILLS` of them died in the middle."""
    draws = random.Random(1)
    add_checkpoint(run, 1, size=3_000_000, part=b"frozen", best=True)
    began = time.monotonic()
    upload()
    usual = time.monotonic() - began
    killed = 0
    for step in range(2, 20 * KILLS):
        # each third is the step before saved again, so that replacing is killed too
        add_checkpoint(run, step - (step % 3 == 0), size=3_000_000, seed=step, part=f"{step // 4}".encode())
        steps.prune(run, steps.Retention(newest=2, best="step-000000001"))
        pid = in_child(upload)
        time.sleep(draws.uniform(0, usual))
        os.kill(pid, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        for path in there.glob("checkpoints/step-*"):
            assert directory.problems(path) == []
        if killed == KILLS:
            return
    raise AssertionError(f"only {killed} uploads were killed")


def assert_the_same(run, there):
    steps.prune(run, steps.Retention(newest=2, best="step-000000001"))  # of the newest one that was mirrored till now
    assert {path.name for path in there.glob("checkpoints/*")} == {path.name for path in run.glob("checkpoints/*")}
    for path in steps.all_steps(run):
        assert directory.self_hash(there / "checkpoints" / path.name) == directory.self_hash(path)
        assert steps.problems(there / "checkpoints" / path.name) == []


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_whenever_the_pusher_is_killed_nothing_torn_has_a_final_name(tmp_path):
    run, there = make_run(tmp_path / "run"), tmp_path / "far" / "run"
    kill_uploads(run, there, lambda: push_once(mirror(run, tmp_path / "far")))
    push_once(mirror(run, tmp_path / "far"))
    assert_the_same(run, there)


@needs_sshd
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_whenever_an_upload_through_ssh_is_killed_nothing_torn_has_a_final_name(tmp_path, monkeypatch):
    run, there = make_run(tmp_path / "run"), tmp_path / "far" / "run"
    with serving(tmp_path / "sshd") as server:
        monkeypatch.setenv("AURICLE_SSH_CONFIG", str(server.client_config))
        url = server.url(tmp_path / "far")
        target = connect(f"{url}/run")

        def upload():
            newest = steps.all_steps(run)[-1]
            target.put(newest, f"checkpoints/{newest.name}", lambda done: None)

        kill_uploads(run, there, upload)
        push_once(mirror(run, url))
    assert_the_same(run, there)


def test_a_second_pusher_is_refused(tmp_path):
    run = make_run(tmp_path / "run")
    inside = threading.Event()
    checks = iter([True, False])

    def is_running():
        inside.set()
        return next(checks, False)

    first = threading.Thread(target=push_forever, args=([mirror(run, tmp_path / "far")], is_running))
    first.start()
    inside.wait()
    with pytest.raises(RunFolderError, match="another process pushes it"):
        push_once(mirror(run, tmp_path / "far"))
    push_once(mirror(run, tmp_path / "elsewhere"))
    first.join()
    push_once(mirror(run, tmp_path / "far"))


def test_a_target_that_is_away_is_tried_again_and_delays_no_other(tmp_path):
    run = make_run(tmp_path / "run")
    add_checkpoint(run, 100)
    (tmp_path / "away").write_text("in the way")
    away, here = mirror(run, tmp_path / "away"), mirror(run, tmp_path / "far")
    pushing = threading.Thread(target=push_forever, args=([away, here], lambda: False))
    pushing.start()
    while not (read_record(away.path) and read_record(away.path).tries and here.is_complete()):
        time.sleep(0.05)
    assert steps.problems(tmp_path / "far/run/checkpoints/step-000000100") == []
    assert pushing.is_alive()
    (tmp_path / "away").unlink()
    pushing.join()
    assert contents(tmp_path / "away") == contents(tmp_path / "far")
    assert read_record(away.path).error is None


def test_it_follows_a_run_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(mirror_pusher, "POLL_SECONDS", 0.01)
    run = make_run(tmp_path / "run")
    steps_to_come = iter([100, 200, 300])

    def is_running():
        step = next(steps_to_come, None)
        if step:
            add_checkpoint(run, step)
        return step is not None

    push_forever([mirror(run, tmp_path / "far")], is_running)
    held = {path.name for path in (tmp_path / "far/run/checkpoints").iterdir()}
    assert held == {"step-000000200", "step-000000300"}


def test_a_trainer_that_starts_while_it_ends_is_not_left_alone(tmp_path):
    run = make_run(tmp_path / "run")
    answers = iter([False, True, True, False, False])

    def is_running():
        answer = next(answers)
        if answer:
            add_checkpoint(run, 100)
        return answer

    push_forever([mirror(run, tmp_path / "far")], is_running)
    assert (tmp_path / "far/run/checkpoints/step-000000100").is_dir()
    assert list(answers) == []


def test_the_process_that_a_trainer_starts_mirrors_and_ends(tmp_path):
    run = make_run(tmp_path / "run", mirror={"targets": [str(tmp_path / "far")], "keep": 1}, training={})
    add_checkpoint(run, 100)
    code = f"from pathlib import Path\nfrom auricle.store.mirror_pusher import *\nstart_pusher(Path({str(run)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True)
    log = run / "mirrors" / "push.log"
    copy = tmp_path / "far/run/eval/step-000000001/dev.jsonl"
    while not copy.exists():
        time.sleep(0.05)
    assert "step-000000100: " in log.read_text()
    assert json.loads(next(run.glob("mirrors/*.json")).read_text())["error"] is None
