"""Saves while training goes on: one in flight, the others wait, and what fails stops nothing."""

import json
import os
import signal
import threading
from collections import deque
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from auricle.core.extents import Progress
from auricle.data.plan import Budget
from auricle.store import directory, steps
from auricle.store.writer import Writer, write_here
from auricle.train import saver as saver_module
from auricle.train.checkpoint import TrainingState
from auricle.train.saver import Saver
from tests.experiments import run, tiny
from tests.fakes import number_stage
from tests.faults import disk_full

LAYER = "layer.safetensors"


def state(step: int, best: int | None = None) -> TrainingState:
    found = None if best is None else {"step": best, "metric": "wer", "value": 0.5, "complete": False}
    return TrainingState(stage="main", progress=Progress(steps=step, run_steps=step), best=found)


class Training:
    """Weights that are the number of the step, and a saver for them."""

    def __init__(self, folder, **config):
        self.folder, self.events = folder, []
        self.weights, self.moments = {"w": torch.zeros(1000)}, {"exp_avg/w": torch.zeros(1000)}
        (folder / "checkpoints").mkdir(parents=True)
        self.saver = Saver(folder, self.event, lambda: None)
        self.stage = number_stage([1.0], Budget(utterances=1), **config)
        self.saver.enter(lambda: {LAYER: self.weights}, lambda: self.moments, self.write_static)

    def write_static(self, folder):
        (folder / "config.json").write_text("{}")

    def event(self, kind, stage="", step=0, **values):
        self.events.append((kind, step, values))

    def reach(self, step: int) -> None:
        for tensor in (*self.weights.values(), *self.moments.values()):
            tensor.fill_(step)

    def save(self, step: int, *, best: int | None = None, wait: bool = True) -> None:
        self.reach(step)
        self.saver.save(self.stage, state(step, best), wait=wait)

    def collect(self) -> None:
        """Asks, as the loop does at each step, until the save in flight is on disk."""
        while self.saver._in_flight:
            self.saver.is_due(None)

    def saved(self) -> list[int]:
        return [step for kind, step, _ in self.events if kind == "save"]

    def alarms(self) -> list[str]:
        return [values["message"] for kind, _, values in self.events if kind == "alarm"]

    def writer(self, number: signal.Signals) -> None:
        os.kill(self.saver._writer._process.pid, number)


@pytest.fixture
def training(tmp_path):
    made = []

    def make(**config) -> Training:
        made.append(Training(tmp_path / "run", **config))
        return made[-1]

    yield make
    for one in made:
        one.saver.settle()
        one.saver.close()


def weights(folder, step: int) -> set[float]:
    path = steps.path_of(folder, step)
    assert not directory.problems(path)
    return {*load_file(path / LAYER)["w"].tolist(), *load_file(path / "optimizer.safetensors")["exp_avg/w"].tolist()}


def test_a_checkpoint_is_of_the_moment_at_which_it_was_asked_for(training):
    run = training()
    run.save(1)
    run.collect()
    run.writer(signal.SIGSTOP)
    run.save(2)
    run.reach(99)  # training goes on
    run.writer(signal.SIGCONT)
    run.saver.settle()
    assert weights(run.folder, 1) == {1.0}
    assert weights(run.folder, 2) == {2.0}
    assert json.loads((run.folder / "latest.json").read_text()) == {"step": 2, "checkpoint": "step-000000002"}


def test_a_save_that_is_due_while_one_is_in_flight_is_taken_at_a_later_step(training):
    run = training()
    run.save(1)
    run.collect()  # the writer process is there
    run.writer(signal.SIGSTOP)
    run.save(2)
    for step in (3, 4):
        run.save(step, wait=False)
        assert not run.saver.is_due(None)
    run.writer(signal.SIGCONT)
    run.collect()
    assert run.saver.is_due(None)
    run.save(5, wait=False)
    run.saver.settle()
    assert not run.saver.is_due(None)
    assert run.saved() == [1, 2, 5]
    assert weights(run.folder, 5) == {5.0}
    waited = [values["waited_seconds"] for kind, _, values in run.events if kind == "save"]
    assert waited[1] < waited[2]
    assert all(values["stall_seconds"] > 0 for kind, _, values in run.events if kind == "save")


def test_a_save_that_must_be_waits_for_the_one_in_flight(training):
    run = training()
    run.save(1)
    run.collect()
    run.writer(signal.SIGSTOP)
    run.save(2)
    later = threading.Timer(0.3, run.writer, [signal.SIGCONT])
    later.start()
    run.save(3)
    later.join()
    run.saver.settle()
    assert run.saved() == [1, 2, 3]
    assert weights(run.folder, 3) == {3.0}


def test_the_same_state_is_not_saved_twice(training):
    run = training()
    run.save(1)
    run.save(1)
    run.save(1, wait=False)
    run.saver.settle()
    run.saver.remember(state(2))
    run.save(2)
    run.saver.settle()
    assert run.saved() == [1]
    run.saver.save(run.stage, replace(state(1), finished=True))  # the same step, another state
    run.saver.settle()
    assert run.saved() == [1, 1]
    assert json.loads((steps.path_of(run.folder, 1) / "trainer.json").read_text())["finished"]


def test_a_writer_that_dies_costs_its_save_and_no_other(training):
    run = training()
    run.save(1)
    run.collect()
    run.writer(signal.SIGSTOP)
    run.save(2)
    run.writer(signal.SIGKILL)
    run.saver.settle()
    if run.alarms():  # it was killed before it had written
        assert "the writer process ended (exit code -9)" in run.alarms()[0]
        assert "training goes on" in run.alarms()[0]
        assert run.saved() == [1]
    run.save(3)
    run.saver.settle()
    assert run.saved()[-1] == 3
    assert weights(run.folder, 3) == {3.0}


class WriterHere(Writer):
    """Does its work in this process, at the first question."""

    failures = deque()
    """How many writes fail of each save to come."""

    def start(self, order):
        self._in_flight = order

    def poll(self):
        order, self._in_flight = self._in_flight, None
        with disk_full(self.failures.popleft() if self.failures else 0):
            return order and write_here(self._folder, self._buffers, order)

    def wait(self):
        return None


@pytest.fixture
def full_disk(monkeypatch) -> deque:
    monkeypatch.setattr(saver_module, "Writer", WriterHere)
    monkeypatch.setattr(WriterHere, "failures", deque())
    return WriterHere.failures


def test_a_full_disk_is_an_alarm_and_the_same_state_can_be_saved_later(training, full_disk):
    run = training()
    run.save(1)
    run.saver.settle()
    full_disk.append(None)
    run.save(2)
    run.saver.settle()
    (alarm,) = run.alarms()
    assert "no space" in alarm
    assert "earlier checkpoints are untouched" in alarm
    assert alarm.endswith("training goes on")
    assert [path.name for path in steps.all_steps(run.folder)] == ["step-000000001"]
    assert not [path for path in (run.folder / "checkpoints").iterdir() if path.name.startswith(".incomplete-step")]
    run.save(2)
    run.saver.settle()
    assert run.saved() == [1, 2]
    assert weights(run.folder, 2) == {2.0}


def test_a_folder_that_cannot_be_written_is_an_alarm(training, tmp_path):
    run = training()
    run.save(1)
    run.saver.settle()
    away = (run.folder / "checkpoints").rename(tmp_path / "away")
    (run.folder / "checkpoints").write_text("a file in its place")
    run.save(2)
    run.saver.settle()
    assert len(run.alarms()) == 1
    assert run.saved() == [1]
    (run.folder / "checkpoints").unlink()
    away.rename(run.folder / "checkpoints")
    run.save(3)
    run.saver.settle()
    assert run.saved() == [1, 3]


def test_the_best_is_shown_at_the_root_and_kept(training):
    run = training(save_total_limit=1)
    for step in range(1, 6):
        run.save(step, best=2 if step > 1 else None)
        run.saver.settle()
    assert [path.name for path in steps.all_steps(run.folder)] == ["step-000000002", "step-000000005"]
    assert (run.folder / LAYER).samefile(steps.path_of(run.folder, 2) / LAYER)
    assert json.loads((run.folder / "best.json").read_text())["step"] == 2
    pruned = [values["pruned"] for kind, _, values in run.events if kind == "save"]
    assert pruned == [[], ["step-000000001"], [], ["step-000000003"], ["step-000000004"]]


def test_a_training_outlives_a_save_that_fails(tmp_path, full_disk):
    full_disk.extend([0, None, 0])
    config = tiny(tmp_path, save_steps=2, max_steps=8, data={"max_eval_samples": 4}, save_total_limit=10)
    outcome, events = run(config)
    assert (outcome.reason, outcome.step) == ("finished", 8)
    alarms = [event.values["message"] for event in events if event.kind == "alarm"]
    assert len(alarms) == 1
    assert "training goes on" in alarms[0]
    saved = {event.step for event in events if event.kind == "save"}
    assert {2, 6, 8} <= saved
    assert 4 not in saved
    assert all(not directory.problems(path) for path in steps.all_steps(tmp_path / "run"))
