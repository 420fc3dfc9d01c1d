import json
import os
import random
import shutil
from pathlib import Path

import pytest

from auricle.core.errors import CheckpointError
from auricle.store import directory
from tests import faults


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


@pytest.mark.parametrize("change", [lambda text: text + "\n", lambda text: text.replace("1", " 1", 1),
                                    lambda text: text.replace('"self"', '"Self"'), lambda text: text[:-1],
                                    lambda text: text.replace('{\n "files"', '{\n "files": {},\n "files"')])
def test_a_blank_or_a_key_of_the_checksum_file_counts_as_well(tmp_path, change):
    target = directory.publish(tmp_path / "step-1", fill)
    path = target / directory.CHECKSUMS
    path.write_text(change(path.read_text()))
    assert directory.problems(target)


def test_what_killed_writers_left_is_swept(tmp_path):
    (tmp_path / f"{directory.ASIDE}step-2-99").mkdir()
    (tmp_path / f"{directory.TRASH}step-0-ab" / "deep").mkdir(parents=True)
    (tmp_path / f"{directory.ASIDE}best.json-99").write_text("{")
    directory.publish(tmp_path / "step-1", fill)
    directory.sweep(tmp_path, "step-")
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{directory.ASIDE}best.json-99", "step-1"]
    directory.sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["step-1"]


def test_a_replaced_directory_gives_way_only_to_a_whole_one(tmp_path):
    def fill_anew(folder):
        assert directory.problems(target) == []
        (folder / "a.txt").write_text("anew")

    def fail(folder):
        raise OSError("disk gone")

    target = directory.publish(tmp_path / "step-1", fill)
    with pytest.raises(OSError, match="gone"):
        directory.publish(target, fail, replace=True)
    assert (target / "a.txt").read_text() == "alpha"
    directory.publish(target, fill_anew, replace=True)
    assert (target / "a.txt").read_text() == "anew"
    assert directory.problems(target) == []
    assert [p.name for p in tmp_path.iterdir()] == ["step-1"]


def test_a_replacement_that_was_cut_between_its_renames_is_undone_by_the_sweep(tmp_path):
    directory.publish(tmp_path / f"{directory.REPLACED}step-1", fill)
    directory.publish(tmp_path / f"{directory.REPLACED}step-2", fill)
    directory.publish(tmp_path / "step-2", lambda folder: (folder / "a.txt").write_text("anew") and None)
    directory.sweep(tmp_path)
    assert (tmp_path / "step-1" / "a.txt").read_text() == "alpha"
    assert (tmp_path / "step-2" / "a.txt").read_text() == "anew"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_retired_directory_has_no_final_name_while_it_is_deleted(tmp_path, monkeypatch):
    target, seen = directory.publish(tmp_path / "step-1", fill), []
    real = shutil.rmtree

    def spy(path, **options):
        seen.append([p.name[:7] for p in tmp_path.iterdir()])
        real(path, **options)

    monkeypatch.setattr(shutil, "rmtree", spy)
    directory.retire(target)
    assert seen == [[directory.TRASH]]
    assert list(tmp_path.iterdir()) == []


def test_files_hashed_while_they_were_written_are_not_read_again(tmp_path, monkeypatch):
    def write(folder):
        return {"a.bin": directory.write_file(folder / "a.bin", [b"alp", memoryview(b"ha")])}

    with monkeypatch.context() as patch:
        patch.setattr(directory, "digest", None)
        target = directory.publish(tmp_path / "step-1", write)
    assert (target / "a.bin").read_bytes() == b"alpha"
    assert directory.problems(target) == []


def test_the_self_hash_names_the_content(tmp_path):
    one, same = directory.publish(tmp_path / "1", fill), directory.publish(tmp_path / "2", fill)
    other = directory.publish(tmp_path / "3", lambda folder: (folder / "a.txt").write_text("beta") and None)
    assert directory.self_hash(one) == directory.self_hash(same) != directory.self_hash(other)
    faults.flip_bit(one / directory.CHECKSUMS, random.Random(0))
    with pytest.raises(CheckpointError):
        directory.self_hash(one)


def test_every_byte_reaches_the_disk_before_the_rename(tmp_path, monkeypatch):
    calls = []
    real_fsync = os.fsync

    def spy(descriptor):
        calls.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    directory.publish(tmp_path / "new" / "step-1", fill)
    directory.write_text(tmp_path / "hint", "")
    aside = f"{tmp_path}/new/{directory.ASIDE}step-1-{os.getpid()}"
    assert calls == [
        str(tmp_path),
        f"{aside}/a.txt",
        f"{aside}/deep/b.bin",
        f"{aside}/{directory.CHECKSUMS}",
        f"{aside}/deep",
        aside,
        f"{tmp_path}/new",
        f"{tmp_path}/{directory.ASIDE}hint-{os.getpid()}",
        str(tmp_path),
    ]


def test_text_is_replaced_in_one_step(tmp_path):
    path = tmp_path / "best.json"
    directory.write_text(path, "one")
    directory.write_text(path, "two")
    with pytest.raises(OSError, match="No space"), faults.disk_full():
        directory.write_text(path, "three")
    assert path.read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["best.json"]
