"""The project's files on a machine: those of git, only the difference, and nothing else is touched."""

import os
import subprocess
from types import SimpleNamespace

import pytest

from auricle.core.errors import UsageError
from auricle.remote.connection import Connection, RemoteError
from auricle.remote.place import Place
from auricle.remote.project import Project
from auricle.remote.setup.sync import DEPLOYED, files, sync
from auricle.remote.target import parse_all
from tests.hosts import host, laptop, needs_hosts, use  # noqa: F401

ODD = ["a b/c'd \"e\".txt", "ü/ñ 日本.txt", "new\nline.txt", "-dash", "tab\there", "star*?[x]", "$HOME", "#hash;semi",
       " x"]


def fill(root, names, text="hello\n"):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def git(root, *words):
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=root, check=True,
                   capture_output=True)


def held(folder):
    """What lies below a folder, beside what is kept for deploying."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")
            if (path.is_symlink() or path.is_file()) and ".auricle" not in path.parts}


def test_tracked_and_new_files_but_neither_ignored_nor_deleted_ones(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text("*.log\n/build/\n")
    fill(tmp_path, ["kept.py", "gone.py", "was.log", "new.py", "run.log", "build/x", "outputs/run/a", "data/big.wav",
                    ".venv/lib/x", ".auricle/known_hosts", "src/data/inner.py", "data/manifest.csv"])
    (tmp_path / "link").symlink_to("kept.py")
    (tmp_path / "dangling").symlink_to("nowhere")
    git(tmp_path, "add", "-f", "kept.py", "gone.py", "was.log", "data/manifest.csv")
    git(tmp_path, "commit", "-qm", "x")
    (tmp_path / "gone.py").unlink()
    assert files(tmp_path) == sorted([".gitignore", "kept.py", "was.log", "new.py", "link", "dangling",
                                      "src/data/inner.py", "data/manifest.csv"])


def test_links_named_like_the_machines_own_folders_stay_here(tmp_path):
    git(tmp_path, "init", "-q")
    for name in ("data", "outputs", ".venv"):
        (tmp_path / name).symlink_to("/tmp")
    fill(tmp_path, ["a"])
    assert files(tmp_path) == ["a"]


def test_without_git_the_same_rules_hold_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    root = tmp_path / "plain"
    (root / "data").mkdir(parents=True)
    (root / ".gitignore").write_text("*.log\n")
    fill(root, ["a.py", "b.log", "data/x", "outputs/y", ".venv/z", "c d.py"])
    assert files(root) == [".gitignore", "a.py", "c d.py"]
    assert not (root / ".git").exists()


def test_a_repository_within_the_project_goes_along(tmp_path):
    git(tmp_path, "init", "-q")
    fill(tmp_path, ["a", "inner/b", "inner/c.log"])
    (tmp_path / "inner" / ".gitignore").write_text("*.log\n")
    git(tmp_path / "inner", "init", "-q")
    assert files(tmp_path) == ["a", "inner/.gitignore", "inner/b"]


def test_a_submodule_that_was_not_fetched_is_left_out(tmp_path):
    inner, outer = tmp_path / "inner", tmp_path / "outer"
    for root in (inner, outer):
        root.mkdir()
        git(root, "init", "-q")
        fill(root, ["a"])
    git(inner, "add", "a")
    git(inner, "commit", "-qm", "a")
    git(outer, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(inner), "sub")
    git(outer, "add", "a")
    git(outer, "commit", "-qm", "a")
    git(tmp_path, "clone", "-q", str(outer), "copy")
    assert files(outer) == [".gitmodules", "a", "sub/a"]
    assert files(tmp_path / "copy") == [".gitmodules", "a"]


def test_variables_of_a_hook_lead_nowhere_else(tmp_path, monkeypatch):
    git(tmp_path, "init", "-q")
    fill(tmp_path, ["a"])
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert files(tmp_path) == ["a"]


def test_git_that_is_missing_or_broken_is_a_sentence(tmp_path, monkeypatch):
    (tmp_path / ".git").write_text("gitdir: /nowhere\n")
    with pytest.raises(UsageError, match="git cannot list its files"):
        files(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="needs 'git'"):
        files(tmp_path)


@pytest.fixture
def pod(tmp_path, monkeypatch):
    with host(tmp_path / "pod") as machine:
        use(monkeypatch, machine)
        yield machine


def reach(machine, project, **settings):
    return Place(Connection(machine.target, project), project, **settings)


pytestmark = needs_hosts


def test_odd_names_links_and_modes_arrive_as_they_are(laptop, pod):  # noqa: F811
    fill(laptop.root, ODD)
    (laptop.root / "run.sh").write_text("x")
    (laptop.root / "run.sh").chmod(0o755)
    (laptop.root / "link").symlink_to("a b")
    place = reach(pod, laptop, folder="~/an odd 'folder'")
    done = sync(place)
    there = pod.home / "an odd 'folder'"
    assert held(there) == set(files(laptop.root))
    assert (done.total, done.moved, done.removed) == (len(ODD) + 2, len(ODD) + 2, 0)
    assert (there / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (there / "link").readlink().as_posix() == "a b"
    (laptop.root / "run.sh").chmod(0o644)
    sync(place)
    assert (there / "run.sh").stat().st_mode & 0o777 == 0o644
    again = sync(place)
    assert (again.moved, again.bytes, again.removed) == (0, 0, 0)


def test_one_changed_file_is_all_that_moves(laptop, pod):  # noqa: F811
    fill(laptop.root, [f"f{number}" for number in range(300)], "x" * 5000)
    place = reach(pod, laptop)
    assert sync(place).moved == 300
    (laptop.root / "f7").write_text("changed")
    done = sync(place)
    assert (done.moved, done.total) == (1, 300)
    assert 0 < done.bytes < 1000
    assert (pod.project("speech") / "f7").read_text() == "changed"


def test_what_was_brought_and_is_gone_here_is_removed_and_nothing_else(laptop, pod):  # noqa: F811
    names = [*ODD, "pack/deep/er/x.py", "pack/y.py", "outputs/kept.txt"]
    fill(laptop.root, names)
    git(laptop.root, "add", "-f", "outputs/kept.txt")
    place = reach(pod, laptop)
    sync(place)
    there = pod.project("speech")
    fill(there, ["outputs/run/model", "data/big", ".venv/x", "pack/made there", "made.txt", "new\nline.txt.bak"])
    for name in [*ODD, "pack/deep/er/x.py", "pack/y.py"]:
        (laptop.root / name).unlink()
    fill(laptop.root, ["still"])
    assert sync(place).removed == len(ODD) + 2
    assert held(there) == {"outputs/run/model", "outputs/kept.txt", "data/big", ".venv/x", "pack/made there",
                           "made.txt", "new\nline.txt.bak", "still"}
    assert not (there / "pack" / "deep").exists()
    assert not (there / "a b").exists()
    fill(there, ["pack/y.py"], "made there under the old name")
    assert sync(place).removed == 0
    assert (there / "pack/y.py").exists()


def test_what_is_ignored_now_stays_there_until_it_is_gone_here(laptop, pod):  # noqa: F811
    fill(laptop.root, ["notes/a", "b"])
    place = reach(pod, laptop)
    sync(place)
    (laptop.root / ".gitignore").write_text("notes/\n")
    assert sync(place).removed == 0
    assert (pod.project("speech") / "notes/a").exists()
    (laptop.root / "notes/a").unlink()
    assert sync(place).removed == 1


def test_a_folder_that_became_a_file_or_a_link_and_back(laptop, pod):  # noqa: F811
    fill(laptop.root, ["lib/a.py", "lib/b.py", "src/c.py"])
    place, there = reach(pod, laptop), pod.project("speech")
    sync(place)
    for name in ("lib/a.py", "lib/b.py"):
        (laptop.root / name).unlink()
    (laptop.root / "lib").rmdir()
    (laptop.root / "lib").symlink_to("src")
    sync(place)
    assert (there / "lib").is_symlink()
    assert (there / "src/c.py").exists()
    (laptop.root / "lib").unlink()
    fill(laptop.root, ["lib/a.py"])
    sync(place)
    assert held(there) == {"lib/a.py", "src/c.py"}


@pytest.mark.parametrize("damage", ["../outside.txt", "/{home}/absolute.txt", ".venv/bin/python", ".auricle/runs/x"])
def test_a_damaged_list_removes_nothing_outside_the_project(laptop, pod, damage):  # noqa: F811
    fill(laptop.root, ["a"])
    place, there = reach(pod, laptop), pod.project("speech")
    sync(place)
    fill(pod.home, ["outside.txt", "absolute.txt"])
    fill(there, [".venv/bin/python", ".auricle/runs/x"])
    (there / DEPLOYED).write_bytes(f"a\0{damage.format(home=str(pod.home).lstrip('/'))}\0gone but no end".encode())
    sync(place)
    assert (pod.home / "outside.txt").exists()
    assert (pod.home / "absolute.txt").exists()
    assert (there / ".venv/bin/python").exists()
    assert (there / ".auricle/runs/x").exists()


def test_a_file_of_a_sync_that_broke_off_is_known_to_the_next(laptop, pod, monkeypatch):  # noqa: F811
    fill(laptop.root, ["a", "b"])
    place, there = reach(pod, laptop), pod.project("speech")

    def broken(self, arguments, progress=None):
        (there / "a").write_text("arrived")
        raise RemoteError("broken off")

    with monkeypatch.context() as patched:
        patched.setattr(Connection, "rsync", broken)
        with pytest.raises(RemoteError):
            sync(place)
    (laptop.root / "a").unlink()
    assert sync(place).removed == 1
    assert held(there) == {"b"}


def test_a_file_that_was_edited_there_is_brought_again(laptop, pod):  # noqa: F811
    fill(laptop.root, ["a"])
    place = reach(pod, laptop)
    sync(place)
    (pod.project("speech") / "a").write_text("edited")
    assert sync(place).moved == 1
    assert (pod.project("speech") / "a").read_text() == "hello\n"


def test_a_change_of_the_same_size_within_a_second_is_seen(laptop, pod):  # noqa: F811
    fill(laptop.root, ["a"])
    place = reach(pod, laptop)
    sync(place)
    fill(laptop.root, ["a"], "HELLO\n")
    assert sync(place).moved == 1
    assert (pod.project("speech") / "a").read_text() == "HELLO\n"


def test_a_sync_waits_until_the_second_of_the_newest_change_is_over(laptop, pod, monkeypatch):  # noqa: F811
    fill(laptop.root, ["a", "b"])
    os.utime(laptop.root / "a", (1000.0, 1000.25))
    os.utime(laptop.root / "b", (1000.0, 900.0))
    slept = []
    for now in (1000.5, 1001.0, 990.0):
        clock = SimpleNamespace(time=lambda now=now: now, sleep=slept.append)
        monkeypatch.setattr("auricle.remote.setup.sync.time", clock)
        sync(reach(pod, laptop))
    assert slept == [0.5]


def test_through_a_jump_host_one_changed_file_is_all_that_moves(laptop, pod, tmp_path):  # noqa: F811
    fill(laptop.root, ["a", "b"])
    with host(tmp_path / "jump", key_of=pod) as jump:
        project = Project(laptop.root)
        (target,) = parse_all([pod.address], jump.address)
        place = Place(Connection(target, project), project)
        assert sync(place).moved == 2
        fill(laptop.root, ["b"], "changed\n")
        assert sync(place).moved == 1
        place.connection.close()
