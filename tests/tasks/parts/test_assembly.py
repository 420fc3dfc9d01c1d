import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from auricle.core.errors import ModelError
from auricle.core.frame import Block
from auricle.data.tokenizers import Characters
from auricle.models.parts.folder import StoredPart, load_weights, save_model
from auricle.models.parts.weights import component_tensors, write_tensors
from auricle.store import directory
from auricle.tasks.ctc.config import Config
from auricle.tasks.parts.assembly import assemble, load, store_part
from tests.models.conformer.test_model import tiny

NAMES = ("encoder", "ctc_head")


def assembled(seed):
    torch.manual_seed(seed)
    return assemble(tiny(), Config(), Characters("abc "))


@pytest.fixture(scope="module")
def first():
    return assembled(1)


def same(model, other):
    theirs = other.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in model.state_dict().items())


def checkpoint(run, assembly, frozen=("encoder",)):
    """A checkpoint of a run, some components of it as parts; → (its folder, hash by component)."""
    tensors = component_tensors(assembly.model)
    hashes = {name: store_part(run / "checkpoints" / "parts", tensors[name]) for name in frozen}
    folder = run / "checkpoints" / "step-000000500"
    folder.mkdir()
    assembly.save(folder, {name: StoredPart(part=hashes[name]) for name in frozen})
    return folder, hashes


class Toy(nn.Module):
    """Three components, of which two share a tensor, and a tensor of none."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.a, self.b, self.c = nn.Embedding(4, 3), nn.Linear(3, 4), nn.BatchNorm1d(3)
        self.b.weight = self.a.weight
        nn.init.normal_(self.c.weight)
        self.register_buffer("scale", torch.rand((), dtype=torch.float64))

    def components(self):
        return {"a": self.a, "b": self.b, "c": self.c}


@settings(max_examples=25, deadline=None)
@given(st.sets(st.sampled_from(["a", "b", "c", "model"])), st.booleans(), st.sampled_from(["parts", "../parts"]))
def test_whichever_components_are_parts_the_same_tensors_come_back(frozen, partial, place):
    first, second = Toy(1), Toy(2)
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "model"
        folder.mkdir()
        tensors = component_tensors(first)
        parts = {name: StoredPart(part=store_part(folder / place, tensors[name])) for name in sorted(frozen)}
        save_model(folder, first, parts=parts, model_config=Block(kind="toy"), task_config=Block(kind="none"),
                   vocabulary=4)
        files = {path.stem for path in folder.glob("*.safetensors")}
        report = load_weights(second, folder, partial=partial)
    assert files == {"a", "b", "c", "model"} - frozen
    assert (report.loaded, report.missing, report.unexpected) == (8, (), ())
    assert same(second, first)
    assert second.a.weight is second.b.weight


def test_a_part_is_stored_once_as_a_verified_directory_whatever_the_order_of_its_tensors(tmp_path):
    tensors = component_tensors(Toy(1))["c"]
    name = store_part(tmp_path / "new" / "parts", tensors)
    folder = tmp_path / "new" / "parts" / name
    before = (folder / "weights.safetensors").stat()
    assert store_part(tmp_path / "new" / "parts", dict(reversed(tensors.items()))) == name
    assert (folder / "weights.safetensors").stat() == before
    assert directory.problems(folder) == []
    assert name == directory.digest(folder / "weights.safetensors")
    assert [path.name for path in folder.parent.iterdir()] == [name]
    assert store_part(tmp_path / "new" / "parts", component_tensors(Toy(2))["c"]) != name


def test_a_damaged_part_is_mended_when_it_is_stored_again(tmp_path):
    tensors = component_tensors(Toy(1))["c"]
    name = store_part(tmp_path, tensors)
    (tmp_path / name / "weights.safetensors").write_text("junk")
    assert store_part(tmp_path, tensors) == name
    assert directory.problems(tmp_path / name) == []
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_bytes_of_a_part_hash_the_same_in_another_process(tmp_path):
    code = ("import sys, torch; from pathlib import Path; from auricle.tasks.parts.assembly import store_part\n"
            "tensors = {f'layers.{n}.weight': torch.arange(n + 1.0) for n in range(50)}\n"
            "print(store_part(Path(sys.argv[1]), tensors))")
    there = subprocess.run([sys.executable, "-c", code, str(tmp_path / "there")], capture_output=True, text=True,
                           check=True, env={**os.environ, "PYTHONHASHSEED": "17"})
    here = store_part(tmp_path / "here", {f"layers.{n}.weight": torch.arange(n + 1.0) for n in range(50)})
    assert there.stdout.strip() == here


@pytest.mark.parametrize("frozen", [(), ("encoder",), NAMES])
def test_a_checkpoint_and_its_run_open_and_what_is_exported_needs_no_part(tmp_path, monkeypatch, first, frozen):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    folder, _ = checkpoint(run, first, frozen)
    for path in folder.iterdir():
        (run / path.name).hardlink_to(path)
    exported = tmp_path / "exported"
    exported.mkdir()
    monkeypatch.chdir(folder)
    for place in (folder, run, Path()):
        opened = load(place)
        assert same(opened.model, first.model)
        assert opened.tokenizer.alphabet == first.tokenizer.alphabet
    load(folder).save(exported)
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(run)
    assert same(load(exported).model, first.model)


def test_the_static_files_and_the_weights_are_a_whole_folder(tmp_path, first):
    first.write_static(tmp_path)
    with pytest.raises(ModelError, match=r"encoder\.safetensors: no such file"):
        load(tmp_path)
    for name, tensors in component_tensors(first.model).items():
        write_tensors(tmp_path / f"{name}.safetensors", tensors)
    assert same(load(tmp_path).model, first.model)


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize(("content", "said"), [
    (None, "'encoder': the frozen part {part} is missing, looked for in {places}. Copy it there"),
    (b"", "'encoder': {path} is damaged (its hash is 99aa06d3014798d86001c324468d497f); expected the frozen part"),
    ("flip", "'encoder': {path} is damaged (its hash is ")])
def test_a_missing_or_damaged_part_is_one_sentence_and_nothing_is_loaded(tmp_path, first, content, said, partial):
    (tmp_path / "checkpoints").mkdir()
    folder, hashes = checkpoint(tmp_path, first)
    path = tmp_path / "checkpoints" / "parts" / hashes["encoder"] / "weights.safetensors"
    if content is None:
        shutil.rmtree(path.parent)
    else:
        good = path.read_bytes()
        path.write_bytes(content if content != "flip" else good[:-1] + bytes([good[-1] ^ 1]))
    second = assembled(2)
    before = {name: tensor.clone() for name, tensor in second.model.state_dict().items()}
    with pytest.raises(ModelError) as caught:
        load_weights(second.model, folder, partial=partial)
    places = ", ".join(str(place / "parts") for place in (folder, folder.parent, folder / "checkpoints"))
    assert said.format(part=hashes["encoder"], path=path, places=places) in str(caught.value)
    assert hashes["encoder"] in str(caught.value)
    assert "\n" not in str(caught.value)
    torch.testing.assert_close(second.model.state_dict(), before, atol=0, rtol=0)


def test_a_good_copy_elsewhere_stands_in_for_a_damaged_part(tmp_path, first):
    (tmp_path / "checkpoints").mkdir()
    folder, hashes = checkpoint(tmp_path, first)
    shutil.copytree(folder.parent / "parts", folder / "parts")
    (folder / "parts" / hashes["encoder"] / "weights.safetensors").write_text("junk")
    assert same(load(folder).model, first.model)


def test_blocks_that_this_version_does_not_know_are_an_error_of_the_model(tmp_path, first):
    first.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for model in ({**config["model"], "kind": "telepathy"}, {**config["model"], "depth": 3}, {}):
        (tmp_path / "config.json").write_text(json.dumps({**config, "model": model}))
        with pytest.raises(ModelError, match=r"config\.json: .*another version of Auricle"):
            load(tmp_path)
