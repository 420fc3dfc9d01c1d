import sys

import pytest

from auricle.core.errors import ConfigError
from auricle.core.folder import ROOMS, find, names


@pytest.mark.parametrize("room", ROOMS)
def test_every_entry_that_a_room_lists_is_found(room):
    assert names(room)
    for name in names(room):
        assert find(room, name).__name__ == f"auricle.{room}.{name}"


def test_an_unknown_kind_names_the_nearest():
    with pytest.raises(ConfigError, match="no model 'conformr'; did you mean 'conformer'"):
        find("models", "conformr")


def test_a_dotted_kind_is_private_code(tmp_path, monkeypatch):
    (tmp_path / "my_lab_metric.py").write_text("VALUE = 1\n")
    (tmp_path / "my_lab").mkdir()
    (tmp_path / "my_lab" / "__init__.py").write_text("")
    (tmp_path / "my_lab" / "mer.py").write_text("VALUE = 2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find("metrics", "my_lab.mer").VALUE == 2
    sys.modules.pop("my_lab.mer"), sys.modules.pop("my_lab")
    with pytest.raises(ConfigError, match=r"cannot import 'my_lab\.gone'"):
        find("metrics", "my_lab.gone")


def test_a_part_of_a_folder_entry_is_its_file():
    assert find("models", "conformer", "config").__name__ == "auricle.models.conformer.config"
    assert find("metrics", "wer", "config").__name__ == "auricle.metrics.wer"


@pytest.mark.parametrize("kind", ["nolab.x", "a..b", ".x", "..", "../x", "", "con-former"])
def test_a_kind_that_cannot_be_a_module_is_a_sentence(kind):
    with pytest.raises(ConfigError):
        find("models", kind)
