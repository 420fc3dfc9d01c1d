"""What a host that loses power keeps: a disk that forgets whatever was not synced (root)."""

import os
import random
import shutil

import pytest

from auricle.store import steps
from auricle.store.buffers import Buffer
from auricle.store.steps import Retention
from auricle.store.writer import Order, write_here
from tests import faults

pytestmark = pytest.mark.root
SIZE = 200_000


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    with faults.ext4_loop(tmp_path_factory.mktemp("power")) as disk:
        yield disk


@pytest.fixture
def run(disk):
    folder = disk.path / "run"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    os.sync()
    return folder


@pytest.fixture
def save(run):
    buffer = Buffer(SIZE)

    def save(step):
        buffer.memory[:] = bytes([step]) * SIZE
        order = Order(
            checkpoint=steps.name_of(step),
            buffers={"encoder.safetensors": "state"},
            texts={"config.json": "{}", "trainer.json": str(step)},
            retention=Retention(newest=2),
            expose=steps.name_of(step),
            hints={"latest.json": str(step)},
        )
        assert write_here(run, {"state": buffer}, order).error is None

    yield save
    buffer.close()


def newest(run):
    """Step of the newest good checkpoint, 0 without one; its content is what was saved."""
    steps.sweep(run)
    found = steps.newest(run, lambda _: None)
    if found is None:
        return 0
    step = steps.step_of(found.name)
    assert (found / "trainer.json").read_text() == str(step)
    assert (found / "encoder.safetensors").read_bytes() == bytes([step]) * SIZE
    return step


@pytest.mark.parametrize("saves", [1, 2, 3, 4])
def test_an_acknowledged_save_outlives_a_power_cut(disk, run, save, saves):
    for step in range(1, saves + 1):
        save(step)
    disk.power_cut()
    assert newest(run) == saves
    assert (run / "latest.json").read_text() == str(saves)
    assert (run / "trainer.json").exists() is False
    assert (run / "encoder.safetensors").read_bytes() == bytes([saves]) * SIZE


@pytest.mark.parametrize("seed", range(12))
def test_power_that_goes_amid_a_save_costs_no_acknowledged_one(disk, run, save, seed):
    def four_saves(acknowledge):
        for step in (1, 2, 3, 4):
            save(step)
            acknowledge(step)

    died, acknowledged = faults.killed_at(random.Random(seed).randint(30, 180), four_saves)
    assert died
    disk.power_cut()
    assert newest(run) >= max([0, *acknowledged])
    save(9)
    assert newest(run) == 9


def test_without_syncs_the_same_cut_loses_saves(disk, run, save, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    for step in (1, 2):
        save(step)
    monkeypatch.undo()
    disk.power_cut()
    assert not run.exists() or newest(run) < 2
