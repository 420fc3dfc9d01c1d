"""Ending a rented machine: nothing that is nowhere else is lost, and the bill is told."""

import getpass
import json
import shutil
import time
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from auricle.cli.main import app
from auricle.remote.connection import Connection
from auricle.remote.place import Place
from auricle.remote.providers import ProviderError, Wanted, lambda_cloud, runpod
from auricle.remote.renting import release as releasing
from auricle.remote.renting.release import Unsafe, of_run, of_target, release
from auricle.remote.renting.risks import parse
from auricle.remote.status import see
from auricle.remote.target import parse as address
from auricle.store.mirror_pusher import push_once
from auricle.store.targets import folder
from auricle.store.targets.parts.disks import is_own_disk
from tests.hosts import host, laptop, needs_hosts, use
from tests.mirrored import add_checkpoint, make_run, mirror
from tests.remote.providers.lambda_cloud_server import serving_lambda
from tests.remote.providers.runpod_server import serving_runpod
from tests.remote.there import add_run

__all__ = ["laptop"]
pytestmark = needs_hosts
RUN = "tiny"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    with host(tmp_path / "machine") as running:
        use(monkeypatch, running)
        yield running


@pytest.fixture(autouse=True)
def folders_are_elsewhere(monkeypatch):
    """A mirror in a folder stands for one on a network file system."""
    monkeypatch.setattr(folder, "is_own_disk", lambda root: False)


class Laptop:
    """Who releases a pod that was rented two hours ago, and to which this project was deployed."""

    def __init__(self, server, project, machine):
        self.server, self.project, self.machine = server, project, machine
        self.environ = {"AURICLE_RUNPOD_URL": server.url, "RUNPOD_API_KEY": server.key}
        self.said = []
        self.provider = runpod.connect(self.environ)
        self.id = self.provider.rent(self.provider.offers(Wanted(gpu="4090"))[0], run=RUN, public_key="k", disk_gb=50,
                                     image=None).id
        self.target = machine.target
        self.there = machine.project("speech")
        self.there.mkdir()
        project.remember(self.target, provider="runpod", id=self.id, run=RUN, price_per_hour=0.34,
                         since=time.time() - 7200, folder=str(self.there))

    @property
    def place(self):
        return Place(Connection(self.target, self.project), self.project)

    def release(self, **options):
        held = of_target(self.project, self.environ, self.target)
        release(held, self.project, self.said.append, **options)

    def run_there(self, name=RUN, *, step=500, **state):
        """A run that has ended there, with a checkpoint that is nowhere else."""
        add_run(self.there, name, **{"exit_code": 0, "saved_step": step, "safe_step": None, **state})
        run = make_run(self.there / "outputs" / name)
        add_checkpoint(run, step, part=b"frozen")
        return run

    def refused(self, *sentences, **options):
        with pytest.raises(Unsafe) as raised:
            self.release(**options)
        for sentence in (*sentences, "--force"):
            assert sentence in str(raised.value)
        assert self.server.pods[self.id]["status"] == "RUNNING"
        assert self.project.machines()


@pytest.fixture
def user(machine, laptop):
    with serving_runpod() as server:
        server.host = (machine.server.address, machine.server.port, getpass.getuser())
        yield Laptop(server, laptop, machine)


def test_a_machine_without_runs_is_released_with_its_bill(user):
    user.release()
    assert not user.server.pods
    assert user.project.machines() == []
    assert user.said == [f"{user.id} at runpod (tiny): released; it cost $0.68 in 2.0 h", user.provider.billing]


def test_a_checkpoint_that_is_nowhere_else_is_not_lost(user):
    user.run_there()
    user.refused("tiny: step 500 is verified nowhere else", f"auricle remote pull {user.target} --run tiny",
                 f"auricle remote exec {user.target} -- auricle mirror push outputs/tiny")


def test_force_releases_it(user):
    user.run_there()
    user.release(force=True)
    assert not user.server.pods


def test_a_checkpoint_that_a_mirror_holds_is_safe(user, tmp_path):
    push_once(mirror(user.run_there(), tmp_path / "mirror"))
    user.release()
    assert not user.server.pods


def test_a_mirror_on_the_disk_of_the_machine_is_lost_with_it(user, tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "is_own_disk", is_own_disk)
    push_once(mirror(user.run_there(), tmp_path / "mirror"))
    user.refused("tiny: step 500 is verified nowhere else")


def test_a_mirror_that_holds_an_older_one_is_not_enough(user, tmp_path):
    run = user.run_there()
    push_once(mirror(run, tmp_path / "mirror"))
    add_checkpoint(run, 600)
    user.refused("tiny: step 600 is verified nowhere else")


def test_a_mirror_that_holds_another_checkpoint_of_that_step_is_not_enough(user, tmp_path):
    run = user.run_there()
    push_once(mirror(run, tmp_path / "mirror"))
    add_checkpoint(run, 500, seed=1)
    user.refused("tiny: step 500 is verified nowhere else")


def test_a_copy_here_that_verifies_is_safe(user):
    run = user.run_there()
    shutil.copytree(run, user.project.root / "outputs" / RUN)
    user.release()
    assert not user.server.pods


@pytest.mark.parametrize("what", ["checkpoints/step-000000500/ctc_head.safetensors", "checkpoints/parts"])
def test_a_copy_here_that_is_damaged_is_none(user, what):
    run = user.run_there()
    here = user.project.root / "outputs" / RUN
    shutil.copytree(run, here)
    if (here / what).is_dir():
        shutil.rmtree(here / what)
    else:
        (here / what).write_bytes(b"torn")
    user.refused("tiny: step 500 is verified nowhere else")


def test_another_run_of_that_name_here_is_no_copy(user):
    user.run_there()
    here = make_run(user.project.root / "outputs" / RUN)
    add_checkpoint(here, 500, seed=7)
    user.refused("tiny: step 500 is verified nowhere else")


def test_every_run_there_counts_also_one_without_a_guard(user, tmp_path):
    push_once(mirror(user.run_there(), tmp_path / "mirror"))
    add_checkpoint(make_run(user.there / "outputs" / "by hand"), 40)
    user.refused("by hand: step 40 is verified nowhere else")


def test_a_run_that_goes_on_is_not_ended(user, tmp_path):
    run = user.run_there(exit_code=None)
    push_once(mirror(run, tmp_path / "mirror"))
    user.refused(f"tiny: still runs; end it first: auricle remote stop {user.target} --run tiny")
    user.refused("tiny: still runs", keep_disk=True)


def test_a_run_whose_guard_is_dead_and_whose_runner_lives_goes_on(user, tmp_path):
    run = user.run_there(exit_code=None, age=500.0, runner={"pid": 1})
    push_once(mirror(run, tmp_path / "mirror"))
    user.refused("tiny: still runs")


def test_a_run_that_died_without_a_word_has_ended(user, tmp_path):
    run = user.run_there(exit_code=None, age=500.0, runner={"pid": 4_000_000})
    push_once(mirror(run, tmp_path / "mirror"))
    user.release()
    assert not user.server.pods


def test_stopping_keeps_what_lies_under_workspace(user, monkeypatch):
    user.run_there()
    user.refused("tiny: step 500 is verified nowhere else", keep_disk=True)  # it lies in the home, which is erased
    monkeypatch.setattr(releasing, "WORKSPACE", str(user.there.parent))
    user.release(keep_disk=True)
    assert user.server.pods[user.id]["status"] == "EXITED"
    assert len(user.project.machines()) == 1
    assert user.said == [f"{user.id} at runpod (tiny): stopped, its disk is kept; it cost $0.68 in 2.0 h",
                         user.provider.billing]


def test_a_machine_that_is_silent_is_not_released_on_faith(user):
    user.run_there()
    user.machine.kill()
    user.refused("whether its runs are safe elsewhere cannot be seen")


def test_a_silent_machine_whose_last_word_was_that_all_is_safe(user):
    user.run_there(safe_step=500)
    see(user.place)
    user.place.connection.close()
    user.machine.kill()
    user.release()
    assert not user.server.pods


@pytest.mark.parametrize(("state", "sentence"), [
    ({"exit_code": None}, "it was training"), ({"safe_step": 400}, "its step 500 was nowhere else")])
def test_a_silent_machine_whose_last_word_was_that_something_is_not(user, state, sentence):
    user.run_there(**state)
    see(user.place)
    user.place.connection.close()
    user.machine.kill()
    user.refused("tiny: it does not answer, and 0 min ago", sentence)


def test_a_silent_machine_whose_checkpoint_is_here(user):
    run = user.run_there()
    see(user.place)
    shutil.copytree(run, user.project.root / "outputs" / RUN)
    user.place.connection.close()
    user.machine.kill()
    user.release()
    assert not user.server.pods


def test_a_machine_that_nothing_came_to(user):
    user.project.remember(user.target, folder=None, rented_here=True)
    user.machine.kill()
    user.release()
    assert not user.server.pods


def test_a_machine_that_others_may_have_brought_something_to(user):
    """It was found at its provider, and noted."""
    user.project.remember(user.target, folder=None)
    user.machine.kill()
    user.refused("whether its runs are safe elsewhere cannot be seen")


def pending(user, **facts):
    """Noted before it had an address."""
    user.project.forget(str(user.target))
    user.server.host = None
    user.project.remember(address(f"pending-{user.id}.runpod"), provider="runpod", id=user.id, run=RUN, **facts)


def test_a_machine_that_was_rented_here_and_has_no_address_yet(user):
    pending(user, rented_here=True)
    release(of_run(user.project, user.environ, RUN, user.said.append), user.project, user.said.append)
    assert not user.server.pods
    assert user.project.machines() == []


@pytest.mark.parametrize(("status", "state"), [("RUNNING", "running"), ("ERROR", "error"), ("STARTING", "starting")])
@pytest.mark.parametrize("noted", [True, False])
def test_a_machine_without_an_address_that_was_not_rented_here(user, status, state, noted):
    if noted:
        pending(user)
    else:
        user.project.forget(str(user.target))
        user.server.host = None
    user.server.pods[user.id]["status"] = status
    held = of_run(user.project, user.environ, RUN, user.said.append)
    with pytest.raises(Unsafe, match=rf"has no address \(it is {state}\), and what lies on its disk is not known here"):
        release(held, user.project, user.said.append)
    assert user.server.pods


def test_a_machine_without_an_address_that_is_gone_is_forgotten(user):
    pending(user)
    user.server.pods.clear()
    release(of_run(user.project, user.environ, RUN, user.said.append), user.project, user.said.append)
    assert user.project.machines() == []


def test_a_machine_that_is_noted_twice_is_the_one_that_was_deployed_to(user):
    folder = str(user.there)
    user.project.remember(address(f"pending-{user.id}.runpod"), provider="runpod", id=user.id, run=RUN,
                          rented_here=True)
    held = of_run(user.project, user.environ, RUN, user.said.append)
    assert (held.machine.address, held.machine.folder) == (str(user.target), folder)


def test_a_stopped_machine_that_is_not_noted_may_hold_a_run(user):
    user.project.forget(str(user.target))
    user.server.pods[user.id]["status"] = "EXITED"
    held = of_run(user.project, user.environ, RUN, user.said.append)
    with pytest.raises(Unsafe, match="is stopped, and what lies on its disk is not known here"):
        release(held, user.project, user.said.append)
    assert user.server.pods


def test_another_provider_that_cannot_be_asked_is_no_reason_to_go_on_paying(user):
    environ = {**user.environ, "VAST_API_KEY": "two words"}
    assert of_run(user.project, environ, RUN, user.said.append).machine.id == user.id
    (line,) = user.said
    assert line.startswith("not asked for more machines of tiny: Vast.ai: what is set as its key is none")
    with pytest.raises(ProviderError, match="what is set as its key is none"):
        of_run(user.project, environ, "other", user.said.append)


def test_a_noted_machine_whose_providers_key_is_not_set(user):
    with pytest.raises(ProviderError, match=r"no key is set; get one on .*RUNPOD_API_KEY"):
        of_run(user.project, {}, RUN, user.said.append)


def test_a_machine_that_is_gone_is_forgotten(user):
    user.server.pods.clear()
    user.machine.kill()
    user.release()
    assert user.project.machines() == []
    assert "lists it no more" in user.said[0]


def test_a_renamed_machine_is_not_forgotten_with_its_runs(user):
    """It is listed no more, and it answers."""
    user.run_there()
    user.server.pods[user.id]["name"] = "mine"
    user.refused("tiny: step 500 is verified nowhere else")
    user.release(force=True)
    assert not user.server.pods


def test_by_the_name_of_its_run_also_where_it_is_not_noted(user):
    held = of_run(user.project, user.environ, RUN, user.said.append)
    assert (held.machine.id, held.machine.price_per_hour) == (user.id, 0.34)
    assert held.machine.folder == str(user.there)
    user.project.forget(str(user.target))
    held = of_run(user.project, user.environ, RUN, user.said.append)
    assert (held.machine.id, held.machine.folder) == (user.id, None)
    assert of_run(user.project, user.environ, "other", user.said.append) is None
    assert user.said == []


def test_a_machine_that_another_project_works_on_is_not_released(user):
    """It is found by its run's name alone; this project is not there."""
    user.project.forget(str(user.target))
    shutil.rmtree(user.there)
    held = of_run(user.project, user.environ, RUN, user.said.append)
    with pytest.raises(Unsafe, match="this project is not there"):
        release(held, user.project, user.said.append)
    assert user.server.pods


def test_two_machines_of_a_run(user):
    user.server.pods["older"] = {**user.server.pods[user.id], "id": "older", "createdAt": "2026-06-01T12:00:00Z"}
    held = of_run(user.project, user.environ, RUN, user.said.append)
    assert held.machine.id == user.id
    assert user.said == [f"tiny: 2 machines: {user.id}, older; this is about the newest, the same command again about "
                         "the next"]


def test_by_an_address_that_is_not_noted(user):
    user.project.forget(str(user.target))
    assert of_target(user.project, user.environ, user.target).machine.id == user.id


@pytest.mark.parametrize("is_noted", [True, False])
def test_a_machine_that_was_rented_by_hand_is_looked_at_and_released(user, is_noted, tmp_path):
    run = user.run_there()
    user.project.forget(str(user.target))
    user.server.pods[user.id]["name"] = "my-pod"
    if is_noted:
        user.project.remember(replace(user.target, user="root"), folder=str(user.there))
        user.refused("tiny: step 500 is verified nowhere else")
        push_once(mirror(run, tmp_path / "mirror"))
    else:
        with pytest.raises(Unsafe, match=r"step 500|this project is not there"):
            user.release()
    assert of_run(user.project, user.environ, RUN, user.said.append) is None
    user.release(force=not is_noted)
    assert not user.server.pods
    assert user.project.machines() == []
    assert user.said[0].startswith(f"{user.id} at runpod: released; it cost $")


def test_a_machine_that_was_rented_by_hand_is_reached_as_it_was_noted(user):
    user.server.pods[user.id]["name"] = "my-pod"
    user.project.forget(str(user.target))
    user.project.remember(replace(user.target, jump=user.target), folder=str(user.there))
    assert of_target(user.project, user.environ, user.target).machine.jump == str(user.target)


def test_a_host_that_was_not_rented(user):
    user.server.pods.clear()
    user.project.forget(str(user.target))
    with pytest.raises(ProviderError, match="cannot be released from here"):
        of_target(user.project, user.environ, user.target)


def test_twice(user):
    user.release()
    with pytest.raises(ProviderError, match="was not rented from here"):
        user.release()
    assert of_run(user.project, user.environ, RUN, user.said.append) is None


def test_a_release_that_the_provider_refuses_forgets_nothing(user):
    user.server.fail("DELETE /pods", 403)
    with pytest.raises(ProviderError, match="may not do DELETE"):
        user.release()
    assert len(user.project.machines()) == 1


def test_lambda_cannot_keep_a_disk(laptop):
    with serving_lambda() as server:
        environ = {"AURICLE_LAMBDA_URL": server.url, "LAMBDA_API_KEY": server.key}
        provider = lambda_cloud.connect(environ)
        provider.rent(provider.offers(Wanted(gpu="a10"))[0], run=RUN, public_key="ssh-rsa k", disk_gb=50, image=None)
        held = of_run(laptop, environ, RUN, print)
        with pytest.raises(ProviderError, match="cannot be stopped with its disk kept"):
            release(held, laptop, print, keep_disk=True, force=True)
        assert server.pods


def test_what_a_login_script_prints_and_what_cannot_be_read_is_passed_over():
    alive, stored = parse("Welcome\n@newest x y\n@alive tiny\n@folder outputs/a b\n@newest step-000000005 ff\n"
                          '@mirror {"verified": {"step-000000005": "ff"}}\n@mirror torn\n@mirror {"verified": 1}\n')
    assert alive == {"tiny"}
    assert [(one.run, one.name, one.is_mirrored) for one in stored] == [("a b", "step-000000005", True)]


@pytest.fixture
def auricle(user, monkeypatch):
    """The command line: → exit code, what it printed, and its errors."""
    for name, value in user.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(user.project.root.parent))
    for name in ("VAST_API_KEY", "LAMBDA_API_KEY"):
        monkeypatch.delenv(name, raising=False)

    def run(*words):
        done = CliRunner().invoke(app, words)
        assert done.exception is None or isinstance(done.exception, SystemExit)
        return done.exit_code, done.stdout, done.stderr

    return run


def test_on_the_command_line(user, auricle):
    user.run_there()
    code, _, err = auricle("remote", "release", *user.machine.words)
    assert code == Unsafe.exit_code
    assert "error: tiny: step 500 is verified nowhere else" in err
    code, out, _ = auricle("remote", "release", "--run", RUN, "--force")
    assert (code, out.splitlines()[0]) == (0, f"{user.id} at runpod (tiny): released; it cost $0.68 in 2.0 h")
    code, out, _ = auricle("remote", "release", "--run", RUN)
    assert (code, out) == (0, "tiny: no machine is paid for it, and none is noted here\n")


def test_a_machine_or_a_run_is_named(user, auricle):
    for words in ([], [*user.machine.words, "--run", RUN], [*user.machine.words, "more"]):
        assert auricle("remote", "release", *words)[0] == 2
    assert user.server.pods


def test_offers_on_the_command_line(user, auricle):
    code, out, _ = auricle("remote", "offers", "--gpu", "4090")
    assert code == 0
    heads, first, *_ = out.splitlines()
    assert heads.split() == ["provider", "gpus", "gpu", "vram", "$/h", "region", "reliability", "cuda", "id"]
    assert first.split()[:7] == ["runpod", "1", "RTX", "4090", "24", "GB", "0.340"]
    code, out, _ = auricle("remote", "offers", "--gpu", "4090", "--max-price", "0.5", "--json")
    assert [(row["provider"], row["price_per_hour"]) for row in json.loads(out)] == [("runpod", 0.34)]


@pytest.mark.parametrize(("words", "code", "sentence"), [
    (["--provider", "vast"], 9, "set VAST_API_KEY"), (["--provider", "runpot"], 2, "did you mean 'runpod'"),
    (["--provider", "ssh"], 9, "ssh: offers nothing for rent"), (["--max-price", "0.01"], 9, "raise --max-price"),
    (["--provider", "runpod", "--spot"], 9, "rents no interruptible machines")])
def test_offers_that_cannot_be(auricle, words, code, sentence):
    done, _, err = auricle("remote", "offers", "--gpu", "4090", *words)
    assert done == code
    assert sentence in err


def test_offers_without_a_key(auricle, monkeypatch):
    monkeypatch.delenv("RUNPOD_API_KEY")
    code, _, err = auricle("remote", "offers", "--gpu", "4090")
    assert code == 2
    assert "no provider's key is set" in err
