"""Two machines that train one run: two working folders that do not see each other's disk, meeting on the loopback."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from auricle.core.events import Event, current, read
from auricle.store import steps
from tests.paths import ROOT
from tests.speech import write_digits

YAML = """# @package _global_
model: {kind: conformer, width: 16, layers: 1, heads: 2, subsampling: 2, subsampling_channels: 4, dropout: 0.0}
task: {kind: ctc}
data:
  datasets: {digits: {source: {kind: fsdd, folder: corpus}, eval_split: test}}
training: {max_steps: 14, batch_seconds: 6, effective_batch_seconds: 24, save_steps: 4, save_minutes: null,
           eval_steps: 4, eval_max_seconds: 100, logging_steps: 1, dataloader_num_workers: 0}
"""
STEPS = 14
TWO_STAGES = """stages:
  first: {max_steps: 8, eval_steps: 4}
  second: {max_steps: 6, eval_steps: null, start_from: best}
"""
BAD_STEPS = """
import os
if 'RANK' in os.environ:
    import dataclasses
    from auricle.tasks.ctc.task import CtcTask
    from auricle.train import loop
    train_step, loss, calls = loop.train_step, CtcTask.loss, []
    def counted(*args):
        calls.append(1)
        return train_step(*args)
    def spoiled(task, model, batch):
        found = loss(task, model, batch)
        if 11 <= len(calls) <= 13 and model.training and os.environ['RANK'] == '1':
            terms = {n: dataclasses.replace(t, sum=t.sum * float('nan')) for n, t in found.terms.items()}
            return dataclasses.replace(found, terms=terms)
        return found
    loop.train_step, CtcTask.loss = counted, spoiled
"""
FULL = """
import os
if 'RANK' in os.environ:
    import torch
    from auricle.tasks.ctc.task import CtcTask
    from auricle.train import loop
    train_step, loss, calls = loop.train_step, CtcTask.loss, []
    first, most = {'0': (7, 8), '1': (6, 12)}[os.environ['RANK']]
    def counted(*args):
        calls.append(1)
        return train_step(*args)
    def measured(task, model, batch):
        if len(calls) >= first and model.training and len(batch.ids) > most:
            raise torch.OutOfMemoryError('CUDA out of memory')
        return loss(task, model, batch)
    loop.train_step, CtcTask.loss = counted, measured
"""


def machine(folder: Path) -> Path:
    """The experiment and its corpus, and nothing prepared."""
    groups = folder / "configs" / "hydra"
    for group in ("experiments", "data"):
        (groups / group).mkdir(parents=True)
    (groups / "data" / "default.yaml").write_text("{}\n")
    (groups / "experiments" / "digits.yaml").write_text(YAML)
    write_digits(folder / "corpus")
    return folder


def start(home: Path, *words: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "auricle", "train", *words, "+experiments=digits", "training.run_name=run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{home}:{ROOT}"}
    with (home / "printed.txt").open("ab") as printed:
        return subprocess.Popen(command, cwd=home, env=environment, stdout=printed, stderr=printed)


def together(first: Path, second: Path, *words: str) -> list[subprocess.Popen]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        meeting = f"127.0.0.1:{server.getsockname()[1]}"
    return [start(home, "--nnodes", "2", "--node-rank", str(rank), f"--rendezvous={meeting}", *words)
            for rank, home in enumerate((first, second))]


def ended(processes: list[subprocess.Popen], *homes: Path) -> list[int]:
    try:
        return [process.wait(200) for process in processes]
    except subprocess.TimeoutExpired:
        pytest.fail("\n".join((home / "printed.txt").read_text()[-3000:] for home in homes))
    finally:
        for process in processes:
            process.kill()


def events(home: Path) -> list[Event]:
    return list(read(home / "outputs" / "run" / "events.jsonl"))


def losses(home: Path) -> list[float]:
    return [event.values["loss"] for event in current(events(home)) if event.kind == "train"]


def wait_for_step(home: Path, step: int) -> None:
    deadline = time.monotonic() + 150
    while not any(event.kind == "train" and event.step >= step for event in events(home)):
        assert time.monotonic() < deadline, (home / "printed.txt").read_text()[-3000:]
        time.sleep(0.05)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The same run as two processes of one machine."""
    home = machine(tmp_path_factory.mktemp("alone"))
    assert ended([start(home, "--nproc", "2")], home) == [0]
    return home


@pytest.fixture
def machines(tmp_path) -> tuple[Path, Path]:
    return machine(tmp_path / "first"), machine(tmp_path / "second")


def assert_as_alone(first: Path, alone: Path) -> None:
    assert losses(first) == pytest.approx(losses(alone), rel=1e-5)
    assert len(losses(first)) >= STEPS - 3
    weights = [load_file(steps.all_steps(home / "outputs" / "run")[-1] / "encoder.safetensors")
               for home in (first, alone)]
    assert all(weights[0][name].allclose(value, rtol=1e-4, atol=1e-6) for name, value in weights[1].items())


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(500)
def test_two_machines_train_as_two_processes_and_go_on_after_one_is_gone(machines, alone):
    first, second = machines
    processes = together(first, second)
    wait_for_step(first, 6)
    os.kill(processes[1].pid, signal.SIGTERM)  # its ranks save nothing: the first machine does
    assert ended(processes, first, second) == [75, 75]
    assert not list((second / "outputs").glob("*"))  # nothing that a start of its own would stumble over
    stopped = max(steps.step_of(path.name) for path in steps.all_steps(first / "outputs" / "run"))
    assert stopped >= 4

    processes = together(first, second)
    wait_for_step(first, stopped + 2)
    for process in processes[1:]:  # the power of one machine fails
        ranks = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout
        for rank in ranks.split():
            os.kill(int(rank), signal.SIGKILL)
        process.kill()
    assert ended(processes, first, second)[0] == 75
    assert events(first)[-1].values["reason"] == "interrupted"
    assert "another rank is gone" in events(first)[-1].values["message"]

    assert ended(together(first, second), first, second) == [0, 0]
    assert len([event for event in events(first) if event.kind == "resume"]) == 2
    assert_as_alone(first, alone)
    assert events(first)[0].values["device"].startswith("cpu × 2 on 2 machines")
    assert len(list((second / "data").glob("digits-*/summary.json"))) == 1
    assert "Traceback" not in (first / "printed.txt").read_text()


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(500)
def test_they_return_together_to_the_best_and_to_the_newest_checkpoint(machines, tmp_path):
    first, second, alone = *machines, machine(tmp_path / "alone")
    for home in (first, second, alone):
        (home / "configs" / "hydra" / "experiments" / "digits.yaml").write_text(YAML + TWO_STAGES)
        (home / "sitecustomize.py").write_text(BAD_STEPS)
    assert ended([start(alone, "--nproc", "2")], alone) == [0]
    assert ended(together(first, second), first, second) == [0, 0]
    (switch,) = [event.values for event in events(first) if event.kind == "switch"]
    assert switch["start_from"] == "step-000000004"
    back = [[event.values for event in events(home) if event.kind == "rollback"] for home in (first, alone)]
    assert back[0] == back[1]
    assert len(back[0]) == 1
    assert_as_alone(first, alone)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(500)
def test_what_two_machines_cannot_do_is_said_by_both(machines):
    first, second = machines
    yaml = second / "configs" / "hydra" / "experiments" / "digits.yaml"
    yaml.write_text(YAML.replace("dropout: 0.0", "dropout: 0.1"))
    assert ended(together(first, second), first, second) == [2, 2]
    yaml.write_text(YAML)
    assert ended(together(first, second, "training.fsdp=true"), first, second) == [2, 2]
    (second / "corpus" / "recordings" / "3_ben_6.wav").unlink()
    assert ended(together(first, second), first, second) == [3, 3]
    for home in machines:
        printed = (home / "printed.txt").read_text()
        assert "was started with another experiment than the first machine: model.dropout was 0.0, is 0.1" in printed
        assert "training.fsdp: on several machines it needs a disk that all of them see" in printed
        assert "its training data are not those of the first machine" in printed
        assert "Traceback" not in printed


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(500)
def test_on_a_shared_disk_both_read_the_run_folder_and_may_shard(machines, alone):
    first, _ = machines
    words = ("training.fsdp=true", "training.eval_steps=null")
    assert ended(together(first, first, *words, "training.max_steps=6"), first) == [0, 0]
    assert (steps.all_steps(first / "outputs" / "run")[-1] / "optimizer").is_dir()
    assert not list((first / "outputs").glob(".*"))
    assert ended(together(first, first, *words, f"training.max_steps={STEPS}", "--extend"), first) == [0, 0]
    assert len(losses(first)) == STEPS
    assert len([event for event in events(first) if event.kind == "resume"]) == 1


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(600)
def test_too_little_memory_on_either_and_a_changed_batch_are_settled_together(machines):
    first, second = machines
    for home in machines:
        (home / "sitecustomize.py").write_text(FULL)
    split = first / "outputs" / "run" / "split.json"
    assert ended(together(first, second), first, second) == [75, 75]  # on the second machine, in whole micro-batches
    assert not split.exists()
    assert ended(together(first, second), first, second) == [75, 75]  # on the first one, in halves
    assert json.loads(split.read_text()) == {"main": 4}
    assert ended(together(first, second, "training.max_steps=12", "--extend"), first, second) == [0, 0]
    words = ("training.effective_batch_seconds=18", "--allow-replan", "--extend")
    assert ended(together(first, second, *words), first, second) == [0, 0]
    assert len([event for event in events(first) if event.kind == "replan"]) == 1
    assert [event.step for event in current(events(first)) if event.kind == "train"] == list(range(1, STEPS + 1))
    assert not list((second / "outputs").glob("*"))
