"""A process that dies before, amid or after any storage call of its saves: exhaustively, so nothing is left to luck.

What a kill can not show, a missing sync, is in test_power_cut.
"""

import json
import os
import shutil

import pytest

from auricle.store import directory, steps
from auricle.store.buffers import Buffer
from auricle.store.steps import Retention
from auricle.store.writer import Order, write_here
from tests import faults

SIZE = 1000


@pytest.fixture
def save():
    """save(run folder, step, value): a checkpoint whose every file says `value`."""
    buffer = Buffer(SIZE)

    def save(run_folder, step, value, parts=()):
        buffer.memory[:] = bytes([value]) * SIZE
        config = {"parts": {name: {"part": name} for name in parts}, "value": value}
        name = steps.name_of(step)
        order = Order(
            checkpoint=name,
            buffers={"encoder.safetensors": "state", "optimizer.safetensors": "state"},
            texts={"config.json": json.dumps(config), "trainer.json": json.dumps(value)},
            retention=Retention(newest=2),
            expose=name,
            hints={"latest.json": json.dumps(step), "best.json": json.dumps(step)},
            replace=True,
        )
        written = write_here(run_folder, {"state": buffer}, order)
        assert written.committed
        assert written.error is None

    yield save
    buffer.close()


def value_of(checkpoint):
    """What a verified checkpoint's files say, all alike."""
    value = json.loads((checkpoint / "trainer.json").read_text())
    assert json.loads((checkpoint / "config.json").read_text())["value"] == value
    for name in ("encoder.safetensors", "optimizer.safetensors"):
        assert (checkpoint / name).read_bytes() == bytes([value]) * SIZE
    return value


def test_a_crash_at_any_storage_call_loses_no_acknowledged_save(tmp_path, save, monkeypatch):
    """Two saves that prune one checkpoint each, the second with its part, and one that replaces a checkpoint."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # a kill leaves the page cache as it is
    run, template = tmp_path / "run", tmp_path / "template"
    template.mkdir()
    directory.publish(steps.parts_of(template) / "aa", lambda folder: (folder / "w").write_bytes(b"w") and None)
    save(template, 1, 1)
    save(template, 2, 2, parts=["aa"])

    def prepare():
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(template, run)

    def three_saves(acknowledge):
        for step, value in ((3, 3), (4, 4), (4, 5)):
            save(run, step, value)
            acknowledge(value)

    points = 0
    for n, acknowledged in faults.crash_points(prepare, three_saves):
        points, last = n, max([2, *acknowledged])
        steps.sweep(run)
        assert all(steps.problems(path) == [] for path in steps.all_steps(run)), f"moment {n}"
        found = steps.newest(run, pytest.fail)
        assert value_of(found) in (last, last + 1), f"moment {n}"
        save(run, 9, 9)
        assert value_of(steps.newest(run, pytest.fail)) == 9
        assert json.loads((run / "latest.json").read_text()) == 9
        for folder in (run, run / "checkpoints", steps.parts_of(run)):
            assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == [], f"moment {n}"
        kept = steps.all_steps(run)
        assert len(kept) == 2
        assert (steps.parts_of(run) / "aa").exists() == (steps.path_of(run, 2) in kept), f"moment {n}"
    assert points > 150
    assert acknowledged == [3, 4], "the last moment lies just before the last acknowledgement"
