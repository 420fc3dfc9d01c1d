import io
import os
import threading

import pytest

from auricle.core.errors import DataError, Preempted
from auricle.data import outages, remote_files
from auricle.data.remote_files import Ranges, RemoteFile, listed, read_range
from tests.ranges import serving

CONTENT = bytes(range(256)) * 400


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    monkeypatch.setenv("AURICLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote_files, "FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(remote_files, "LONGEST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(remote_files, "SILENCE_SECONDS", 0.3)
    monkeypatch.setattr(remote_files, "_file_systems", {})


@pytest.fixture
def server(tmp_path):
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "a.bin").write_bytes(CONTENT)
    with serving(tmp_path / "web") as server:
        yield server


def test_local_files_are_listed_by_pattern_and_sorted(tmp_path):
    for name in ("b/2.bin", "a/1.bin", "a/x.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    assert [(file.url, file.bytes) for file in listed(f"{tmp_path}/**/*.bin")] == [
        (f"{tmp_path}/a/1.bin", 5), (f"{tmp_path}/b/2.bin", 5)]
    assert listed(f"{tmp_path}/a/x.txt")[0].is_local
    with pytest.raises(DataError, match=r"'.*/none\*': no such file \(seen from .*\); expected at least one"):
        listed(f"{tmp_path}/none*")


def test_another_content_is_another_version(tmp_path, server):
    path = tmp_path / "web" / "a.bin"
    for name in (str(path), f"{server.url}/a.bin"):
        before = listed(name)[0]
        assert listed(name)[0] == before
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 5_000_000_000))
        assert listed(name)[0] != before


def test_a_range_is_all_that_is_asked_for(server):
    file = listed(f"{server.url}/a.bin")[0]
    assert (file.bytes, file.is_local) == (len(CONTENT), False)
    assert read_range(file, 1000, 1300) == CONTENT[1000:1300]
    assert server.served["a.bin"] == 300


def test_a_stream_of_ranges_reads_like_a_file(server, monkeypatch):
    monkeypatch.setattr(remote_files, "BLOCK", 10_000)
    stream, plain = Ranges(listed(f"{server.url}/a.bin")[0]), io.BytesIO(CONTENT)
    for offset, whence, size in ((-100, os.SEEK_END, 200), (5, os.SEEK_SET, 25_001), (-7, os.SEEK_CUR, 3)):
        assert stream.seek(offset, whence) == plain.seek(offset, whence)
        assert stream.read(size) == plain.read(size)
        assert stream.tell() == plain.tell()
    assert stream.readable()
    assert stream.seekable()


@pytest.mark.parametrize("faults", [["503"] * 6, ["stall"], ["cut", "cut"], ["reset"], ["500", "429", "408"],
                                    ["502", "stall", "503", "cut", "reset"]], ids=",".join)
def test_a_server_that_fails_stalls_or_cuts_is_asked_again(server, faults):
    server.stall_seconds = 0.6
    file = listed(f"{server.url}/a.bin")[0]
    server.faults.extend(faults)
    assert read_range(file, 10, 90_000) == CONTENT[10:90_000]
    assert not server.faults
    assert outages.current() is None


def test_a_server_that_fails_while_files_are_listed_is_asked_again(server):
    server.faults.extend(["503"] * 7)
    assert listed(f"{server.url}/a.bin")[0].bytes == len(CONTENT)


def test_a_request_that_never_ends_is_given_up_and_made_again(monkeypatch):
    monkeypatch.setattr(remote_files, "CALL_SECONDS", 1.0)
    asked, hang = [], threading.Event()

    def call():
        asked.append(1)
        if len(asked) == 1:
            hang.wait(30)
        return "answer"

    assert remote_files.persistently("hf://x", call) == "answer"
    assert len(asked) == 2
    hang.set()


def test_who_waits_tells_it_until_the_answer_comes(server, monkeypatch):
    file = listed(f"{server.url}/a.bin")[0]
    server.always = "503"
    thread = threading.Thread(target=read_range, args=(file, 0, 10))
    thread.start()
    while outages.current() is None:
        assert thread.is_alive()
    assert "waiting for http://127.0.0.1" in outages.current()
    assert "503" in outages.current()
    server.always = None
    thread.join()
    assert outages.current() is None


def test_an_hour_without_an_answer_ends_the_run_so_that_it_can_go_on(server, monkeypatch):
    file = listed(f"{server.url}/a.bin")[0]
    monkeypatch.setattr(remote_files, "PATIENCE_SECONDS", 0.05)
    server.always = "503"
    with pytest.raises(Preempted, match=r"http://127.0.0.1:\d+: has not answered for 0 minutes .*503.*same command"):
        read_range(file, 0, 10)
    assert outages.current() is None


def test_a_server_that_is_not_there_is_waited_for_too(monkeypatch):
    monkeypatch.setattr(remote_files, "PATIENCE_SECONDS", 0.05)
    with pytest.raises(Preempted, match="has not answered"):
        listed("http://127.0.0.1:9/a.bin")


@pytest.mark.parametrize(("fault", "sentence"), [
    ("404", r"'http.*a\.bin': no such file; correct the name"),
    ("401", r"'http.*a\.bin': no access .*`hf auth login`, and accept the data set's conditions"),
    ("403", "no access"),
    ("410", r"410.*; expected a server that serves byte ranges"),
])
def test_what_no_asking_mends_is_told_at_once(server, fault, sentence):
    file = listed(f"{server.url}/a.bin")[0]
    server.always = fault
    before = len(server.requests)
    with pytest.raises(DataError, match=sentence):
        read_range(file, 0, 10)
    assert len(server.requests) - before == 1


def test_a_file_that_has_shrunk_since_is_named_with_both_sizes(server, tmp_path):
    file = listed(f"{server.url}/a.bin")[0]
    (tmp_path / "web" / "a.bin").write_bytes(CONTENT[:500])
    with pytest.raises(DataError, match=r"a.bin: had 102,400 bytes when it was listed, and now has 500 bytes; "):
        read_range(file, 1000, 2000)


def test_a_server_without_ranges_is_named(server):
    file = listed(f"{server.url}/a.bin")[0]
    server.ranges = False
    with pytest.raises(DataError, match=r"range requests.*; expected a URL of a file that can be read in byte ranges"):
        read_range(file, 1000, 2000)


def test_patterns_behind_https_are_refused():
    with pytest.raises(DataError, match=r"files behind https cannot be listed; expected no '\*'.*hf://datasets/OWNER"):
        listed("https://example.org/data/*.parquet")


def test_a_scheme_that_nobody_knows_and_one_without_its_package_are_named():
    with pytest.raises(DataError, match=r"'gopher://x/a': .*pip install s3fs"):
        listed("gopher://x/a")
    with pytest.raises(DataError, match=r"'wandb://x/a': .*pip install s3fs"):
        listed("wandb://x/a")


def test_a_forked_process_has_clients_of_its_own(server):
    file = listed(f"{server.url}/a.bin")[0]
    assert read_range(file, 0, 5) == CONTENT[:5]
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write_end, read_range(file, 7, 12))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert os.read(read_end, 100) == CONTENT[7:12]


def test_remote_files_are_values():
    assert RemoteFile("a", 1) == RemoteFile("a", 1, "")
