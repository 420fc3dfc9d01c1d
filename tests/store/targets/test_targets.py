"""What every kind of target does, against a folder, an SSH server on this machine, and fsspec's memory."""

import shutil
import uuid
from pathlib import Path

import fsspec
import pytest

from auricle.core.errors import CheckpointError, UsageError
from auricle.store import directory
from auricle.store.mirror_target import connect
from auricle.store.targets import BrokenOff, MirrorError, folder, remote_file_system, ssh
from tests.mirrored import add_checkpoint, contents, make_run
from tests.sshd import needs_sshd, serving

NAME = "checkpoints/step-000000500"
WEIGHTS = "ctc_head.safetensors"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("sshd")) as running:
        yield running


class There:
    """The far side, opened up: a folder, or the file system in memory."""

    def __init__(self, root):
        self.root = root
        self.fs = fsspec.filesystem("memory" if isinstance(root, str) else "file")

    def flip(self, name):
        stored = self.fs.cat_file(f"{self.root}/{name}")
        self.fs.pipe_file(f"{self.root}/{name}", bytes([stored[0] ^ 1]) + stored[1:])

    def remove(self, name):
        self.fs.rm_file(f"{self.root}/{name}")

    def names(self):
        return {path.rpartition("/")[2] for path in self.fs.ls(f"{self.root}/checkpoints", detail=False)}


@pytest.fixture(params=["folder", pytest.param("ssh", marks=needs_sshd), "memory"])
def kind(request):
    return request.param


@pytest.fixture
def far(kind, tmp_path, request, monkeypatch):
    """→ (target, its far side)"""
    root = tmp_path / "far side" / "run"
    if kind == "memory":
        root = f"/{uuid.uuid4().hex}/run"
        url = f"memory:/{root}"
    elif kind == "ssh":
        server = request.getfixturevalue("server")
        monkeypatch.setenv("AURICLE_SSH_CONFIG", str(server.client_config))
        url = server.url(root).replace(" ", "%20")
    else:
        url = str(root)
    target = connect(url)
    target.probe()
    return target, There(root)


@pytest.fixture
def checkpoint(tmp_path):
    return add_checkpoint(make_run(tmp_path / "run"), 500)


def sent(done):
    """Progress that nobody looks at."""


def test_what_was_put_is_held_and_comes_back_the_same(far, checkpoint, tmp_path):
    target, _ = far
    told = []
    target.put(checkpoint, NAME, told.append)
    target.get(NAME, tmp_path / "back" / "step-000000500", sent)
    assert target.held() == {NAME: directory.self_hash(checkpoint)}
    assert target.problems(NAME) == []
    assert contents(tmp_path / "back" / "step-000000500") == contents(checkpoint)
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["step-000000500"]
    assert told
    assert told[-1] > 40_000


def test_a_copy_that_is_damaged_on_its_way_is_not_committed(far, kind, checkpoint, monkeypatch):
    target, there = far
    aside = f"checkpoints/.incoming-step-000000500-{directory.self_hash(checkpoint)[:8]}"
    room, step = {"folder": (folder, "_copy"), "ssh": (ssh.Ssh, "_rsync"),
                  "memory": (remote_file_system.RemoteFileSystem, "_send")}[kind]
    damaged = f"{NAME}/{WEIGHTS}" if kind == "memory" else f"{aside}/{WEIGHTS}"
    real, flipped = getattr(room, step), []

    def copy_and_flip(*given):
        real(*given)
        if not flipped and there.fs.exists(f"{there.root}/{damaged}"):
            flipped.append(there.flip(damaged))

    with monkeypatch.context() as patched:
        patched.setattr(room, step, copy_and_flip)
        with pytest.raises(MirrorError, match="is damaged there"):
            target.put(checkpoint, NAME, sent)
    assert not any(target.held().values())
    target.put(checkpoint, NAME, sent)
    assert target.problems(NAME) == []


def test_a_checkpoint_that_is_damaged_here_is_not_committed_there(far, checkpoint):
    target, _ = far
    there = There(checkpoint.parent.parent)
    there.flip(f"{NAME}/{WEIGHTS}")
    with pytest.raises(CheckpointError, match="damaged here"):
        target.put(checkpoint, NAME, sent)
    assert not any(target.held().values())


@pytest.mark.parametrize(("damage", "file"), [("flip", WEIGHTS), ("remove", "trainer.json"),
                                              ("flip", directory.CHECKSUMS), ("remove", directory.CHECKSUMS)])
def test_damage_at_the_target_is_found_there(far, checkpoint, file, damage, tmp_path):
    target, there = far
    target.put(checkpoint, NAME, sent)
    getattr(there, damage)(f"{NAME}/{file}")
    assert target.problems(NAME)
    assert (target.held()[NAME] is None) == (file == directory.CHECKSUMS)
    with pytest.raises(MirrorError):
        target.get(NAME, tmp_path / "back", sent)
    assert not (tmp_path / "back").exists()


def test_another_content_of_the_same_name_takes_its_place(far, checkpoint, tmp_path):
    target, there = far
    target.put(checkpoint, NAME, sent)
    add_checkpoint(checkpoint.parent.parent, 500, seed=1)
    target.put(checkpoint, NAME, sent)
    target.get(NAME, tmp_path / "back", sent)
    assert contents(tmp_path / "back") == contents(checkpoint)
    assert there.names() == {"step-000000500"}


def test_what_was_removed_is_gone(far, checkpoint):
    target, there = far
    target.put(checkpoint, NAME, sent)
    target.remove(NAME)
    assert target.held() == {}
    assert there.names() == set()


def test_small_files_are_replaced_and_come_back(far, tmp_path):
    target, _ = far
    run = make_run(tmp_path / "small")
    target.put_files(run, ["run.json", "eval/step-000000001/dev.jsonl"])
    (run / "run.json").write_text("{}")
    target.put_files(run, ["run.json"])
    (tmp_path / "back").mkdir()
    target.get_files(tmp_path / "back")
    (run / "events.jsonl").unlink()
    (run / "config.yaml").unlink()
    assert contents(tmp_path / "back") == contents(run)
    assert target.read("run.json") == b"{}"
    assert target.read("nothing.json") is None


@needs_sshd
def test_a_copy_that_lies_there_without_sums_is_verified_too(server, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("AURICLE_SSH_CONFIG", str(server.client_config))
    shutil.copytree(checkpoint, tmp_path / "far" / NAME)
    target = connect(server.url(tmp_path / "far"))
    assert target.problems(NAME) == []
    There(tmp_path / "far").flip(f"{NAME}/{WEIGHTS}")
    assert target.problems(NAME) == [f"{WEIGHTS} does not match its hash"]


@pytest.mark.parametrize("url", ["ssh://host", "ssh:///folder", "ssh://host:x/folder", "nothing://host/folder"])
def test_a_url_that_names_no_target_is_refused_in_a_sentence(url):
    with pytest.raises(UsageError, match=f"mirror target '{url}'"):
        connect(url)


@pytest.mark.parametrize("url", ["ssh://127.0.0.1:1/folder", "/proc/nothing/here"])
def test_a_target_that_cannot_be_reached_says_so(url):
    with pytest.raises(MirrorError, match=r"127\.0\.0\.1:1/folder: .*refused|/proc/nothing"):
        connect(url).probe()


@needs_sshd
def test_a_link_that_fails_is_told_from_a_folder_that_does(server, tmp_path, monkeypatch):
    nowhere = connect("ssh://127.0.0.1:1/folder")
    for ask in (nowhere.held, lambda: nowhere.read("run.json")):
        with pytest.raises(BrokenOff):
            ask()
    monkeypatch.setenv("AURICLE_SSH_CONFIG", str(server.client_config))
    there = connect(server.url(tmp_path / "far"))
    for ask in (there.held, lambda: there.remove(NAME)):
        with pytest.raises(MirrorError) as failed:
            ask()
        assert not isinstance(failed.value, BrokenOff)


def test_a_hash_of_the_store_proves_a_copy_without_reading_it_back(checkpoint, monkeypatch):
    target = connect("memory://proved/run")
    told = remote_file_system.hashlib.md5((checkpoint / WEIGHTS).read_bytes()).hexdigest()
    monkeypatch.setattr(target._fs, "info", lambda path: {"ETag": f'"{told}"'})
    monkeypatch.setattr(target, "_digest", lambda name: "read back")
    assert target._arrived(checkpoint / WEIGHTS, "x", "its hash")
    assert not target._arrived(checkpoint / "trainer.json", "x", "its hash")


def test_a_password_is_not_shown():
    assert connect("memory://me:secret@host/run").url == "memory://me@host/run"
    for url in ("ssh://me:secret@host", "nosuch://me:secret@host/run", "ssh://me:secret@host:x/run"):
        with pytest.raises(UsageError) as raised:
            connect(url)
        assert "//me@host" in str(raised.value)
        assert "secret" not in str(raised.value)
    assert isinstance(connect(Path.home().as_posix()), folder.Folder)


@pytest.mark.parametrize(("url", "is_own"), [
    ("{here}", True), ("file://{here}", True), ("local://{here}", True), ("dir::file://{here}", True),
    ("simplecache::file://{here}", True), ("memory://runs", False), ("ssh://host/runs", False)])
def test_a_target_knows_whether_it_goes_with_this_machine(tmp_path, url, is_own):
    assert connect(url.format(here=tmp_path)).is_own_disk is is_own
