"""A run of a machine in a folder here, through real SSH and rsync."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from auricle.core.errors import RunFolderError
from auricle.remote.connection import Connection, DiskFull, RemoteError, Unreachable
from auricle.remote.look import look
from auricle.remote.place import Place
from auricle.remote.pull import pull, pull_files
from auricle.remote.target import parse_all
from auricle.store import steps
from auricle.store.run_lock import lock
from auricle.store.targets import MirrorError
from auricle.store.targets.ssh import Ssh
from tests.hosts import host, laptop, needs_hosts, use
from tests.mirrored import add_checkpoint, contents
from tests.namespaces import far_machine, needs_namespaces
from tests.remote.there import add_run, place
from tests.runs import resume_run, write_run

__all__ = ["laptop"]
pytestmark = needs_hosts
RUN = "voxformer"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    with host(tmp_path / "machine") as running:
        use(monkeypatch, running)
        yield running


@pytest.fixture
def run(machine):
    """A run there that goes on, with its best checkpoint before the newest."""
    return make_run(machine)


def make_run(machine, name=RUN, created=5.0):
    project = machine.project("speech")
    files = add_run(project, name)
    (files / "console.log").write_text("Step 1\nStep 2\n")
    (files / "console.log.1").write_text("Step 0\n")
    (files / "guard.log").write_text("guard\n")
    run = write_run(project / "outputs" / name, steps=400, end=None)
    about = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**about, "created": created}))
    (run / "run.lock").write_text("{}")
    (run / "report.html").write_text("<p>")
    (run / "machine.jsonl").write_text('{"kind": "alarm"}\n')
    (run / "mirrors" / "x.held").mkdir(parents=True)
    (run / "mirrors" / "x.held" / "weights").write_text("in flight")
    add_checkpoint(run, 200, part=b"frozen", best=True)
    add_checkpoint(run, 300, part=b"frozen")
    add_checkpoint(run, 400, part=b"frozen")
    (run / "trainer_log.txt").write_text("Step 400\n")
    steps.expose(run, steps.path_of(run, 200))
    (run / "latest.json").write_text('{"step": 400, "checkpoint": "step-000000400"}')
    return run


class Puller:
    def __init__(self, machine, laptop):
        self.place, self.said = place(machine, laptop), []

    def run_there(self, name=RUN):
        return next(run for run in look(self.place)[0].runs if run.name == name)

    def __call__(self, folder=Path("outputs") / RUN, name=RUN, **options):
        return pull(self.place, self.run_there(name), folder, report=self.said.append,
                    progress=lambda what, done, size: None, **options)


@pytest.fixture
def fetch(machine, laptop):
    return Puller(machine, laptop)


HERE = Path("outputs") / RUN


def good(folder):
    return [path.name for path in steps.all_steps(folder) if not steps.problems(path)]


def test_the_copy_is_a_run_that_reads_and_trains_on(run, fetch):
    pulled = fetch()
    assert pulled.step == 400
    assert good(HERE) == ["step-000000200", "step-000000400"]
    there, here = contents(run), contents(HERE)
    apart = {"mirrors/x.held/weights", "console.log", "console.log.1", "guard.log"}
    assert {name for name in there.keys() ^ here.keys() if "step-000000300" not in name} == apart
    assert all(there[name] == here[name] for name in (there.keys() & here.keys()) - {"run.lock"})
    assert (HERE / "console.log").read_text() == "Step 1\nStep 2\n"
    assert (HERE / "run.lock").read_text() == ""  # who trains there trains not here
    assert (HERE / "ctc_head.safetensors").samefile(HERE / "checkpoints/step-000000200/ctc_head.safetensors")
    listed = subprocess.run([sys.executable, "-m", "auricle", "runs", "--json"], capture_output=True, check=True)
    assert json.loads(listed.stdout)[0]["step"] == 400
    assert steps.newest(HERE, fetch.said.append) == steps.path_of(HERE, 400)
    assert fetch.said == []


def test_a_second_pull_moves_only_what_is_new(run, fetch, monkeypatch):
    fetch()
    moved = []
    real = Ssh.get
    monkeypatch.setattr(Ssh, "get", lambda self, name, *given: (moved.append(name), real(self, name, *given)))
    assert fetch().arrived == []
    add_checkpoint(run, 600, part=b"frozen")
    pulled = fetch()
    assert (pulled.step, pulled.arrived, moved) == (600, ["step-000000600"], ["checkpoints/step-000000600"])
    assert json.loads((HERE / "latest.json").read_text())["step"] == 600


def test_the_newest_and_the_best_stay_here(run, fetch):
    fetch()
    for step in (500, 600, 700):
        add_checkpoint(run, step, part=b"frozen")
        fetch()
    assert good(HERE) == ["step-000000200", "step-000000600", "step-000000700"]
    fetch(keep=1)
    assert good(HERE) == ["step-000000200", "step-000000700"]


def test_a_damaged_checkpoint_is_told_and_the_one_before_taken(run, fetch):
    path = run / "checkpoints/step-000000400/optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert fetch().step == 300
    assert "step-000000400" in fetch.said[0]
    assert "optimizer.safetensors does not match its hash" in fetch.said[0]
    assert good(HERE) == ["step-000000200", "step-000000300"]
    assert json.loads((HERE / "latest.json").read_text())["step"] == 300


def test_a_damaged_best_leaves_the_newest_model_at_the_root(run, fetch):
    path = run / "checkpoints/step-000000200/ctc_head.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert fetch().step == 400
    assert (HERE / "ctc_head.safetensors").samefile(HERE / "checkpoints/step-000000400/ctc_head.safetensors")


def test_a_checkpoint_that_goes_away_meanwhile_is_passed_over_in_silence(run, fetch, monkeypatch):
    real = Ssh.get

    def get(self, name, to, progress):
        if name.endswith("400"):
            steps.remove(run, [steps.path_of(run, 400)])
        real(self, name, to, progress)

    monkeypatch.setattr(Ssh, "get", get)
    assert fetch().step == 300
    assert fetch.said == []


def test_a_checkpoint_is_not_here_before_the_parts_that_it_names(run, fetch, monkeypatch):
    real = Ssh.get

    def get(self, name, to, progress):
        if "/parts/" in name:
            raise MirrorError("the link is cut")
        real(self, name, to, progress)

    monkeypatch.setattr(Ssh, "get", get)
    with pytest.raises(RemoteError, match="the link is cut"):
        fetch()
    assert steps.all_steps(HERE) == []


@pytest.mark.parametrize("is_gone", [True, False])
def test_what_breaks_off_is_a_lost_machine_only_where_it_does_not_answer(machine, run, fetch, monkeypatch, is_gone):
    def get(self, name, to, progress):
        if is_gone:
            machine.kill()
        raise MirrorError("it broke off")

    there = fetch.run_there()
    monkeypatch.setattr(Ssh, "get", get)
    with pytest.raises(RemoteError) as failed:
        fetch_run(fetch, there)
    assert isinstance(failed.value, Unreachable) == is_gone
    assert ("the same command goes on" in str(failed.value)) == is_gone


def test_small_files_that_break_off_are_no_lost_machine_while_it_answers(run, fetch, monkeypatch):
    def broken(*_):
        raise Unreachable("the transfer broke off")

    there = fetch.run_there()
    monkeypatch.setattr(Connection, "rsync", broken)
    with pytest.raises(RemoteError, match="the transfer broke off") as failed:
        fetch_run(fetch, there)
    assert not isinstance(failed.value, Unreachable)


@pytest.mark.parametrize("small", [True, False])
def test_a_disk_that_is_full_in_a_pull_is_the_one_here(run, fetch, monkeypatch, small):
    full = DiskFull("its disk is full") if small else MirrorError("[receiver] write failed: No space left on device")
    monkeypatch.setattr(Connection if small else Ssh, "rsync" if small else "get",
                        lambda *_: (_ for _ in ()).throw(full))
    with pytest.raises(RemoteError, match=r"the disk of 'outputs/voxformer', here, is full") as failed:
        fetch()
    assert not isinstance(failed.value, DiskFull | Unreachable)


def test_a_place_that_cannot_be_written_is_a_sentence(run, fetch):
    HERE.parent.write_text("a file where the folder should be")
    with pytest.raises(RunFolderError, match=r"'outputs/voxformer': cannot be written \(.*--to"):
        fetch()


def fetch_run(fetch, there):
    return pull(fetch.place, there, HERE, report=fetch.said.append, progress=lambda *_: None)


def test_before_the_first_checkpoint_there_are_events_alone(machine, laptop, fetch):
    run = make_run(machine)
    steps.remove(run, steps.all_steps(run))
    assert fetch().step is None
    assert (HERE / "events.jsonl").read_bytes() == (run / "events.jsonl").read_bytes()
    assert not (HERE / "config.json").exists()


def test_another_run_is_not_overwritten(machine, run, fetch):
    fetch()
    other = make_run(machine, "other", created=6.0)
    before = contents(HERE)
    with pytest.raises(RunFolderError, match="holds another run"):
        fetch(HERE, "other")
    (HERE.parent / "mine").mkdir()
    (HERE.parent / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match=r"holds notes\.txt but no run\.json"):
        fetch(HERE.parent / "mine", "other")
    assert contents(HERE) == before
    assert contents(HERE.parent / "mine") == {"notes.txt": b"mine"}
    assert other.exists()


def test_a_folder_that_is_trained_in_is_left_alone(run, fetch):
    fetch()
    code = (f"from auricle.store.run_lock import lock; from pathlib import Path; held = lock(Path({str(HERE)!r}))\n"
            "print('held', flush=True); input()")
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as trainer:
        assert trainer.stdout.readline() == b"held\n"
        with pytest.raises(RunFolderError, match=rf"in use here by process {trainer.pid}"):
            fetch()
        trainer.stdin.close()
    assert fetch().step == 400
    with lock(HERE):  # and it is free again
        pass


def test_what_was_trained_here_since_is_not_overwritten(run, fetch):
    fetch()
    resume_run(HERE, at=400, steps=100)
    before = contents(HERE)
    with pytest.raises(RunFolderError, match="was trained in here, or elsewhere, since"):
        fetch()
    assert contents(HERE) == before


def test_events_that_a_power_cut_took_there_are_gone_here_too(run, fetch):
    fetch()
    whole = (run / "events.jsonl").read_bytes()
    (run / "events.jsonl").write_bytes(whole[:-200])
    fetch()
    assert (HERE / "events.jsonl").read_bytes() == whole[:-200]


def test_a_run_that_started_again_there_goes_on_here(run, fetch):
    fetch()
    resume_run(run, at=400, steps=200)
    pull_files(fetch.place, fetch.run_there(), HERE)
    assert (HERE / "events.jsonl").read_bytes() == (run / "events.jsonl").read_bytes()


def test_a_run_without_a_folder_yet_says_so(machine, laptop, fetch):
    add_run(machine.project("speech"))
    with pytest.raises(RemoteError, match=r"has no run.json in .*about to start"):
        fetch()
    assert not HERE.exists()


def test_names_with_blanks_and_quotes(machine, laptop, fetch):
    name = "it's a \"run\" $HOME"
    make_run(machine, name)
    fetch(Path("outputs") / "copy", name)
    assert good(Path("outputs") / "copy") == ["step-000000200", "step-000000400"]


def test_through_a_jump_host(tmp_path, machine, run, laptop, fetch):
    with host(tmp_path / "vps", key_of=machine) as vps:
        [target] = parse_all([machine.address], vps.address)
        fetch.place = Place(Connection(target, laptop), laptop, str(machine.project("speech")))
        assert fetch().arrived == ["step-000000200", "step-000000400"]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.root
@needs_namespaces
def test_a_cut_in_mid_pull_leaves_nothing_torn_and_the_same_call_goes_on(tmp_path, laptop, monkeypatch):
    with far_machine() as far, host(tmp_path / "machine", far=far) as machine:
        use(monkeypatch, machine)
        run = make_run(machine)
        add_checkpoint(run, 800, size=8_000_000)
        subprocess.run(["ip", "netns", "exec", far.name, "tc", "qdisc", "add", "dev",
                        _device(far.name), "root", "tbf", "rate", "24mbit", "burst", "64kbit", "latency", "400ms"],
                       check=True)
        fetch = Puller(machine, laptop)
        there = fetch.run_there()
        failed = []

        def attempt():
            try:
                fetch_run(fetch, there)
            except Unreachable as error:
                failed.append(str(error))

        thread = threading.Thread(target=attempt)
        thread.start()
        partial = HERE / "checkpoints" / ".incoming-step-000000800"
        _until(lambda: sum(map(len, contents(partial).values())) > 5_000_000, thread.is_alive)
        far.cut()
        thread.join()
        assert "the same command goes on" in failed[0]
        kept = sum(map(len, contents(partial).values()))
        assert kept > 5_000_000
        assert good(HERE) == [path.name for path in steps.all_steps(HERE)]
        assert (run / "events.jsonl").read_bytes().startswith((HERE / "events.jsonl").read_bytes())
        far.mend()
        before = _received(far)
        _until(lambda: _again(fetch, there), lambda: True)
        assert good(HERE) == ["step-000000200", "step-000000800"]
        assert _received(far) - before < 16_000_000 - kept + 1_000_000  # the rest alone went over
        assert not list(HERE.rglob(".incoming-*"))


def _again(fetch, there):
    try:
        fetch_run(fetch, there)
    except Unreachable:
        return False
    return True


def _received(far):
    return int(Path(f"/sys/class/net/{far.cable}/statistics/rx_bytes").read_text())


def _device(name):
    shown = subprocess.run(["ip", "-n", name, "-o", "link"], capture_output=True, text=True, check=True).stdout
    return next(line.split(": ")[1].partition("@")[0] for line in shown.splitlines() if "aur" in line)


def _until(true, alive, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not true():
        assert alive(), "it ended early"
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)
