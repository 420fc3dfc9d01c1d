"""Watching machines: real SSH servers that are killed, cut off, slow, and come back."""

import json
import subprocess
import threading
import time
from pathlib import Path

import pytest

from auricle.core.errors import UsageError
from auricle.core.events import EventLog
from auricle.remote.connection import RemoteError, Unreachable
from auricle.remote.machine import job
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


DEAD = 1e4
"""Age of the heartbeat of a guard that is dead; one that was written by hand stays fresh for the time of a test."""


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(watched, "FILES_SECONDS", 0.0)
    monkeypatch.setattr("auricle.remote.look.STALE_SECONDS", DEAD / 2)


@pytest.fixture
def no_revival(monkeypatch):
    monkeypatch.setattr(rescue, "REVIVE_SECONDS", 1e9)


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

    @pytest.mark.usefixtures("no_revival")
    def test_a_dead_guard_is_told_once_and_again_after_it_was_back(self, machine, laptop, post):
        there, project = place(machine, laptop), machine.project("speech")
        add_run(project, age=DEAD)
        assert post.once(there) == ["guard"]
        assert post.once(there) == []
        add_run(project)
        assert post.once(there) == ["back"]
        add_run(project, age=DEAD)
        assert post.once(there) == ["guard"]

    def test_a_machine_that_is_gone_is_told_once_and_its_bill_goes_on(self, machine, laptop, post):
        there = place(machine, laptop)
        add_run(machine.project("speech"), step=700, budget={"max_cost": 0.4})
        post.once(there)
        machine.kill()
        assert post.once(there) == ["lost", "budget"]
        assert "when it last did: voxformer training at step 700" in post.text("lost")
        assert "some $0.50 by now, more than max_cost $0.40, if it still runs" in post.text("budget")
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

    @pytest.mark.usefixtures("no_revival")
    def test_without_a_guard_the_cost_is_reckoned_by_the_clock(self, machine, laptop, post):
        add_run(machine.project("speech"), age=4 * 3600, hours=1.0, budget={"max_cost": 2.0})
        assert post.once(place(machine, laptop)) == ["guard", "budget"]
        assert "some $2.50 by now, more than max_cost $2.00, and nobody there ends it" in post.text("budget")
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


class TestCopies:
    """What happens to the others when one run cannot be copied."""

    def damage(self, run):
        """→ what mends it"""
        paths = {path: path.read_bytes() for path in run.glob("checkpoints/step-*/optimizer.safetensors")}
        for path, content in paths.items():
            path.write_bytes(content[:-1] + b"!")
        return lambda: [path.write_bytes(content) for path, content in paths.items()]

    def test_one_that_fails_keeps_no_other_from_it_and_is_an_alarm_when_it_lasts(self, machine, laptop, post):
        mend = self.damage(make_run(machine, "apple"))
        zebra, there = make_run(machine, "zebra"), place(machine, laptop)
        for name in ("apple", "zebra"):
            add_run(machine.project("speech"), name, events_bytes=9, saved_step=400)
        told(zebra, "events.jsonl", "alarm", "loss is not finite")
        assert post.once(there) == ["alarm"]
        assert good(Path("outputs/zebra")) == ["step-000000200", "step-000000400"]
        assert "holds no checkpoint that verifies" in post.lines[-2]
        assert post.once(there) == ["copy"]
        assert "apple on 127.0.0.1" in post.text("copy")
        assert post.once(there) == []
        mend()
        assert post.once(there) == ["back"]
        assert post.once(there) == []

    def test_one_that_fails_is_tried_again_at_once_and_then_after_a_while(self, machine, laptop, post, monkeypatch):
        tries = []

        def fail(*_, **__):
            tries.append(time.monotonic())
            raise RemoteError("the disk here is full")

        monkeypatch.setattr(watched, "pull", fail)
        add_run(machine.project("speech"), events_bytes=9, saved_step=400)
        with remembered(laptop.folder) as memory:
            watching = post.make(memory)(place(machine, laptop))
            for _ in range(4):
                watching.look()
                watching.carry()
        assert (len(tries), post.kinds) == (2, ["copy"])

    def test_a_lost_link_ends_the_round_without_a_word(self, machine, laptop, post, monkeypatch):
        tries = []

        def fail(*_, **__):
            tries.append(1)
            raise Unreachable("no answer")

        monkeypatch.setattr(watched, "pull", fail)
        for name in ("apple", "zebra"):
            add_run(machine.project("speech"), name, events_bytes=9, saved_step=400)
        there = place(machine, laptop)
        assert [post.once(there), post.once(there), post.lines] == [[], [], []]
        assert len(tries) == 2


class TestAlarms:
    """Where no copy here has them, and where several machines share one."""

    def test_what_the_guard_of_a_run_without_events_says(self, machine, laptop, post):
        state = {"events_bytes": 0, "saved_step": None, "safe_step": None}
        files = add_run(machine.project("speech"), limit="max_hours 2 is reached", alarms=["the disk has 4.9 GB left"],
                        **state)
        there = place(machine, laptop)
        assert post.once(there) == ["alarm", "limit"]
        beat(files, limit="max_hours 2 is reached", alarms=["the disk has 4.8 GB left", "it hangs"], **state)
        assert post.once(there) == ["alarm"]
        assert str(post.alarms[-1]).endswith("it hangs")

    def test_what_it_said_before_its_first_event_is_not_told_again_from_the_copy(self, machine, laptop, post):
        run, there = make_run(machine), place(machine, laptop)
        files = job.folder_of(machine.project("speech"), RUN)
        beat(files, events_bytes=0, alarms=["it hangs"])
        assert post.once(there) == ["alarm"]
        add = {"events_bytes": 9, "saved_step": 400, "alarms": ["it hangs"]}
        (run / "machine.jsonl").unlink()
        told(run, "machine.jsonl", "alarm", "it hangs")
        beat(files, **add)
        assert post.once(there) == []
        told(run, "machine.jsonl", "alarm", "it hangs")  # an hour later, still
        beat(files, **{**add, "events_bytes": 10})
        assert post.once(there) == ["alarm"]

    def test_what_it_says_while_copying_fails(self, machine, laptop, post):
        make_run(machine)
        HERE.mkdir(parents=True)
        (HERE / "notes.txt").write_text("mine")
        add_run(machine.project("speech"), events_bytes=9, saved_step=400, alarms=["it hangs"])
        there = place(machine, laptop)
        assert [post.once(there) for _ in range(4)] == [[], ["copy"], ["alarm"], []]

    def test_of_a_run_that_ended_long_ago_nothing_is_news(self, machine, laptop, post):
        add_run(machine.project("speech"), age=DEAD, exit_code=0, events_bytes=0, alarms=["it hangs"])
        with remembered(laptop.folder) as memory:
            post.make(memory)(place(machine, laptop)).look()
        assert "alarm" not in post.kinds

    def test_an_alarm_of_a_run_on_two_machines_is_told_once(self, tmp_path, machine, laptop, post):
        run = make_run(machine)
        add_run(machine.project("speech"), events_bytes=9, saved_step=400)
        with host(tmp_path / "other", key_of=machine) as other:
            add_run(other.project("speech"), events_bytes=0, saved_step=None)
            both = place(machine, laptop), place(other, laptop)
            post.once(*both)
            post.once(*both)
            told(run, "events.jsonl", "alarm", "loss is not finite")
            add_run(machine.project("speech"), events_bytes=10, saved_step=400)
            assert post.once(*both) + post.once(*both) == ["alarm"]
        assert machine.address in post.text("alarm")


class TestBill:
    """A run has ended, and its guard with it."""

    def ended(self, machine, **budget):
        return add_run(machine.project("speech"), age=DEAD, exit_code=0, budget={"idle_minutes": 30, **budget})

    def test_a_rented_machine_that_a_limit_was_to_end_is_told_of_once(self, machine, laptop, post):
        laptop.remember(machine.target, provider="vast", id="7", folder=str(machine.project("speech")))
        add_run(machine.project("speech"), "older", age=2 * DEAD, exit_code=0, budget={"idle_minutes": 30})
        self.ended(machine)
        there = place(machine, laptop)
        told = post.once(there)
        assert told.count("guard") == 1
        assert f"voxformer on {machine.address}: ended: no guard is left there to end the machine, which costs on: " \
               f"auricle remote release {machine.address}" in post.text("guard")
        assert post.once(there) == []
        add_run(machine.project("speech"))
        assert post.once(there) == ["back"]

    @pytest.mark.parametrize("why", ["it is kept", "no limit", "by hand", "a limit is enforced from here"])
    def test_of_others_nothing_is_told(self, machine, laptop, post, why):
        laptop.remember(machine.target, provider="ssh" if why == "by hand" else "vast",
                        id=None if why == "by hand" else "7", folder=str(machine.project("speech")))
        budgets = {"it is kept": {"on_limit": "keep"}, "no limit": {"idle_minutes": None}}
        files = self.ended(machine, **budgets.get(why, {}))
        if why == "a limit is enforced from here":
            beat(files, age=DEAD, limit="nothing trained for 30 minutes")
        assert "guard" not in post.once(place(machine, laptop))

    def test_nothing_is_told_where_another_run_is_watched_over(self, machine, laptop, post):
        laptop.remember(machine.target, provider="vast", id="7", folder=str(machine.project("speech")))
        older = add_run(machine.project("speech"), "older", age=2 * DEAD)
        beat(older, "older")  # and trains
        self.ended(machine)
        assert "guard" not in post.once(place(machine, laptop))


@pytest.mark.parametrize("work", ["look", "carry"])
def test_what_nobody_expected_is_told_once_and_watching_goes_on(machine, laptop, post, monkeypatch, work):
    """With a job that a newer version wrote, say."""
    name, tries = {"look": "_judge", "carry": "_copy"}[work], []
    real = getattr(Watched, name)

    def judge(*given):
        tries.append(1)
        if len(tries) < 4:
            raise TypeError("no such key")
        return real(*given)

    monkeypatch.setattr(Watched, name, judge)
    files = add_run(machine.project("speech"), events_bytes=1, saved_step=1)
    with Running(post, laptop, [place(machine, laptop)]):
        until(lambda: len(tries) > 5)
        beat(files, age=DEAD)
        until(lambda: "guard" in post.kinds)
    assert post.kinds.count("failed") == 1
    assert f"TypeError: no such key (in {work})" in post.text("failed")


def test_one_round_tells_of_what_nobody_expected(machine, laptop, post, monkeypatch):
    add_run(machine.project("speech"))
    there = place(machine, laptop)
    for _ in range(2):  # and again when it had worked meanwhile
        with monkeypatch.context() as patched:
            patched.setattr(Watched, "_judge", lambda *_: (_ for _ in ()).throw(TypeError("no such key")))
            assert (post.once(there), post.once(there)) == (["failed"], [])
        assert post.once(there) == []


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
@pytest.mark.long
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


@pytest.mark.usefixtures("no_revival")
def test_a_machine_that_hangs_delays_no_other(tmp_path, machine, laptop, post, monkeypatch):
    end, real = threading.Event(), watched.look

    def look(there, seconds):
        if there is hanging:
            end.wait(60)
        return real(there, seconds)

    monkeypatch.setattr(watched, "look", look)
    with host(tmp_path / "other", key_of=machine) as other:
        add_run(other.project("speech"), age=DEAD)
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


@pytest.mark.usefixtures("no_revival")
def test_machines_that_come_and_go_are_watched_meanwhile(tmp_path, machine, laptop, post, monkeypatch):
    monkeypatch.setattr(watching, "SAVE_SECONDS", 0.2)
    add_run(machine.project("speech"))
    with host(tmp_path / "other", key_of=machine) as other:
        add_run(other.project("speech"), age=DEAD)
        places = [place(machine, laptop)]
        with Running(post, laptop, places):
            places.append(place(other, laptop))
            until(lambda: post.kinds == ["guard"])
            gone = places.pop(0)
            until(lambda: not [thread for thread in threading.enumerate() if gone.connection.target.host in thread.name
                               and str(gone.connection.target.port) in thread.name])
            machine.kill()
            time.sleep(1.0)
            assert post.kinds == ["guard"]
