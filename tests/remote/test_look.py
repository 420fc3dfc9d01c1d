"""How runs stand on a machine, from its files, through a real SSH server."""

import json

import pytest

from auricle.remote.connection import RemoteError, Unreachable
from auricle.remote.look import chosen, look, parse
from auricle.remote.status import rows, see, seen
from tests.hosts import host, laptop, needs_hosts, tools, use
from tests.remote.there import add_run, beat, place

__all__ = ["laptop"]
pytestmark = needs_hosts


@pytest.fixture
def machine(tmp_path, monkeypatch):
    with host(tmp_path / "machine") as running:
        use(monkeypatch, running)
        yield running


DEAD = 1e4
"""Age of the heartbeat of a guard that is dead; one that was written by hand stays fresh for the time of a test."""


@pytest.fixture(autouse=True)
def no_hurry(monkeypatch):
    monkeypatch.setattr("auricle.remote.look.STALE_SECONDS", DEAD / 2)


def phases(there):
    found, _ = look(there)
    return {run.name: found.phase(run) for run in found.runs}


def test_each_run_says_how_it_stands(machine, laptop):
    project = machine.project("speech")
    add_run(project, "trains")
    add_run(project, "its guard is gone", age=DEAD)
    add_run(project, "restarted", age=DEAD, runner={"boot_id": "another"})
    add_run(project, "new", guarded=False, age=-3600)
    add_run(project, "done", exit_code=0, age=600)
    add_run(project, "diverged 'twice' $HOME", exit_code=76)
    assert phases(place(machine, laptop)) == {
        "trains": "training", "its guard is gone": "guard is dead", "done": "ended", "new": "starting",
        "restarted": "guard is dead (the machine was restarted)", "diverged 'twice' $HOME": "ended with code 76"}


def test_a_guard_is_judged_by_the_clock_of_its_machine(tmp_path, laptop, monkeypatch):
    path = tools(tmp_path / "bin", also={"date": "echo 1000000000.25"})
    with host(tmp_path / "machine", path=path) as machine:
        use(monkeypatch, machine)
        folder = add_run(machine.project("speech"))
        beat(folder)
        state = json.loads((folder / "state.json").read_text())
        (folder / "state.json").write_text(json.dumps({**state, "time": 999999995.0}) + "\n")
        found, _ = look(place(machine, laptop))
        assert found.phase(found.runs[0]) == "training"
        assert found.heartbeat_age(found.runs[0]) == 5.25


def test_values_come_through_a_shell_as_they_are(machine, laptop):
    folder = add_run(machine.project("speech"), alarms=["50 % of \\n 'it' \"is\" $(date) `x` ü"], limit="a\\tb")
    (folder / "exit.json").write_text('{"code": 1, "rea')
    found, _ = look(place(machine, laptop))
    run = found.runs[0]
    assert run.state.alarms == ["50 % of \\n 'it' \"is\" $(date) `x` ü"]
    assert run.state.limit == "a\\tb"
    assert run.exit is None  # half of a file is none


def test_what_a_login_script_prints_is_passed_over():
    text = 'Welcome!\n@job is what we do\n@clock 12.%N\n@run a\n@job {"run": "a", "run_folder": "o", "train": []}\n'
    found = parse(text + '@state 7\n@run b\n@state {"time": 1.0, "run": "b", "phase": "training"}\n')
    assert (found.clock, [run.name for run in found.runs], found.runs[0].state) == (12.0, ["a"], None)


def test_without_a_project_there_it_says_what_to_do(machine, laptop):
    with pytest.raises(RemoteError, match=r"this project is not there; auricle remote deploy 127.0.0.1:\d+"):
        look(place(machine, laptop))


def test_the_run_that_trains_is_meant_unless_there_are_several(machine, laptop):
    there, project = place(machine, laptop), machine.project("speech")
    project.mkdir(parents=True)
    with pytest.raises(RemoteError, match="no run was started there"):
        chosen(there, look(there)[0], None)
    add_run(project, "old", exit_code=0)
    add_run(project, "older", exit_code=0, age=5000)
    assert chosen(there, look(there)[0], None).name == "old"
    with pytest.raises(RemoteError, match="no run goes on there; old ended"):
        chosen(there, look(there)[0], None, ended=False)
    add_run(project, "now")
    assert chosen(there, look(there)[0], None).name == "now"
    add_run(project, "also now")
    with pytest.raises(RemoteError, match="2 runs go on there; name one with --run: also now, now"):
        chosen(there, look(there)[0], None)
    assert chosen(there, look(there)[0], "older").name == "older"
    with pytest.raises(RemoteError, match="no run 'odl' there; did you mean 'old'"):
        chosen(there, look(there)[0], "odl")


def test_a_machine_that_is_gone_is_shown_as_it_was(machine, laptop):
    add_run(machine.project("speech"), step=700, gpu_percent=97.0, vram_gb=20.5, disk_free_gb=41.0)
    there = place(machine, laptop)
    [row] = rows(see(there))
    assert (row.gpu_percent, row.vram_gb, row.disk_free_gb) == (97.0, 20.5, 41.0)
    assert (row.state, row.step, row.cost, row.cost_to_end, row.safe_step) == ("training", 700, 0.5, 1.25, 400)
    assert 2 < row.event_age_seconds < 60
    machine.kill()
    [row] = rows(see(there))
    assert (row.state, row.last_state, row.step) == ("lost", "training", 700)
    assert "nothing listens" in row.error


@pytest.mark.parametrize("end", [None, 0])
def test_without_a_guard_the_cost_goes_on(machine, laptop, end):
    """Of runs that ended, the one that was heard of last speaks for the machine."""
    project = machine.project("speech")
    add_run(project, age=36000, exit_code=end, hours=1.0)
    add_run(project, "older", age=72000, exit_code=0, hours=1.0)
    by_name = {row.run: row for row in rows(see(place(machine, laptop)))}
    assert by_name["voxformer"].hours == pytest.approx(11.0, abs=0.05)
    assert by_name["voxformer"].cost == pytest.approx(5.5, abs=0.05)
    assert (by_name["older"].hours, by_name["older"].cost) == (1.0, 0.5)
    add_run(project, "now", hours=2.0, cost=1.0, price_per_hour=None)
    by_name = {row.run: row for row in rows(see(place(machine, laptop)))}
    assert by_name["voxformer"].hours == pytest.approx(11.0 if end is None else 1.0, abs=0.05)
    assert (by_name["now"].hours, by_name["now"].cost) == (2.0, 1.0)


def test_a_machine_that_was_never_seen_is_a_row_too(machine, laptop):
    machine.kill()
    [row] = rows(see(place(machine, laptop)))
    assert (row.run, row.state) == (None, "lost")


def test_one_machine_that_is_gone_hides_no_other(tmp_path, machine, laptop):
    add_run(machine.project("speech"))
    with host(tmp_path / "other", key_of=machine) as other:
        add_run(other.project("speech"), "elsewhere")
        machine.kill()
        gone, found = seen([place(machine, laptop), place(other, laptop)])
    assert isinstance(gone.error, Unreachable)
    assert [row.run for row in rows(found)] == ["elsewhere"]
