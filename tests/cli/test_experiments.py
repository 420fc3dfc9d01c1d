"""`auricle experiments`: copies and the schema."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from auricle.cli.main import app
from auricle.core.compose import compose
from auricle.core.library import packaged_folder


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*arguments: str):
    return CliRunner().invoke(app, ["experiments", *arguments])


def test_a_copy_lands_where_it_is_found_first():
    result = run("copy", "quickstart")
    assert result.exit_code == 0
    assert "auricle train +experiments=quickstart" in result.stdout
    copied = Path("configs/hydra/experiments/quickstart.yaml")
    assert copied.read_bytes() == (packaged_folder() / "experiments/quickstart.yaml").read_bytes()
    copied.write_text("training: {seed: 7}\n", encoding="utf-8")
    assert compose(["+experiments=quickstart"]).values["training"]["seed"] == 7


def test_a_copy_may_have_another_name():
    result = run("copy", "quickstart", "--to", "configs/hydra/experiments/mine.yaml")
    assert "auricle train +experiments=mine" in result.stdout
    assert compose(["+experiments=mine"]).values == compose(["+experiments=quickstart"]).values


@pytest.mark.parametrize("command", [["copy", "quickstart"], ["schema"]])
def test_what_is_there_is_never_overwritten(command):
    Path("mine.yaml").write_text("mine", encoding="utf-8")
    result = run(*command, "--to", "mine.yaml")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: mine.yaml: exists already; choose another file with --to")
    assert Path("mine.yaml").read_text(encoding="utf-8") == "mine"


def test_a_place_that_cannot_be_written_is_one_sentence():
    Path("file").touch()
    result = run("copy", "quickstart", "--to", "file/below.yaml")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: file/below.yaml: cannot be written (")


def test_an_unknown_experiment_is_answered_with_the_nearest():
    result = run("copy", "quickstar")
    assert result.exit_code == 2
    assert "no experiment 'quickstar'" in result.stderr
    assert "did you mean 'quickstart'?" in result.stderr
    assert not Path("configs").exists()


def test_the_schema_is_printed_or_written_the_same():
    printed = json.loads(run("schema").stdout)
    assert run("schema", "--to", "schema.json").exit_code == 0
    assert json.loads(Path("schema.json").read_text(encoding="utf-8")) == printed
    assert printed["title"] == "Auricle experiment"
