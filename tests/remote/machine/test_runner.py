"""The runner with small trainers, in a process of its own."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from auricle.core.events import read
from auricle.remote.machine.console import Console
from auricle.remote.machine.job import Exit, Job, Runner, Stop
from auricle.remote.machine.processes import runner_of
from auricle.remote.machine.runner import MOST_STARTS, train_command
from tests.remote.machine import trainers
from tests.remote.machine.trainers import wait_for

CODE = """
import json, sys
from pathlib import Path
from auricle.remote.machine import runner
from auricle.remote.machine.job import Job
runner.SECONDS_BETWEEN_STARTS = 0.1
runner.start_guard = lambda *_: None
folder = Path(sys.argv[1])
sys.exit(runner.Supervisor(Path.cwd(), folder, Job.read(folder / "job.json"), json.loads(sys.argv[2])).run().code % 256)
"""


class Ran:
    """A runner that goes on."""

    def __init__(self, project: Path, job: Job, secrets: dict | None = None, **pipes) -> None:
        self.project, self.folder = project, trainers.written(project, job)
        pipes.setdefault("stdout", subprocess.PIPE)
        self.process = subprocess.Popen([sys.executable, "-c", CODE, str(self.folder), json.dumps(secrets or {})],
                                        cwd=project, **pipes)

    def end(self) -> Exit:
        self.process.wait(60)
        end = Exit.read(self.folder / "exit.json")
        assert end.code % 256 == self.process.returncode
        return end

    @property
    def run_folder(self) -> Path:
        return self.project / "outputs" / "run"

    @property
    def console(self) -> str:
        path = self.folder / "console.log"
        return path.read_text() if path.exists() else ""

    def wait_for_step(self, step: int) -> None:
        wait_for(lambda: f"step {step}\n" in self.console or self.process.poll() is not None)
        assert self.process.poll() is None


@pytest.fixture
def run(tmp_path):
    started = []

    def start(*words: str, secrets: dict | None = None, pipes: dict | None = None, **fields) -> Ran:
        started.append(Ran(tmp_path, trainers.job(tmp_path, *words, **fields), secrets, **(pipes or {})))
        return started[-1]

    yield start
    for ran in started:
        runner = Runner.read(ran.folder / "runner.json")
        for group in filter(None, (runner and runner.trainer,)):
            try:
                os.killpg(group, signal.SIGKILL)
            except ProcessLookupError:
                continue
        ran.process.kill()
        ran.process.wait()
        if ran.process.stdout:
            ran.process.stdout.close()


def test_what_a_trainer_prints_is_shown_and_kept_byte_for_byte(run):
    ran = run("steps=5", "pause=0")
    shown = ran.process.stdout.read()
    assert ran.end().code == 0
    assert shown == (ran.folder / "console.log").read_bytes()
    assert [line for line in ran.console.splitlines() if line.startswith("step")] == [f"step {n}" for n in range(1, 6)]
    assert "run: done, 5 steps (code 0)" in ran.console


def test_the_words_of_a_job_become_the_command(tmp_path):
    alone = Job(run="r", run_folder="outputs/r", train=["+experiments=a b", "training.run_name='x y'"])
    assert train_command(alone, {})[1:] == ["-m", "auricle", "train", "+experiments=a b", "training.run_name='x y'"]
    many = Job(run="r", run_folder="outputs/r", train=["+experiments=a"], nproc=8, nnodes=2, node_rank=1,
               rendezvous="10.0.0.7:29500")
    assert train_command(many, {})[4:] == ["--nproc", "8", "--nnodes", "2", "--node-rank", "1", "--rendezvous",
                                           "10.0.0.7:29500", "+experiments=a"]


def test_without_the_secrets_that_it_had_hub_and_trackers_are_paused():
    job = Job(run="r", run_folder="outputs/r", train=["+experiments=a"], secrets=["HF_TOKEN"])
    assert train_command(job, {"HF_TOKEN": "x"})[4:] == ["+experiments=a"]
    assert train_command(job, {})[4:] == ["+experiments=a", "training.report_to=[]", "training.hub_model_id=null"]


def test_secrets_and_variables_reach_the_trainer_alone(run):
    ran = run("pause=0.2", secrets={"HF_TOKEN": "hf_only_there"})
    ran.wait_for_step(1)
    trainer = Runner.read(ran.folder / "runner.json").trainer
    there = Path(f"/proc/{trainer}/environ").read_bytes().split(b"\0")
    assert b"HF_TOKEN=hf_only_there" in there
    assert f"FAKE_RUN={ran.run_folder}".encode() in there
    assert b"hf_only_there" not in Path(f"/proc/{trainer}/cmdline").read_bytes()
    assert Runner.read(ran.folder / "runner.json").secrets == ["HF_TOKEN"]
    assert not any(b"hf_only_there" in path.read_bytes() for path in ran.folder.iterdir() if path.is_file())


def test_a_trainer_that_hung_is_started_again_and_gets_further(run):
    ran = run("steps=12", "pause=0", "at=7", "end=75")
    assert ran.end().code == 75  # it ends at step 7 each time
    starts = [event for event in read(ran.run_folder / "events.jsonl") if event.kind == "run"]
    assert len(starts) == MOST_STARTS + 1
    assert f"ended {MOST_STARTS + 1} times at step 7" in ran.console


def test_starts_at_other_steps_are_not_counted_together(run):
    ran = run("steps=12", "save=1", "pause=0.01", "at=7", "end=75")
    assert ran.end().code == 0  # the step at which it ended was saved, so the next start begins behind it
    assert Runner.read(ran.folder / "runner.json").starts == 2


@pytest.mark.parametrize("code", [1, 76])
def test_a_trainer_that_failed_is_not_started_again(run, code):
    ran = run("steps=12", "pause=0", "at=7", f"end={code}")
    end = ran.end()
    assert (end.code, Runner.read(ran.folder / "runner.json").starts) == (code, 1)
    assert end.reason == "failed: ended at step 7"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_has_the_trainer_save_and_end(run, number):
    ran = run("pause=1.5")
    ran.wait_for_step(2)
    ran.process.send_signal(number)
    time.sleep(0.5)  # the trainer was told, and is in the midst of its step
    ran.process.send_signal(number)  # no order to end at once
    end = ran.end()
    assert end.code == 75
    assert number.name in end.reason
    last = [event for event in read(ran.run_folder / "events.jsonl") if event.kind == "train"][-1]
    assert trainers.newest_step(ran.run_folder) == last.step
    assert not (ran.folder / "stop.json").exists()  # a machine that goes down: a restart goes on


def test_a_wish_that_was_written_down_is_enough(run):
    ran = run()
    ran.wait_for_step(3)
    Stop(reason="max_cost 5 is reached", time=0.0).write(ran.folder / "stop.json")
    end = ran.end()
    assert end.code == 75
    assert "max_cost 5 is reached" in end.reason


def test_a_wish_of_which_a_full_disk_took_the_name_alone_is_enough(run, tmp_path):
    folder = tmp_path / ".auricle" / "runs" / "run"
    folder.mkdir(parents=True)
    (folder / "stop.json").touch()
    end = run().end()
    assert end.code == 75
    assert "asked by stop.json" in end.reason


def test_ctrl_c_in_its_terminal_saves_and_ends_it(run):
    ours, theirs = pty.openpty()
    shown = bytearray()

    def read_all() -> None:
        try:
            while block := os.read(ours, 4096):
                shown.extend(block)
        except OSError:
            return

    reader = threading.Thread(target=read_all)
    reader.start()
    ran = run(pipes={"stdin": theirs, "stdout": theirs, "stderr": theirs, "preexec_fn": lambda: _take(theirs)})
    os.close(theirs)
    ran.wait_for_step(6)
    os.write(ours, b"\x03")
    end = ran.end()
    reader.join(20)
    os.close(ours)
    assert end.code == 75
    assert Stop.read(ran.folder / "stop.json").reason == "Ctrl-C in its terminal"
    assert [event.values["reason"] for event in read(ran.run_folder / "events.jsonl") if event.kind == "end"] == \
        ["interrupted"]
    assert b"stopped (Ctrl-C in its terminal)" in shown


def test_ctrl_s_in_its_terminal_freezes_nothing(run):
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    ran = run("pause=0.01", pipes={"stdin": theirs, "stdout": theirs, "stderr": theirs,
                                   "preexec_fn": lambda: _take(theirs)})
    os.close(theirs)

    def shows(step: int) -> bool:
        with contextlib.suppress(OSError):
            os.read(ours, 1 << 16)
        return f"step {step}\n" in ran.console

    wait_for(lambda: shows(6))
    os.write(ours, b"\x13")
    time.sleep(0.1)
    reached = ran.console.count("\n")
    wait_for(lambda: shows(reached + 50), 20.0)
    ran.process.send_signal(signal.SIGTERM)
    wait_for(lambda: shows(1) and ran.process.poll() is not None, 20.0)
    assert ran.end().code == 75
    os.close(ours)


def _take(terminal: int) -> None:
    """As the controlling terminal of this process."""
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


def test_a_second_ctrl_c_ends_a_trainer_that_does_not_listen(run):
    ran = run("stubborn=0", "pause=30")
    ran.wait_for_step(1)
    ran.process.send_signal(signal.SIGINT)
    wait_for(lambda: (ran.folder / "stop.json").exists())
    ran.process.send_signal(signal.SIGINT)
    end = ran.end()
    assert end.code == 75
    assert not [event for event in read(ran.run_folder / "events.jsonl") if event.kind == "end"]


def test_a_killed_trainer_says_so(run):
    ran = run()
    ran.wait_for_step(3)
    os.killpg(Runner.read(ran.folder / "runner.json").trainer, signal.SIGKILL)
    end = ran.end()
    assert (end.code, end.reason) == (-9, "was ended by SIGKILL: the reason is at the end of console.log")


def test_one_that_is_killed_after_it_was_asked_goes_on_later(run):
    ran = run("stubborn=1")
    ran.wait_for_step(3)
    ran.process.send_signal(signal.SIGTERM)
    before = len(ran.console)
    wait_for(lambda: len(ran.console) > before)
    os.killpg(Runner.read(ran.folder / "runner.json").trainer, signal.SIGKILL)
    assert ran.end().code == 75


def test_a_terminal_that_is_gone_and_a_full_disk_stop_nothing(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    console = Console(tmp_path / "missing" / "console.log", writing)
    console.write(b"step 1\n")
    (tmp_path / "missing").mkdir()
    console.write(b"step 2\n")
    console.close()
    os.close(writing)
    assert console.path.read_bytes() == b"step 2\n"


def test_a_long_log_is_cut_and_the_newest_part_of_it_stays(tmp_path):
    console = Console(tmp_path / "console.log", None, largest=100)
    for number in range(30):
        console.write(f"step {number:04d}\n".encode())
    console.write(b"x" * 150)
    console.close()
    old, new = (tmp_path / "console.log.1").read_bytes(), (tmp_path / "console.log").read_bytes()
    assert new == b"x" * 150
    assert old.splitlines()[-1] == b"step 0029"
    assert len(old) <= 100


def test_a_number_that_another_process_bears_is_no_runner(run):
    ran = run("pause=0.2")
    ran.wait_for_step(1)
    record = Runner.read(ran.folder / "runner.json")
    assert record.pid == ran.process.pid
    assert runner_of(ran.folder) is None  # it was not started as `… run KEY SOCKET`
