"""Starting, watching and ending runs on a machine over real SSH, with tmux and without; its trainers are small."""

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from auricle.core.events import read
from auricle.remote.connection import Connection, Done
from auricle.remote.machine.job import Budget, Exit, Job, Runner, State, session_of
from auricle.remote.place import Place
from auricle.remote.project import Project
from auricle.store import steps
from tests import hosts
from tests.hosts import laptop  # noqa: F401
from tests.paths import contents_below
from tests.remote.machine import trainers
from tests.remote.machine.trainers import newest_step, told, wait_for
from tests.sshd import serving

pytestmark = [*hosts.needs_hosts, pytest.mark.timeout(300)]
SECRET = "hf_ThisIsTheToken0987654321"


@dataclass
class Machine:
    """A host with a project, seen from the laptop."""

    host: hosts.Host
    laptop: Project

    @property
    def project(self) -> Path:
        return self.host.project("speech")

    @property
    def folder(self) -> Path:
        return self.project / ".auricle" / "runs" / "run"

    @property
    def run_folder(self) -> Path:
        return self.project / "outputs" / "run"

    @property
    def place(self) -> Place:
        return Place(Connection(self.host.target, self.laptop), self.laptop, str(self.project))

    def run(self, script: str) -> Done:
        return self.place.run(script)

    def machine(self, *words: str, stdin: bytes = b"") -> Done:
        return self.place.auricle(["remote", "machine", *words], stdin=stdin)

    def launch(self, job: Job, **secrets: str) -> dict:
        done = self.machine("launch", stdin=told(job, **secrets))
        assert done.code == 0, done.stderr
        return json.loads(done.text.splitlines()[-1])

    def job(self, *words: str, **settings) -> Job:
        return trainers.job(self.project, *words, **settings)

    def restarted(self, host: hosts.Host) -> "Machine":
        return Machine(host, self.laptop)

    @property
    def state(self) -> State | None:
        return State.read(self.folder / "state.json")

    @property
    def exit(self) -> Exit | None:
        return Exit.read(self.folder / "exit.json")

    @property
    def runner(self) -> Runner | None:
        return Runner.read(self.folder / "runner.json")

    @property
    def guard(self) -> int:
        """Its process there."""
        return int((self.folder / "guard.lock").read_text())

    def wait_for_step(self, step: int) -> None:
        wait_for(lambda: any(event.kind == "train" and event.step >= step
                             for event in read(self.run_folder / "events.jsonl")))

    def tmux(self, *words: str) -> str:
        session = session_of(self.project, "run")
        return self.run(f"tmux -L {session} {' '.join(words)} 2>&1").text

    def pusher(self) -> str:
        """Variables of the process that mirrors; empty where none does."""
        return self.run("cat /proc/$(pgrep -f 'mirror pus[h]' | head -1)/environ 2>/dev/null").text

    def processes(self) -> str:
        return self.run("ps -eo pid=,args=").text


@contextmanager
def machine_of(folder: Path, laptop: Project, monkeypatch, **settings) -> Iterator[Machine]:  # noqa: F811
    with hosts.host(folder, **settings) as host:
        hosts.use(monkeypatch, host)
        hosts.give_environment(host.project("speech"))
        yield Machine(host, laptop)


@pytest.fixture
def machine(tmp_path, laptop, monkeypatch) -> Iterator[Machine]:  # noqa: F811
    with machine_of(tmp_path / "host", laptop, monkeypatch) as made:
        yield made


def test_a_run_is_started_in_a_tmux_of_its_own_and_outlives_the_connection(machine):
    answer = machine.launch(machine.job("steps=40"))
    assert answer["run"] == "run"
    assert answer["session"] == session_of(machine.project, "run")
    assert answer["resumed"] is False
    assert machine.runner.session == answer["session"]
    machine.place.connection.close()
    machine.wait_for_step(3)
    assert machine.guard < machine.runner.pid == answer["pid"]  # the guard came first
    assert "step 3" in machine.tmux("capture-pane", "-p", "-t", "train")
    assert machine.tmux("show-options", "-gv", "history-limit").strip() == "50000"
    wait_for(lambda: machine.exit)
    assert (machine.exit.code, machine.exit.reason) == (0, "done, 40 steps")
    wait_for(lambda: machine.state.phase == "ended" and machine.state.exit_code == 0)
    wait_for(lambda: "machine" not in machine.processes())  # the guard has nothing left to watch over
    assert "no server running" in machine.tmux("ls") or "error connecting" in machine.tmux("ls")
    again = machine.launch(machine.job("steps=50"))
    assert again["resumed"] is True
    wait_for(lambda: machine.exit)
    assert [event.step for event in read(machine.run_folder / "events.jsonl") if event.kind == "resume"] == [40]


def test_a_window_that_an_earlier_run_left_is_not_in_the_way(machine):
    machine.project.joinpath("outputs").mkdir()
    machine.run(f"tmux -L {session_of(machine.project, 'run')} new-session -d -s train 'sleep 1000'")
    assert machine.launch(machine.job())["session"] == session_of(machine.project, "run")
    machine.wait_for_step(1)
    assert "step 1" in machine.tmux("capture-pane", "-p", "-t", "train")


def test_ctrl_c_in_tmux_saves_and_ends_the_run(machine):
    machine.launch(machine.job())
    machine.wait_for_step(7)
    machine.tmux("send-keys", "-t", "train", "C-c")
    wait_for(lambda: machine.exit)
    assert machine.exit.code == 75
    assert "Ctrl-C" in machine.exit.reason
    last = [event.step for event in read(machine.run_folder / "events.jsonl") if event.kind == "train"][-1]
    assert newest_step(machine.run_folder) == last


def test_of_two_starts_at_once_one_wins(machine):
    machine.run("true")  # connects
    found: list[Done] = []
    job = told(machine.job())
    threads = [threading.Thread(target=lambda: found.append(machine.machine("launch", stdin=job))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done.code for done in found) == [0, 5, 5]
    for done in found:
        if done.code:
            assert re.search(r"another start of it is under way|runs already, process \d+ in tmux auricle-run-",
                             done.stderr)
    machine.wait_for_step(1)
    assert len(re.findall(r"-m auricle train", machine.processes())) == 1
    refused = machine.machine("launch", stdin=job)
    assert refused.code == 5
    assert f"runs already, process {machine.runner.pid} in tmux {machine.runner.session};" in refused.stderr
    assert "auricle remote attach" in refused.stderr
    assert "auricle remote stop" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_run_that_somebody_trains_by_hand_is_not_started_too(machine):
    job = machine.job()
    words = " ".join(f"{name}={value}" for name, value in job.environment.items())
    machine.run(f"{words} setsid .venv/bin/python -m auricle train >/dev/null 2>&1 </dev/null &")
    machine.wait_for_step(1)
    refused = machine.machine("launch", stdin=told(job))
    assert refused.code == 5
    assert "is being trained already by process" in refused.stderr
    stopped = machine.machine("stop", "run")
    assert stopped.code == 2  # none was started here by us
    assert "none of that name" in stopped.stderr


def test_secrets_are_written_nowhere(machine, tmp_path):
    machine.launch(machine.job(secrets=["HF_TOKEN", "WANDB_API_KEY"], mirror=machine.host.home / "mirror"),
                   HF_TOKEN=SECRET)
    machine.wait_for_step(8)
    wait_for(lambda: steps.verified_on_mirrors(machine.run_folder))
    assert machine.runner.secrets == ["HF_TOKEN"]
    trainer = machine.run(f"tr '\\0' '\\n' </proc/{machine.runner.trainer}/environ").text
    assert f"HF_TOKEN={SECRET}" in trainer  # it has it, from memory to memory
    assert SECRET in machine.pusher()
    for said in (machine.processes(), machine.run("cat /proc/[0-9]*/cmdline 2>/dev/null").text,
                 machine.tmux("show-environment", "-g"), machine.tmux("show-environment", "-t", "train"),
                 machine.tmux("capture-pane", "-p", "-S", "-", "-t", "train")):
        assert SECRET not in said
    for pid in (machine.guard, machine.runner.pid):
        assert SECRET not in machine.run(f"cat /proc/{pid}/environ").text
    assert SECRET not in machine.run("cat /proc/$(pgrep -f 'tmux -L auricle-run' | head -1)/environ").text
    files = dict(contents_below(tmp_path))
    assert len(files) > 20
    assert not [path for path, content in files.items() if SECRET.encode() in content]


def test_a_secret_among_the_words_is_refused(machine):
    refused = machine.machine("launch", stdin=told(machine.job(f"training.hub_model_id={SECRET}"), HF_TOKEN=SECRET))
    assert refused.code == 2
    assert "the value of HF_TOKEN is among its words" in refused.stderr
    assert SECRET not in refused.stderr
    assert not machine.folder.exists()


def test_a_disk_that_takes_nothing_is_told_of_and_nothing_runs(machine):
    (machine.folder / "job.json" / "x").mkdir(parents=True)
    done = machine.machine("launch", stdin=told(machine.job()))
    assert done.code == 5
    assert "run 'run': cannot be started: " in done.stderr
    assert "Traceback" not in done.stderr
    assert "auricle" not in machine.run("ps -eo args= | grep -v grep | grep 'machine guard'").text


def test_what_the_login_brings_itself_is_handed_over_in_the_same_way(machine):
    done = machine.run(f"export HF_TOKEN={SECRET}\n" + machine.place.auricle_script(["remote", "machine", "boot"]))
    assert done.code == 0
    script = machine.place.auricle_script(["remote", "machine", "launch"])
    done = machine.place.run(f"export HF_TOKEN={SECRET}\n{script}", stdin=told(machine.job(secrets=["HF_TOKEN"])))
    assert done.code == 0, done.stderr
    machine.wait_for_step(1)
    assert SECRET not in machine.tmux("show-environment", "-g")
    assert SECRET in machine.run(f"cat /proc/{machine.runner.trainer}/environ").text


def test_without_tmux_it_runs_all_the_same(tmp_path, laptop, monkeypatch):  # noqa: F811
    path = hosts.tools(tmp_path / "tools", without=("tmux",))
    with machine_of(tmp_path / "host", laptop, monkeypatch, path=path) as machine:
        answer = machine.launch(machine.job(secrets=["HF_TOKEN"]), HF_TOKEN=SECRET)
        assert answer["session"] is None
        machine.wait_for_step(6)
        assert machine.runner.session is None
        assert "step 6" in (machine.folder / "console.log").read_text()
        stopped = json.loads(machine.machine("stop", "run").text)
        assert stopped["code"] == 75
        assert stopped["saved_step"] == stopped["step"] >= 6


def test_stop_saves_first_says_where_the_run_stands_and_may_be_repeated(machine):
    machine.launch(machine.job())
    machine.wait_for_step(7)
    done = machine.machine("stop", "run", "--reason", "enough of it")
    assert done.code == 0, done.stderr
    stopped = json.loads(done.text)
    assert stopped["code"] == 75
    assert stopped["saved_step"] == stopped["step"] >= 7
    assert "enough of it" in machine.exit.reason
    assert json.loads(machine.machine("stop", "run").text) == stopped
    wrong = machine.machine("stop", "runn")
    assert wrong.code == 2
    assert "did you mean 'run'" in wrong.stderr


def test_stop_of_a_run_that_takes_longer_says_so(machine):
    machine.launch(machine.job("stubborn=1"))
    machine.wait_for_step(2)
    done = machine.machine("stop", "run", "--wait", "1")
    assert done.code == 5
    assert "is still saving after 1 s" in done.stderr


@pytest.mark.slow
@pytest.mark.long
def test_a_guard_that_is_killed_comes_back(machine):
    machine.launch(machine.job("steps=600", secrets=["HF_TOKEN"]), HF_TOKEN=SECRET)
    machine.wait_for_step(2)
    before = machine.guard
    machine.run(f"kill -9 {before}")
    killed = time.time()
    wait_for(lambda: machine.guard != before and machine.state.time > killed)
    assert SECRET not in machine.run(f"cat /proc/{machine.guard}/environ").text
    assert machine.state.phase == "training"


@pytest.mark.slow
@pytest.mark.long
def test_a_run_that_is_killed_with_its_runner_goes_on_with_its_secrets(machine):
    machine.launch(machine.job(secrets=["HF_TOKEN"]), HF_TOKEN=SECRET)
    machine.wait_for_step(7)
    before = machine.runner
    machine.run(f"kill -9 {before.pid} -{before.trainer}")
    saved = newest_step(machine.run_folder)
    wait_for(lambda: machine.runner and machine.runner.pid != before.pid and machine.runner.trainer)
    assert machine.runner.secrets == ["HF_TOKEN"]
    machine.wait_for_step(saved + 5)
    assert machine.exit is None
    alarms = [event.values["message"] for event in read(machine.run_folder / "machine.jsonl") if event.kind == "alarm"]
    assert "the run was killed, and is started again" in alarms
    assert SECRET not in machine.tmux("show-environment", "-g")


def test_at_a_limit_the_run_is_saved_though_nobody_looks(machine):
    budget = Budget(price_per_hour=1.0, max_cost=1.0, since=time.time() - 3600 + 20)
    machine.launch(machine.job("steps=1000", budget=budget))
    machine.place.connection.close()
    wait_for(lambda: machine.exit)
    assert machine.exit.code == 75
    assert "max_cost 1 is reached" in machine.exit.reason
    last = [event.step for event in read(machine.run_folder / "events.jsonl") if event.kind == "train"][-1]
    assert newest_step(machine.run_folder) == last
    wait_for(lambda: any("cannot be ended from inside" in alarm for alarm in machine.state.alarms))
    assert machine.state.cost == pytest.approx(1.0, abs=0.01)
    alarms = [event.values["message"] for event in read(machine.run_folder / "machine.jsonl") if event.kind == "alarm"]
    assert len([alarm for alarm in alarms if "goes on and costs" in alarm]) == 1
    refused = machine.machine("launch", stdin=told(machine.job(budget=budget)))
    assert refused.code == 2
    assert "max_cost 1 is reached" in refused.stderr
    assert "raise the limit" in refused.stderr


def test_what_a_killed_trainer_left_goes_to_the_mirror(machine):
    mirror = machine.host.home / "mirror"
    machine.launch(machine.job("steps=1000", mirror=mirror))
    machine.wait_for_step(7)
    machine.run(f"kill -9 -{machine.runner.trainer}")
    wait_for(lambda: machine.exit)
    assert machine.exit.code == -9
    wait_for(lambda: machine.state.phase == "failed")
    assert steps.all_steps(mirror / "run")[-1].name == steps.all_steps(machine.run_folder)[-1].name
    newest = steps.all_steps(machine.run_folder)[-1].name
    assert newest in steps.verified_on_mirrors(machine.run_folder)
    assert newest not in steps.verified_on_mirrors(machine.run_folder, own_disk=False)  # this mirror would go with it


@contextmanager
def powered_again(machine: Machine) -> Iterator[Machine]:
    """The same disk, after a power cut."""
    folder, server = machine.host.home.parent, machine.host.server
    variables = {"HOME": str(machine.host.home), "PATH": hosts.system_path(), "OMP_NUM_THREADS": "1"}
    with serving(folder, port=server.port, prefix=hosts.ALONE, environment=variables) as again:
        yield machine.restarted(hosts.Host(server=again, home=machine.host.home))


@pytest.mark.slow
@pytest.mark.long
def test_after_a_power_cut_the_run_goes_on_without_its_secrets_until_they_come_back(machine):
    machine.launch(machine.job(secrets=["HF_TOKEN"], mirror=machine.host.home / "mirror"), HF_TOKEN=SECRET)
    machine.launch(machine.job("steps=3", "pause=0", run="done"))
    machine.launch(machine.job(run="stopped"))
    wait_for(lambda: (machine.folder.parent / "stopped" / "state.json").exists())
    assert machine.machine("stop", "stopped").code == 0
    wait_for(lambda: (machine.folder.parent / "done" / "exit.json").exists())
    machine.wait_for_step(12)
    machine.host.kill()
    saved = newest_step(machine.run_folder)
    with powered_again(machine) as again:
        done = again.machine("boot")
        assert done.code == 0, done.stderr
        assert re.findall(r"(\w+): goes on", done.text) == ["run"]
        again.wait_for_step(saved + 20)
        assert [event.step for event in read(again.run_folder / "events.jsonl") if event.kind == "resume"] == [saved]
        words = [line for line in (again.folder / "console.log").read_text().splitlines() if line.startswith("words:")]
        assert "training" not in words[0]
        assert words[-1].endswith("training.report_to=[] training.hub_model_id=null")
        assert again.runner.secrets == []
        wait_for(lambda: any("goes on without HF_TOKEN" in alarm for alarm in again.state.alarms))
        assert SECRET not in wait_for(again.pusher)
        lacking = again.machine("secrets", "run", stdin=b"{}")
        assert lacking.code == 2
        assert "lacks HF_TOKEN" in lacking.stderr
        done = again.machine("secrets", "run", stdin=json.dumps({"HF_TOKEN": SECRET}).encode())
        assert done.code == 0, done.stderr
        assert "goes on with HF_TOKEN" in done.text
        assert again.runner.secrets == ["HF_TOKEN"]
        again.wait_for_step(newest_step(again.run_folder) + 3)
        assert SECRET in again.run(f"cat /proc/{again.runner.trainer}/environ").text
        wait_for(lambda: SECRET in again.pusher())
        wait_for(lambda: again.state.alarms == [])
        assert "has its secrets already" in again.machine("secrets", "run", stdin=b"{}").text


@pytest.mark.slow
@pytest.mark.long
def test_a_machine_that_was_started_for_nothing_is_watched(machine):
    """A guard alone: a stopped machine that is started again, and forgotten, costs."""
    machine.launch(machine.job("steps=3", "pause=0", budget=Budget(idle_minutes=0.05)))
    wait_for(lambda: machine.exit)
    machine.host.kill()
    (machine.folder / "state.json").unlink()
    with powered_again(machine) as again:
        assert "its guard watches the machine" in again.machine("boot").text
        wait_for(lambda: again.state)


@pytest.mark.parametrize("stdin", [b"", b"[]", b"{", b'{"job": {"run": "x"}}', b'{"job": 3}'])
def test_nonsense_is_refused_in_a_sentence(machine, stdin):
    done = machine.machine("launch", stdin=stdin)
    assert done.code == 2
    assert done.stderr.startswith("error: standard input: ")
    assert "Traceback" not in done.stderr
