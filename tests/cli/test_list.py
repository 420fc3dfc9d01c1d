"""`auricle list`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from auricle.cli.list import ROOMS, WHAT
from auricle.cli.main import app
from auricle.core.folder import names
from auricle.core.text import NORMALIZERS


def listed(*arguments: str) -> list[dict[str, str]]:
    result = CliRunner().invoke(app, ["list", *arguments, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("what", ROOMS)
def test_a_room_is_listed_with_a_sentence_about_each_entry(what):
    rows = listed(what)
    assert [row["name"] for row in rows] == names(ROOMS[what])
    assert all(row["what"] for row in rows)


def test_experiments_are_listed_with_their_first_line_a_users_own_among_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = Path("configs/hydra/experiments/mine.yaml")
    mine.parent.mkdir(parents=True)
    mine.write_text("# @package _global_\n# My own words.\ntraining: {}\n", encoding="utf-8")
    rows = {row["name"]: row["what"] for row in listed("experiments")}
    assert rows["mine"] == "My own words."
    assert "spoken game commands" in rows["quickstart"]


def test_normalizers_are_listed_with_their_versions():
    rows = listed("normalizers")
    assert [row["name"] for row in rows] == list(NORMALIZERS)
    assert all(row["what"].startswith("version ") for row in rows)


@pytest.mark.parametrize("what", WHAT)
def test_for_eyes_each_entry_is_a_line(what):
    result = CliRunner().invoke(app, ["list", what])
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 1 + len(listed(what))


def test_an_unknown_word_is_answered_with_the_nearest():
    result = CliRunner().invoke(app, ["list", "model"])
    assert result.exit_code == 2
    assert "error: auricle list: nothing is called 'model'; did you mean 'models'?" in result.stderr


def test_listing_imports_no_torch():
    code = ("import sys, auricle.cli.list as verb\nfor what in verb.WHAT: verb.list(what, as_json=True)\n"
            "assert 'torch' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
