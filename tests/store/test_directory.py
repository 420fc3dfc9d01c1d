import json
import os
from pathlib import Path

import pytest

from auricle.store import directory


def fill(folder):
    (folder / "a.txt").write_text("alpha")
    (folder / "deep").mkdir()
    (folder / "deep" / "b.bin").write_bytes(bytes(1000))


def test_a_published_directory_verifies(tmp_path):
    target = directory.publish(tmp_path / "x" / "step-1", fill)
    assert directory.problems(target) == []
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["step-1"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda t: (t / "deep/b.bin").write_bytes(bytes(999) + b"\x01"), "does not match its hash"),
        (lambda t: (t / "deep/b.bin").write_bytes(bytes(999)), "has 999 bytes, expected 1000"),
        (lambda t: (t / "a.txt").unlink(), "a.txt is missing"),
        (lambda t: (t / directory.CHECKSUMS).unlink(), "missing or unreadable"),
        (lambda t: (t / directory.CHECKSUMS).write_text("{"), "missing or unreadable"),
    ],
)
def test_every_damage_is_seen(tmp_path, damage, said):
    target = directory.publish(tmp_path / "step-1", fill)
    damage(target)
    assert said in directory.problems(target)[0]


def test_a_changed_checksum_file_does_not_match_itself(tmp_path):
    target = directory.publish(tmp_path / "step-1", fill)
    body = json.loads((target / directory.CHECKSUMS).read_text())
    (target / "a.txt").write_text("beta!")
    body["files"]["a.txt"]["xxh3_128"] = directory.digest(target / "a.txt")
    (target / directory.CHECKSUMS).write_text(json.dumps(body))
    assert "its own hash" in directory.problems(target)[0]


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    def fail(folder):
        fill(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        directory.publish(tmp_path / "step-1", fail)
    assert list(tmp_path.iterdir()) == []


def test_what_killed_writers_left_is_swept(tmp_path):
    (tmp_path / f"{directory.ASIDE}step-2-99").mkdir()
    directory.publish(tmp_path / "step-1", fill)
    directory.sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["step-1"]


def test_every_byte_reaches_the_disk_before_the_rename(tmp_path, monkeypatch):
    calls = []
    real_fsync = os.fsync

    def spy(descriptor):
        calls.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    directory.publish(tmp_path / "step-1", fill)
    aside = f"{tmp_path}/{directory.ASIDE}step-1-{os.getpid()}"
    assert calls == [
        f"{aside}/a.txt",
        f"{aside}/deep/b.bin",
        f"{aside}/{directory.CHECKSUMS}",
        f"{aside}/deep",
        aside,
        str(tmp_path),
    ]


def test_text_is_replaced_in_one_step(tmp_path):
    path = tmp_path / "best.json"
    directory.write_text(path, "one")
    directory.write_text(path, "two")
    assert path.read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["best.json"]
