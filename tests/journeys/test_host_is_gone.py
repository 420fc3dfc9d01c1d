"""The host vanishes while it trains, and an empty one goes on from the mirror: one command, and little lost."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from auricle.core.events import current, read
from auricle.store import steps
from tests.journeys.test_stop_and_go_on import YAML, wait_for_step
from tests.speech import digits_manifest

SAVE_STEPS = 20


def host(folder: Path, manifest: Path, mirror: Path) -> Path:
    """A machine with the experiment and nothing else."""
    groups = folder / "configs" / "hydra"
    for group in ("experiments", "data"):
        (groups / group).mkdir(parents=True)
    (groups / "data" / "default.yaml").write_text("{}\n")
    text = YAML.format(manifest=manifest).replace("commands: null, ", "") + f"mirror: {{targets: [{mirror}]}}\n"
    (groups / "experiments" / "digits.yaml").write_text(text)
    return folder


def start(home: Path, *words: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "auricle", "train", *(words or ("+experiments=digits", "training.run_name=run"))]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=home, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes)


def vanish(home: Path) -> None:
    """Every process of the host ends, and its disk is gone."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            place = (process / "cwd").readlink()
            ours = home in (place, *place.parents)
            ours = ours or str(home).encode() in (process / "cmdline").read_bytes()
        except OSError:
            continue
        if ours and int(process.name) != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process.name), signal.SIGKILL)
    for _ in range(50):  # a process that dies may still have been writing
        shutil.rmtree(home, ignore_errors=True)
        if not home.exists():
            return
        time.sleep(0.1)


def wait_until_safe(mirror: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if any(steps.step_of(path.name) >= step for path in steps.all_steps(mirror / "run")):
            return
        time.sleep(0.05)
    pytest.fail(f"step {step} did not reach the mirror")


def newest_tensors(run: Path) -> dict:
    newest = steps.all_steps(run)[-1]
    return {name: value for file in newest.glob("*.safetensors") for name, value in load_file(file).items()}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to find a host's processes")
@pytest.mark.parametrize("words", [(), ("--from", "MIRROR/run")], ids=["same command", "only the mirror's address"])
def test_an_empty_machine_goes_on_from_the_mirror_with_one_command(tmp_path, words):
    manifest, mirror = digits_manifest(tmp_path / "digits").folder, tmp_path / "mirror"
    first = host(tmp_path / "first", manifest, mirror)
    process = start(first)
    wait_for_step(first / "outputs" / "run", 50, process)
    wait_until_safe(mirror, 2 * SAVE_STEPS)
    vanish(first)
    process.communicate(timeout=60)
    reached = max(steps.step_of(path.name) for path in steps.all_steps(mirror / "run"))

    second = host(tmp_path / "second", manifest, mirror)
    process = start(second, *(word.replace("MIRROR", str(mirror)) for word in words))
    _, errors = process.communicate(timeout=250)
    assert process.returncode == 0, errors[-2000:]
    run = second / "outputs" / "run"
    resumed = [event.step for event in read(run / "events.jsonl") if event.kind == "resume"]
    assert resumed == [reached]  # what is lost is what was not yet mirrored
    straight = host(tmp_path / "straight", manifest, tmp_path / "other")
    process = start(straight)
    process.communicate(timeout=250)
    assert process.returncode == 0
    expected, found = newest_tensors(straight / "outputs" / "run"), newest_tensors(run)
    assert found.keys() == expected.keys()
    assert all((found[name] == value).all() for name, value in expected.items())
    trained = {event.step for event in current(read(run / "events.jsonl")) if event.kind == "train"}
    assert trained >= set(range(reached + 1, 151))
    vanish(straight)
