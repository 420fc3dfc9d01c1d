"""An empty machine, and a mirror."""

import pytest

from auricle.core.errors import RunFolderError
from auricle.store import directory, steps
from auricle.store.mirror_restore import restore, verified
from auricle.store.targets import BrokenOff, MirrorError, folder
from tests.mirrored import add_checkpoint, contents, make_run, mirror


@pytest.fixture
def run(tmp_path):
    """A run whose best checkpoint is an old one, mirrored."""
    run = make_run(tmp_path / "run")
    add_checkpoint(run, 100, part=b"frozen", best=True)
    for step in (200, 300):
        add_checkpoint(run, step, part=b"frozen")
    steps.expose(run, steps.path_of(run, 100))
    (run / "latest.json").write_text('{"step": 300, "checkpoint": "step-000000300"}')
    pushed = mirror(run, tmp_path / "far")
    while not pushed.is_complete():
        pushed.push()
    return run


@pytest.fixture
def there(tmp_path):
    return tmp_path / "far" / "run"


def back(there, to, said=None, name=None):
    return restore(str(there), name, to, report=(said if said is not None else []).append,
                   progress=lambda what, done, size: None)


def flip(path):
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])


def test_an_empty_machine_gets_the_same_bytes(run, there, tmp_path):
    result = back(there.parent, tmp_path / "new" / "run", name="run")
    restored = contents(tmp_path / "new" / "run")
    original = {name: content for name, content in contents(run).items()
                if "step-000000200" not in name and not name.startswith("mirrors/")}
    assert restored == original
    assert result.step == 300
    assert result.bytes > 80_000
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["run"]
    assert (tmp_path / "new/run/ctc_head.safetensors").samefile(
        tmp_path / "new/run/checkpoints/step-000000100/ctc_head.safetensors")


def test_nothing_is_overwritten(run, there, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "mine").write_text("mine")
    with pytest.raises(RunFolderError, match="is not empty"):
        back(there, tmp_path / "new")
    assert contents(tmp_path / "new") == {"mine": b"mine"}


def test_an_empty_folder_is_as_good_as_none(run, there, tmp_path):
    (tmp_path / "new").mkdir()
    assert back(there, tmp_path / "new").step == 300


@pytest.mark.parametrize("file", ["optimizer.safetensors", directory.CHECKSUMS])
def test_a_damaged_copy_is_passed_over_for_the_one_before_it(run, there, tmp_path, file):
    flip(there / "checkpoints" / "step-000000300" / file)
    said = []
    assert back(there, tmp_path / "new", said).step == 200
    assert steps.problems(tmp_path / "new/checkpoints/step-000000200") == []
    assert (tmp_path / "new/latest.json").read_text() == '{"step": 200, "checkpoint": "step-000000200"}'
    if file != directory.CHECKSUMS:
        assert "step-000000300" in said[0]


def test_without_the_part_that_they_name_no_checkpoint_is_good(run, there, tmp_path):
    flip(next(there.rglob("weights.safetensors")))
    said = []
    with pytest.raises(MirrorError, match="no checkpoint that verifies"):
        back(there, tmp_path / "new", said)
    assert not (tmp_path / "new").exists()
    assert len(said) == 3


def test_a_damaged_best_leaves_the_newest_in_its_place(run, there, tmp_path):
    flip(there / "checkpoints" / "step-000000100" / "ctc_head.safetensors")
    said = []
    assert back(there, tmp_path / "new", said).step == 300
    assert (tmp_path / "new/ctc_head.safetensors").samefile(
        tmp_path / "new/checkpoints/step-000000300/ctc_head.safetensors")
    assert "step-000000100, the best one" in said[0]


def test_a_restore_that_broke_off_goes_on(run, there, tmp_path, monkeypatch):
    def fail(self, to):
        raise MirrorError("down")

    monkeypatch.setattr(folder.Folder, "get_files", fail)
    with pytest.raises(MirrorError):
        back(there, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    monkeypatch.undo()
    fetched = []
    real = folder.Folder.get
    monkeypatch.setattr(folder.Folder, "get", lambda *given: (fetched.append(given[1]), real(*given)))
    assert back(there, tmp_path / "new").step == 300
    assert fetched == []


def test_a_failure_of_the_network_is_not_taken_for_damage(run, there, tmp_path, monkeypatch):
    def fail(self, name, to, progress):
        raise MirrorError("down")

    monkeypatch.setattr(folder.Folder, "get", fail)
    with pytest.raises(MirrorError, match="down"):
        back(there, tmp_path / "new")


def test_a_link_that_broke_off_is_not_asked_again(run, there, tmp_path, monkeypatch):
    asked = []

    def fail(self, name, to, progress):
        asked.clear()
        raise BrokenOff("no answer")

    monkeypatch.setattr(folder.Folder, "get", fail)
    for question in ("held", "problems", "read"):
        real = getattr(folder.Folder, question)
        monkeypatch.setattr(folder.Folder, question, lambda *given, real=real: (asked.append(real), real(*given))[1])
    with pytest.raises(BrokenOff, match="no answer"):
        back(there, tmp_path / "new")
    assert asked == [], "each would cost its own time-out"


def test_an_empty_place_holds_no_run(tmp_path):
    with pytest.raises(MirrorError, match="holds no checkpoint"):
        back(tmp_path / "far", tmp_path / "new")


def test_verification_tells_of_each_directory_and_of_missing_parts(run, there):
    assert len(list(verified(str(there)))) == 4
    assert not any(wrong for _, wrong in verified(str(there)))
    part = next(there.glob("checkpoints/parts/*"))
    directory.retire(part)
    assert dict(verified(str(there)))["checkpoints/step-000000300"] == [f"checkpoints/parts/{part.name} is missing"]
