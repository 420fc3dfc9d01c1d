import os
import time

import pytest

from auricle.data import outages


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AURICLE_CACHE", str(tmp_path))
    return tmp_path


def test_nobody_waits_where_nothing_was_told():
    assert outages.current() is None
    outages.settle()


def test_the_longest_wait_is_told_with_its_host_reason_and_beginning(cache):
    since = time.mktime((2026, 1, 2, 13, 14, 15, 0, 0, -1))
    outages.tell("hf://datasets", "503", since)
    (cache / "waiting" / f"{os.getpid()}-1.json").write_text('{"where": "s3://b", "error": "reset", "since": 9e9}')
    assert outages.current() == ("waiting for hf://datasets since 13:14:15 (503); "
                                 "it is tried again until it answers")
    outages.settle()
    assert "s3://b" in outages.current()


def test_the_notice_of_a_process_that_is_gone_counts_for_nothing(cache):
    child = os.fork()
    if child == 0:
        outages.tell("hf://datasets", "503", time.time())
        os._exit(0)
    os.waitpid(child, 0)
    assert len(list((cache / "waiting").glob("*.json"))) == 1
    assert outages.current() is None
    assert not list((cache / "waiting").glob("*.json"))


def test_a_cache_that_cannot_be_written_stops_nothing(monkeypatch):
    monkeypatch.setenv("AURICLE_CACHE", "/proc/nowhere")
    outages.tell("hf://datasets", "503", time.time())
    assert outages.current() is None
    outages.settle()
