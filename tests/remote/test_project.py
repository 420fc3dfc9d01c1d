"""What this side keeps of its machines."""

import subprocess
import threading
from dataclasses import replace

import pytest

from auricle.core.errors import UsageError
from auricle.remote.project import Machine, Project, here
from auricle.remote.target import jumps, parse


def test_a_machine_is_remembered_with_what_is_learnt_of_it(tmp_path):
    project, target = Project(tmp_path), replace(parse("root@pod:22"), jump=jumps("a@x:1,b@y"))
    first = project.remember(target, folder="/workspace/speech")
    second = project.remember(target, price_per_hour=0.44)
    assert second == replace(first, price_per_hour=0.44)
    assert project.machines() == [second]
    assert second.target == target
    assert second.since > 0


@pytest.mark.parametrize(("noted", "typed"), [("root@10.0.0.7:22", "10.0.0.7:22"), ("10.0.0.7:22", "root@10.0.0.7:22")])
def test_a_machine_is_the_same_where_its_user_is_not_said(tmp_path, noted, typed):
    project = Project(tmp_path)
    first = project.remember(parse(noted), folder="/workspace/speech", price_per_hour=0.44, since=1000.0, id="x")
    assert project.machine(parse(typed)) == first
    second = project.remember(parse(typed), run="tiny")
    assert second == replace(first, address="root@10.0.0.7:22", run="tiny")
    assert project.machines() == [second]


def test_another_user_port_or_host_is_another_machine(tmp_path):
    project = Project(tmp_path)
    for address in ("root@10.0.0.7:22", "dev@10.0.0.7:22"):
        project.remember(parse(address), folder=address)
    for address in ("10.0.0.7:22", "ubuntu@10.0.0.7:22", "root@10.0.0.7:23", "10.0.0.7", "10.0.0.8:22"):
        assert project.machine(parse(address)).folder is None  # the first might be either
    assert project.machine(parse("dev@10.0.0.7:22")).folder == "dev@10.0.0.7:22"


def test_what_is_forgotten_is_gone_and_others_stay(tmp_path):
    project = Project(tmp_path)
    project.remember(parse("one"))
    project.remember(parse("two"))
    project.forget("one")
    assert [machine.address for machine in project.machines()] == ["two"]


def test_many_that_remember_at_once_lose_nothing(tmp_path):
    project = Project(tmp_path)
    names = [f"pod{number}" for number in range(20)]
    threads = [threading.Thread(target=project.remember, args=(parse(name),)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(machine.address for machine in project.machines()) == sorted(names)


def test_git_never_sees_it(tmp_path):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    Project(tmp_path).remember(parse("pod"))
    status = subprocess.run(["git", "status", "--porcelain"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert status.stdout == ""


def test_a_damaged_list_is_told_and_not_overwritten(tmp_path):
    project = Project(tmp_path)
    project.remember(parse("pod"))
    project.machines_path.write_text("[{]")
    with pytest.raises(UsageError, match=r"machines.json': not a list of machines"):
        project.remember(parse("other"))
    assert project.machines_path.read_text() == "[{]"


def test_the_project_is_the_nearest_one_upwards(tmp_path, monkeypatch):
    (tmp_path / "speech" / ".git").mkdir(parents=True)
    (tmp_path / "speech" / "configs").mkdir()
    monkeypatch.chdir(tmp_path / "speech" / "configs")
    assert here().root == tmp_path / "speech"


@pytest.mark.parametrize(("folder", "name"), [("speech", "speech"), ("my speech!", "my-speech"), ("…", "auricle")])
def test_the_name_of_its_folder_there_is_safe_in_a_shell(tmp_path, folder, name):
    assert Project(tmp_path / folder).name == name


def test_a_machine_is_found_however_it_was_written_down():
    assert Machine(address="root@pod:7", jump="vps").target == replace(parse("root@pod:7"), jump=parse("vps"))
