"""From an empty machine to one that can train: the lines, only what lacks, and every way in which it may break."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time

import psutil
import pytest

from auricle.core.config import RemoteConfig
from auricle.remote.connection import Connection, Refused, RemoteError, Unreachable
from auricle.remote.place import Place
from auricle.remote.setup.deploy import Skip, deploy, sized
from auricle.remote.target import parse
from tests.hosts import host, laptop, needs_hosts, tools, use  # noqa: F401
from tests.pythons import stub_python
from tests.wheels import fill_project

pytestmark = needs_hosts
LINES = ["Testing SSH connection...", "SSH connection successful!", "Syncing project files...",
         "Project synced successfully! (3 of 3 files, ", "Installing dependencies...",
         "  torch by: pip install torch==2.13.0", "Python dependencies installed successfully!",
         "  torch 2.13.0+stub, no GPU", "Deployment finished!"]
CONFIG = RemoteConfig()


@pytest.fixture
def path(tmp_path):
    return tools(tmp_path / "tools", without=("python3.12", "python3.13", "nvidia-smi"),
                 also={"python3.11": stub_python(tmp_path / "stub")})


@pytest.fixture
def pod(tmp_path, monkeypatch, path):
    with host(tmp_path / "pod", path=path) as machine:
        use(monkeypatch, machine)
        yield machine


@pytest.fixture(autouse=True)
def project(laptop):  # noqa: F811
    (laptop.root / "requirements.txt").write_text("auricle\n")
    (laptop.root / "train.py").write_text("x = 1\n")
    (laptop.root / "a b.txt").write_text("y\n")
    return laptop


def place_at(machine, project):
    return Place(Connection(machine.target, project), project)


def told(place, config=CONFIG, **settings):
    lines = []
    deploy(place, config, lines.append, **settings)
    return lines


def kept(machine, name):
    path = machine.project("speech") / ".auricle" / name
    return path.read_text() if path.exists() else ""


def calls(machine):
    return kept(machine, "pip-calls").splitlines()


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_an_empty_machine_is_made_ready_and_the_machine_is_noted(pod, project):
    lines = told(place_at(pod, project), price_per_hour=0.4)
    assert [line.startswith(start) for line, start in zip(lines, LINES, strict=True)] == [True] * len(LINES)
    assert [call.split("off ")[1] for call in calls(pod)] == ["torch==2.13.0", "-r requirements.txt"]
    machine = project.machine(pod.target)
    assert (machine.folder, machine.price_per_hour) == (str(pod.project("speech")), 0.4)
    assert not list((pod.project("speech") / ".auricle").glob("install-*.json"))


def test_nothing_is_done_twice(pod, project):
    told(place_at(pod, project))
    started = (pod.project("speech") / ".auricle/install.py").stat().st_mtime_ns
    lines = told(place_at(pod, project))
    assert "Project synced successfully! (0 of 3 files, 0 bytes)" in lines
    assert "Python dependencies installed successfully! (unchanged)" in lines
    assert len(calls(pod)) == 2
    assert (pod.project("speech") / ".auricle/install.py").stat().st_mtime_ns == started


def test_what_changed_decides_what_is_installed_again(pod, project):
    told(place_at(pod, project))
    (project.root / "train.py").write_text("x = 22\n")
    told(place_at(pod, project))
    assert len(calls(pod)) == 2
    (project.root / "requirements.txt").write_text("auricle\nmore\n")
    told(place_at(pod, project))
    assert [call.split("off ")[1] for call in calls(pod)[2:]] == ["-r requirements.txt"]
    told(place_at(pod, project), RemoteConfig(torch="torch==2.12.0"))
    assert [call.split("off ")[1] for call in calls(pod)[3:]] == ["torch==2.12.0", "-r requirements.txt"]


def test_an_installation_that_failed_goes_on_where_it_stopped(pod, project):
    place = place_at(pod, project)
    there = pod.project("speech") / ".auricle"
    told(place, skip=Skip(deps=True))
    (there / "pip-fails").write_text("Looking\nERROR: No matching distribution found for torch==2.13.0\n")
    with pytest.raises(RemoteError, match=r"installing torch failed there: ERROR: No matching .*install\.log"):
        told(place)
    (there / "pip-fails").unlink()
    (there / "no-auricle").write_text("")
    with pytest.raises(RemoteError, match="`auricle` does not run in the environment there"):
        told(place)
    assert len(calls(pod)) == 3
    (there / "no-auricle").unlink()
    told(place)
    assert len(calls(pod)) == 3


def test_what_a_failed_change_left_is_not_taken_for_what_was_there_before(pod, project):
    told(place_at(pod, project))
    (project.root / "requirements.txt").write_text("auricle\nbroken\n")
    (pod.project("speech") / ".auricle/pip-fails").write_text("ERROR: broken\n")
    with pytest.raises(RemoteError, match="installing project failed there: ERROR: broken"):
        told(place_at(pod, project))
    (pod.project("speech") / ".auricle/pip-fails").unlink()
    (project.root / "requirements.txt").write_text("auricle\n")
    told(place_at(pod, project))
    assert len(calls(pod)) == 4


def test_half_an_environment_is_made_anew(pod, project):
    told(place_at(pod, project))
    python = pod.project("speech") / ".venv/bin/python"
    python.unlink()
    python.symlink_to("/gone/python3.11")
    told(place_at(pod, project))
    assert len(calls(pod)) == 4
    assert not python.is_symlink()
    python.write_text(python.read_text().replace("3.11.99", "3.12.1"))
    told(place_at(pod, project))
    assert len(calls(pod)) == 6
    old = "import sys; sys.version_info = (3, 8, 10, 'final', 0); exec(sys.argv[1])"
    python.write_text(f'#!/bin/sh\nexec {sys.base_prefix}/bin/python3 -c "{old}" "$2"\n')
    told(place_at(pod, project))
    assert len(calls(pod)) == 8
    assert "3.11.99" in python.read_text()


def test_an_environment_that_is_a_link_is_used_and_not_written(pod, project, tmp_path):
    told(place_at(pod, project))
    venv = pod.project("speech") / ".venv"
    venv.rename(tmp_path / "shared")
    venv.symlink_to(tmp_path / "shared")
    (pod.project("speech") / ".auricle/environment.json").unlink()
    told(place_at(pod, project))
    assert "Python dependencies installed successfully! (unchanged)" in told(place_at(pod, project))
    assert venv.is_symlink()
    assert len(calls(pod)) == 2


def test_two_deploys_at_once_install_once(pod, project):
    (pod.project("speech") / ".auricle").mkdir(parents=True)
    (pod.project("speech") / ".auricle/pip-waits").write_text("")
    results = []
    threads = [threading.Thread(target=lambda: results.append(told(place_at(pod, project)))) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_for(lambda: calls(pod) and kept(pod, "install.py"))
    (pod.project("speech") / ".auricle/pip-waits").unlink()
    for thread in threads:
        thread.join(60)
    assert [lines[-1] for lines in results] == ["Deployment finished!"] * 2
    assert len(calls(pod)) == 2


def test_an_installation_goes_on_without_the_connection_and_is_joined(pod, project, monkeypatch):
    place, there = place_at(pod, project), pod.project("speech") / ".auricle"
    there.mkdir(parents=True)
    (there / "pip-waits").write_text("")
    real = Connection.run

    def cut(self, script, **settings):
        if "install-" in script:
            raise Unreachable("the cable is out")
        return real(self, script, **settings)

    with monkeypatch.context() as patched:
        patched.setattr(Connection, "run", cut)
        with pytest.raises(Unreachable, match="goes on there; the same command waits"):
            told(place)
    joined = []
    thread = threading.Thread(target=lambda: joined.append(told(place_at(pod, project))))
    thread.start()
    wait_for(lambda: calls(pod))
    (there / "pip-waits").unlink()
    thread.join(60)
    assert joined[0][-1] == "Deployment finished!"
    assert len(calls(pod)) == 2


def test_an_installer_that_is_killed_is_a_sentence_and_the_next_goes_on(pod, project):
    there = pod.project("speech") / ".auricle"
    there.mkdir(parents=True)
    (there / "pip-waits").write_text("")
    errors = []

    def run():
        try:
            told(place_at(pod, project))
        except RemoteError as error:
            errors.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    wait_for(lambda: calls(pod))
    ours = [process for process in psutil.process_iter(["cmdline", "cwd"])
            if process.info["cwd"] == str(pod.project("speech")) and ".auricle/install.py" in process.info["cmdline"]]
    assert all(os.getsid(process.pid) == process.pid for process in ours)
    assert ours
    for process in ours:
        process.kill()
    (there / "pip-waits").unlink()
    thread.join(60)
    assert "the installation there was ended from outside" in errors[0]
    told(place_at(pod, project))


def test_steps_can_be_left_out(pod, project):
    lines = told(place_at(pod, project), skip=Skip(deps=True))
    assert not [line for line in lines if "dependencies" in line]
    assert not calls(pod)
    (project.root / "new.py").write_text("")
    lines = told(place_at(pod, project), skip=Skip(sync=True, setup=True))
    assert not (pod.project("speech") / "new.py").exists()
    assert len(calls(pod)) == 2


@pytest.mark.parametrize(("smi", "said"), [
    ('echo "Tesla K80, 11441, 470.82.01, 3.7"', "no build of torch 2.11 or newer has kernels"),
    ('echo "NVIDIA A40, 46068, 470.82.01, 8.6"', "its GPU driver is 470.82.01; torch for CUDA 12.6 needs 525")])
def test_a_driver_that_is_too_old_is_told_before_anything_is_installed(project, tmp_path, monkeypatch, smi, said):
    path = tools(tmp_path / "tools", also={"nvidia-smi": smi, "python3.11": stub_python(tmp_path / "stub")})
    with host(tmp_path / "pod", path=path) as machine:
        use(monkeypatch, machine)
        with pytest.raises(RemoteError, match=said):
            told(place_at(machine, project))
        assert not calls(machine)


def test_torch_that_does_not_see_the_gpu_is_not_taken_for_done(project, tmp_path, monkeypatch):
    also = {"nvidia-smi": 'echo "NVIDIA A40, 46068, 550.54, 8.6"', "python3.11": stub_python(tmp_path / "stub")}
    path = tools(tmp_path / "tools", without=("python3.12", "python3.13"), also=also)
    with host(tmp_path / "pod", path=path) as machine:
        use(monkeypatch, machine)
        for _ in range(2):
            with pytest.raises(RemoteError, match=r"torch 2\.13\.0\+stub does not see the GPU there"):
                told(place_at(machine, project))
        assert calls(machine)[0].endswith("torch==2.13.0 --index-url https://download.pytorch.org/whl/cu126")
        (machine.project("speech") / ".auricle/sees-gpu").write_text("")
        assert "  torch 2.13.0+stub, NVIDIA A40 (48.3 GB), driver 550.54" in told(place_at(machine, project))
        assert len(calls(machine)) == 2


def test_python_38_alone_is_a_sentence_and_the_files_are_there(project, tmp_path, monkeypatch):
    monkeypatch.setattr("auricle.remote.setup.facts.PYTHONS", ("python3.13", "python3.11", "python3"))
    path = tools(tmp_path / "tools", without=("python3.11", "python3.12", "python3.13"),
                 also={"python3": "echo 3.8.10"})
    with host(tmp_path / "pod", path=path) as machine:
        use(monkeypatch, machine)
        with pytest.raises(RemoteError, match=r"Python there is 3\.8\.10; expected 3\.11 or newer\. Rent it"):
            told(place_at(machine, project))
        assert (machine.project("speech") / "train.py").exists()


APT = """echo "$*" >> {log}
case "$*" in *install*) ln -s /usr/bin/rsync {tools}/rsync; ln -s /usr/bin/tmux {tools}/tmux;; esac"""


def test_what_is_missing_is_installed_before_the_files_go(project, tmp_path, monkeypatch):
    also = {"apt-get": APT.format(log=tmp_path / "apt", tools=tmp_path / "tools"),
            "python3.11": stub_python(tmp_path / "stub")}
    path = tools(tmp_path / "tools", without=("rsync", "tmux", "dpkg", "python3.12", "python3.13"), also=also)
    with host(tmp_path / "pod", path=path) as machine:
        use(monkeypatch, machine)
        lines = told(place_at(machine, project))
        assert lines[2:4] == ["Installing system packages: tmux, rsync...", "System packages installed successfully!"]
        assert (tmp_path / "apt").read_text().splitlines()[-1].endswith("--no-install-recommends tmux rsync")
        told(place_at(machine, project))
        assert len((tmp_path / "apt").read_text().splitlines()) == 2


def test_a_python_without_venv_gets_it_or_is_a_sentence(project, tmp_path, monkeypatch):
    marker = tmp_path / "has-venv"
    python = f"""case "$*" in *ensurepip*) [ -f {marker} ] || exit 1;;
*"sys.version_info"*) printf 3.11.99; exit;; esac\n{stub_python(tmp_path / 'stub')}"""
    apt = tmp_path / "tools" / "apt-get"
    monkeypatch.setattr("auricle.remote.setup.facts.PYTHONS", ("python3.11",))
    path = tools(tmp_path / "tools", also={"python3.11": python, "apt-get": f'echo "$*" >> {tmp_path / "apt"}'})
    with host(tmp_path / "pod", path=path) as machine:
        use(monkeypatch, machine)
        with pytest.raises(RemoteError, match=r"lacks the venv module; install it there: apt install python3\.11-venv"):
            told(place_at(machine, project))
        apt.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path / "apt"}\ntouch {marker}\n')
        assert told(place_at(machine, project))[-1] == "Deployment finished!"
        assert (tmp_path / "apt").read_text().splitlines()[-1].endswith("python3.11-venv")


def test_no_rsync_and_no_way_to_it_is_a_sentence_and_no_tmux_a_line(project, tmp_path, monkeypatch):
    path = tools(tmp_path / "tools", without=("rsync", "tmux", "dpkg", "apt-get"))
    with host(tmp_path / "pod", path=path) as machine:
        use(monkeypatch, machine)
        with pytest.raises(RemoteError, match="has no rsync, and it cannot be installed: there is no apt-get there"):
            told(place_at(machine, project))
        (tmp_path / "tools" / "rsync").symlink_to("/usr/bin/rsync")
        lines = told(place_at(machine, project), skip=Skip(deps=True))
        assert "tmux is missing, and cannot be installed: there is no apt-get there; runs go on without" in lines[3]


def test_apt_that_fails_says_why(project, tmp_path, monkeypatch):
    also = {"apt-get": "echo 'E: Unable to locate package'; exit 100"}
    path = tools(tmp_path / "tools", without=("rsync", "dpkg"), also=also)
    with host(tmp_path / "pod", path=path) as machine:
        use(monkeypatch, machine)
        with pytest.raises(RemoteError, match="cannot be installed: E: Unable to locate package"):
            told(place_at(machine, project))


@pytest.mark.root
def test_a_full_disk_leaves_what_is_there(project, tmp_path, monkeypatch, path):
    disk = tmp_path / "small"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", disk], check=True)
    try:
        with host(disk / "pod", path=path) as machine:
            use(monkeypatch, machine)
            place = place_at(machine, project)
            told(place, skip=Skip(deps=True))
            (project.root / "train.py").write_text("x = 333\n")
            (project.root / "big.bin").write_bytes(os.urandom(8_000_000))
            with pytest.raises(RemoteError, match=r"its disk is full.*What is there is as it was"):
                told(place, skip=Skip(deps=True))
            assert (machine.project("speech") / "a b.txt").read_text() == "y\n"
            assert (machine.project("speech") / "train.py").read_text() in ("x = 1\n", "x = 333\n")
            (project.root / "big.bin").unlink()
            assert shutil.disk_usage(disk).free > 2_000_000
            with pytest.raises(OSError, match="No space"):
                (disk / "filler").write_bytes(b"x" * 8_000_000)
            with pytest.raises(RemoteError, match="its disk is full"):
                told(place, skip=Skip(sync=True))
            (disk / "filler").unlink()
            kept_there = machine.project("speech") / ".auricle"
            (kept_there / "pip-fills").write_text("")
            with pytest.raises(RemoteError, match=r"its disk is full.*The same command goes on"):
                told(place)
            for name in ("pip-fills", "filler"):
                (kept_there / name).unlink()
            assert told(place)[-1] == "Deployment finished!"
            place.connection.close()
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_place_that_cannot_be_written_is_refused(pod, project):
    with pytest.raises(RemoteError, match=r"cannot create directory.*--folder names another"):
        told(Place(Connection(pod.target, project), project, "/proc/speech"))


def test_ways_that_lead_nowhere(project, tmp_path, monkeypatch, pod):
    with pytest.raises(Unreachable, match="nothing listens on port 1;"):
        told(Place(Connection(parse(f"{pod.server.address}:1"), project), project))
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    (tmp_path / "pod" / "key").write_text((tmp_path / "other").read_text())
    with pytest.raises(Refused, match="refused your key"):
        told(place_at(pod, project))
    assert project.machines() == []


def test_sizes_are_short():
    assert [sized(count) for count in (0, 999, 4123, 5_200_000, 12_345_678_900)] == [
        "0 bytes", "999 bytes", "4.1 kB", "5.2 MB", "12.3 GB"]


@pytest.mark.slow
@pytest.mark.long
def test_a_real_python_and_pip(laptop, tmp_path, monkeypatch):  # noqa: F811
    torch = fill_project(laptop.root)
    with host(tmp_path / "pod") as machine:
        use(monkeypatch, machine)
        place = place_at(machine, laptop)
        lines = told(place, RemoteConfig(torch=torch))
        assert "  torch 2.13.0, no GPU" in lines
        assert place.auricle(["--version"]).text == "auricle 0.1\n"
        assert "Python dependencies installed successfully! (unchanged)" in told(place, RemoteConfig(torch=torch))
        (machine.project("speech") / ".venv/bin/pip").unlink()
        (next((machine.project("speech") / ".venv/lib").glob("*/site-packages/pip")) / "__init__.py").unlink()
        (machine.project("speech") / ".auricle/environment.json").unlink()
        told(place, RemoteConfig(torch=torch))
        assert set(json.loads(kept(machine, "environment.json"))) == {"torch", "project", "check"}
