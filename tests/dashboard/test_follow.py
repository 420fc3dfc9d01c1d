"""Following a run with trackers: what they are sent, how they end, and that a broken one stops nothing."""

import signal
import subprocess
import sys
import time

import pytest

from auricle.core.errors import ConfigError
from auricle.core.events import Event, EventLog, read
from auricle.dashboard import follow
from auricle.dashboard.follow import Stop, forward
from tests.runs import CONFIG, resume_run, write_run

WRITES_LINES = """
def open(run_folder, name, config):
    return Lines((run_folder / f"sent-{name}").open("a"))

class Lines:
    def __init__(self, file):
        self.file = file
    def log(self, step, values):
        self.file.write(f"{step} {sorted(values)}\\n")
        self.file.flush()
    def close(self):
        self.file.write("closed\\n")
        self.file.close()
"""


class Recorder:
    """A tracker that remembers."""

    def __init__(self):
        self.opened, self.rows, self.closed = [], [], 0

    def open(self, name, config):
        self.opened.append((name, config))
        return self

    def log(self, step, values):
        self.rows.append((step, dict(values)))

    def close(self):
        self.closed += 1

    def steps(self, key):
        return [step for step, values in self.rows if key in values]


@pytest.fixture
def laboratory(tmp_path, monkeypatch):
    """Makes trackers of one's own, that a follower's process can import."""
    package = tmp_path / "code" / "lab"
    package.mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.syspath_prepend(str(package.parent))

    def make(name, text):
        (package / f"{name}.py").write_text(text)
        return f"lab.{name}"
    yield make
    for module in [module for module in sys.modules if module.split(".")[0] == "lab"]:
        del sys.modules[module]


def sent(folder, segment=0):
    recorder, stop = Recorder(), Stop()
    forward(read(folder / "events.jsonl"), segment, stop, recorder.open)
    return recorder, stop


def test_a_run_is_sent_once_in_the_order_of_its_steps(tmp_path):
    recorder, stop = sent(write_run(tmp_path / "quickstart"))
    assert recorder.opened == [("quickstart", CONFIG)]
    assert recorder.steps("train/loss") == list(range(25, 601, 25))
    assert recorder.steps("train/terms/ctc") == recorder.steps("train/loss")
    assert recorder.steps("eval/dev/wer") == recorder.steps("save/bytes") == [200, 400, 600]
    assert [step for step, _ in recorder.rows] == sorted(step for step, _ in recorder.rows)
    assert recorder.closed == 1
    assert stop.asked


def test_system_rows_without_a_step_go_to_the_newest_step():
    events = [Event(kind="train", step=25, values={"loss": 1.0}), Event(kind="system", values={"cpu_percent": 7.0})]
    recorder = Recorder()
    forward(events, 0, Stop(), recorder.open)
    assert recorder.rows[-1] == (25, {"system/cpu_percent": 7.0})


def test_another_decoder_beside_the_default_one_has_curves_of_its_own():
    joint = {"dataset": "dev", "wer": 0.5, "decoder": "joint"}
    other = {**joint, "decoder": "ctc", "beside": "joint"}
    events = [Event(kind="eval", step=5, values=values) for values in (joint, other)]
    recorder = Recorder()
    forward(events, 0, Stop(), recorder.open)
    assert recorder.rows == [(5, {"eval/dev/wer": 0.5}), (5, {"eval/dev/ctc/wer": 0.5})]


def test_a_resumed_run_is_a_new_one_with_the_whole_history_that_holds(tmp_path):
    folder = write_run(tmp_path / "run", steps=450, end="interrupted")
    resume_run(folder, at=200, steps=60)
    recorder, stop = sent(folder, segment=1)
    assert [name for name, _ in recorder.opened] == ["run-resume1"]
    assert recorder.steps("train/loss") == list(range(25, 251, 25))
    losses = {step: values["train/loss"] for step, values in recorder.rows if "train/loss" in values}
    assert losses[200] < 100 < losses[225]
    assert not stop.asked  # the `end` is of the segment before


def test_a_start_that_trains_nothing_opens_nothing(tmp_path):
    folder = write_run(tmp_path / "run")
    log = EventLog(folder / "events.jsonl", run="run", segment=1)
    log.write("run", config=CONFIG)
    log.write("end", step=600, reason="already finished")
    log.close()
    recorder, stop = sent(folder, segment=1)
    assert recorder.opened == []
    assert stop.asked
    assert follow._newest_segment(folder / "events.jsonl") == 0


def test_a_live_run_is_followed_from_outside_until_it_ends(tmp_path, laboratory):
    name = laboratory("good", WRITES_LINES)
    said = []
    with follow.trackers(tmp_path, [name], said.append) as sink:
        log = EventLog(tmp_path / "events.jsonl", run="live", sinks=[sink])
        log.write("run", config={})
        log.write("train", step=25, loss=1.0)
        wait_for(lambda: "25 ['train/loss']\n" in (tmp_path / "sent-live").read_text())
        log.write("end", step=25, reason="finished")
        log.close()
    assert said == []
    assert (tmp_path / "sent-live").read_text() == "25 ['train/loss']\nclosed\n"


def test_a_tracker_that_breaks_is_reported_once_and_the_others_go_on(tmp_path, laboratory):
    broken = "def open(*_):\n    raise OSError(28, 'disk full')"
    names = [laboratory("broken", broken), laboratory("good", WRITES_LINES)]
    said = []
    with follow.trackers(tmp_path, names, said.append) as sink:
        log = EventLog(tmp_path / "events.jsonl", run="live", sinks=[sink])
        log.write("run", config={})
        step = 0
        while not said and step < 300:
            step += 1
            log.write("train", step=step, loss=1.0)
            time.sleep(0.05)
        log.write("end", step=step, reason="finished")
        log.close()
    (sentence,) = said
    assert sentence.startswith("tracker lab.broken: stopped (OSError: [Errno 28] disk full); the run itself has all")
    assert "Traceback" in (tmp_path / "tracker-lab.broken.log").read_text()
    assert (tmp_path / "sent-live").read_text().endswith("closed\n")


def test_a_crash_without_an_end_does_not_wait_for_trackers(tmp_path, laboratory, monkeypatch):
    waited, finish = [], follow.finish
    monkeypatch.setattr(follow, "finish", lambda follower, timeout: waited.append(timeout) or finish(follower, timeout))
    with follow.trackers(tmp_path, [laboratory("good", WRITES_LINES)]) as sink:
        log = EventLog(tmp_path / "events.jsonl", run="live", sinks=[sink])
        log.write("run", config={})
        log.write("train", step=1, loss=1.0)
        wait_for(lambda: (tmp_path / "sent-live").exists())
        log.close()
    assert waited == [0.0]
    assert (tmp_path / "sent-live").read_text() == "1 ['train/loss']\nclosed\n"


def test_a_tracker_that_hangs_is_ended_and_reported(tmp_path, laboratory, monkeypatch):
    monkeypatch.setattr(follow, "CLOSING_SECONDS", 0.1)
    hangs = ("import pathlib, time, signal\ndef open(*_):\n    signal.pthread_sigmask(signal.SIG_BLOCK, [15])\n"
             f"    pathlib.Path({str(tmp_path / 'hangs')!r}).touch()\n    time.sleep(99)")
    name = laboratory("hangs", hangs)
    write_run(tmp_path / "run", steps=25)
    follower = follow.start(tmp_path / "run", name)
    wait_for((tmp_path / "hangs").exists)
    sentence = follow.finish(follower, timeout=3.0)
    assert "its process ended with exit code -9" in sentence
    assert follow.finish(follower, timeout=0.0) is None


def test_a_follower_ends_when_the_process_that_started_it_is_gone(tmp_path, laboratory):
    laboratory("good", WRITES_LINES)
    folder = write_run(tmp_path / "run", steps=25, end=None)
    starter = ("from pathlib import Path; from auricle.dashboard import follow; "
               f"print(follow.start(Path({str(folder)!r}), 'lab.good').process.pid)")
    subprocess.run([sys.executable, "-c", starter], check=True, capture_output=True)
    wait_for(lambda: (folder / "sent-run").exists() and (folder / "sent-run").read_text().endswith("closed\n"))


def test_ctrl_c_does_not_reach_the_followers(tmp_path, laboratory):
    name = laboratory("good", WRITES_LINES)
    folder = write_run(tmp_path / "run", steps=25, end=None)
    follower = follow.start(folder, name)
    try:
        wait_for(lambda: (folder / "sent-run").exists())
        assert follow.os.getpgid(follower.process.pid) != follow.os.getpgrp()
    finally:
        follower.process.send_signal(signal.SIGTERM)
    assert follow.finish(follower, timeout=20.0) is None


def test_an_unknown_tracker_is_a_sentence_before_anything_starts(tmp_path):
    with pytest.raises(ConfigError, match="no tracker 'wandbb'; did you mean 'wandb'"):
        follow.trackers(tmp_path, ["wandbb"]).__enter__()


def wait_for(condition):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except FileNotFoundError:
            pass
        time.sleep(0.05)
    pytest.fail("waited half a minute")
