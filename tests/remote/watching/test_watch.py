"""Watching machines: real SSH servers that are killed, cut off, slow, and come back."""

import json
import subprocess
import threading
import time
from pathlib import Path

import pytest

from auricle.core.errors import UsageError
from auricle.core.events import EventLog
from auricle.remote.connection import Unreachable
from auricle.remote.machine.job import Exit
from auricle.remote.pull import Pulled
from auricle.remote.watching import memory as memories
from auricle.remote.watching import rescue, watched
from auricle.remote.watching import watch as watching
from auricle.remote.watching.memory import remembered
from auricle.remote.watching.watch import once, watch
from auricle.remote.watching.watched import Settings, Watched
from auricle.store import steps
from auricle.store.targets.ssh import Ssh
from tests.hosts import host, laptop, needs_hosts, use
from tests.mirrored import add_checkpoint
from tests.namespaces import HERE as NEAR
from tests.namespaces import far_machine, needs_namespaces
from tests.remote.test_pull import HERE, RUN, good, make_run
from tests.remote.there import add_run, beat, place

__all__ = ["laptop"]
pytestmark = needs_hosts
BOUND_SECONDS = 30.0


@pytest.fixture
def machine(tmp_path, monkeypatch):
    with host(tmp_path / "machine") as running:
        use(monkeypatch, running)
        yield running


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(watched, "FILES_SECONDS", 0.0)


class Post:
    """What was told."""

    def __init__(self, laptop, environ=None):
        self.alarms, self.lines, self._folder = [], [], laptop.folder
        self.settings = Settings(to=Path("outputs"), environ=environ or {}, progress=lambda *_: None)

    @property
    def kinds(self):
        return [alarm.kind for alarm in self.alarms]

    def text(self, kind):
        return next(str(alarm) for alarm in self.alarms if alarm.kind == kind)

    def make(self, memory):
        return lambda place: Watched(place, self.settings, memory, self.alarms.append, self.lines.append)

    def once(self, *places):
        """One round, as cron does it. → what it told"""
        before = len(self.alarms)
        with remembered(self._folder) as memory:
            once(lambda: places, self.make(memory))
        return self.kinds[before:]


@pytest.fixture
def post(laptop):
    return Post(laptop)


def until(true, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


def told(run_folder, name, kind, message):
    log = EventLog(run_folder / name, run=run_folder.name)
    log.write(kind, message=message)
    log.close()


class TestRounds:
    """`--once`: what one round tells, and the next one does not."""

    def test_a_run_comes_here_and_nothing_old_is_news(self, machine, laptop, post):
        run = make_run(machine)
        old = {"kind": "alarm", "time": time.time() - 86400, "message": "of yesterday"}
        (run / "machine.jsonl").write_text(json.dumps(old) + "\n")
        files = add_run(machine.project("speech"), events_bytes=9, saved_step=400)
        there = place(machine, laptop)
        assert post.once(there) == []
        assert good(HERE) == ["step-000000200", "step-000000400"]
        assert "step-000000400" in post.lines[0]
        told(run, "events.jsonl", "alarm", "loss is not finite")
        told(run, "machine.jsonl", "limit", "max_cost 1 is reached")
        beat(files, events_bytes=10, saved_step=400)
        assert post.once(there) == ["alarm", "limit"]
        assert post.text("limit") == f"voxformer on {machine.address}: max_cost 1 is reached"
        assert post.once(there) == []

    def test_an_end_is_told_once_and_again_after_another_start(self, machine, laptop, post):
        there, project = place(machine, laptop), machine.project("speech")
        add_run(project)
        assert post.once(there) == []
        add_run(project, exit_code=0, reason="done, 2000 steps")
        assert post.once(there) == ["ended"]
        assert "done, 2000 steps" in post.text("ended")
        assert post.once(there) == []
        add_run(project)
        assert post.once(there) == []
        add_run(project, exit_code=76, reason="diverged")
        assert post.once(there) == ["failed"]

    @pytest.mark.parametrize("later", [-5.0, 5.0])
    def test_an_end_is_told_once_whether_or_not_a_watch_was_there(self, machine, laptop, post, later):
        there, project = place(machine, laptop), machine.project("speech")
        files = add_run(project)
        with remembered(laptop.folder) as memory:
            post.make(memory)(there).look()
        Exit(code=0, reason="done", time=time.time() + later).write(files / "exit.json")
        with remembered(laptop.folder) as memory:
            watching = post.make(memory)(there)
            watching.look()
            watching.look()
        assert post.kinds == ["ended"]

    def test_a_dead_guard_is_told_once_and_again_after_it_was_back(self, machine, laptop, post, monkeypatch):
        monkeypatch.setattr(rescue, "REVIVE_SECONDS", 1e9)
        there, project = place(machine, laptop), machine.project("speech")
        add_run(project, age=40)
        assert post.once(there) == ["guard"]
        assert post.once(there) == []
        add_run(project)
        assert post.once(there) == ["back"]
        add_run(project, age=40)
        assert post.once(there) == ["guard"]

    def test_a_machine_that_is_gone_is_told_once_and_its_bill_goes_on(self, machine, laptop, post):
        there = place(machine, laptop)
        add_run(machine.project("speech"), step=700, budget={"max_cost": 0.4})
        post.once(there)
        machine.kill()
        assert post.once(there) == ["lost"]
        assert post.once(there) == []

    def test_one_answer_that_does_not_come_is_no_alarm(self, machine, laptop, post, monkeypatch):
        add_run(machine.project("speech"))
        asked, real = [], watched.look

        def look(there, seconds):
            asked.append(seconds)
            if len(asked) == 1:
                raise Unreachable("the network hiccuped")
            return real(there, seconds)

        monkeypatch.setattr(watched, "look", look)
        assert post.once(place(machine, laptop)) == []
        assert len(asked) == 2

    def test_a_damaged_checkpoint_is_not_fetched_again_and_again(self, machine, laptop, post, monkeypatch):
        run = make_run(machine)
        path = run / "checkpoints/step-000000400/optimizer.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"!")
        fetched, real = [], Ssh.get
        monkeypatch.setattr(Ssh, "get", lambda self, name, *given: (fetched.append(name), real(self, name, *given)))
        there = place(machine, laptop)
        with remembered(laptop.folder) as memory:
            watching = post.make(memory)(there)
            for size in (1, 2, 3):
                add_run(machine.project("speech"), events_bytes=size, saved_step=400)
                watching.look()
                watching.carry()
        assert fetched.count("checkpoints/step-000000400") == 1
        assert good(HERE) == ["step-000000200", "step-000000300"]
        assert "step-000000400" in post.lines[0]

    def test_without_a_guard_the_cost_is_reckoned_by_the_clock(self, machine, laptop, post, monkeypatch):
        monkeypatch.setattr(rescue, "REVIVE_SECONDS", 1e9)
        add_run(machine.project("speech"), age=3600, hours=1.0, budget={"max_cost": 0.9})
        assert post.once(place(machine, laptop)) == ["guard", "budget"]
        assert "some $1.00 by now, more than max_cost $0.90" in post.text("budget")
        assert post.once(place(machine, laptop)) == []

    def test_a_folder_that_is_not_ours_is_let_be_and_the_other_run_still_comes(self, machine, laptop, post):
        make_run(machine)
        make_run(machine, "other")
        for name in (RUN, "other"):
            add_run(machine.project("speech"), name, events_bytes=9, saved_step=400)
        HERE.mkdir(parents=True)
        (HERE / "notes.txt").write_text("mine")
        assert post.once(place(machine, laptop)) == []
        assert "holds notes.txt" in "".join(post.lines)
        assert [path.name for path in HERE.iterdir()] == ["notes.txt"]
        assert good(Path("outputs") / "other") == ["step-000000200", "step-000000400"]

    def test_two_watches_of_one_project_do_not_meet(self, laptop, post):
        with remembered(laptop.folder), pytest.raises(UsageError, match="another one watches"):
            post.once()

    def test_a_torn_memory_is_a_new_one(self, laptop):
        (laptop.folder / memories.FILE).write_text('{"time": 1')
        assert memories.read(laptop.folder / memories.FILE).since > time.time() - 60


class TestRescue:
    def test_a_machine_whose_guard_stays_dead_is_told_to_go_on_once(self, machine, laptop, post):
        project = machine.project("speech")
        fake(project, 'echo "$@" >> calls; echo "[now] voxformer: goes on"')
        add_run(project, age=100)
        there = place(machine, laptop)
        assert post.once(there) == ["guard", "guard"]
        assert "told to go on: [now] voxformer: goes on" in str(post.alarms[1])
        assert post.once(there) == []
        assert (project / "calls").read_text() == "-m auricle remote machine boot\n"

    def test_lost_secrets_are_handed_back_on_stdin_alone(self, machine, laptop):
        project = machine.project("speech")
        fake(project, 'echo "$@" >> calls; cat > given; echo "run \'voxformer\' goes on with HF_TOKEN"')
        add_run(project, secrets=["HF_TOKEN", "WANDB_API_KEY"], runner={"secrets": ["WANDB_API_KEY"]})
        post = Post(laptop, {"HF_TOKEN": "hf_unique", "WANDB_API_KEY": "w"})
        there = place(machine, laptop)
        assert post.once(there) == ["secrets"]
        assert post.once(there) == []
        assert json.loads((project / "given").read_text()) == {"HF_TOKEN": "hf_unique"}
        assert (project / "calls").read_text() == "-m auricle remote machine secrets voxformer --wait 600\n"
        assert "hf_unique" not in str(post.alarms) + "".join(post.lines)
        written = b"".join(path.read_bytes() for path in laptop.root.rglob("*") if path.is_file())
        assert b"hf_unique" not in written

    def test_secrets_that_are_not_all_here_are_not_handed_over(self, machine, laptop):
        project = machine.project("speech")
        fake(project, 'echo "$@" >> calls')
        add_run(project, secrets=["HF_TOKEN", "WANDB_API_KEY"])
        assert Post(laptop, {"HF_TOKEN": "hf"}).once(place(machine, laptop)) == []
        assert not (project / "calls").exists()

    @pytest.mark.parametrize(("on_limit", "safe", "expected"), [
        ("stop", 500, [("7", True)]), ("release", 500, [("7", False)]), ("keep", 500, []), ("release", 400, [])])
    def test_a_machine_that_cannot_end_itself_is_ended_from_here_once_its_run_is_elsewhere(
            self, machine, laptop, post, monkeypatch, on_limit, safe, expected):
        calls = []
        monkeypatch.setattr(rescue, "provider_of", lambda name, environ: FakeProvider(calls))
        monkeypatch.setattr(rescue, "HELP_SECONDS", 0.0)
        laptop.remember(machine.target, provider="vast", id="7", folder=str(machine.project("speech")))
        add_run(machine.project("speech"), exit_code=75, reason="max_cost", saved_step=500, safe_step=safe,
                limit="max_cost 1 is reached", budget={"on_limit": on_limit, "max_cost": 1.0})
        there = place(machine, laptop)
        until(lambda: time.time() > json.loads(
            (machine.project("speech") / ".auricle/runs/voxformer/exit.json").read_text())["time"] + 0.1)
        post.once(there)
        post.once(there)
        assert calls == expected

    def test_a_machine_on_which_another_run_goes_on_is_let_be(self, machine, laptop, post, monkeypatch):
        calls = []
        monkeypatch.setattr(rescue, "provider_of", lambda name, environ: FakeProvider(calls))
        monkeypatch.setattr(rescue, "HELP_SECONDS", 0.0)
        laptop.remember(machine.target, provider="vast", id="7", folder=str(machine.project("speech")))
        add_run(machine.project("speech"), exit_code=75, safe_step=500, limit="reached", budget={"max_cost": 1.0})
        add_run(machine.project("speech"), "another")
        post.once(place(machine, laptop))
        assert calls == []


class FakeProvider:
    can_stop, billing = True, "Its disk costs."

    def __init__(self, calls):
        self._calls = calls

    def release(self, machine_id, *, keep_disk):
        self._calls.append((machine_id, keep_disk))


def fake(project, script):
    """An environment whose Python is a shell script."""
    python = project / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)


class Running:
    """`watch` in the background."""

    def __init__(self, post, laptop, places, interval=0.3):
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(post, laptop, places, interval))

    def _watch(self, post, laptop, places, interval):
        with remembered(laptop.folder) as memory:
            watch(lambda: places, post.make(memory), memory, interval, self._stopped)

    def __enter__(self):
        self._thread.start()

    def __exit__(self, *_):
        self._stopped.set()
        self._thread.join()


def test_a_machine_that_is_killed_is_noticed_and_its_return_too(tmp_path, laptop, post, monkeypatch):
    folder = tmp_path / "machine"
    with host(folder) as machine:
        use(monkeypatch, machine)
        add_run(machine.project("speech"), step=700)
        port, there = machine.server.port, place(machine, laptop)
        with Running(post, laptop, [there]):
            until(lambda: there.connection and (laptop.folder / "states").is_dir())
            machine.kill()
            killed = time.monotonic()
            until(lambda: "lost" in post.kinds)
            assert time.monotonic() - killed < BOUND_SECONDS
            assert "voxformer training at step 700 (saved 500, safe 400); it costs $0.50 an hour" in post.text("lost")
            from tests.sshd import serving
            with serving(folder, port=port, environment={"HOME": str(machine.home)}):
                until(lambda: "back" in post.kinds)
    assert post.kinds.count("lost") == 1


@pytest.mark.slow
@pytest.mark.rented
@pytest.mark.root
@needs_namespaces
def test_a_machine_that_falls_silent_is_noticed_within_the_promise(tmp_path, laptop, post, monkeypatch):
    with far_machine() as far, host(tmp_path / "far", far=far) as machine:
        use(monkeypatch, machine)
        add_run(machine.project("speech"))
        with Running(post, laptop, [place(machine, laptop)], interval=5.0):
            until((laptop.folder / "states").is_dir)
            black_hole(far, "add")
            silent = time.monotonic()
            until(lambda: "lost" in post.kinds)
            assert time.monotonic() - silent < BOUND_SECONDS
            black_hole(far, "del")
            until(lambda: "back" in post.kinds)
    assert post.kinds[:2] == ["lost", "back"]


def black_hole(far, verb):
    """What comes to the machine gets no answer: neither a refusal nor that there is no way."""
    subprocess.run(["ip", "-n", far.name, "route", verb, "blackhole", f"{NEAR}/32"], check=True)


def test_a_machine_that_hangs_delays_no_other(tmp_path, machine, laptop, post, monkeypatch):
    end, real = threading.Event(), watched.look

    def look(there, seconds):
        if there is hanging:
            end.wait(60)
        return real(there, seconds)

    monkeypatch.setattr(watched, "look", look)
    with host(tmp_path / "other", key_of=machine) as other:
        add_run(other.project("speech"), age=30)
        hanging = place(machine, laptop)
        with Running(post, laptop, [hanging, place(other, laptop)]):
            until(lambda: "guard" in post.kinds)
            end.set()


def test_a_long_transfer_does_not_delay_noticing_that_the_machine_is_gone(machine, laptop, post, monkeypatch):
    begun, end = threading.Event(), threading.Event()

    def stuck(*_, **__):
        begun.set()
        end.wait(60)
        return Pulled(step=None, arrived=[])

    monkeypatch.setattr(watched, "pull", stuck)
    add_run(machine.project("speech"), events_bytes=1)
    with Running(post, laptop, [place(machine, laptop)]):
        assert begun.wait(30)
        machine.kill()
        until(lambda: "lost" in post.kinds)
        end.set()


def test_checkpoints_arrive_as_they_are_saved(machine, laptop, post):
    run = make_run(machine)
    files = add_run(machine.project("speech"), events_bytes=1, saved_step=400)
    with Running(post, laptop, [place(machine, laptop)]):
        until(lambda: "step-000000400" in good(HERE))
        add_checkpoint(run, 500, part=b"frozen")
        beat(files, events_bytes=2, saved_step=500)
        until(lambda: "step-000000500" in good(HERE))
        until(lambda: any("step-000000500 verified" in line for line in post.lines))
    assert steps.newest(HERE, post.lines.append) == steps.path_of(HERE, 500)


def test_machines_that_come_and_go_are_watched_meanwhile(tmp_path, machine, laptop, post, monkeypatch):
    monkeypatch.setattr(watching, "SAVE_SECONDS", 0.2)
    add_run(machine.project("speech"))
    with host(tmp_path / "other", key_of=machine) as other:
        add_run(other.project("speech"), age=30)
        places = [place(machine, laptop)]
        with Running(post, laptop, places):
            places.append(place(other, laptop))
            until(lambda: post.kinds == ["guard"])
            gone = places.pop(0)
            until(lambda: not [thread for thread in threading.enumerate() if gone.connection.target.host in thread.name
                               and str(gone.connection.target.port) in thread.name])
            machine.kill()
    assert post.kinds == ["guard"]
