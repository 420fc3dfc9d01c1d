import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest

from auricle.core.errors import DataError, UsageError
from auricle.data import disk_cache
from auricle.data.disk_cache import DiskCache, cache_bytes, cache_folder

KEYS = [f"{number:032x}" for number in range(1 << 24, (1 << 24) + 20)]


def writer(size: int, calls: list[str] | None = None):
    def make(path: Path) -> None:
        if calls is not None:
            calls.append(path.name)
        path.write_bytes(bytes(size))

    return make


def sizes(cache: DiskCache) -> int:
    return sum(path.stat().st_size for path in (cache.folder / "files").rglob("*") if path.is_file())


def test_a_file_is_made_once(tmp_path):
    cache, calls = DiskCache(tmp_path, 1000), []
    first = cache.get(KEYS[0], writer(10, calls))
    assert cache.get(KEYS[0], writer(10, calls)) == first
    assert (len(calls), first.read_bytes()) == (1, bytes(10))
    assert cache.has(KEYS[0])
    assert not cache.has(KEYS[1])


def test_the_bound_holds_and_what_was_used_last_stays(tmp_path):
    cache, calls = DiskCache(tmp_path, 1000), []
    for key in KEYS[:9]:
        cache.get(key, writer(100, calls))
        time.sleep(0.002)  # so that their times differ
    for key in KEYS[9:]:
        cache.get(KEYS[0], writer(100, calls))
        time.sleep(0.002)
        cache.get(key, writer(100, calls))
        assert sizes(cache) <= 1000
    assert len(calls) == 20
    assert cache.has(KEYS[0])
    assert cache.has(KEYS[19])
    assert not cache.has(KEYS[1])


def test_what_other_processes_put_there_counts(tmp_path):
    for key in KEYS:
        DiskCache(tmp_path, 1000).get(key, writer(300))
    assert sizes(DiskCache(tmp_path, 1000)) <= 1000


def test_a_file_larger_than_the_bound_is_there_alone(tmp_path):
    cache = DiskCache(tmp_path, 1000)
    cache.get(KEYS[0], writer(100))
    assert cache.get(KEYS[1], writer(5000)).stat().st_size == 5000
    assert not cache.has(KEYS[0])


def _make_slowly(folder: Path, log: Path) -> None:
    def make(path: Path) -> None:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.2)
        path.write_bytes(b"made")

    assert DiskCache(folder, 1000).get(KEYS[0], make).read_bytes() == b"made"


def test_processes_that_want_the_same_file_make_it_once(tmp_path):
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_make_slowly, args=(tmp_path / "cache", tmp_path / "log")) for _ in range(3)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0, 0]
    assert len((tmp_path / "log").read_text().split()) == 1


def test_threads_that_want_the_same_file_make_it_once(tmp_path):
    log = tmp_path / "log"
    threads = [threading.Thread(target=_make_slowly, args=(tmp_path / "cache", log)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(log.read_text().split()) == 1


def test_what_fails_leaves_nothing_and_is_made_the_next_time(tmp_path):
    cache = DiskCache(tmp_path, 1000)

    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise DataError("the source is gone")

    with pytest.raises(DataError, match="the source is gone"):
        cache.get(KEYS[0], fail)
    assert not any(path.is_file() for path in (tmp_path / "files").rglob("*"))
    assert not any((tmp_path / "aside").iterdir())
    assert cache.get(KEYS[0], writer(4)).read_bytes() == bytes(4)


def test_a_disk_that_takes_no_more_is_named(tmp_path):
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match=r"No space left .*expected 1e-06 GB .*AURICLE_CACHE_GB.* AURICLE_CACHE$"):
        DiskCache(tmp_path, 1000).get(KEYS[0], full)


def test_what_a_killed_process_left_aside_goes(tmp_path):
    cache = DiskCache(tmp_path, 1000)
    cache.get(KEYS[0], writer(10))
    left = tmp_path / "aside" / "left"
    left.write_bytes(b"half")
    cache.get(KEYS[1], writer(995))
    assert left.exists()  # perhaps its process still writes
    os.utime(left, times=(0, time.time() - disk_cache.ABANDONED_SECONDS - 1))
    cache.get(KEYS[2], writer(995))
    assert not left.exists()


def test_the_environment_says_where_and_how_much(tmp_path, monkeypatch):
    monkeypatch.setenv("AURICLE_CACHE", str(tmp_path))
    monkeypatch.setenv("AURICLE_CACHE_GB", "0.5")
    assert (cache_folder(), cache_bytes()) == (tmp_path, 500_000_000)
    monkeypatch.delenv("AURICLE_CACHE")
    monkeypatch.delenv("AURICLE_CACHE_GB")
    assert (cache_folder(), cache_bytes()) == (Path.home() / ".cache" / "auricle", 8_000_000_000)
    monkeypatch.setenv("AURICLE_CACHE_GB", "lots")
    with pytest.raises(UsageError, match="AURICLE_CACHE_GB is 'lots'; expected a number of gigabytes above 0, as 8"):
        cache_bytes()
