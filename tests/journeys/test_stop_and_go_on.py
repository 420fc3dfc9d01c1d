"""A run that is killed or interrupted from outside, and the same command again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from auricle.core.events import current, read
from tests.speech import digits_manifest

YAML = """# @package _global_
model: {{kind: conformer, width: 16, layers: 1, heads: 2, subsampling: 2, subsampling_channels: 4}}
task: {{kind: ctc}}
data:
  datasets: {{commands: null, digits: {{manifest: {manifest}, eval_split: test}}}}
  augment: {{speeds: [0.9, 1.0, 1.1], spec_augment: {{}}}}
training: {{max_steps: 150, batch_seconds: 4, save_steps: 20, eval_steps: null, logging_steps: 1}}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with an experiment of half a minute."""
    folder = tmp_path_factory.mktemp("home")
    manifest = digits_manifest(folder / "digits").folder
    groups = folder / "configs" / "hydra"
    for group in ("experiments", "data"):
        (groups / group).mkdir(parents=True)
    (groups / "data" / "default.yaml").write_text("{}\n")
    (groups / "experiments" / "digits.yaml").write_text(YAML.format(manifest=manifest).replace("commands: null, ", ""))
    return folder


def start(home: Path, name: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "auricle", "train", "+experiments=digits", f"training.run_name={name}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=home, env=environment, **pipes)


def wait_for_step(folder: Path, step: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if any(event.kind == "train" and event.step >= step for event in read(folder / "events.jsonl")):
            return
        time.sleep(0.02)
    pytest.fail(f"step {step} was not reached: {process.communicate()[1][-2000:]}")


def finish(home: Path, name: str) -> dict[str, torch.Tensor]:
    process = start(home, name)
    _, errors = process.communicate(timeout=250)
    assert process.returncode == 0, errors[-2000:]
    newest = sorted((home / "outputs" / name / "checkpoints").glob("step-*"))[-1]
    return {name: value for file in newest.glob("*.safetensors") for name, value in load_file(file).items()}


def losses(folder: Path) -> list[tuple[int, float]]:
    events = current(read(folder / "events.jsonl"))
    return [(event.step, event.values["loss"]) for event in events if event.kind == "train"]


@pytest.fixture(scope="module")
def straight(home) -> dict[str, torch.Tensor]:
    return finish(home, "straight")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["killed", "interrupted"])
def test_a_run_stopped_from_outside_goes_on_as_if_it_had_not(home, straight, name):
    folder = home / "outputs" / name
    for step in (13, 58):  # the second stop comes after a resume
        process = start(home, name)
        wait_for_step(folder, step, process)
        process.send_signal(signal.SIGKILL if name == "killed" else signal.SIGINT)
        _, errors = process.communicate(timeout=120)
        if name == "interrupted":
            assert process.returncode == 75
            assert "Traceback" not in errors
    found = finish(home, name)
    assert found.keys() == straight.keys()
    assert all(torch.equal(found[key], value) for key, value in straight.items())
    assert losses(folder) == losses(home / "outputs" / "straight")
    assert [step for step, _ in losses(folder)] == list(range(1, 151))
    assert not list(folder.rglob(".incomplete-*"))


