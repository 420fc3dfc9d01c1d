"""status, list, logs, attach, exec, pull, stop and watch as commands, against SSH servers on this machine."""

import contextlib
import http.server
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from auricle.remote.machine.job import Exit, session_of
from tests.hosts import give_environment, host, laptop, needs_hosts, use
from tests.remote.test_pull import HERE, good, make_run
from tests.remote.there import add_run

__all__ = ["laptop"]
pytestmark = needs_hosts
COMMAND = [sys.executable, "-m", "auricle", "remote"]


@pytest.fixture
def machine(tmp_path, monkeypatch, laptop):
    with host(tmp_path / "machine") as running:
        use(monkeypatch, running)
        laptop.remember(running.target, folder=str(running.project("speech")))
        yield running


def remote(*words, code=0, stdin=""):
    done = subprocess.run([*COMMAND, *map(str, words)], capture_output=True, text=True, input=stdin, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_status_is_a_row_a_run(machine):
    add_run(machine.project("speech"), step=700, limit="max_cost 1 is reached", alarms=["older", "the disk is full"])
    add_run(machine.project("speech"), "old", exit_code=76, reason="loss is not finite")
    shown = remote("status", *machine.words).stdout
    assert re.search(r"127.0.0.1:\d+ +voxformer +training +700/2000 +1.250 +32.1 % +1 h 30 min +500 +400 +"
                     r"\$0.50 → \$1.25 +\$0.50 +\d\.\d s ago", shown)
    assert "old: loss is not finite" in shown
    assert "voxformer: max_cost 1 is reached" in shown
    assert "voxformer: Alarm: the disk is full" in shown
    assert "old" not in remote("status", "--run", "voxformer").stdout
    rows = json.loads(remote("status", "--json").stdout)
    assert [(row["run"], row["state"], row["exit_code"]) for row in rows] == [
        ("old", "ended with code 76", 76), ("voxformer", "training", None)]


def test_status_of_a_machine_that_is_gone(machine):
    add_run(machine.project("speech"))
    remote("status")
    machine.kill()
    done = remote("status", code=8)
    assert re.search(r"voxformer +lost: training, \d\.\d s ago +500/2000", done.stdout)
    assert done.stderr.startswith("error: 127.0.0.1:")
    assert json.loads(remote("status", "--json", code=8).stdout)[0]["last_state"] == "training"


def test_without_a_machine_there_is_a_hint(laptop):
    assert "auricle remote deploy HOST PORT" in remote("status").stdout
    assert "auricle remote deploy HOST PORT" in remote("watch", "--once").stdout


@pytest.mark.slow
@pytest.mark.long
def test_twenty_machines_at_once_one_of_them_gone(tmp_path, laptop, machine):
    with contextlib.ExitStack() as stack:
        others = [stack.enter_context(host(tmp_path / f"m{number}", key_of=machine)) for number in range(19)]
        for number, other in enumerate(others):
            laptop.remember(other.target, folder=str(other.project("speech")))
            add_run(other.project("speech"), f"run-{number}")
        add_run(machine.project("speech"))
        others[3].kill()
        rows = json.loads(remote("status", "--json", code=8).stdout)
    assert len(rows) == 20
    assert [row["run"] for row in rows if row["state"] != "training"] == [None]


def test_list_shows_what_costs_and_the_runs_of_a_machine(machine, laptop):
    laptop.remember(machine.target, price_per_hour=0.5, since=time.time() - 7200)
    project = machine.project("speech")
    add_run(project)
    shown = remote("list").stdout
    assert re.search(rf"ssh +– +– +{machine.address} .*\$0.50 +2.0 +\$1.00", shown)
    assert shown.splitlines()[-1].startswith("total")
    [run] = json.loads(remote("list", machine.address, "--json").stdout)
    assert run == {"machine": machine.address, "run": "voxformer", "state": "training",
                   "session": session_of(project, "voxformer"), "log": ".auricle/runs/voxformer/console.log"}


def test_logs_end_with_the_run(machine):
    files = add_run(machine.project("speech"))
    (files / "console.log").write_text("".join(f"line {number}\n" for number in range(200)))
    assert remote("logs", *machine.words, "-n", "2").stdout == "line 198\nline 199\n"
    Exit(code=0, reason="done", time=time.time()).write(files / "exit.json")
    assert remote("logs", machine.address, "-f", "--lines", "3").stdout == "line 197\nline 198\nline 199\n"
    assert "one machine at a time" in remote("logs", machine.address, "10.0.0.9", code=2).stderr


def test_exec_passes_words_streams_and_the_code(machine):
    project = machine.project("speech")
    project.mkdir()
    give_environment(project)
    words = ["it's", '"quoted"', "$HOME", "a b", "", "*", "-x", "`id`", "line\nbreak"]
    shown = remote("exec", *machine.words, "--", "printf", "<%s>", *words).stdout
    assert shown == "".join(f"<{word}>" for word in words)
    assert remote("exec", machine.address, "--", "sh", "-c", "cat; pwd; exit 7", code=7, stdin="in\n").stdout == (
        f"in\n{project}\n")
    found = remote("exec", machine.address, "--", "python", "-c", "import sys; print(sys.executable)").stdout
    assert found.strip() == str(project / ".venv/bin/python")
    assert "no command" in remote("exec", machine.address, code=2).stderr


def test_exec_where_the_project_is_not(machine):
    assert "this project is not there; auricle remote deploy" in remote(
        "exec", machine.address, "--", "true", code=8).stderr


def test_pull_says_what_came(machine):
    make_run(machine)
    shown = remote("pull", machine.address).stdout
    assert shown == "outputs/voxformer: step 400, step-000000200, step-000000400 verified\n"
    assert remote("pull", machine.address).stdout == "outputs/voxformer: step 400\n"
    make_run(machine, "other", created=7.0)
    assert remote("pull", machine.address, "--all", "--to", "copies").stdout.count("verified") == 2
    assert good(Path("copies/other")) == ["step-000000200", "step-000000400"]
    assert "outputs/voxformer" in subprocess.run(
        [sys.executable, "-m", "auricle", "runs", "--json"], capture_output=True, text=True, check=True).stdout
    for verb in (["plot", "outputs/voxformer"], ["report", "outputs/voxformer"]):
        subprocess.run([sys.executable, "-m", "auricle", *verb], capture_output=True, check=True)


def test_pull_all_goes_on_after_one_that_cannot_be_pulled(machine):
    add_run(machine.project("speech"), "apple", exit_code=1)  # failed at once
    make_run(machine, "zebra")
    done = remote("pull", machine.address, "--all", code=8)
    assert done.stdout == "outputs/zebra: step 400, step-000000200, step-000000400 verified\n"
    assert re.fullmatch(r"error: .*apple has no run.json in .*\n", done.stderr)


def test_stop_ends_the_run_and_reminds_of_the_bill(machine):
    project = machine.project("speech")
    add_run(project, budget={"price_per_hour": 0.44})
    give_environment(project)
    shown = remote("stop", *machine.words, "--wait", "5").stdout
    assert "voxformer: nothing was saved, ended" in shown
    assert f"costing $0.44 an hour; this ends that: auricle remote release {machine.address}" in shown
    add_run(project, exit_code=0)
    assert "no run goes on there; voxformer ended" in remote("stop", machine.address, code=8).stderr


def test_attach_without_a_terminal_says_what_to_do(machine):
    add_run(machine.project("speech"))
    assert f"auricle remote logs {machine.address} -f" in remote("attach", machine.address, code=2).stderr


def test_attach_opens_the_tmux_of_the_run(machine):
    project = machine.project("speech")
    add_run(project)
    session = session_of(project, "voxformer")
    remote("exec", machine.address, "--", "tmux", "-L", session, "-f", "/dev/null", "new-session", "-d",
           "sh", "-c", "echo this is the run; sleep 100")
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm"
        os.execv(sys.executable, [*COMMAND, "attach", machine.address])
    try:
        assert "this is the run" in read_until(terminal, b"this is the run")
        os.write(terminal, b"\x02")  # Ctrl-B, and D when tmux cannot take both for something pasted
        time.sleep(0.3)
        os.write(terminal, b"d")
        assert "detached" in read_until(terminal, b"detached")
    finally:
        os.close(terminal)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    remote("exec", machine.address, "--", "tmux", "-L", session, "has-session")


def read_until(terminal, text, seconds=30.0):
    read, deadline = b"", time.monotonic() + seconds
    while text not in read and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                read += os.read(terminal, 4096)
            except OSError:
                break
    return read.decode(errors="replace")


def test_watch_once_for_cron(machine):
    make_run(machine)
    files = add_run(machine.project("speech"), events_bytes=1, saved_step=400)
    assert "step-000000400 verified" in remote("watch", "--once").stdout
    assert good(HERE) == ["step-000000200", "step-000000400"]
    Exit(code=1, reason="failed: out of memory", time=time.time()).write(files / "exit.json")
    shown = remote("watch", "--once").stdout
    assert re.search(rf"failed +voxformer on {machine.address}: failed with code 1: failed: out of memory", shown)
    assert "failed" not in remote("watch", "--once").stdout


@contextlib.contextmanager
def webhook():
    """A web server. → URL of a hook that is not there and of one that is, what it was sent"""
    sent = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"]
            if self.path == "/x":
                sent.append(text)
            self.send_response(204 if self.path == "/x" else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        where = f"http://127.0.0.1:{server.server_port}"
        yield f"{where}/gone {where}/x", sent
        server.shutdown()


def test_a_watch_whose_output_nobody_reads_goes_on(machine, laptop):
    add_run(machine.project("speech"))
    with webhook() as (urls, sent):
        process = subprocess.Popen([*COMMAND, "watch", "--interval", "0.3"], stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL, env={**os.environ, "AURICLE_WEBHOOK": urls})
        try:
            assert b"watching" in process.stdout.readline()
            process.stdout.close()
            add_run(machine.project("speech"), age=30)
            until(lambda: any("guard is dead" in text for text in sent))
            machine.kill()
            until(lambda: any("does not answer" in text for text in sent))
            assert process.poll() is None
        finally:
            process.kill()
            process.wait()


def until(true, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.05)


def test_a_watch_ends_quietly_and_shows_no_webhook(machine):
    add_run(machine.project("speech"), age=30)
    secret = "B0/very-secret"
    process = subprocess.Popen([*COMMAND, "watch", machine.address, "--interval", "0.3"], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True,
                               env={**os.environ, "AURICLE_WEBHOOK": f"http://127.0.0.1:9/{secret}"})
    shown = ""
    while "not delivered" not in shown:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        shown += line
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
    assert "guard is dead: nobody keeps its budget" in shown
    assert "webhook http://127.0.0.1/…" in shown
    assert secret not in shown + rest
