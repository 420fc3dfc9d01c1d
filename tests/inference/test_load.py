import shutil

import huggingface_hub
import pytest
import torch

from auricle.core.errors import ModelError
from auricle.data.tokenizers import Characters
from auricle.inference.load import open_model
from auricle.models.parts.folder import StoredPart
from auricle.models.parts.weights import component_tensors
from auricle.tasks.ctc.config import Config
from auricle.tasks.parts.assembly import assemble, store_part
from tests.models.conformer.test_model import tiny


@pytest.fixture
def assembly():
    return assemble(tiny(), Config(), Characters("abc "))


@pytest.fixture
def checkpoint(tmp_path, assembly):
    """A checkpoint whose encoder is a part, in a run folder that shows the same model."""
    folder = tmp_path / "outputs" / "run" / "checkpoints" / "step-000000500"
    folder.mkdir(parents=True)
    name = store_part(folder.parent / "parts", component_tensors(assembly.model)["encoder"])
    for place in (folder, folder.parents[1]):
        assembly.save(place, {"encoder": StoredPart(part=name)})
    return folder


def opens(name, assembly):
    torch.testing.assert_close(open_model(str(name)).model.state_dict(), assembly.model.state_dict(), atol=0, rtol=0)


def test_a_checkpoint_and_a_run_with_frozen_parts_open_by_path(checkpoint, assembly, monkeypatch):
    opens(checkpoint, assembly)
    opens(checkpoint.parents[1], assembly)
    monkeypatch.chdir(checkpoint.parents[2])
    opens("run", assembly)
    opens("run/checkpoints/step-000000500/", assembly)


def test_what_was_opened_is_saved_whole_and_opens_alone(checkpoint, assembly, tmp_path):
    (tmp_path / "exported").mkdir()
    open_model(str(checkpoint)).save(tmp_path / "exported")
    shutil.rmtree(tmp_path / "outputs")
    opens(tmp_path / "exported", assembly)


def test_a_model_of_the_hub_brings_its_parts(checkpoint, assembly, tmp_path, monkeypatch):
    snapshot = tmp_path / "cache" / "0123abc"
    shutil.copytree(checkpoint, snapshot)
    shutil.copytree(checkpoint.parent / "parts", snapshot / "parts")
    shutil.rmtree(tmp_path / "outputs")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name: str(snapshot))
    opens("lab/recogniser", assembly)


def test_a_checkpoint_that_was_moved_away_from_its_parts_says_which_is_missing(checkpoint, tmp_path):
    shutil.move(checkpoint, tmp_path / "moved")
    with pytest.raises(ModelError, match=r"'encoder': the frozen part [0-9a-f]{32} is missing, looked for in .*moved"):
        open_model(str(tmp_path / "moved"))
