"""What a pass brings to a target, in which order, and what stays there."""

import json
import shutil

import pytest

from auricle.core.errors import UsageError
from auricle.store import directory, steps
from auricle.store.mirror import read_record
from auricle.store.targets import MirrorError, folder
from tests.mirrored import add_checkpoint, contents, make_run, mirror


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


@pytest.fixture
def there(tmp_path):
    """The run's folder at the target."""
    return tmp_path / "far" / "run"


def push(run, there, **settings):
    """Passes until all is there."""
    pushed = mirror(run, there.parent, **settings)
    pushed.push(hurry=True)
    while not pushed.is_complete():
        pushed.push(hurry=True)
    return pushed


def names(folder):
    return {path.name for path in folder.glob("*")}


def test_all_of_a_run_that_a_restore_needs_goes_over(run, there):
    add_checkpoint(run, 500, part=b"frozen")
    (run / "run.lock").write_text("mine")
    (run / "changes.json").write_text("[]")
    (run / "order" / "digest").mkdir(parents=True)
    (run / "order" / "digest" / "hashes.npy").write_bytes(b"1")
    pushed = push(run, there)
    copied = contents(there)
    assert {name for name in copied if not name.startswith("checkpoints")} == {
        "run.json", "config.yaml", "events.jsonl", "eval/step-000000001/dev.jsonl",
        "order/digest/hashes.npy", "changes.json"}
    assert all(copied[name] == (run / name).read_bytes() for name in copied)
    assert steps.problems(there / "checkpoints" / "step-000000500") == []
    assert not list(run.glob("mirrors/*.held"))
    record = read_record(pushed.path)
    identity = directory.self_hash(run / "checkpoints" / "step-000000500")
    assert (record.verified, record.pending, record.error) == ({"step-000000500": identity}, [], None)
    assert record.target == str(there)
    assert steps.verified_on_mirrors(run) == {"step-000000500"}


def test_what_lies_where_a_network_was_mounted_is_lost_with_the_machine(run, there, monkeypatch):
    add_checkpoint(run, 500)
    monkeypatch.setattr(folder, "is_own_disk", lambda root: False)
    one = mirror(run, there.parent)
    one.push()
    assert steps.verified_on_mirrors(run, own_disk=False) == {"step-000000500"}
    monkeypatch.setattr(folder, "is_own_disk", lambda root: True)  # the mount is gone, its mount point is there
    add_checkpoint(run, 600)
    one.push()
    assert steps.verified_on_mirrors(run, own_disk=False) == set()
    assert "step-000000600" in steps.verified_on_mirrors(run)


def test_the_newest_goes_first_and_then_the_best(run, there):
    for step in (100, 200, 300, 400):
        add_checkpoint(run, step, best=step == 100)
    order = []
    one = mirror(run, there.parent, keep=3, report=order.append)
    one.push()
    assert [line.split(":")[0] for line in order] == ["checkpoints/step-000000400", "checkpoints/step-000000100"]
    assert read_record(one.path).pending == ["step-000000300", "step-000000200"]


def test_the_newest_and_the_best_stay_with_the_parts_they_name_and_the_rest_goes(run, there):
    add_checkpoint(run, 100, part=b"first", best=True)
    add_checkpoint(run, 200, part=b"second")
    push(run, there)
    for step in (300, 400):
        add_checkpoint(run, step, part=b"third")
        push(run, there)
    assert names(there / "checkpoints") == {"parts", "step-000000100", "step-000000300", "step-000000400"}
    weights = {path.read_bytes() for path in there.rglob("weights.safetensors")}
    assert weights == {b"first", b"third"}


def test_parts_stay_that_only_a_checkpoint_at_the_target_names(run, there):
    add_checkpoint(run, 100, part=b"first")
    push(run, there)
    steps.remove(run, [steps.path_of(run, 100)])
    add_checkpoint(run, 200, part=b"second")
    push(run, there)
    assert steps.problems(there / "checkpoints" / "step-000000100") == []


def test_the_record_never_vouches_for_what_was_removed(run, there, monkeypatch):
    for step in (100, 200):
        add_checkpoint(run, step)
        push(run, there, keep=1)
    add_checkpoint(run, 300)
    one = mirror(run, there.parent, keep=1)

    def die(self, name):
        raise KeyboardInterrupt

    monkeypatch.setattr(folder.Folder, "remove", die)
    with pytest.raises(KeyboardInterrupt):
        one.push()
    assert set(read_record(one.path).verified) == {"step-000000300"}


def test_the_old_best_stays_until_the_new_one_is_there(run, there, monkeypatch):
    add_checkpoint(run, 100, best=True)
    for step in (200, 300, 400):
        add_checkpoint(run, step)
    push(run, there)
    add_checkpoint(run, 150, best=True)
    add_checkpoint(run, 500)
    one, real = mirror(run, there.parent), folder.Folder.put

    def fails_for_the_best(self, source, name, progress):
        if name.endswith("150"):
            raise MirrorError("down")
        real(self, source, name, progress)

    monkeypatch.setattr(folder.Folder, "put", fails_for_the_best)
    with pytest.raises(MirrorError):
        one.push()
    assert {"step-000000100", "step-000000500"} <= names(there / "checkpoints")
    monkeypatch.undo()
    push(run, there)
    assert names(there / "checkpoints") == {"step-000000150", "step-000000400", "step-000000500"}


def test_a_checkpoint_that_was_saved_again_is_sent_again(run, there):
    add_checkpoint(run, 100)
    push(run, there, keep=1)
    add_checkpoint(run, 100, seed=1)
    one = push(run, there, keep=1)
    assert contents(there / "checkpoints") == contents(run / "checkpoints")
    assert read_record(one.path).verified == {"step-000000100": directory.self_hash(steps.path_of(run, 100))}


def test_a_checkpoint_that_is_pruned_in_mid_upload_still_arrives(run, there, monkeypatch):
    add_checkpoint(run, 100)
    real = folder._copy

    def prune_and_copy(*given):
        steps.remove(run, steps.all_steps(run))
        real(*given)

    monkeypatch.setattr(folder, "_copy", prune_and_copy)
    push(run, there)
    assert directory.problems(there / "checkpoints" / "step-000000100") == []


def test_without_hard_links_a_checkpoint_that_is_pruned_in_mid_upload_is_passed_over(run, there, monkeypatch):
    add_checkpoint(run, 100)
    real, said = folder._copy, []

    def prune_and_copy(*given):
        steps.remove(run, steps.all_steps(run))
        real(*given)

    def refuse(self, target):
        raise PermissionError

    monkeypatch.setattr("pathlib.Path.hardlink_to", refuse)
    monkeypatch.setattr(folder, "_copy", prune_and_copy)
    push(run, there, report=said.append)
    assert not [name for name in names(there / "checkpoints") if name.startswith("step-")]
    assert said == []


def test_one_that_is_damaged_here_is_passed_over_and_reported(run, there):
    add_checkpoint(run, 100)
    damaged = add_checkpoint(run, 200)
    (damaged / "trainer.json").write_text("{}")
    said = []
    one = push(run, there, report=said.append)
    assert names(there / "checkpoints") == {"step-000000100"}
    assert "step-000000200 is damaged here" in said[0]
    assert set(read_record(one.path).verified) == {"step-000000100"}


def test_a_damaged_checksums_file_at_the_target_is_mended(run, there):
    add_checkpoint(run, 100)
    push(run, there)
    (there / "checkpoints" / "step-000000100" / directory.CHECKSUMS).write_text("{")
    push(run, there)
    assert directory.problems(there / "checkpoints" / "step-000000100") == []


def test_a_failing_target_is_on_record_and_catches_up(run, there):
    add_checkpoint(run, 100)
    there.parent.write_text("in the way")
    one = mirror(run, there.parent)
    for _ in range(2):
        with pytest.raises(MirrorError):
            one.push()
    record = read_record(one.path)
    assert (record.tries, record.verified, record.pending) == (2, {}, ["step-000000100"])
    assert "Not a directory" in record.error
    there.parent.unlink()
    one.push()
    record = read_record(one.path)
    assert (record.tries, record.error, list(record.verified)) == (0, None, ["step-000000100"])
    assert one.is_complete()


def test_another_run_of_the_same_name_gets_a_folder_of_its_own(run, there):
    add_checkpoint(run, 900)
    push(run, there)
    shutil.move(run, run.with_name("run.old-1"))
    again = make_run(run, created=2.0)
    add_checkpoint(again, 100)
    one = push(again, there)
    assert names(there / "checkpoints") == {"step-000000900"}
    assert names(there.with_name("run.2") / "checkpoints") == {"step-000000100"}
    assert read_record(one.path).target == str(there.with_name("run.2"))
    assert json.loads((there / "run.json").read_text())["created"] == 1.0


def test_small_files_follow_when_they_change(run, there):
    one = push(run, there)
    (run / "events.jsonl").write_text("more\n")
    assert not one.is_complete()
    one.push(hurry=True)
    assert (there / "events.jsonl").read_text() == "more\n"


def test_a_url_that_names_no_target_is_refused_at_once(run):
    with pytest.raises(UsageError, match="mirror target 'nothing://x'"):
        mirror(run, "nothing://x")
