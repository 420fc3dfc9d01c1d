"""`auricle remote launch` on the command line: what stands before and after the machine, and who is handed what."""

import getpass
import os

import pytest
from typer.testing import CliRunner

from auricle.cli.main import app
from auricle.cli.remote_verbs import start as starting
from auricle.remote.connection import RemoteError
from auricle.remote.project import Project
from auricle.remote.renting import await_ssh
from auricle.remote.setup import deploy as deploying
from auricle.remote.setup import doctor
from auricle.remote.setup.checks import Check
from tests.hosts import host, needs_hosts, use
from tests.paths import ROOT
from tests.remote.providers.runpod_server import serving_runpod

pytestmark = needs_hosts
WORDS = ("remote", "launch", "--provider", "runpod", "--gpu", "4090", "--max-price", "0.5",
         "--experiment", "quickstart")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    with host(tmp_path / "machine") as running:
        use(monkeypatch, running)
        yield running


@pytest.fixture
def server(machine, monkeypatch):
    with serving_runpod() as running:
        running.host = (machine.server.address, machine.server.port, getpass.getuser())
        monkeypatch.setenv("AURICLE_RUNPOD_URL", running.url)
        monkeypatch.setenv("RUNPOD_API_KEY", running.key)
        monkeypatch.setattr(await_ssh, "POLL_SECONDS", 0.05)
        yield running


class Steps:
    """Stand-ins for doctor, deploy and start: `took` is what they were handed."""

    def __init__(self, monkeypatch):
        self.took, self.checks, self.error = [], [Check("ssh", "ok", "there")], None
        monkeypatch.setattr(doctor, "examine", self.examine)
        monkeypatch.setattr(deploying, "deploy", self.deploy)
        monkeypatch.setattr(starting, "start", self.start)

    def examine(self, place, config, **_):
        self.took.append(("doctor", str(place.connection.target)))
        return self.checks

    def deploy(self, place, config, say, **_):
        self.took.append(("deploy", str(place.connection.target), config.max_cost))
        if self.error:
            raise self.error

    def start(self, words, *, experiment, nproc, **_):
        self.took.append(("start", *words, experiment, nproc))


@pytest.fixture
def steps(monkeypatch):
    return Steps(monkeypatch)


@pytest.fixture
def laptop(tmp_path, monkeypatch):
    folder = tmp_path / "speech"
    folder.mkdir()
    (folder / ".git").mkdir()
    (folder / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(folder)
    return Project(folder)


def auricle(*words):
    done = CliRunner().invoke(app, words)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def test_rents_looks_deploys_and_starts(server, steps, laptop, machine):
    code, out, err = auricle(*WORDS, "--max-cost", "3", "training.seed=7")
    assert (code, err) == (0, "")
    target = f"{getpass.getuser()}@{machine.address}"
    assert steps.took == [("doctor", target), ("deploy", target, 3.0),
                          ("start", target, "training.seed=7", "remote.max_cost=3.0", "quickstart", 1)]
    lines = out.splitlines()
    assert lines[0] == "runpod: 1 x RTX 4090, 24 GB, $0.34 an hour (community, CUDA 12.8)"
    assert lines[1] == ("  ends by itself: 3 at 0.34 an hour, 30 min without training; then the machine is stopped")
    (pod,) = server.pods.values()
    assert pod["name"] == "auricle-quickstart"
    assert pod["env"]["PUBLIC_KEY"] == (machine.server.client_config.parent / "key.pub").read_text().strip()
    assert [(noted.id, noted.run) for noted in laptop.machines()] == [(pod["id"], "quickstart")]


def test_a_machine_that_is_unfit_is_told_before_anything_is_brought_there(server, steps, laptop):
    steps.checks += [Check("tmux", "warning", "not installed there", "deploy installs it"),
                     Check("gpu", "fails", "no GPU is seen", "rent another one")]
    code, out, err = auricle(*WORDS)
    assert code == 1
    assert "  tmux: not installed there; deploy installs it\n  gpu: no GPU is seen; rent another one\n" in out
    assert "unfit for the run: gpu;" in err
    assert out.splitlines()[-1].endswith("auricle remote release --run quickstart")
    assert [step for step, *_ in steps.took] == ["doctor"]
    assert len(server.pods) == 1


def test_release_on_failure(server, steps, laptop):
    steps.error = RemoteError("host: its disk is full")
    code, out, err = auricle(*WORDS, "--release-on-failure")
    assert (code, err) == (8, "error: host: its disk is full\n")
    assert not server.pods
    assert "costs no more" in out.splitlines()[-1]


@pytest.mark.parametrize(("words", "code", "sentence"), [
    (["training.seeed=7"], 2, "seeed"), (["training.run_name=a/b"], 2, "training.run_name"),
    (["--provider", "vast"], 9, "set VAST_API_KEY"), (["--gpu", "5099"], 9, "has no GPU '5099'"),
    (["--max-price", "0.1"], 9, "nobody offers 1 x 4090 for at most $0.1 an hour now"), (["--gpus", "0"], 2, "")])
def test_mistakes_are_told_before_anything_is_rented(server, steps, laptop, monkeypatch, words, code, sentence):
    monkeypatch.delenv("VAST_API_KEY", raising=False)
    monkeypatch.setenv("HOME", os.fspath(laptop.root))
    done, _, err = auricle(*WORDS, *words)
    assert done == code
    assert sentence in err
    assert not server.asked("POST /pods")
    assert steps.took == []
