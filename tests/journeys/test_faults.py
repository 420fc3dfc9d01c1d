"""Faults from outside that a run is told of, or notices: signals, killed loader workers, ranks that hang or differ."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file

from auricle.core.events import Event, current, read
from auricle.store import directory, steps
from auricle.store.writer import wait_for_writer
from tests.journeys.children import FORKS, tensors
from tests.paths import ROOT
from tests.speech import digits_manifest

pytestmark = pytest.mark.slow

YAML = """# @package _global_
model: {{kind: conformer, width: 16, layers: 1, heads: 2, subsampling: 2, subsampling_channels: 4}}
task: {{kind: ctc}}
data:
  max_eval_samples: 12
  datasets: {{digits: {{manifest: {manifest}, eval_split: test}}}}
training:
  {{max_steps: 12, per_device_train_batch_size: 4, per_device_eval_batch_size: 4, gradient_accumulation_steps: 2,
    batch_seconds: null, save_steps: 4, save_minutes: null, eval_steps: 4, eval_max_seconds: null, logging_steps: 1,
    dataloader_num_workers: 0, device: cpu}}
"""
"""An epoch has 5 steps."""


@dataclass(frozen=True)
class Home:
    """A folder with the experiment `digits`."""

    folder: Path

    def run_folder(self, name: str) -> Path:
        return self.folder / "outputs" / name

    def events(self, name: str) -> list[Event]:
        return list(read(self.run_folder(name) / "events.jsonl"))

    def printed(self, name: str) -> str:
        path = self.folder / f"{name}.txt"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def train(self, name: str, *overrides: str, fault: tuple = ("none",)) -> int:
        """`auricle train` in a process of its own, to its end. → exit code, negative for a signal"""
        process = FORKS.Process(target=_train, args=(self, name, overrides, fault))
        process.start()
        process.join(150)
        if process.is_alive():
            process.kill()
            process.join()
            raise TimeoutError(self.printed(name)[-3000:])
        assert wait_for_writer(self.run_folder(name), 60)
        return process.exitcode


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Home:
    folder = tmp_path_factory.mktemp("home")
    manifest = digits_manifest(folder / "digits").folder
    groups = folder / "configs" / "hydra"
    for group in ("experiments", "data"):
        (groups / group).mkdir(parents=True)
    (groups / "data" / "default.yaml").write_text("{}\n")
    (groups / "experiments" / "digits.yaml").write_text(YAML.format(manifest=manifest))
    return Home(folder)


@pytest.fixture(scope="module")
def straight(home) -> str:
    """The name of a run to which nothing happened."""
    assert home.train("straight") == 0, home.printed("straight")
    return "straight"


def assert_the_same(home: Home, name: str, straight: str) -> None:
    assert tensors(home.run_folder(name)) == tensors(home.run_folder(straight))

    def results(which: str) -> list[tuple]:
        kept = [event for event in current(home.events(which)) if event.kind in ("train", "eval")]
        return [(event.kind, event.step, event.values["loss"]) for event in kept]

    assert results(name) == results(straight)


# -- in the process ---------------------------------------------------------------------------------------------------


def _train(home: Home, name: str, overrides: tuple[str, ...], fault: tuple) -> None:
    import multiprocessing

    import torch

    from auricle.cli.main import app

    os.chdir(home.folder)
    printed = os.open(home.folder / f"{name}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(printed, sys.stdout.fileno())
    os.dup2(printed, sys.stderr.fileno())
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)
    kind, *details = fault
    FAULTS[kind](*details)
    sys.argv = ["auricle", "train", "+experiments=digits", f"training.run_name={name}", *overrides]
    app()


def _signals(place: str, at: int, number: int, times: int) -> None:
    """This process gets a signal, `times` times, in the `at`-th call of a place, from 1."""
    from auricle.train import evaluate, loop

    owner, function = {"step": (loop, "train_step"), "evaluation": (evaluate, "_predict")}[place]
    original, calls, trainer = getattr(owner, function), [], os.getpid()

    def struck(*args: Any) -> Any:
        calls.append(place)
        for _ in range(times if len(calls) == at else 0):
            os.kill(trainer, number)
        return original(*args)

    setattr(owner, function, struck)


def _kills_worker(step: int) -> None:
    """One loader worker is killed amid a step."""
    from auricle.train import loop

    original, calls = loop.train_step, []

    def struck(*args: Any) -> Any:
        calls.append(step)
        if len(calls) == step:
            me = psutil.Process()
            workers = [child for child in me.children() if child.cmdline() == me.cmdline()]
            assert len(workers) == 2, [child.cmdline() for child in me.children()]
            workers[0].kill()
        return original(*args)

    loop.train_step = struck


FAULTS = {"none": lambda: None, "signals": _signals, "kills worker": _kills_worker}


# -- what is asked of it ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("place", "at", "stopped_at"),
    [("step", 6, 7), ("step", 12, 12), ("evaluation", 2, 4), ("evaluation", 8, 12)],
    ids=["in a step", "in the last step", "in an evaluation", "in the complete evaluation"],
)
def test_asked_to_stop_it_saves_and_ends_with_75_and_goes_on(home, straight, place, at, stopped_at, number):
    name = f"{place}-{at}-{number}"
    assert home.train(name, fault=("signals", place, at, number, 1)) == 75, home.printed(name)
    newest = steps.all_steps(home.run_folder(name))[-1]
    assert newest.name == steps.name_of(stopped_at)
    assert not directory.problems(newest)
    assert home.events(name)[-1].values["reason"] == "interrupted"
    assert "Traceback" not in home.printed(name)
    assert home.train(name) == 0
    assert_the_same(home, name, straight)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("place", "at"), [("step", 6), ("evaluation", 2)])
def test_asked_twice_it_ends_at_once_and_saves_nothing_more(home, straight, place, at, number):
    name = f"twice-{place}-{number}"
    assert home.train(name, fault=("signals", place, at, number, 2)) == -number, home.printed(name)
    assert {path.name for path in steps.all_steps(home.run_folder(name))} <= {steps.name_of(4)}
    assert not [event for event in home.events(name) if event.kind == "end"]
    assert home.train(name) == 0
    assert_the_same(home, name, straight)


def test_a_killed_loader_worker_ends_the_run_with_all_saved(home, straight):
    workers = "training.dataloader_num_workers=2"
    assert home.train("worker", workers, fault=("kills worker", 6)) == 75, home.printed("worker")
    printed = home.printed("worker")
    assert "a worker process was killed" in printed
    assert "Traceback" not in printed
    end = home.events("worker")[-1]
    assert (end.kind, end.values["reason"]) == ("end", "interrupted")
    newest = steps.all_steps(home.run_folder("worker"))[-1]
    assert steps.step_of(newest.name) == max(e.step for e in home.events("worker") if e.kind == "train") >= 6
    assert home.train("worker", workers) == 0
    assert_the_same(home, "worker", straight)


# -- two ranks --------------------------------------------------------------------------------------------------------

TWO_RANKS = ["--nproc", "2", "+experiments=digits", "training.gradient_accumulation_steps=1"]


def with_torchrun(home: Home, name: str, on_each_rank: str, *overrides: str) -> subprocess.CompletedProcess:
    """`auricle train --nproc 2` to its end; each rank runs `on_each_rank` before anything else. No process may stay."""
    patches = home.folder / f"{name}-patches"
    patches.mkdir(exist_ok=True)
    lines = ["import os", "if 'RANK' in os.environ:", *(f"    {line}" for line in on_each_rank.strip().splitlines())]
    (patches / "sitecustomize.py").write_text("\n".join(lines), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": f"{patches}:{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "auricle", "train", *TWO_RANKS, f"training.run_name={name}", *overrides]
    process = subprocess.Popen(
        command, cwd=home.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        printed, errors = process.communicate(timeout=200)
    finally:
        process.kill()
    deadline = time.monotonic() + 30
    while (left := _of_run(name)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for one in left:
        one.kill()
    assert not left
    return subprocess.CompletedProcess(command, process.returncode, printed, errors)


def _of_run(name: str) -> list[psutil.Process]:
    told = f"training.run_name={name}"
    return [process for process in psutil.process_iter(["cmdline"]) if told in (process.info["cmdline"] or ())]


@pytest.mark.timeout(500)
def test_when_a_rank_hangs_the_others_end_with_their_stacks_and_the_next_start_goes_on(home):
    patch = f"""
import signal
from pathlib import Path
from auricle.train import loop
original, calls, once = loop.train_step, [], Path({str(home.folder / "hung-once")!r})
def train_step(*args):
    calls.append(1)
    if len(calls) == 7 and os.environ['RANK'] == '1' and not once.exists():
        once.touch()
        os.kill(os.getpid(), signal.SIGSTOP)
    return original(*args)
loop.train_step = train_step
"""
    first = with_torchrun(home, "hung", patch, "training.hang_seconds=6", "training.eval_steps=null")
    assert (home.folder / "hung-once").exists()
    assert first.returncode == 75, first.stderr[-3000:]
    folder = home.run_folder("hung")
    assert "train_step" in (folder / "stacks-0.txt").read_text()
    (end,) = [event for event in home.events("hung") if event.kind == "end"]
    assert end.values["reason"] == "hung"
    assert "no step for" in end.values["message"]
    second = with_torchrun(home, "hung", patch, "training.hang_seconds=60", "training.eval_steps=null")
    assert second.returncode == 0, second.stderr[-3000:]
    assert [event.step for event in home.events("hung") if event.kind == "resume"] == [4]
    kept = [event.step for event in current(home.events("hung")) if event.kind == "train"]
    assert kept == list(range(1, 13))


@pytest.mark.timeout(500)
def test_a_rank_without_memory_starts_all_anew_in_smaller_pieces(home):
    patch = """
import torch
from auricle.tasks.ctc.task import CtcTask
from auricle.train import loop
train_step, loss, calls = loop.train_step, CtcTask.loss, []
def counted(*args):
    calls.append(1)
    return train_step(*args)
def measured(task, model, batch):
    if len(calls) >= 6 and model.training and len(batch.ids) > 2 and os.environ['RANK'] == '1':
        raise torch.OutOfMemoryError('CUDA out of memory')
    return loss(task, model, batch)
loop.train_step, CtcTask.loss = counted, measured
"""
    done = with_torchrun(home, "memory", patch, "training.eval_steps=null")
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((home.run_folder("memory") / "split.json").read_text()) == {"main": 2}
    events = home.events("memory")
    assert sum(event.kind == "run" for event in events) == 2
    assert [event.step for event in events if event.kind == "resume"] == [4]
    assert [event.step for event in current(events) if event.kind == "train"] == list(range(1, 13))


@pytest.mark.timeout(300)
def test_what_is_not_finite_on_one_rank_updates_none(home):
    told = home.folder / "one-rank"
    patch = f"""
import dataclasses, hashlib
from auricle.tasks.ctc.task import CtcTask
from auricle.train import loop
train_step, loss, calls = loop.train_step, CtcTask.loss, []
def spied(model, optimizer, task, micro, *rest):
    calls.append([name for batch in micro for name in batch.ids])
    result = train_step(model, optimizer, task, micro, *rest)
    weights = hashlib.sha256(b''.join(value.numpy().tobytes() for value in model.state_dict().values())).hexdigest()
    with open({str(told)!r} + os.environ['RANK'], 'a') as lines:
        print(result.finite, weights, *calls[-1], file=lines)
    return result
def spoiled(task, model, batch):
    found = loss(task, model, batch)
    if len(calls) == 3 and model.training and os.environ['RANK'] == '1':
        terms = {{n: dataclasses.replace(t, sum=t.sum * float('nan')) for n, t in found.terms.items()}}
        return dataclasses.replace(found, terms=terms)
    return found
loop.train_step, CtcTask.loss = spied, spoiled
"""
    done = with_torchrun(home, "one-rank", patch, "training.max_steps=5", "training.eval_steps=null")
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [[line.split() for line in Path(f"{told}{rank}").read_text().splitlines()] for rank in (0, 1)]
    assert [[line[0] for line in rank] for rank in ranks] == [["True", "True", "False", "True", "True"]] * 2
    weights = [[line[1] for line in rank] for rank in ranks]
    assert weights[0] == weights[1]
    assert weights[0][2] == weights[0][1]
    assert len(set(weights[0])) == 4
    (bad,) = [event for event in home.events("one-rank") if event.kind == "bad_step"]
    assert bad.step == 3
    assert bad.values["ids"] == ranks[0][2][2:] + ranks[1][2][2:]
    assert len(bad.values["lengths"]) == 8
    newest = steps.all_steps(home.run_folder("one-rank"))[-1]
    assert all(value.isfinite().all() for value in load_file(newest / "encoder.safetensors").values())
