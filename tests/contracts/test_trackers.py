"""Each tracker, with its own package, fed by a real follower: it has the run's numbers, and asked for nothing."""

import importlib
import json
import sqlite3
import sys
import tomllib

import pytest

from auricle.core.errors import MissingExtra
from auricle.core.folder import find, names
from auricle.dashboard import follow
from tests.paths import ROOT
from tests.runs import CONFIG, write_run

TRACKERS = names("dashboard.trackers")


@pytest.fixture
def nobody(tmp_path, monkeypatch):
    """A user without keys and settings."""
    for variable in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT",
                     "TRACKIO_DIR", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_has_an_extra_of_its_name_and_names_it_where_the_package_is_missing(name, tmp_path, monkeypatch):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert any(requirement.startswith(name) for requirement in extras[name])
    for module in [module for module in sys.modules if module.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=rf"tracker {name} needs the extra \[{name}\]"):
        find("dashboard.trackers", name).open(tmp_path, "run", {})


def test_wandb_without_a_key_writes_offline_beside_the_run(tmp_path, nobody):
    folder = followed(tmp_path, "wandb")
    (stored,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    content = stored.read_bytes()
    assert content.count(b"train/loss") >= 24
    assert b"eval/dev/wer" in content
    assert b"conformer" in content


def test_trackio_keeps_a_database_beside_the_run(tmp_path, nobody):
    folder = followed(tmp_path, "trackio")
    with sqlite3.connect(folder / "trackio" / "auricle.db") as database:
        rows = [(step, json.loads(values)) for step, values in database.execute("select step, metrics from metrics")]
        names = {name for (name,) in database.execute("select distinct run_name from metrics")}
    database.close()
    assert names == {"quickstart"}
    assert [step for step, values in rows if "train/loss" in values] == list(range(25, 601, 25))
    assert [values["eval/dev/wer"] for _, values in rows if "eval/dev/wer" in values][-1] == 5 / 22


def test_tensorboard_reads_its_event_files(tmp_path, nobody):
    folder = followed(tmp_path, "tensorboard")
    accumulator = importlib.import_module("tensorboard.backend.event_processing.event_accumulator").EventAccumulator
    events = accumulator(str(folder / "tensorboard" / "quickstart"))
    events.Reload()
    assert [row.step for row in events.Scalars("train/loss")] == list(range(25, 601, 25))
    assert [row.value for row in events.Scalars("eval/dev/wer")][-1] == pytest.approx(5 / 22)
    assert json.loads((folder / "tensorboard" / "quickstart" / "config.json").read_text()) == CONFIG


def followed(tmp_path, name):
    folder = write_run(tmp_path / "quickstart")
    follower = follow.start(folder, name)
    assert follow.finish(follower, timeout=60.0) is None
    return folder
