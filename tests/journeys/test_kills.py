"""A run that is killed hundreds of times, at any instant: while it starts, trains, evaluates, saves and prunes."""

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from unittest import mock

import psutil
import pytest
from torch.utils.data._utils import worker

from auricle.data.loader import batches
from auricle.store import steps
from auricle.store.steps import Retention
from auricle.store.writer import Order, Writer
from tests.faults import in_child
from tests.journeys.children import Trainer, losses
from tests.journeys.soak import FAULTS, Found, Soak, soak

KILLS = 200


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_no_instant_to_be_killed_at_costs_a_saved_step_or_a_hand(tmp_path):
    trials, found = Soak(tmp_path, seed=0), Found()
    while found.counts["kills"] < KILLS or not found.counts["runs that reached their end"]:
        trials.trial(found)
    assert found.sentences == []
    assert {kind: found.counts[kind] for kind in FAULTS} == dict.fromkeys(FAULTS, 0)
    assert all(found.counts[moment] for moment in ("starting", "evaluating", "saving", "pruning"))


@pytest.mark.slow
def test_a_soak_counts_what_its_log_holds_and_goes_on(tmp_path):
    log = tmp_path / "soak.jsonl"
    assert soak(2, log)["kills"] == 2
    assert soak(4, log)["kills"] == 4
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["counts"]["kills"] for line in lines] == [2, 2, 2, 4]
    assert [line.get("batch") for line in lines] == [0, None, 1, None]


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "loaders"), [("training", 2), ("evaluation", 4)])
def test_a_loader_worker_that_is_killed_costs_no_step_and_no_hand(tmp_path, phase, loaders):
    settings = {"max_steps": 400, "batch_seconds": 0.6, "dataloader_num_workers": 2}
    settings["eval_steps"] = 1 if phase == "evaluation" else None
    trainer = Trainer(home=tmp_path, settings=settings)
    process = trainer.start()
    wait_until(lambda: any(event.kind == "train" and event.step >= 5 for event in trainer.events()))

    def workers() -> list[psutil.Process]:
        children = psutil.Process(process.pid).children()
        return [child for child in children if "auricle.store.writer" not in child.cmdline()]

    wait_until(lambda: len(workers()) == loaders)
    max(workers(), key=lambda worker: worker.create_time()).kill()
    process.join(60)
    process.kill()
    end = trainer.events()[-1]
    assert (end.kind, end.values.get("reason")) == ("end", "interrupted"), trainer.printed()
    assert steps.step_of(steps.all_steps(trainer.folder)[-1].name) == max(losses(trainer))
    assert Trainer(home=tmp_path, settings={**settings, "eval_steps": None, "dataloader_num_workers": 0}).run() == 0


def test_a_writer_ends_when_it_is_told_to_though_a_forked_process_holds_its_pipe(tmp_path):
    writer = Writer(tmp_path, {})
    writer.start(Order(checkpoint=steps.name_of(1), retention=Retention(newest=1)))
    writer.wait()
    loader = os.fork()
    if loader == 0:
        time.sleep(60)
        os._exit(0)
    closing = threading.Thread(target=writer.close)
    closing.start()
    closing.join(10)
    ended = not closing.is_alive()
    os.kill(loader, signal.SIGKILL)
    os.waitpid(loader, 0)
    closing.join()
    assert ended


@pytest.mark.slow
def test_a_loader_worker_ends_with_a_trainer_that_dies_right_after_forking_it(tmp_path):
    start, watch = BaseProcess.start, worker.ManagerWatchdog

    def start_and_die(process: BaseProcess) -> None:
        start(process)
        (tmp_path / "pid").write_text(str(process.pid))
        os.kill(os.getpid(), signal.SIGKILL)

    def watch_late() -> object:
        time.sleep(0.5)
        return watch()

    def trainer() -> None:
        with mock.patch.object(BaseProcess, "start", start_and_die), mock.patch.object(
            worker, "ManagerWatchdog", watch_late
        ):
            next(iter(batches(range(3), range(3), workers=1)))

    assert in_child(trainer) == -signal.SIGKILL
    loader = int((tmp_path / "pid").read_text())
    deadline, ended = time.monotonic() + 30, False  # it looks for its trainer every 5 s
    while not ended and time.monotonic() < deadline:
        time.sleep(0.2)
        with contextlib.suppress(psutil.NoSuchProcess):
            ended = psutil.Process(loader).status() == psutil.STATUS_ZOMBIE
        ended = ended or not psutil.pid_exists(loader)
    if not ended:
        os.kill(loader, signal.SIGKILL)
    assert ended
