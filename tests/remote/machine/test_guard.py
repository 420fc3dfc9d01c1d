"""A guard with a clock, a price and a provider of the test's own, on real files."""

import contextlib
import fcntl
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from auricle.core.events import EventLog, read
from auricle.remote.machine import guard as guard_module
from auricle.remote.machine import processes
from auricle.remote.machine.budget import GRACE_SECONDS, HUNG_SECONDS
from auricle.remote.machine.ender import LINGERS_SECONDS
from auricle.remote.machine.guard import Guard
from auricle.remote.machine.job import Budget, Exit, Runner, State, Stop, folder_of
from auricle.remote.machine.meter import Clocks, Memory
from auricle.remote.providers import Inside, ProviderError
from auricle.remote.renting.inside import Power
from auricle.store import steps
from auricle.store.directory import self_hash
from auricle.store.mirror import record_path
from auricle.store.run_lock import boot_id
from tests.mirrored import add_checkpoint, make_run
from tests.remote.machine import trainers

FAR = "/far"
HOUR = 3600.0
TICK = 2.0


@dataclass
class Provider:
    """Ends machines, and counts it."""

    can_stop: bool = True
    fails: int = 0
    released: list[bool] = field(default_factory=list)

    def release(self, machine_id: str, *, keep_disk: bool) -> None:
        if self.fails:
            self.fails -= 1
            raise ProviderError("fake: the API is down")
        assert machine_id == "m1"
        self.released.append(keep_disk)


class World:
    """A machine with one run, whose trainer does what the test says."""

    def __init__(self, project: Path, monkeypatch, *, power: bool = True, mirror: bool = False, can_stop: bool = True,
                 can_release: bool = True, budget: Budget) -> None:
        self.project, self.wall, self.steady = project, 1e9, 50.0
        self.provider = Provider(can_stop=can_stop)
        self.power = Power(Inside(provider="fake", id="m1", key="k", can_stop=can_stop, can_release=can_release),
                           self.provider) if power else None
        self.job = trainers.job(project, mirror=project / "mirror" if mirror else None, budget=budget)
        self.folder = trainers.written(project, self.job)
        self.run_folder = make_run(project / self.job.run_folder, mirror={"targets": [FAR] if mirror else []})
        self.trains, self.others, self.asked, self.killed, self.pushers, self.step = True, False, 0, 0, 0, 0
        self.boots, self.runners_killed, self.has_runner = 0, 0, False
        self.dies = True
        """When it is asked to."""
        self.reports: list[str] = []
        self.pushed: list[Path] = []
        for name in ("trains", "ask_run_to_end", "kill_trainer", "kill_runner"):
            monkeypatch.setattr(processes, name, getattr(self, f"_{name}"))
        monkeypatch.setattr(guard_module, "start_pusher", self._start_pusher)
        monkeypatch.setattr(guard_module, "start_boot", self._start_boot)
        monkeypatch.setattr(guard_module, "up_seconds", lambda: 1e9)
        self.guard = self.new_guard()

    def new_guard(self) -> Guard:
        clocks = Clocks(wall=lambda: self.wall, steady=lambda: self.steady)
        return Guard(self.project, self.folder, self.job, report=self.reports.append, power=lambda: self.power,
                     clocks=clocks)

    def _trains(self, project, folder, job) -> bool:
        return self.trains if folder == self.folder else self.others

    def _ask_run_to_end(self, project, folder, job) -> None:
        self.asked += 1
        if self.dies:
            self.save()
            self.end(75)

    def _kill_trainer(self, project, folder, job) -> None:
        self.killed += 1
        if not self.has_runner:
            self.end(-9)

    def _kill_runner(self, folder) -> bool:
        self.runners_killed += 1
        self.trains = False
        return True

    def _start_pusher(self, run_folder) -> None:
        self.pushers += 1
        self.pushed.append(run_folder)

    def _start_boot(self, project, folder) -> None:
        self.boots += 1

    def end(self, code: int) -> None:
        self.trains = False
        Exit(code=code, reason="", time=self.wall).write(self.folder / "exit.json")

    def event(self, kind: str, **values) -> None:
        log = EventLog(self.run_folder / "events.jsonl")
        log.write(kind, step=self.step, **values)
        log.close()

    def train(self) -> None:
        self.step += 1
        self.event("train", loss=0.5, stage_step=self.step, total_steps=100, eta_seconds=HOUR)

    def save(self) -> None:
        add_checkpoint(self.run_folder, self.step)

    def mirror(self, *, target: str = FAR, run_folder: Path | None = None, **changes) -> None:
        """A mirror holds all that is here."""
        run_folder = run_folder or self.run_folder
        verified = {path.name: self_hash(path) for path in steps.all_steps(run_folder)}
        record = {"target": target, "verified": verified, "pending": [], "tries": 0, "error": None, "time": self.wall}
        (run_folder / "mirrors").mkdir(exist_ok=True)
        record_path(run_folder, target).write_text(json.dumps({**record, **changes}))

    def configure(self, targets: list[str], **training) -> None:
        config = {"mirror": {"targets": targets}, "training": training}
        (self.run_folder / "config.yaml").write_text(json.dumps(config))

    def add_run(self, name: str, *, mirror: bool) -> Path:
        """Another run of the project, which trains where `others` is true. → its run folder"""
        job = trainers.job(self.project, run=name, mirror=self.project / "mirror" if mirror else None)
        trainers.written(self.project, job)
        return make_run(self.project / job.run_folder, mirror={"targets": [FAR] if mirror else []})

    def end_run(self, name: str) -> None:
        Exit(code=0, reason="", time=self.wall).write(folder_of(self.project, name) / "exit.json")

    def hub(self, **changes) -> None:
        """It has the best model."""
        record = {"repository": "me/speech", "checkpoint": "step-000000001", "self_hash": "x", "tries": 0,
                  "error": None, "time": self.wall}
        (self.run_folder / "mirrors").mkdir(exist_ok=True)
        (self.run_folder / "mirrors" / "hub.json").write_text(json.dumps({**record, **changes}))

    def pass_time(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds

    def tick(self, times: int = 1) -> bool:
        for _ in range(times):
            self.pass_time(TICK)
            goes_on = self.guard.look()
        return goes_on

    @property
    def state(self) -> State:
        return State.read(self.folder / "state.json")

    def machine_events(self, kind: str) -> list:
        return [event for event in read(self.run_folder / "machine.jsonl") if event.kind == kind]

    def messages(self, kind: str = "alarm") -> str:
        return "\n".join(event.values["message"] for event in self.machine_events(kind))


@pytest.fixture
def world(tmp_path, monkeypatch):
    def make(**settings) -> World:
        settings.setdefault("budget", Budget(price_per_hour=2.0, max_cost=4.0, idle_minutes=30.0, since=1e9))
        return World(tmp_path, monkeypatch, **settings)

    return make


def test_the_heartbeat_says_how_the_run_stands(world):
    here = world(mirror=True)
    here.train()
    here.save()
    here.mirror()
    here.train()
    here.pass_time(HOUR - TICK)
    here.tick()
    state = here.state
    assert (state.phase, state.step, state.total_steps, state.loss) == ("training", 2, 100, 0.5)
    assert (state.saved_step, state.safe_step, state.exit_code) == (1, 1, None)
    assert (state.hours, state.cost, state.cost_to_end) == (pytest.approx(1.0), pytest.approx(2.0), pytest.approx(4.0))
    assert state.time == here.wall
    assert state.events_bytes == (here.run_folder / "events.jsonl").stat().st_size
    assert state.disk_free_gb > 0
    event, = here.machine_events("machine")
    assert event.values["cost"] == pytest.approx(2.0)
    assert event.values["cost_to_end"] == pytest.approx(4.0)
    assert event.step == 2


def test_a_run_that_goes_back_to_a_checkpoint_is_shown_there(world):
    here = world()
    for _ in range(5):
        here.train()
    here.step = 3
    here.event("resume")
    here.tick()
    assert (here.state.step, here.state.loss) == (3, None)


def test_events_of_the_machine_come_once_a_minute_and_end_with_the_run(world):
    here = world()
    here.train()
    here.tick(65)
    assert len(here.machine_events("machine")) == 3
    here.end(0)
    here.tick(60)
    assert len(here.machine_events("machine")) == 3


def test_at_max_cost_the_run_is_saved_and_the_machine_stopped_once(world):
    here = world(mirror=True)
    here.train()
    here.save()
    here.mirror()
    here.train()
    here.pass_time(2 * HOUR - 2 * TICK)
    here.tick()
    assert here.asked == 0
    here.tick()
    assert here.asked == 1  # at the limit, not before
    assert here.state.cost == pytest.approx(4.0, abs=0.01)
    assert Stop.read(here.folder / "stop.json").reason == "max_cost 4 is reached"
    here.tick(5)
    assert here.provider.released == []  # step 2 was saved when it was asked, and no mirror holds it
    assert here.state.phase == "saving elsewhere"
    here.mirror()
    here.tick(20)
    assert here.provider.released == [True]
    assert (here.asked, here.killed) == (1, 0)
    assert "the machine is stopped" in here.state.limit
    assert "max_cost 4 is reached" in here.messages("limit")


def test_a_guard_that_was_killed_ends_the_machine_no_second_time(world):
    here = world()
    here.pass_time(3 * HOUR)
    here.tick(3)
    assert here.provider.released == [True]
    here.guard = here.new_guard()
    here.tick(10)
    assert here.provider.released == [True]
    assert here.state.limit


def test_a_guard_that_was_killed_while_it_asked_the_provider_asks_again_later(world, monkeypatch):
    here = world()
    here.pass_time(3 * HOUR)

    def killed(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Power, "end", lambda self, **_: killed())
    with pytest.raises(KeyboardInterrupt):
        here.tick(3)
    monkeypatch.undo()
    for name in ("trains", "ask_run_to_end", "kill_trainer", "kill_runner"):
        monkeypatch.setattr(processes, name, getattr(here, f"_{name}"))
    here.guard = here.new_guard()
    here.tick()
    assert here.provider.released == []  # the first call may have arrived
    here.tick(10)
    assert here.provider.released == [True]


def test_a_provider_that_does_not_answer_is_asked_again_and_told_of(world):
    here = world()
    here.provider.fails = 2
    here.pass_time(3 * HOUR)
    here.tick(3)
    assert any("could not be ended" in alarm and "the API is down" in alarm for alarm in here.state.alarms)
    here.tick(30)
    assert here.provider.released == [True]
    assert here.provider.fails == 0
    assert not any("could not be ended" in alarm for alarm in here.state.alarms)


def test_a_machine_that_still_runs_long_after_it_was_ended_is_ended_again(world):
    here = world()
    here.pass_time(3 * HOUR)
    here.tick(3)
    here.pass_time(LINGERS_SECONDS)
    here.tick(2)
    assert here.provider.released == [True, True]


def test_a_trainer_that_hangs_is_killed_and_the_machine_ends_all_the_same(world):
    here = world()
    here.train()
    here.tick()
    here.dies = False
    here.pass_time(2 * HOUR)
    here.tick(int((HUNG_SECONDS - TICK) / TICK))
    assert (here.asked, here.killed) == (1, 0)
    here.tick(3)
    assert (here.asked, here.killed) == (1, 1)
    assert here.provider.released == [True]
    assert "was killed" in here.messages()


def test_with_a_full_disk_a_limit_is_enforced_all_the_same(world, monkeypatch):
    here = world()
    here.train()
    here.tick()
    here.dies = False
    here.pass_time(2 * HOUR)

    def full(self, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Stop, "write", full)
    for _ in range(int(HUNG_SECONDS / TICK) + 3):
        with contextlib.suppress(OSError):
            here.tick()
    assert (here.asked, here.killed) == (1, 1)
    assert (here.folder / "stop.json").exists()  # empty, and nobody starts the run again


def test_a_runner_that_something_holds_is_killed_after_its_trainer_and_the_machine_ends(world):
    here = world()
    here.train()
    here.tick()
    here.dies, here.has_runner = False, True
    here.pass_time(2 * HOUR)
    here.tick(int((HUNG_SECONDS + guard_module.RUNNER_SECONDS) / TICK))
    assert here.killed > 10
    assert here.runners_killed == 0
    here.tick(3)
    assert here.runners_killed == 1
    end = Exit.read(here.folder / "exit.json")
    assert (end.code, here.state.phase) == (75, "ended")
    assert "max_cost 4 is reached" in end.reason
    assert here.provider.released == [True]


def test_a_runner_whose_trainer_gives_a_sign_of_life_gets_its_time_anew(world):
    here = world()
    here.train()
    here.tick()
    here.dies, here.has_runner = False, True
    here.pass_time(2 * HOUR)
    here.tick(int(HUNG_SECONDS / TICK) + 3)
    assert here.killed > 0
    for _ in range(20):
        here.event("system")
        here.tick()
    here.tick(int(HUNG_SECONDS / TICK) + 3)
    assert here.runners_killed == 0


def test_a_machine_that_has_no_events_of_the_run_gets_all_of_the_time(world):
    here = world(budget=Budget(max_hours=1.0))
    (here.run_folder / "events.jsonl").unlink()
    here.dies = False
    here.pass_time(HOUR)
    here.tick(int(GRACE_SECONDS / TICK) - 1)
    assert here.killed == 0
    here.tick(3)
    assert here.killed >= 1


def test_a_trainer_that_saves_for_long_gets_its_time(world):
    here = world(budget=Budget(max_hours=1.0))
    here.dies = False
    here.pass_time(HOUR)
    for _ in range(int(GRACE_SECONDS / TICK)):
        here.event("system")
        here.tick()
    assert here.killed == 0
    here.tick(2)
    assert here.killed == 1


@pytest.mark.parametrize(("can_stop", "released"), [(True, [True]), (False, [])])
def test_with_the_mirror_behind_a_machine_waits_until_the_overrun(world, can_stop, released):
    here = world(mirror=True, can_stop=can_stop,
                 budget=Budget(price_per_hour=2.0, max_cost=4.0, since=1e9, on_limit="release"))
    here.train()
    here.save()
    here.mirror(verified={}, error="refused", tries=9)
    here.pass_time(2 * HOUR)
    here.tick(10)
    assert here.provider.released == []
    assert "not released, and costs" in here.messages()
    here.pass_time(0.4 * HOUR)
    here.tick(3)
    assert here.provider.released == released
    if not can_stop:
        before = here.messages().count("not released, and costs")
        here.pass_time(guard_module.HEARTBEAT_SECONDS + HOUR)
        here.tick(3)
        assert here.messages().count("not released, and costs") == before + 1  # told again
        here.mirror()
        here.tick(3)
        assert here.provider.released == [False]


def test_a_mirror_on_the_disk_of_the_machine_is_none(world):
    here = world(mirror=True, budget=Budget(max_hours=1.0, on_limit="release"))
    here.train()
    here.save()
    here.mirror(own_disk=True)
    here.pass_time(HOUR)
    here.tick(5)
    here.mirror(own_disk=True)
    here.tick(5)
    assert here.state.safe_step is None
    assert here.state.phase == "ended"
    assert here.provider.released == [True]  # stopped, its disk kept
    assert "no mirror is elsewhere" in here.messages()


@pytest.mark.parametrize("own_is_first", [True, False])
def test_of_two_mirrors_the_one_elsewhere_decides(world, own_is_first):
    here = world(mirror=True, budget=Budget(max_hours=1.0, on_limit="release"))
    here.train()
    here.save()
    here.pass_time(HOUR)
    here.tick(5)
    own, far = ("/a", "/b") if own_is_first else ("/b", "/a")
    here.configure([own, far])
    here.mirror(target=own, own_disk=True)
    here.mirror(target=far, verified={})
    here.tick(5)
    assert here.provider.released == []
    here.mirror(target=far)
    here.tick(5)
    assert here.provider.released == [False]


def test_the_hub_is_no_mirror_elsewhere(world):
    here = world(mirror=True, budget=Budget(max_hours=1.0, on_limit="stop"))
    here.configure([FAR], hub_model_id="me/speech")
    here.train()
    here.pass_time(HOUR)
    here.tick()
    here.mirror(own_disk=True)
    here.hub()
    here.tick(3)
    assert here.provider.released == [True]


def test_a_disk_whose_newest_checkpoint_is_nowhere_else_is_not_deleted(world):
    here = world(budget=Budget(max_hours=1.0, on_limit="release"))
    here.train()
    here.pass_time(HOUR)
    here.tick(5)
    assert here.provider.released == [True]
    assert "on this machine alone" in here.messages()


def test_an_idle_machine_is_stopped_when_all_is_mirrored(world):
    here = world(mirror=True, budget=Budget(idle_minutes=30.0))
    here.train()
    here.save()
    here.tick()
    here.end(0)
    here.pass_time(HOUR)
    assert here.tick(3)
    assert here.provider.released == []  # idleness counts from when the mirror is complete
    here.mirror()
    here.tick()
    here.pass_time(29 * 60)
    here.tick()
    assert here.provider.released == []
    here.pass_time(60)
    here.tick(3)
    assert here.provider.released == [True]


def ended_long_ago(here: World, *mirrors: dict) -> None:
    """The run of this machine, a day after its end and after what its mirrors hold now."""
    here.train()
    here.save()
    here.tick()
    here.end(0)
    here.pass_time(3)
    for changes in mirrors:
        here.mirror(**changes)
    here.tick()
    here.pass_time(24 * HOUR)
    here.tick(3)


@pytest.mark.parametrize("on_limit", ["stop", "release"])
def test_a_record_of_a_target_that_is_none_any_more_keeps_no_machine(world, on_limit):
    here = world(mirror=True, budget=Budget(idle_minutes=30.0, on_limit=on_limit))
    ended_long_ago(here, {}, {"target": "/old", "verified": {}, "pending": ["step-000000001"], "error": "no route",
                              "tries": 40, "time": 0.0})
    assert here.provider.released == [on_limit == "stop"]
    assert here.state.phase == "ended"
    assert here.state.alarms == []


FAILING = {"verified": {}, "pending": ["step-000000001"], "error": "no route", "tries": 40, "time": 0.0}


def test_a_target_that_fails_keeps_no_machine_when_another_holds_all(world):
    here = world(mirror=True, budget=Budget(idle_minutes=30.0))
    here.configure([FAR, "/gone"])
    ended_long_ago(here, {}, {"target": "/gone", **FAILING})
    assert here.provider.released == [True]
    assert here.state.phase == "saving elsewhere"  # it is tried for as long as there is time
    assert "a mirror fails: no route" in here.messages()


def test_with_a_target_that_fails_the_disk_is_not_deleted(world):
    here = world(mirror=True, budget=Budget(idle_minutes=30.0, on_limit="release"))
    here.configure([FAR, "/gone"])
    ended_long_ago(here, {}, {"target": "/gone", **FAILING})
    assert here.provider.released == []
    assert "not released, and costs" in here.messages()


def test_a_target_that_was_never_reached_is_waited_for(world):
    here = world(mirror=True, budget=Budget(max_hours=1.0, on_limit="release"))
    here.configure([FAR, "/gone"])
    ended_long_ago(here, {})
    assert here.provider.released == []


@pytest.mark.parametrize(("changes", "released"), [
    ({}, [False]),
    ({"error": "there without its card", "tries": 0}, [False]),
    ({"error": "401", "tries": 5}, []),
])
def test_the_hub_is_waited_for_where_a_disk_is_deleted(world, changes, released):
    here = world(mirror=True, budget=Budget(idle_minutes=30.0, on_limit="release"))
    here.configure([FAR], hub_model_id="me/speech")
    here.train()
    here.save()
    here.tick()
    here.end(0)
    here.pass_time(3)
    here.mirror()
    here.hub(**changes)
    here.pass_time(HOUR)
    here.tick(3)
    assert here.provider.released == released
    assert here.state.phase == ("ended" if released else "saving elsewhere")


def test_a_hub_that_fails_keeps_no_machine(world):
    here = world(mirror=True, budget=Budget(idle_minutes=30.0))
    here.configure([FAR], hub_model_id="me/speech")
    here.hub(error="401", tries=5)
    ended_long_ago(here, {})
    assert here.provider.released == [True]


def test_a_configuration_that_cannot_be_read_leaves_every_record_in_force(world):
    here = world(mirror=True, budget=Budget(max_hours=1.0, on_limit="release"))
    (here.run_folder / "config.yaml").write_text("mirror: {targets: [")
    ended_long_ago(here, {}, {"target": "/old", **FAILING})
    assert here.provider.released == []


def test_what_another_run_saved_is_waited_for_before_the_disk_is_deleted(world):
    here = world(mirror=True, budget=Budget(max_hours=2.0, on_limit="release"))
    other = here.add_run("other", mirror=True)
    here.others = True
    here.train()
    here.save()
    here.end(0)
    here.pass_time(3)
    here.mirror()
    here.pass_time(2 * HOUR)
    here.tick(3)
    add_checkpoint(other, 777)  # its own guard asked it to end: it saved, and did
    here.others = False
    here.end_run("other")
    here.tick(3)
    assert here.provider.released == []
    assert any("no mirror holds all of the run 'other' yet" in alarm for alarm in here.state.alarms)
    here.mirror(run_folder=other, time=0.0)
    here.tick(3)
    assert here.provider.released == []  # its last events
    here.mirror(run_folder=other)
    here.tick(3)
    assert here.provider.released == [False]


def test_what_another_run_saved_is_pushed_though_its_guard_is_dead(world):
    here = world(budget=Budget(max_hours=1.0))
    other = here.add_run("other", mirror=True)
    add_checkpoint(other, 777)
    here.end_run("other")
    here.end(0)
    here.pass_time(HOUR)
    here.tick(5)
    assert here.pushed == []  # its own guard may live
    here.tick(25)
    assert here.pushed == [other]
    assert here.provider.released == []
    here.mirror(run_folder=other)
    here.tick(3)
    assert here.provider.released == [True]


def test_the_only_checkpoint_of_another_run_turns_a_release_into_a_stop(world):
    here = world(mirror=True, budget=Budget(idle_minutes=30.0, on_limit="release"))
    add_checkpoint(here.add_run("other", mirror=False), 500)
    here.end_run("other")
    ended_long_ago(here, {})
    assert here.provider.released == [True]
    assert "the newest checkpoint of the run 'other' is on this machine alone" in here.messages()


def test_another_run_ends_idleness(world):
    here = world(budget=Budget(idle_minutes=30.0))
    other = trainers.written(here.project, trainers.job(here.project, run="other"))
    here.end(0)
    here.provider.fails = 1
    here.pass_time(31 * 60)
    here.tick(2)
    here.others = True
    here.tick(60)
    assert here.provider.released == []
    assert here.state.limit == ""
    assert other.exists()


def test_a_machine_on_which_another_run_trains_is_not_ended(world):
    here = world()
    trainers.written(here.project, trainers.job(here.project, run="other"))
    here.others = True
    here.pass_time(3 * HOUR)
    here.tick(5)
    assert here.asked == 1
    assert here.provider.released == []
    assert "another run trains" in here.messages()
    here.others = False
    here.tick(3)
    assert here.provider.released == [True]


def test_without_a_key_inside_the_run_is_saved_and_the_bill_told_of(world):
    here = world(power=False)
    here.train()
    here.pass_time(3 * HOUR)
    goes_on = here.tick(5)
    assert here.asked == 1
    assert "goes on and costs" in here.messages()
    assert not goes_on  # nothing is left that it could do


def test_keep_ends_the_run_and_nothing_else(world):
    here = world(budget=Budget(max_hours=1.0, on_limit="keep", idle_minutes=1.0))
    here.pass_time(HOUR)
    assert not here.tick(5)
    assert here.asked == 1
    here.pass_time(HOUR)
    here.tick(5)
    assert here.provider.released == []


def test_a_wall_clock_that_is_set_changes_no_cost(world):
    here = world()
    here.pass_time(HOUR)
    here.tick()
    for jump in (-5e6, 5e6, 5e6):
        here.wall += jump
        here.tick()
    assert here.state.hours == pytest.approx(1.0, abs=0.01)
    here.wall -= 5e6
    here.guard = here.new_guard()
    here.tick()
    assert here.state.hours == pytest.approx(1.0, abs=0.01)
    assert here.asked == 0


def test_the_mirror_is_fed_when_the_trainer_has_died_and_left_alone_when_all_is_there(world):
    here = world(mirror=True)
    here.train()
    here.save()
    here.mirror(verified={})
    here.end(1)
    here.tick(3)
    assert here.pushers == 1
    here.tick(15)
    assert here.pushers == 2  # again, not at every heartbeat
    assert here.state.phase == "saving elsewhere"
    here.mirror()
    here.tick(40)
    assert here.pushers == 2
    assert here.state.phase == "failed"


def test_what_a_mirror_held_before_the_end_is_not_all(world):
    here = world(mirror=True)
    here.train()
    here.save()
    here.mirror()
    here.pass_time(20.0)
    here.end(0)
    here.tick()
    assert here.state.phase == "saving elsewhere"  # its last events
    here.mirror()
    here.tick()
    assert here.state.phase == "ended"


def test_a_process_that_mirrors_already_is_enough(world):
    here = world(mirror=True)
    here.train()
    here.save()
    here.mirror(verified={})
    with (here.run_folder / "mirrors" / "far.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        here.tick(40)
        assert here.pushers == 0
    here.tick(5)
    assert here.pushers == 0  # the trainer starts one itself
    here.tick(15)
    assert here.pushers == 1


def test_a_run_that_goes_on_is_starting_until_it_makes_a_step(world):
    here = world()
    here.train()
    here.event("run")
    here.tick(70)
    assert here.state.phase == "starting"
    assert here.state.alarms == []  # it may be fetching its data
    here.train()
    here.tick()
    assert here.state.phase == "training"


def test_a_run_folder_is_left_empty_until_the_run_has_begun(world):
    here = world()
    (here.run_folder / "run.json").rename(here.project / "run.json")
    before = set(here.run_folder.iterdir())
    here.dies = False
    here.pass_time(2 * HOUR)
    here.tick(3)
    assert set(here.run_folder.iterdir()) == before
    (here.project / "run.json").rename(here.run_folder / "run.json")
    here.tick()
    assert "max_cost 4 is reached" in here.messages("limit")


def test_a_silent_trainer_is_told_of_once(world):
    here = world()
    here.train()
    here.tick(50)
    assert "no sign of life" not in here.messages()
    here.tick(20)
    assert here.messages().count("no sign of life") == 1
    assert any("no sign of life" in alarm for alarm in here.state.alarms)
    here.event("system")
    here.tick()
    assert here.state.alarms == []


def test_a_full_disk_is_told_of(world, monkeypatch):
    here = world()
    monkeypatch.setattr(guard_module.views, "free_bytes", lambda folder: 4_900_000_000)
    here.tick()
    assert "the disk has 4.9 GB left" in here.messages()


def test_a_disk_that_does_not_hold_two_checkpoints_is_told_of(world, monkeypatch):
    here = world()
    monkeypatch.setattr(guard_module.views, "free_bytes", lambda folder: 9_000_000_000)
    here.tick()
    assert here.messages() == ""
    monkeypatch.setattr(guard_module.views, "checkpoint_bytes", lambda folder: 4_600_000_000)
    here.tick()
    assert "the disk has 9.0 GB left" in here.messages()


def test_a_mirror_that_is_behind_or_fails_is_told_of(world):
    here = world(mirror=True)
    here.train()
    here.save()
    here.mirror()
    here.tick()
    here.train()
    here.save()
    here.tick(55)
    assert "no mirror holds" not in here.messages()  # not two periods yet
    here.tick(10)
    assert "no mirror holds the newest checkpoint, step 2; safe is step 1" in here.messages()
    here.mirror(tries=3, error="/far: permission denied")
    here.tick()
    assert "a mirror fails: /far: permission denied" in here.messages()


def test_a_run_without_its_secrets_is_told_of(world):
    here = world()
    here.job = trainers.job(here.project, secrets=["HF_TOKEN"])
    here.guard = here.new_guard()
    runner = Runner(pid=os.getpid(), trainer=None, boot_id=boot_id(), starts=1, session=None)
    runner.write(here.folder / "runner.json")
    here.tick()
    assert "HF_TOKEN" not in here.messages()  # this process is no runner
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "_words", lambda pid: ["run", "run", "socket"])
        here.tick()
        assert "goes on without HF_TOKEN" in here.messages()


def test_a_lost_run_is_started_again_some_times_and_told_of(world):
    here = world()
    here.tick()
    here.trains = False
    here.tick(10)
    assert here.boots == 0
    here.tick(1)
    assert here.boots == 1
    here.guard = here.new_guard()  # what is started has a guard of its own
    here.tick(100)
    assert here.boots == guard_module.MOST_REVIVALS
    assert here.state.phase == "lost"
    assert "it was killed" in here.messages()
    here.pass_time(HOUR)
    here.tick(2)
    assert here.provider.released == [True]  # idle


def test_a_lost_run_that_was_asked_to_end_is_not_started_again(world):
    here = world()
    here.tick()
    Stop(reason="by hand", time=here.wall).write(here.folder / "stop.json")
    here.trains = False
    here.tick(50)
    assert here.boots == 0


def test_a_machine_that_was_started_after_its_limit_lets_its_user_in(world):
    here = world()
    here.pass_time(3 * HOUR)
    here.tick(3)
    assert here.provider.released == [True]
    Memory(time=here.wall, hours=here.guard.meter.hours, idle_only=True).write(here.folder / "guard.json")
    here.guard = here.new_guard()
    here.pass_time(29 * 60)
    here.tick(2)
    assert here.provider.released == [True]
    here.pass_time(60)
    here.tick(2)
    assert here.provider.released == [True, True]
    assert here.state.cost == pytest.approx(7.0, abs=0.1)


def test_a_cost_without_a_price_is_told_of(world):
    here = world(budget=Budget(max_cost=4.0))
    here.pass_time(100 * HOUR)
    here.tick()
    assert "max_cost is not enforced" in here.messages()
    assert here.state.cost is None


def test_a_guard_whose_log_is_on_a_full_disk_goes_on(world, monkeypatch):
    here = world(budget=Budget())
    here.end(0)
    looks = []

    def look(self) -> bool:
        looks.append(True)
        if len(looks) == 1:
            raise OSError(28, "No space left on device")
        return len(looks) < 3

    def full(sentence: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Guard, "look", look)
    for name in ("_survive", "_bury"):
        monkeypatch.setattr(guard_module, name, lambda: None)
    monkeypatch.setattr(guard_module, "HEARTBEAT_SECONDS", 0.0)
    guard_module.guard(here.project, here.folder, report=full)
    assert len(looks) == 3
