"""`auricle mirror` as it is typed."""

import json

import pytest
from typer.testing import CliRunner

from auricle.cli.main import app
from tests.mirrored import add_checkpoint, contents, make_run


def typed(*words):
    return CliRunner().invoke(app, ["mirror", *map(str, words)])


@pytest.fixture
def run(tmp_path):
    run = make_run(tmp_path / "run", mirror={"targets": [str(tmp_path / "far")], "keep": 2}, training={})
    for step in (100, 200, 300):
        add_checkpoint(run, step)
    return run


def test_what_is_pushed_is_verified_shown_and_pulled(run, tmp_path):
    pushed = typed("push", run)
    assert pushed.exit_code == 0
    assert f"{run}: up to date at {tmp_path / 'far'}" in pushed.stdout
    url = tmp_path / "far" / "run"
    checked = typed("verify", url)
    assert checked.exit_code == 0
    assert [line.split() for line in checked.stdout.splitlines()] == [
        ["checkpoints/step-000000200", "ok"], ["checkpoints/step-000000300", "ok"]]
    pulled = typed("pull", url, "--to", tmp_path / "new")
    assert pulled.exit_code == 0
    assert f"{tmp_path / 'new'}: step 300" in pulled.stdout
    assert contents(tmp_path / "new")["run.json"] == contents(run)["run.json"]


def test_damage_makes_the_exit_code_one(run, tmp_path):
    typed("push", run)
    (tmp_path / "far/run/checkpoints/step-000000300/trainer.json").write_text("{}")
    checked = typed("verify", tmp_path / "far/run")
    assert checked.exit_code == 1
    assert "step-000000300  trainer.json has 2 bytes" in checked.stdout


def test_status_shows_each_mirror(run, tmp_path):
    (before,) = json.loads(typed("status", run, "--json").stdout)
    assert (before["verified_step"], before["age_seconds"]) == (None, None)
    typed("push", run)
    typed("push", run, "--to", tmp_path / "run.json" / "x")
    rows = {row["target"]: row for row in json.loads(typed("status", run, "--json").stdout)}
    good = rows[str(tmp_path / "far/run")]
    assert (good["verified_step"], good["pending"], good["error"]) == (300, [], None)
    printed = typed("status", run).stdout
    assert "verified step" in printed
    assert " 300 " in printed


def test_a_target_that_fails_is_one_line_and_exit_code_6(run, tmp_path):
    (tmp_path / "file").write_text("")
    failed = typed("push", run, "--to", tmp_path / "file" / "x")
    assert failed.exit_code == 6
    assert failed.stderr.startswith(f"error: {tmp_path / 'file'}/x/run: ")
    rows = {row["target"]: row for row in json.loads(typed("status", run, "--json").stdout)}
    row = rows[str(tmp_path / "file" / "x")]
    assert (row["tries"], row["pending"]) == (1, ["step-000000300", "step-000000200"])


def test_the_hub_gets_the_model_with_a_card_of_the_run(tmp_path, monkeypatch):
    run, there = make_run(tmp_path / "run", training={"hub_model_id": "me/speech"}), {}
    add_checkpoint(run, 100, best=True)
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda hub, *given, **named: None)
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder",
                        lambda hub, folder_path, **named: there.update(contents(folder_path)))
    assert typed("push", run).exit_code == 0
    assert there.keys() == {"README.md", "config.json", "ctc_head.safetensors"}
    assert b"auricle transcribe me/speech recording.wav" in there["README.md"]


def test_what_cannot_be_meant_is_said_in_a_sentence(tmp_path):
    run = make_run(tmp_path / "bare")
    assert "no mirror target is configured" in typed("push", run).stderr
    assert "no such folder" in typed("push", tmp_path / "nowhere", "--to", tmp_path).stderr
    assert typed("push", run, "--to", "nothing://x").exit_code == 2
    assert "no mirror; " in typed("status", run).stdout
