"""The YAML that ships, and how a user's own folder comes before it."""

import re
from pathlib import Path

import pytest

from auricle.core.compose import compose
from auricle.core.decode import decode
from auricle.core.errors import ConfigError
from auricle.core.library import EXPERIMENTS, Library, packaged_folder
from auricle.core.lines import read

SHIPPED = Library(Path("no/such/folder"))


def test_options_of_both_folders_are_known_those_in_folders_below_with_their_path(tmp_path):
    for name in ("model/mine.yaml", "data/hebrew/small.yaml", "config.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    library = Library(tmp_path)
    assert {"default", "mine"} <= set(library.options("model"))
    assert library.options("model") == sorted(library.options("model"))
    assert "hebrew/small" in library.options("data")
    assert {"model", "data", "data/hebrew", EXPERIMENTS} <= library.groups()
    assert library.find("model", "mine", "here") == tmp_path / "model/mine.yaml"
    with pytest.raises(ConfigError, match=r"^here: no 'model' option 'mien' in .*model, .*; did you mean 'mine'\?"):
        library.find("model", "mien", "here")


def test_the_packaged_root_is_empty_because_a_users_folder_does_without_it():
    assert read(packaged_folder() / "config.yaml").lines == {"": 1}


def test_each_key_of_the_frame_that_has_no_default_has_a_default_option():
    for group in ("model", "task", "data", "training"):
        assert "default" in SHIPPED.options(group)


@pytest.mark.parametrize("typed", [[], *([f"+experiments={name}"] for name in SHIPPED.options(EXPERIMENTS))], ids=str)
def test_what_ships_decodes(typed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert decode(compose(typed)).training.extents


@pytest.mark.parametrize("name", SHIPPED.options(EXPERIMENTS))
def test_an_experiments_head_tells_what_it_needs_and_the_exact_command(name):
    head = (packaged_folder() / EXPERIMENTS / f"{name}.yaml").read_text(encoding="utf-8").split("\ndefaults:")[0]
    told = dict(re.findall(r"^# (Hardware|Time|Cost|Expected|Command) +(.+)$", head, flags=re.MULTILINE))
    assert list(told) == ["Hardware", "Time", "Cost", "Expected", "Command"]
    assert told["Command"].startswith(f"auricle train +{EXPERIMENTS}={name}")
