import json
import os
import random
import shutil
from pathlib import Path

import pytest

from auricle.store import directory, steps
from auricle.store.steps import Retention
from tests import faults


@pytest.fixture(autouse=True)
def no_power_cut(monkeypatch):
    """What is tested here does not depend on what reached the disk, and 1,000 checkpoints are synced slowly."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def add(run_folder, step, *, parts=(), text=""):
    def write(folder):
        named = {f"c{i}": {"part": part} for i, part in enumerate(parts)} | {"h": {"hub": "a/b", "revision": "1"}}
        (folder / "config.json").write_text(json.dumps({"parts": named, "text": text or str(step)}))
        (folder / "encoder.safetensors").write_bytes(bytes([step % 256]) * 100)
        (folder / "optimizer.safetensors").write_bytes(bytes(100))
        (folder / "trainer.json").write_text("{}")

    return directory.publish(steps.path_of(run_folder, step), write)


def add_part(run_folder, name):
    return directory.publish(
        steps.parts_of(run_folder) / name, lambda folder: (folder / "weights.safetensors").write_bytes(b"w") and None
    )


def mirror(run_folder, *checkpoints):
    (run_folder / "mirrors").mkdir(exist_ok=True)
    verified = {path.name: directory.self_hash(path) for path in checkpoints}
    (run_folder / "mirrors" / "home.json").write_text(json.dumps({"target": "ssh://a", "verified": verified}))


def numbers(run_folder):
    return [steps.step_of(path.name) for path in steps.all_steps(run_folder)]


def test_a_name_and_its_step_belong_together():
    assert steps.step_of(steps.name_of(500)) == 500
    for wrong in ("step-500", "damaged-step-000000500", "step-00000050x", "parts"):
        with pytest.raises(ValueError, match="step-000000500"):
            steps.step_of(wrong)


def test_order_is_by_number_and_not_by_time_or_length(tmp_path):
    for step in (1_000_000_000, 20, 999_999_999, 3):
        add(tmp_path, step)
    (tmp_path / "checkpoints" / "step-notes").mkdir()
    assert numbers(tmp_path) == [3, 20, 999_999_999, 1_000_000_000]


def test_the_newest_good_one_is_found_and_damaged_ones_are_set_aside(tmp_path):
    said = []
    for step in (1, 2, 3):
        add(tmp_path, step)
    faults.truncate(steps.path_of(tmp_path, 3) / "trainer.json", random.Random(0))
    (tmp_path / "checkpoints" / "damaged-step-000000003").mkdir()
    assert steps.newest(tmp_path, said.append) == steps.path_of(tmp_path, 2)
    assert len(said) == 1
    assert "step-000000003 is damaged (trainer.json has" in said[0]
    assert "set aside as damaged-step-000000003-2" in said[0]
    assert numbers(tmp_path) == [1, 2]
    assert (tmp_path / "checkpoints" / "damaged-step-000000003-2" / "trainer.json").exists()


def test_there_is_no_newest_one_without_a_good_one(tmp_path):
    assert steps.newest(tmp_path, pytest.fail) is None
    (add(tmp_path, 1) / directory.CHECKSUMS).unlink()
    assert steps.newest(tmp_path, lambda _: None) is None


def test_a_checkpoint_whose_part_is_damaged_is_damaged(tmp_path):
    said = []
    add(tmp_path, 1)
    add_part(tmp_path, "aa")
    add(tmp_path, 2, parts=["aa"])
    assert steps.newest(tmp_path, pytest.fail) == steps.path_of(tmp_path, 2)
    faults.flip_bit(steps.parts_of(tmp_path) / "aa" / "weights.safetensors", random.Random(0))
    assert steps.newest(tmp_path, said.append) == steps.path_of(tmp_path, 1)
    assert "part aa: weights.safetensors does not match" in said[0]
    assert [path.name for path in steps.parts_of(tmp_path).iterdir()] == ["damaged-aa"]


def test_each_of_1000_random_damages_falls_back_to_the_checkpoint_before(tmp_path):
    rng, pristine = random.Random(11), tmp_path / "pristine"
    before, last = add(tmp_path, 1), add(tmp_path, 2)
    shutil.copytree(last, pristine)
    for _ in range(1000):
        shutil.rmtree(last, ignore_errors=True)
        shutil.copytree(pristine, last)
        done = faults.damage(last, rng)
        assert steps.newest(tmp_path, lambda _: None) == before, done
        shutil.rmtree(tmp_path / "checkpoints" / f"damaged-{last.name}")


@pytest.mark.parametrize(
    ("retention", "left"),
    [
        (Retention(newest=2), [50, 60]),
        (Retention(newest=0), [60]),
        (Retention(newest=9), [10, 20, 30, 40, 50, 60]),
        (Retention(newest=1, best=steps.name_of(20)), [20, 60]),
        (Retention(newest=1, every=20), [20, 40, 60]),
        (Retention(newest=1, every=30, best=steps.name_of(99)), [30, 60]),
    ],
)
def test_retention_keeps_the_newest_the_best_and_each_nth(tmp_path, retention, left):
    for step in (10, 20, 30, 40, 50, 60):
        add(tmp_path, step)
    removed = steps.prune(tmp_path, retention)
    assert numbers(tmp_path) == left
    assert sorted([*left, *map(steps.step_of, removed)]) == [10, 20, 30, 40, 50, 60]


def test_the_newest_one_on_a_mirror_is_never_pruned(tmp_path):
    first, second, *_ = [add(tmp_path, step) for step in (10, 20, 30, 40)]
    mirror(tmp_path, first, second)
    steps.prune(tmp_path, Retention(newest=1))
    assert numbers(tmp_path) == [20, 40]


def test_what_was_just_written_stays_though_newer_ones_are_there(tmp_path):
    for step in (10, 20, 30):
        add(tmp_path, step)
    steps.prune(tmp_path, Retention(newest=1), also=[steps.name_of(10)])
    assert numbers(tmp_path) == [10, 30]


def test_a_mirror_vouches_only_for_what_is_here_unchanged(tmp_path):
    first, second = add(tmp_path, 1), add(tmp_path, 2)
    mirror(tmp_path, first, second)
    shutil.rmtree(first)
    add(tmp_path, 1, text="written anew")
    for name, text in (("torn.json", '{"verified": {"st'), ("odd.json", "[1]"), ("none.json", '{"verified": null}')):
        (tmp_path / "mirrors" / name).write_text(text)
    assert steps.verified_on_mirrors(tmp_path) == {second.name}
    shutil.rmtree(second)
    assert steps.verified_on_mirrors(tmp_path) == {second.name}


def test_a_part_goes_with_the_last_checkpoint_that_names_it(tmp_path):
    for name in ("aa", "bb", "cc"):
        add_part(tmp_path, name)
    add(tmp_path, 1, parts=["aa", "bb"])
    add(tmp_path, 2, parts=["bb"])
    steps.prune(tmp_path, Retention(newest=1))
    parts = {path.name for path in steps.parts_of(tmp_path).iterdir()}
    assert parts == {"bb", "cc"}, "cc is not named yet: a save that is under way may be about to"
    steps.sweep(tmp_path)
    assert {path.name for path in steps.parts_of(tmp_path).iterdir()} == {"bb"}


def test_a_part_stays_for_the_model_at_the_root_and_for_a_damaged_checkpoint(tmp_path):
    for name in ("aa", "bb"):
        add_part(tmp_path, name)
    add(tmp_path, 1, parts=["aa"])
    steps.expose(tmp_path, steps.path_of(tmp_path, 1))
    faults.flip_bit(add(tmp_path, 2, parts=["bb"]) / "trainer.json", random.Random(0))
    steps.newest(tmp_path, lambda _: None)
    add(tmp_path, 3)
    steps.prune(tmp_path, Retention(newest=1))
    steps.sweep(tmp_path)
    assert {path.name for path in steps.parts_of(tmp_path).iterdir()} == {"aa", "bb"}


def test_no_part_goes_while_a_checkpoint_cannot_be_read(tmp_path):
    add_part(tmp_path, "aa")
    (add(tmp_path, 1) / "config.json").write_text('{"parts": {"encoder": {"par')
    steps.sweep(tmp_path)
    assert (steps.parts_of(tmp_path) / "aa").exists()


def test_room_is_made_only_of_what_a_mirror_holds(tmp_path):
    paths = [add(tmp_path, step) for step in (10, 20, 30, 40, 50)]
    mirror(tmp_path, *(paths[i] for i in (1, 2, 3)))
    faults.flip_bit(paths[4] / "trainer.json", random.Random(0))
    assert steps.make_room(tmp_path, {steps.name_of(20)}) == (steps.name_of(30),)
    assert numbers(tmp_path) == [10, 20, 40, 50], "40 is the newest good one, 20 the best"


@pytest.mark.parametrize("links", [True, False])
def test_the_exposed_model_is_the_checkpoints_without_its_training_state(tmp_path, monkeypatch, links):
    def refuse(self, target):
        raise OSError("no hard links here")

    if not links:
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    add(tmp_path, 1)
    second = add(tmp_path, 2)
    for checkpoint in (steps.path_of(tmp_path, 1), second, second):
        steps.expose(tmp_path, checkpoint)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "config.json", "encoder.safetensors"]
    assert (tmp_path / "encoder.safetensors").read_bytes() == bytes([2]) * 100
    assert (tmp_path / "encoder.safetensors").samefile(second / "encoder.safetensors") == links


def test_weights_of_an_earlier_stage_give_way_and_a_users_own_stay(tmp_path):
    def stage(step, name):
        def write(folder):
            (folder / "config.json").write_text(json.dumps({"parts": {}, "weights": [name]}))
            (folder / name).write_bytes(b"w")

        return directory.publish(steps.path_of(tmp_path, step), write)

    (tmp_path / "mine.safetensors").write_bytes(b"mine")
    steps.expose(tmp_path, stage(1, "encoder.safetensors"))
    steps.expose(tmp_path, stage(2, "projector.safetensors"))
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == ["mine.safetensors", "projector.safetensors"]


def test_the_config_is_exposed_last(tmp_path, monkeypatch):
    order, real = [], Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: (order.append(target.name), real(self, target))[1])
    steps.expose(tmp_path, add(tmp_path, 1))
    assert order == ["encoder.safetensors", "config.json"]


def test_a_sharded_optimizer_is_not_exposed(tmp_path):
    def write(folder):
        (folder / "optimizer").mkdir()
        (folder / "optimizer" / "shard-1.safetensors").write_bytes(b"m")
        (folder / "config.json").write_text("{}")

    steps.expose(tmp_path, directory.publish(steps.path_of(tmp_path, 1), write))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "config.json"]
