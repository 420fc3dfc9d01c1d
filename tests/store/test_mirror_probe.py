"""Trying a target: nothing stays there, and what does not work raises."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from typer.testing import CliRunner

from auricle.cli.main import app
from auricle.store import mirror_probe
from auricle.store.mirror_probe import probe
from auricle.store.targets import MirrorError
from auricle.store.targets.folder import Folder


def test_the_round_trip_leaves_nothing(tmp_path):
    assert probe(str(tmp_path / "far")).seconds > 0
    assert list((tmp_path / "far").iterdir()) == []


def test_a_copy_that_is_damaged_there_raises_and_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(Folder, "problems", lambda self, name: ["noise does not match its hash"])
    with pytest.raises(MirrorError, match=r"damaged there: noise does not match"):
        probe(str(tmp_path / "far"))
    assert list((tmp_path / "far").iterdir()) == []


def test_many_may_probe_at_once(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: probe(str(tmp_path / "far")), range(40)))
    assert list((tmp_path / "far").iterdir()) == []


def test_a_megabyte_is_verified_there(tmp_path, monkeypatch):
    seen = []
    checked = Folder.problems

    def problems(self, name):
        seen.append((self.root / name / "noise").stat().st_size)
        return checked(self, name)

    monkeypatch.setattr(Folder, "problems", problems)
    probe(str(tmp_path / "far"))
    assert seen == [mirror_probe.PROBE_BYTES] == [1_000_000]


def test_the_verb_prints_it_and_takes_secrets_from_standard_input(tmp_path, monkeypatch):
    monkeypatch.setenv("PROBE_TOKEN", "old")
    url = str(tmp_path / "far")
    done = CliRunner().invoke(app, ["mirror", "probe", url])
    assert done.exit_code == 0
    assert done.stdout.startswith(f"{url}: 1 MB went there, was verified there and removed")
    assert done.stdout.endswith("It lies on a disk of this machine, and is lost with it.\n")
    done = CliRunner().invoke(app, ["mirror", "probe", url, "--json", "--secrets"], input='{"PROBE_TOKEN": "new"}')
    shown = json.loads(done.stdout)
    assert (shown["bytes"], shown["own_disk"]) == (1_000_000, True)
    assert os.environ["PROBE_TOKEN"] == "new"


def test_a_target_that_cannot_be_written_is_exit_code_6(tmp_path):
    (tmp_path / "file").write_text("")
    done = CliRunner().invoke(app, ["mirror", "probe", str(tmp_path / "file" / "far")])
    assert done.exit_code == 6


def test_a_target_elsewhere_is_not_said_to_be_lost(monkeypatch):
    done = CliRunner().invoke(app, ["mirror", "probe", "memory://probed/far"])
    assert done.exit_code == 0
    assert "lost" not in done.stdout
