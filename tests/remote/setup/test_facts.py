"""What a machine is, read from what it prints; and asked of real ones."""

import pytest

from auricle.remote.connection import Connection, Refused, RemoteError
from auricle.remote.place import Place
from auricle.remote.setup.facts import gather, read
from auricle.remote.target import parse
from tests import sshd
from tests.hosts import host, laptop, needs_hosts, tools, use  # noqa: F401

POD = """facts=begin
user=0
root=yes
folder=/workspace/speech
has=folder
command=rsync
command=apt-get
missing=tmux
python=3.10.12 venv|/usr/bin/python3
python=3.12.3|/opt/conda/bin/python3
python=3.11.9 venv|/usr/local/bin/python3.11
python=|/broken/python3
gpu=NVIDIA GeForce RTX 4090, 24564, 580.65.06, 8.9
gpu=NVIDIA GeForce RTX 4090, 24564, 580.65.06, 8.9
cuda=13.0
hook=/post_start.sh
provided=RUNPOD_POD_ID
disk=104857600 52428800
shm=65536 65536
clock=1000
facts=end
"""


def test_everything_that_a_pod_tells():
    facts = read(POD, 1000.2, 1000.4)
    assert (facts.folder, facts.user, facts.may_install, facts.has) == ("/workspace/speech", 0, "env", {"folder"})
    assert facts.commands == {"rsync", "apt-get"}
    assert facts.missing == ("tmux",)
    assert [python.shown for python in facts.pythons] == ["3.10.12", "3.12.3", "3.11.9"]
    assert facts.python is not None
    assert (facts.python.path, facts.python.has_venv) == ("/usr/local/bin/python3.11", True)
    assert [(gpu.capability, gpu.gb, gpu.driver) for gpu in facts.gpus] == [((8, 9), 25.8, "580.65.06")] * 2
    assert (facts.cuda, facts.has_nvidia_smi) == ("13.0", True)
    assert (facts.disk_gb, facts.shm_gb) == (pytest.approx(53.7, abs=0.1), pytest.approx(0.067, abs=0.001))
    assert (facts.hooks, facts.provided) == (("/post_start.sh",), {"RUNPOD_POD_ID"})
    assert facts.skew_seconds == 0


@pytest.mark.parametrize(("clock", "skew"), [(1000, 0), (1001, 0), (1060, 58.5), (900, -99.5), (999, -0.5)])
def test_the_clock_differs_by_what_the_way_does_not_explain(clock, skew):
    assert read(POD.replace("clock=1000", f"clock={clock}"), 1000.5, 1001.5).skew_seconds == pytest.approx(skew)


def test_a_python_without_venv_is_taken_only_where_there_is_none_with_it():
    without = read(POD.replace("3.11.9 venv", "3.11.9"), 0, 0).python
    assert without is not None
    assert (without.shown, without.has_venv) == ("3.12.3", False)


def test_an_old_driver_tells_no_capability_and_a_broken_one_no_gpu():
    old = read(POD.replace(", 8.9", ""), 0, 0)
    assert [gpu.capability for gpu in old.gpus] == [None, None]
    broken = read("gpu=NVIDIA-SMI has failed because it couldn't communicate, with, the driver\ncuda=\n", 0, 0)
    assert (broken.gpus, broken.has_nvidia_smi, broken.cuda) == ((), True, None)


def test_runpods_basic_ssh_is_known_by_its_name_before_anything_is_asked(laptop):  # noqa: F811
    place = Place(Connection(parse("abc123-644@ssh.runpod.io"), laptop), laptop)
    with pytest.raises(Refused, match="basic SSH"):
        gather(place)


pytestmark = needs_hosts


def asked(machine, project):
    return gather(Place(Connection(machine.target, project), project), ["tmux", "no-such-package"])


def test_a_machine_is_asked_in_one_go(laptop, tmp_path, monkeypatch):  # noqa: F811
    with host(tmp_path / "pod") as machine:
        use(monkeypatch, machine)
        facts = asked(machine, laptop)
    assert facts.folder == str(machine.home / "speech")
    assert facts.has == frozenset()
    assert facts.missing == ("no-such-package",)
    assert facts.python is not None
    assert facts.python.has_venv
    assert facts.disk_gb
    assert facts.disk_gb > 0
    assert abs(facts.skew_seconds) < 5
    assert facts.may_install == "env"


def test_a_machine_with_a_bare_path_and_python_38(laptop, tmp_path, monkeypatch):  # noqa: F811
    path = tools(tmp_path / "tools", without=("tmux", "rsync", "python3.11", "python3.12", "python3.13", "python",
                                              "nvidia-smi", "dpkg"), also={"python3": "echo 3.8.10"})
    monkeypatch.setattr("auricle.remote.setup.facts.PYTHONS", ("python3.13", "python3.11", "python3"))
    with host(tmp_path / "pod", path=path) as machine:
        use(monkeypatch, machine)
        facts = asked(machine, laptop)
    assert {"tmux", "rsync"} & facts.commands == set()
    assert facts.missing == ("tmux", "no-such-package")
    assert [python.version for python in facts.pythons] == [(3, 8, 10)]
    assert facts.python is None


GPUS = """case "$*" in
*compute_cap*) {with_capability};;
*query-gpu*) echo "Tesla V100-SXM2-16GB, 16384, 535.129.03";;
*) echo "| NVIDIA-SMI 535.129.03   Driver Version: 535.129.03   CUDA Version: 12.2     |";;
esac"""


@pytest.mark.parametrize(("with_capability", "capability"), [
    ('echo "Tesla V100-SXM2-16GB, 16384, 535.129.03, 7.0"', (7, 0)),
    ('echo "Field compute_cap is not a valid field"; exit 2', None)])
def test_nvidia_smi_old_and_new(laptop, tmp_path, monkeypatch, with_capability, capability):  # noqa: F811
    path = tools(tmp_path / "tools", also={"nvidia-smi": GPUS.format(with_capability=with_capability)})
    with host(tmp_path / "pod", path=path) as machine:
        use(monkeypatch, machine)
        facts = asked(machine, laptop)
    assert [(gpu.driver, gpu.capability) for gpu in facts.gpus] == [("535.129.03", capability)]
    assert facts.cuda == "12.2"


@pytest.mark.parametrize(("said", "error", "words"), [
    ("Error: Your SSH client doesn't support PTY", Refused, "basic SSH"),
    ("This account is currently not available.", RemoteError, "no shell answers there (This account is currently")])
def test_a_login_that_runs_no_commands_is_explained(laptop, tmp_path, monkeypatch, said, error, words):  # noqa: F811
    monkeypatch.setattr(sshd, "SERVER", f'{sshd.SERVER}\nForceCommand echo "{said}"\n')
    with host(tmp_path / "pod") as machine:
        use(monkeypatch, machine)
        with pytest.raises(error) as refused:
            asked(machine, laptop)
    assert words in str(refused.value)


def test_a_changed_host_key_is_refused_and_the_pin_stays(laptop, tmp_path, monkeypatch):  # noqa: F811
    with host(tmp_path / "pod") as machine:
        use(monkeypatch, machine)
        asked(machine, laptop)
        port = machine.server.port
    pinned = laptop.known_hosts.read_text()
    for name in ("host_key", "host_key.pub"):
        (tmp_path / "pod" / name).unlink()
    monkeypatch.setattr(sshd, "_free_port", lambda: port)
    (tmp_path / "pod" / "home").rename(tmp_path / "old home")
    with host(tmp_path / "pod") as machine, pytest.raises(Refused) as refused:
        asked(machine, laptop)
    assert "its host key is not the one that was pinned" in str(refused.value)
    assert laptop.known_hosts.read_text() == pinned
