"""Every command that the README and the documents print is run, on experiments of the same names but of seconds.

Those of `auricle remote` need machines: tests/test_remote_document.py runs them.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.speech import write_audio

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
REMOTE_PAGE = ROOT / "docs" / "remote.md"
EXPERIMENT = """# @package _global_
# A tiny stand-in for the quickstart.
training: {run_name: quickstart}
"""
JOURNEY = """# @package _global_
# A tiny stand-in for the journey.
defaults:
  - /model: whisper_turbo_tiny
  - /data: default
  - /training: default
training: {run_name: tiny_journey, trainable: [projector]}
"""
VOXFORMER = """# @package _global_
# A tiny stand-in for a small VoxFormer.
defaults:
  - /model: voxformer_tiny
  - /data: default
  - /training: default
model:
  frontend: {normalize: none}
  encoder: {width: 16, feedforward_width: 16}
  streaming: {}
task: {max_new_tokens: 4}
training: {run_name: NAME}
"""
DEFAULTS = {
    "model": "kind: conformer\nwidth: 16\nlayers: 1\nheads: 2\nsubsampling_channels: 4\n",
    "data": """datasets:
  commands:
    source: {kind: synth, utterances: 60, dev_utterances: 8, test_utterances: 8, words_per_minute: [110, 150]}
""",
    "training": "max_steps: 4\nbatch_seconds: 24\nlearning_rate: 1e-3\ndataloader_num_workers: 0\nlogging_steps: 1\n",
}


def commands_of(pages: Iterable[Path]) -> list[str]:
    """The lines of all ```bash blocks, without their comments."""
    texts = [page.read_text(encoding="utf-8") for page in pages]
    blocks = [block for text in texts for block in re.findall(r"```bash\n(.*?)```", text, re.S)]
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def documented() -> list[str]:
    """Each once, without those that need machines."""
    pages = [page for page in PAGES if page != REMOTE_PAGE]
    return [line for line in dict.fromkeys(commands_of(pages)) if not line.startswith("auricle remote ")]


def run(command: str, folder: Path) -> str:
    auricle = f"{shlex.quote(sys.executable)} -m auricle "
    words = command.replace(".venv/bin/auricle", "auricle").replace("auricle ", auricle, 1)
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "COLUMNS": "200"}
    done = subprocess.run(words, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False,
                          stdin=subprocess.DEVNULL, timeout=280)
    assert done.returncode == 0, f"{command}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
    return done.stdout


def made_by(target: str) -> list[str]:
    """What make would run for a target, without the installation."""
    listed = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if line.startswith(".venv/bin/") and "pip install" not in line]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_documented_command_runs(tmp_path):
    for group, text in DEFAULTS.items():
        path = tmp_path / "configs" / "hydra" / group / "default.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    (tmp_path / "configs" / "hydra" / "experiments").mkdir()
    (tmp_path / "configs" / "hydra" / "experiments" / "quickstart.yaml").write_text(EXPERIMENT)
    (tmp_path / "configs" / "hydra" / "experiments" / "tiny_journey.yaml").write_text(JOURNEY)
    for name in ("voxformer_tiny", "voxformer_streaming_tiny"):
        path = tmp_path / "configs" / "hydra" / "experiments" / f"{name}.yaml"
        path.write_text(VOXFORMER.replace("NAME", name))
    for number in range(12):
        write_audio(tmp_path / "recordings" / f"{number}.wav", seconds=0.5 + 0.1 * number)
        (tmp_path / "recordings" / f"{number}.txt").write_text("a word")
    commands = documented()
    assert "make quickstart" in commands
    assert "make test" in commands
    for command in made_by("quickstart"):
        run(command, tmp_path)
    for command in commands:
        if not command.startswith("make "):
            run(command, tmp_path)
    assert (tmp_path / "outputs" / "tiny_journey" / "report.html").is_file()
    assert "is done" in run("auricle train +experiments=quickstart", tmp_path)


def test_make_test_runs_the_tests_and_the_workflow_runs_make():
    assert made_by("test") == ['.venv/bin/python -m pytest -n auto -m "not long"']
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
