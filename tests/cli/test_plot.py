"""`auricle plot` as it is typed."""

import json

from matplotlib.image import imread
from typer.testing import CliRunner

from auricle.cli.main import app
from tests.runs import write_run


def typed(*words):
    return CliRunner().invoke(app, [*map(str, words)])


def test_one_run_is_plotted_into_its_folder(tmp_path):
    folder = write_run(tmp_path / "quickstart")
    assert typed("plot", folder).stdout.strip() == str(folder / "curves.png")
    assert imread(folder / "curves.png").std() > 0


def test_several_runs_and_a_foreign_state_are_plotted_together(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = tmp_path / "trainer_state.json"
    state.write_text(json.dumps({"log_history": [{"loss": 1.0, "step": 10}, {"loss": 0.5, "step": 20}]}))
    ran = typed("plot", write_run(tmp_path / "a"), state)
    assert ran.stdout.strip() == "curves.png"
    assert (tmp_path / "curves.png").exists()
    assert typed("plot", tmp_path / "a", state, "--to", tmp_path / "new" / "both.svg").exit_code == 0


def test_what_is_no_run_is_one_sentence_and_writes_nothing(tmp_path):
    folder = write_run(tmp_path / "a")
    ran = typed("plot", folder, tmp_path / "nowhere", "--to", tmp_path / "curves.png")
    assert ran.exit_code == 5
    assert ran.stderr.startswith("error: ")
    assert "no such file or folder" in ran.stderr
    assert not (tmp_path / "curves.png").exists()
    assert typed("plot", folder, "--to", tmp_path / "curves.doc").exit_code == 2
