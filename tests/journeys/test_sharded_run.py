"""A run that is sharded over two ranks, typed as a user types it, and goes on with one process."""

import os
import subprocess
import sys

import pytest

from auricle.core.events import read
from auricle.inference.load import open_model
from auricle.store import steps
from tests.journeys.test_host_is_gone import host
from tests.speech import digits_manifest


def train(home, *words: str) -> None:
    command = [sys.executable, "-m", "auricle", "train", "+experiments=digits", "training.run_name=run",
               "training.gradient_accumulation_steps=2", "training.lr_scheduler_type=constant_with_warmup", *words]
    done = subprocess.run(command, cwd=home, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
                          timeout=250, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_one_process_goes_on_where_two_sharded_ranks_ended(tmp_path):
    manifest = digits_manifest(tmp_path / "digits").folder
    home = host(tmp_path / "home", manifest, tmp_path / "mirror")
    train(home, "--nproc", "2", "training.fsdp=true", "training.max_steps=22", "mirror.targets=[]")
    run = home / "outputs" / "run"
    assert (steps.all_steps(run)[-1] / "optimizer").is_dir()
    assert open_model(str(run)).tokenizer.size == open_model(str(steps.all_steps(run)[-1])).tokenizer.size
    train(home, "training.max_steps=26", "mirror.targets=[]")
    events = list(read(run / "events.jsonl"))
    assert [event.step for event in events if event.kind == "resume"] == [22]
    world = {event.segment: event.values["world"] for event in events if event.kind == "run"}
    audio = {event.step: event.values["audio_hours"] for event in events if event.kind == "train"}
    assert world == {0: 2, 1: 1}
    assert sorted(audio) == list(range(1, 27))
    assert audio[26] / 26 == pytest.approx(audio[22] / 22, rel=0.2)  # steps of one process hold as much as those of two
