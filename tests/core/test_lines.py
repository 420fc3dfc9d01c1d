"""Places in YAML files."""

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from auricle.core.lines import Default, Origins, read

TEXT = """\
# @package _global_
#
# Small and quick.
# Hardware: any
defaults:
  - base
  - /model: large
  - override /data: [a, b]
  - optional /task:
training:
  seed: 1
  speeds:
    - 0.9
    - {low: 1, high: 2}
anchored: &shared {a: 1}
merged:
  <<: *shared
"""


def test_each_key_has_its_line(tmp_path):
    (tmp_path / "x.yaml").write_text(TEXT, encoding="utf-8")
    document = read(tmp_path / "x.yaml")
    assert document.title == "Small and quick."
    assert document.lines["training.seed"] == 11
    assert document.lines["training.speeds.0"] == 13
    assert document.lines["training.speeds.1.high"] == 14
    assert document.defaults == (
        Default("", "base", 6), Default("/model", "large", 7), Default("override /data", "a", 8),
        Default("override /data", "b", 8), Default("optional /task", None, 9))


def test_an_empty_file_has_no_keys(tmp_path):
    (tmp_path / "x.yaml").write_text("", encoding="utf-8")
    document = read(tmp_path / "x.yaml")
    assert (document.title, document.lines, document.defaults) == ("", {"": 1}, ())


def test_a_file_below_the_working_directory_is_shown_as_users_type_it(tmp_path, monkeypatch):
    (tmp_path / "x.yaml").touch()
    assert read(tmp_path / "x.yaml").at(3) == f"{tmp_path}/x.yaml:3"
    monkeypatch.chdir(tmp_path)
    assert read(tmp_path / "x.yaml").at(3) == "x.yaml:3"


@settings(deadline=None)
@given(st.lists(st.text("abc", min_size=1), max_size=4))
def test_every_key_has_some_place(parts):
    origins = Origins((("", read(Path(__file__).parents[2] / "configs/hydra/training/default.yaml")),), ())
    assert origins.where(".".join(parts)).endswith("default.yaml:1")
