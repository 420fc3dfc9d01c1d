"""Ranks that wait for each other."""

import os
import subprocess
import sys

import pytest

from tests.paths import ROOT

SCRIPT = """
import os, sys, time
from pathlib import Path
from auricle.core.config import TrainingConfig
from auricle.core.errors import Preempted
from auricle.train.engine import Engine

given_up = Path(sys.argv[1])
engine = Engine(TrainingConfig(max_steps=1, batch_seconds=1.0, device="cpu", ddp_timeout=2.0))
if engine.is_main:
    time.sleep(5)  # longer than ddp_timeout, in what is no step
assert engine.from_main(f"rank {engine.rank}") == "rank 0"
if engine.rank == 1:
    time.sleep(5)
engine.wait_patiently()
if engine.is_main:
    try:
        with engine.among_others():
            engine.sum({"loss": 1.0})
    except Preempted as error:
        given_up.write_text(str(error))
while not given_up.exists():
    time.sleep(0.1)
os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_rank_that_does_not_come_to_a_step_is_given_up_and_other_waits_are_longer(tmp_path):
    (tmp_path / "ranks.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
               str(tmp_path / "ranks.py"), str(tmp_path / "given-up")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "another rank is gone, or did not come within training.ddp_timeout" in (tmp_path / "given-up").read_text()
