import os
import time

from auricle.data import outages
from auricle.train import watchdog
from auricle.train.watchdog import Watchdog


def test_silence_ends_the_process_with_its_stacks_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(watchdog, "CHECK_SECONDS", 0.01)
    ended, said = [], []
    monkeypatch.setattr(os, "_exit", ended.append)
    dog = Watchdog(0.02, tmp_path / "stacks.txt", said.append)
    time.sleep(0.4)
    assert not ended  # nothing has begun yet
    dog.beat()
    deadline = time.monotonic() + 10
    while not ended and time.monotonic() < deadline:
        time.sleep(0.01)
    dog.close()
    assert ended[0] == 75
    assert "no step for" in said[0]
    assert "test_silence_ends" in (tmp_path / "stacks.txt").read_text()


def test_a_wait_for_a_server_is_no_hang(tmp_path, monkeypatch):
    monkeypatch.setattr(watchdog, "CHECK_SECONDS", 0.01)
    monkeypatch.setenv("AURICLE_CACHE", str(tmp_path))
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    outages.tell("hf://datasets", "503", time.time())
    dog = Watchdog(0.001, tmp_path / "stacks.txt", print)
    dog.beat()
    time.sleep(0.3)
    assert not ended
    outages.settle()
    deadline = time.monotonic() + 10
    while not ended and time.monotonic() < deadline:
        time.sleep(0.01)
    dog.close()
    assert ended[0] == 75


def test_slow_steps_raise_the_limit(tmp_path):
    dog = Watchdog(5.0, tmp_path / "stacks.txt", print)
    assert dog.limit_seconds == 50.0  # the first step may compile
    dog._durations.extend([0.1, 0.2, 30.0])
    assert dog.limit_seconds == 5.0
    dog._durations.extend([2.0, 2.0, 30.0])
    assert dog.limit_seconds == 20.0
    dog.begin()
    assert dog.limit_seconds == 50.0
    dog.close()


def test_what_is_no_step_is_not_a_steps_duration(tmp_path):
    dog = Watchdog(5.0, tmp_path / "stacks.txt", print)
    dog.step()
    dog.beat()  # an evaluation lies between the two
    dog.step()
    assert not dog._durations
    dog.step()
    assert len(dog._durations) == 1
    dog.close()
