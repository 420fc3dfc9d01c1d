"""Following what a run prints: over rotations and broken connections, each byte once."""

import subprocess
import threading
import time

import pytest

from auricle.remote import logs
from auricle.remote.logs import Follower, tail
from auricle.remote.look import look
from auricle.remote.machine.console import Console
from auricle.remote.machine.job import Exit
from tests.hosts import host, laptop, needs_hosts, tools, use
from tests.namespaces import far_machine, needs_namespaces
from tests.remote.there import add_run, place

__all__ = ["laptop"]
pytestmark = needs_hosts


@pytest.fixture
def machine(tmp_path, monkeypatch):
    with host(tmp_path / "machine") as running:
        use(monkeypatch, running)
        yield running


class Following:
    """`logs -f` in the background."""

    def __init__(self, there, lines=100):
        self.got, self.said = bytearray(), []
        follower = Follower(there, look(there)[0].runs[0], lines)
        self._thread = threading.Thread(target=lambda: follower.follow(self.got.extend, self.said.append),
                                        daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._thread.join(60)
        assert not self._thread.is_alive()

    def until(self, text):
        deadline = time.monotonic() + 60
        while text not in self.got:
            assert time.monotonic() < deadline, bytes(self.got[-200:])
            time.sleep(0.02)


def end(files):
    Exit(code=0, reason="done", time=time.time()).write(files / "exit.json")


def test_it_begins_with_the_last_lines_and_ends_with_the_run(machine, laptop):
    files = add_run(machine.project("speech"), "it's 'a' run")
    (files / "console.log").write_bytes(b"".join(b"line %d\n" % number for number in range(1000)))
    with Following(place(machine, laptop), lines=2) as following:
        following.until(b"line 998\nline 999\n")
        with (files / "console.log").open("ab") as log:
            log.write(b"bar 10%\rbar 20%")
        following.until(b"bar 20%")
        with (files / "console.log").open("ab") as log:
            log.write(b"\xff\x00 last")
        end(files)
    assert bytes(following.got) == b"line 998\nline 999\nbar 10%\rbar 20%\xff\x00 last"
    assert following.said == []


def test_a_run_that_prints_nothing_yet_is_waited_for(machine, laptop):
    files = add_run(machine.project("speech"))
    with Following(place(machine, laptop)) as following:
        (files / "console.log").write_bytes(b"first\n")
        following.until(b"first\n")
        end(files)
    assert bytes(following.got) == b"first\n"


def test_rotation_loses_and_repeats_nothing(machine, laptop):
    files = add_run(machine.project("speech"))
    console, expected = Console(files / "console.log", None, largest=1500), bytearray()

    def write(number):
        line = b"line %d\n" % number
        expected.extend(line)
        console.write(line)

    write(0)
    with Following(place(machine, laptop)) as following:
        following.until(b"line 0\n")
        for number in range(1, 500):
            write(number)
            if number % 100 == 0:  # the machine keeps one file beside the newest
                following.until(b"line %d\n" % number)
        end(files)
    console.close()
    assert (files / "console.log.1").exists()
    assert bytes(following.got) == bytes(expected)


def test_a_log_that_was_emptied_begins_anew(machine, laptop):
    files = add_run(machine.project("speech"))
    (files / "console.log").write_bytes(b"a long line before\n")
    with Following(place(machine, laptop)) as following:
        following.until(b"before\n")
        with (files / "console.log").open("wb") as log:
            log.write(b"short\n")
        following.until(b"short\n")
        end(files)
    assert bytes(following.got) == b"a long line before\nshort\n"


def test_what_is_printed_last_is_shown_though_the_run_ends_in_that_moment(tmp_path, laptop, monkeypatch):
    files = tmp_path / "machine" / "home" / "speech" / ".auricle" / "runs" / "voxformer"
    end = f"printf last >> {files}/console.log; echo '{{}}' > {files}/exit.json"
    head = f'/usr/bin/head "$@"; [ $# -gt 2 ] || [ -f {files}/exit.json ] || {{ {end}; }}'  # after the first block
    with host(tmp_path / "machine", path=tools(tmp_path / "bin", also={"head": head})) as machine:
        use(monkeypatch, machine)
        add_run(machine.project("speech"))
        (files / "console.log").write_bytes(b"first\n")
        with Following(place(machine, laptop)) as following:
            following.until(b"first\n")
    assert bytes(following.got) == b"first\nlast"


def test_the_last_lines_alone(machine, laptop):
    files = add_run(machine.project("speech"))
    there = place(machine, laptop)
    run = look(there)[0].runs[0]
    assert tail(there, run, 5) == b"", "it printed nothing yet"
    (files / "console.log").write_bytes(b"a\nb\nc\n")
    assert tail(there, run, 2) == b"b\nc\n"


def test_a_connection_that_is_killed_is_mended_in_silence_of_bytes(machine, laptop, monkeypatch):
    monkeypatch.setattr(logs, "RETRY_SECONDS", 0.05)
    files = add_run(machine.project("speech"))
    there = place(machine, laptop)
    (files / "console.log").write_bytes(b"start\n")
    expected = bytearray(b"start\n")
    with Following(there) as following:
        for number in range(5):
            following.until(bytes(expected[-10:]))
            there.connection.close()  # the connection that stays is gone, and the session in it
            more = b"x" * 300_000 + b"\nline %d\n" % number
            expected.extend(more)
            with (files / "console.log").open("ab") as log:
                log.write(more)
        following.until(b"line 4\n")
        end(files)
    assert bytes(following.got) == bytes(expected)
    assert any("the connection is lost" in sentence for sentence in following.said)
    assert following.said[-1] == "the connection is back"


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.root
@needs_namespaces
def test_a_cut_cable_is_waited_out(tmp_path, laptop, monkeypatch):
    with far_machine() as far, host(tmp_path / "machine", far=far) as machine:
        use(monkeypatch, machine)
        files = add_run(machine.project("speech"))
        (files / "console.log").write_bytes(b"before\n")
        writing = subprocess.Popen(
            ["sh", "-c", 'i=0; while sleep 0.05; do i=$((i+1)); echo "line $i" >> "$0"; done', files / "console.log"])
        try:
            with Following(place(machine, laptop)) as following:
                following.until(b"line 20\n")
                far.cut()
                deadline = time.monotonic() + 40
                while not following.said and time.monotonic() < deadline:
                    time.sleep(0.05)
                assert "the connection is lost" in following.said[0]
                far.mend()
                seen = len(following.got)
                while len(following.got) < seen + 500 and time.monotonic() < deadline + 40:
                    time.sleep(0.05)
                writing.kill()
                writing.wait()
                end(files)
        finally:
            writing.kill()
            writing.wait()
        assert bytes(following.got) == (files / "console.log").read_bytes()
