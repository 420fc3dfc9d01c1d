"""The doctor asks a machine everything, before and after it was deployed to, and shows all that is wrong."""

import json
import re
import subprocess

import pytest

from auricle.core.config import RemoteConfig
from auricle.remote.connection import Connection, Unreachable
from auricle.remote.place import Place
from auricle.remote.setup import checks
from auricle.remote.setup.checks import worst
from auricle.remote.setup.deploy import Skip, deploy
from auricle.remote.setup.doctor import examine
from auricle.remote.target import parse, parse_all
from tests import sshd
from tests.hosts import give_environment, host, laptop, needs_hosts, tools, use  # noqa: F401

pytestmark = needs_hosts
CONFIG = RemoteConfig()


def place_at(machine, project):
    return Place(Connection(machine.target, project), project)


def rows(place, **settings):
    return {check.check: check for check in examine(place, CONFIG, **settings)}


@pytest.fixture
def pod(tmp_path, monkeypatch):
    with host(tmp_path / "pod") as machine:
        use(monkeypatch, machine)
        yield machine


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr("auricle.remote.setup.doctor.HOSTS", ("no-such-host.invalid",))


def test_a_fresh_machine(laptop, pod, offline):  # noqa: F811
    found = rows(place_at(pod, laptop), targets=["/far"], price=0.44, environ={"HF_TOKEN": "hf_verysecret"})
    assert list(found) == ["ssh", "host key", "rsync", "Python", "tmux", "disk", "/dev/shm", "GPU", "torch", "clock",
                           "fsync", "network", "mirror", "price", "budget", "after a reboot", "ends itself", "secrets"]
    assert found["ssh"].result == "ok"
    key = subprocess.run(["ssh-keygen", "-lf", pod.server.client_config.parent / "host_key.pub"], capture_output=True,
                         text=True, check=True).stdout.split()[1]
    assert key in found["host key"].what
    assert re.search(r"\d+ writes a second", found["fsync"].what)
    assert (found["network"].result, "no-such-host.invalid: " in found["network"].what) == ("warning", True)
    assert found["mirror"].what == "/far: not tried yet"
    assert found["torch"].what == "deploy will install torch==2.13.0"
    assert found["price"].what == "0.44 an hour"
    assert "HF_TOKEN" in found["secrets"].what
    assert "verysecret" not in repr(found)
    assert not list(pod.home.iterdir())


def test_a_jump_is_a_row(laptop, pod, tmp_path, offline):  # noqa: F811
    with host(tmp_path / "jump", key_of=pod) as jump:
        (target,) = parse_all([pod.address], jump.address)
        found = rows(Place(Connection(target, laptop), laptop))
    assert found["jump"].what == f"through {jump.address}"


def test_a_machine_with_everything_wrong_shows_all_of_it(laptop, tmp_path, monkeypatch, offline):  # noqa: F811
    monkeypatch.setattr("auricle.remote.setup.facts.PYTHONS", ("python3.13", "python3.11", "python3"))
    path = tools(tmp_path / "tools", without=("tmux", "rsync", "apt-get", "dpkg", "python3.11", "python3.12",
                                              "python3.13"),
                 also={"python3": "echo 3.8.10", "nvidia-smi": "echo 'NVIDIA-SMI has failed'; exit 9"})
    with host(tmp_path / "pod", path=path) as machine:
        use(monkeypatch, machine)
        found = rows(place_at(machine, laptop))
    assert {name for name, row in found.items() if row.result == "fails"} == {"rsync", "Python", "GPU"}
    assert found["Python"].what == "3.8.10 there; expected 3.11 or newer"
    assert found["tmux"].result == "warning"
    assert found["secrets"].result == "ok"


@pytest.mark.root
def test_a_full_disk(laptop, tmp_path, monkeypatch, offline):  # noqa: F811
    disk = tmp_path / "small"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
    try:
        with host(disk / "pod") as machine:
            use(monkeypatch, machine)
            with pytest.raises(OSError, match="No space"):
                (disk / "filler").write_bytes(b"x" * 2_000_000)
            found = rows(place_at(machine, laptop))
            assert (found["disk"].result, found["fsync"].result) == ("fails", "fails")
            assert "No space left" in found["fsync"].what
            assert found["secrets"].result == "ok"
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.root
def test_a_disk_of_memory_confirms_more_than_a_disk_can(laptop, tmp_path, monkeypatch, offline):  # noqa: F811
    monkeypatch.setattr(checks, "IMPLAUSIBLE_FSYNCS", 5000.0)  # this machine is busy with other tests
    disk = tmp_path / "memory"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", disk], check=True)
    try:
        with host(disk / "pod") as machine:
            use(monkeypatch, machine)
            found = rows(place_at(machine, laptop))
            assert (found["fsync"].result, "disk that confirms" in found["fsync"].what) == ("warning", True)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_after_deploying_the_environment_and_the_mirrors_are_tried(laptop, pod, tmp_path, offline):  # noqa: F811
    give_environment(pod.project("speech"))
    (laptop.root / "a").write_text("")
    place = place_at(pod, laptop)
    deploy(place, CONFIG, lambda line: None, skip=Skip(deps=True), price_per_hour=0.3)
    (tmp_path / "file").write_text("")
    found = examine(place, CONFIG, targets=[str(tmp_path / "far"), str(tmp_path / "file" / "x")])
    mirrors = [check for check in found if check.check == "mirror"]
    assert [check.result for check in mirrors] == ["warning", "fails"]
    assert "1 MB went there, was verified and removed" in mirrors[0].what
    assert "is lost with it" in mirrors[0].what
    assert "mirror.targets=[ssh://HOST/FOLDER]" in mirrors[0].todo
    assert str(tmp_path / "file" / "x") in mirrors[1].what
    by_name = {check.check: check for check in found}
    assert re.match(r"2\.\d+", by_name["torch"].what)
    assert by_name["price"].what == "0.3 an hour"
    assert not list((tmp_path / "far").iterdir())
    assert worst(found)


def test_an_environment_that_is_broken_fails_and_the_rest_is_shown(laptop, pod, offline):  # noqa: F811
    python = pod.project("speech") / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho 'ModuleNotFoundError: No module named torch' >&2\nexit 1\n")
    python.chmod(0o755)
    found = rows(place_at(pod, laptop))
    assert (found["torch"].result, "No module named torch" in found["torch"].what) == ("fails", True)
    assert found["ends itself"].result == "warning"


def test_mirrors_get_the_secrets_on_standard_input(laptop, pod, offline):  # noqa: F811
    python = pod.project("speech") / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\n'
                      'case "$*" in *"mirror probe"*) echo "$*" > ~/words; cat > ~/stdin; '
                      """echo '{"bytes": 1e6, "seconds": 2}';; esac\n""")
    python.chmod(0o755)
    found = rows(place_at(pod, laptop), targets=["s3://bucket/x"], environ={"HF_TOKEN": "hf_verysecret", "OTHER": "x"})
    assert (found["mirror"].result, found["mirror"].what) == (
        "ok", "s3://bucket/x: 1 MB went there, was verified and removed, in 2.0 s")
    assert json.loads((pod.home / "stdin").read_text()) == {"HF_TOKEN": "hf_verysecret"}
    assert "verysecret" not in (pod.home / "words").read_text() + repr(found)


def test_a_question_that_is_not_answered_is_one_row(laptop, pod, monkeypatch, offline):  # noqa: F811
    def silent(*arguments):
        raise Unreachable("no answer within 40 s")

    monkeypatch.setattr("auricle.remote.setup.doctor.tried", silent)
    found = rows(place_at(pod, laptop))
    assert found["disk and network"].what == "no answer within 40 s"
    assert found["secrets"].result == "ok"


def test_no_way_to_the_machine_is_the_one_row(laptop, pod):  # noqa: F811
    (row,) = examine(Place(Connection(parse(f"{pod.server.address}:1"), laptop), laptop), CONFIG)
    assert (row.check, row.result, "nothing listens on port 1" in row.what) == ("ssh", "fails", True)


def test_runpods_terminal_is_recognised(laptop, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(sshd, "SERVER", f"{sshd.SERVER}\nForceCommand echo \"Error: Your SSH client doesn't support "
                                        "PTY\"; exit 1\n")
    with host(tmp_path / "pod") as machine:
        use(monkeypatch, machine)
        (row,) = examine(place_at(machine, laptop), CONFIG)
    assert "this is RunPod's basic SSH" in row.what
