"""Bad input at the command line: one sentence a mistake, exit code 2, no traceback, nothing written."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from auricle.cli.main import app


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refused(*overrides: str) -> list[str]:
    result = CliRunner().invoke(app, ["train", *overrides])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert not Path("outputs").exists()
    assert not Path("data").exists()
    lines = result.stderr.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    return [line.removeprefix("error: ") for line in lines]


@pytest.mark.parametrize(("typed", "beginning", "hint"), [
    ("trainin.max_steps=3", "override 'trainin.max_steps=3': no group or key 'trainin'", "did you mean 'training'?"),
    ("modle=large", "override 'modle=large': no group or key 'modle'", "did you mean 'model'?"),
    ("model=defualt", "override 'model=defualt': no 'model' option 'defualt'", "did you mean 'default'?"),
    ("+experiments=quickstrat", "override '+experiments=quickstrat': no experiment 'quickstrat'",
     "did you mean 'quickstart'?"),
    ("training.max_step=3", "override 'training.max_step=3': no key 'training.max_step' (3)",
     "did you mean 'max_steps'?"),
    ("data.augment.spec_augment.time_mask=3",
     "override 'data.augment.spec_augment.time_mask=3': no key 'data.augment.spec_augment.time_mask' (3)",
     "did you mean 'time_masks'?"),
    ("model.widht=3", "override 'model.widht=3': no key 'model.widht' (3)", "did you mean 'width'?"),
    ("model.kind=conformr", "override 'model.kind=conformr': model.kind: no model 'conformr'",
     "did you mean 'conformer'?"),
    ("task.kind=cct", "override 'task.kind=cct': task.kind: no task 'cct'", "did you mean 'ctc'?"),
    ("data.datasets.commands.wieght=3", "override 'data.datasets.commands.wieght=3': no key", "did you mean 'weight'?"),
    ("data.datasets.commands.source.kind=sinth", "override 'data.datasets.commands.source.kind=sinth': ",
     "did you mean 'synth'?"),
    ("stages.warm.max_step=3", "override 'stages.warm.max_step=3': no key 'stages.warm.max_step' (3)",
     "did you mean 'max_steps'?"),
    ("training.max_steps=ten", "override 'training.max_steps=ten': training.max_steps is \"ten\"",
     "expected a whole number"),
    ("training.max_steps=", "override 'training.max_steps=': training.max_steps is \"\"", "expected a whole number"),
    ("foo bar", "override 'foo bar': expected key=value", ""),
])
def test_a_typo_is_one_sentence_with_the_nearest_name(typed, beginning, hint):
    [line] = refused(typed)
    assert line.startswith(beginning)
    assert hint in line


def test_all_mistakes_of_a_command_are_told_at_once():
    assert len(refused("training.max_steps=ten", "model.widht=3", "stages.warm.sed=1")) == 3


def test_a_mistake_in_a_file_is_told_with_its_line():
    experiments = Path("configs/hydra/experiments")
    experiments.mkdir(parents=True)
    for name, text in {"mine": "# @package _global_\ntraining:\n  max_steps: 3\n  warmup_step: 5\n",
                       "twice": "training: {seed: 1}\ntraining: {seed: 2}\n", "broken": "training: [1\n"}.items():
        (experiments / f"{name}.yaml").write_text(text, encoding="utf-8")
    [line] = refused("+experiments=mine")
    assert line.startswith("configs/hydra/experiments/mine.yaml:4: no key 'training.warmup_step' (5); did you mean")
    [line] = refused("+experiments=twice")
    assert line.startswith("configs/hydra/experiments/twice.yaml:2: key 'training' stands twice, first in line 1")
    [line] = refused("+experiments=broken")
    assert line.startswith("configs/hydra/experiments/broken.yaml:2: not YAML")


def test_a_real_process_ends_with_the_same_code_and_no_traceback():
    command = [sys.executable, "-m", "auricle", "train", "foo bar"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: override 'foo bar': expected key=value")
    assert "Traceback" not in done.stderr
