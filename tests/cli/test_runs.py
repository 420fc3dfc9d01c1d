"""`auricle runs` as it is typed."""

import json

from typer.testing import CliRunner

from auricle.cli.main import app
from tests.runs import write_run


def typed(*words):
    return CliRunner().invoke(app, [*map(str, words)])


def test_it_prints_a_line_a_run(tmp_path):
    write_run(tmp_path / "quickstart", started=1_700_000_000.0)
    write_run(tmp_path / "second", steps=50, end=None)
    head, second, first = typed("runs", tmp_path).stdout.splitlines()
    assert head.split() == ["run", "state", "step", "safe", "loss", "WER", "best", "time", "cost", "started"]
    assert first.split()[:8] == ["quickstart", "finished", "600/600", "–", "0.104", "22.7", "%", "22.7"]
    assert "10 min 0 s" in first
    assert second.split()[:6] == ["second", "running", "50/600", "–", "5.321", "–"]


def test_json_has_full_precision_and_every_field(tmp_path):
    write_run(tmp_path / "quickstart")
    (run,) = json.loads(typed("runs", tmp_path, "--json").stdout)
    assert run["wer"] == 5 / 22
    assert run["path"] == str(tmp_path / "quickstart")
    assert run.keys() >= {"name", "state", "step", "total_steps", "loss", "best_wer", "wall_seconds", "cost", "started"}


def test_json_stays_json_where_the_loss_is_not_finite(tmp_path):
    folder = write_run(tmp_path / "run", steps=25, end=None)
    text = (folder / "events.jsonl").read_text().replace('"loss": ', '"loss": "nan", "was": ')
    (folder / "events.jsonl").write_text(text)
    printed = typed("runs", tmp_path, "--json").stdout
    assert json.loads(printed, parse_constant=lambda name: 1 / 0)[0]["loss"] == "nan"


def test_no_runs_is_no_error_and_no_folder_is_one(tmp_path):
    empty, missing = typed("runs", tmp_path), typed("runs", tmp_path / "nowhere")
    assert (empty.exit_code, missing.exit_code) == (0, 2)
    assert empty.stdout.startswith("No runs in ")
    assert "no such folder" in missing.stderr
    assert json.loads(typed("runs", tmp_path, "--json").stdout) == []
