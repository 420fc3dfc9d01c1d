import json

import pytest
import torch
from torch import nn

from auricle.core.errors import ModelError
from auricle.core.frame import Block
from auricle.models.parts.folder import HubPart, StoredPart, load_weights, read_config, save_model, write_static
from auricle.models.parts.weights import component_tensors, weight_files, weights_hash


class Toy(nn.Module):
    def __init__(self, width=3, extra=False):
        super().__init__()
        self.embed, self.out = nn.Embedding(5, width), nn.Linear(width, 5)
        self.out.weight = self.embed.weight
        self.register_buffer("scale", torch.rand(2))
        if extra:
            self.extra = nn.Linear(2, 2)

    def components(self):
        return {"all": self}


class Parts(Toy):
    """A tensor that two components share, one component that owns nothing alone, and a buffer of none."""

    def components(self):
        return {"embed": self.embed, "twin": self.embed, "out": self.out}


class Task(Block):
    labels: int = 4


STATIC = {"model_config": Block(kind="toy"), "task_config": Task(kind="counting"), "vocabulary": 5}
HUB = {"hub": "lab/encoder", "revision": "0123abc"}


def saved(folder, model, **parts):
    save_model(folder, model, parts=parts, **STATIC)
    return folder


def values(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_what_was_saved_is_loaded_tied_tensors_and_buffers_too(tmp_path):
    first, second = Toy(), Toy()
    report = load_weights(second, saved(tmp_path, first))
    assert (report.loaded, report.missing, report.unexpected) == (3, (), ())
    torch.testing.assert_close(values(second), values(first), atol=0, rtol=0)
    assert second.out.weight is second.embed.weight


def test_a_compiled_model_saves_under_the_bare_names(tmp_path):
    first, second = Toy(), Toy()
    load_weights(second, saved(tmp_path, torch.compile(first)))
    assert torch.equal(second.out.bias, first.out.bias)


def test_the_configuration_comes_back(tmp_path):
    config = read_config(saved(tmp_path, Toy()))
    assert config.model == {"kind": "toy"}
    assert config.task == {"kind": "counting", "labels": 4}
    assert config.vocabulary == 5
    assert config.auricle
    assert (config.weights, config.parts) == (("all.safetensors",), {})


@pytest.mark.parametrize(("theirs", "ours", "partial", "message"), [
    (Toy(width=4), Toy(), True, r"embed.weight is \(5, 4\), the model's is \(5, 3\)"),
    (Toy(), Toy(extra=True), False, "missing: extra.bias, extra.weight; not in the model: none"),
    (Toy(extra=True), Toy(), False, "missing: none; not in the model: extra.bias, extra.weight")])
def test_weights_of_another_model_are_refused_and_the_model_stays_as_it_was(tmp_path, theirs, ours, partial, message):
    before = values(ours)
    with pytest.raises(ModelError, match=message):
        load_weights(ours, saved(tmp_path, theirs), partial=partial)
    torch.testing.assert_close(values(ours), before, atol=0, rtol=0)


def test_a_partial_start_reports_what_is_new(tmp_path):
    first, second = Toy(), Toy(extra=True)
    report = load_weights(second, saved(tmp_path, first), partial=True)
    assert (report.loaded, report.missing, report.unexpected) == (3, ("extra.bias", "extra.weight"), ())
    assert torch.equal(second.out.bias, first.out.bias)


def test_a_partial_start_with_nothing_in_common_is_refused(tmp_path):
    other = nn.Module()
    other.lonely, other.components = nn.Linear(2, 2), dict
    with pytest.raises(ModelError, match="has 0 of the model's 2 tensors"):
        load_weights(other, saved(tmp_path, Toy()), partial=True)


@pytest.mark.parametrize(("name", "content", "message"), [
    ("config.json", None, "no config.json; expected a model folder"),
    ("config.json", "{", "the file: Invalid JSON"),
    ("config.json", json.dumps({"model_type": "whisper"}), "expected a model folder that Auricle wrote"),
    ("config.json", json.dumps({"format": "auricle-1"}), "format: "),
    ("all.safetensors", None, "no such file"), ("all.safetensors", "", "damaged"),
    ("all.safetensors", "junk", "damaged")])
def test_a_folder_that_is_no_model_is_one_sentence(tmp_path, name, content, message):
    saved(tmp_path, Toy())
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ModelError, match=message) as caught:
        (read_config(tmp_path), load_weights(Toy(), tmp_path))
    assert "\n" not in str(caught.value)


def test_each_component_has_its_file_and_a_shared_tensor_lies_with_the_first_owner(tmp_path):
    model = Parts()
    files = weight_files(model)
    assert {name: set(tensors) for name, tensors in files.items()} == {
        "embed.safetensors": {"embed.weight"}, "out.safetensors": {"out.bias"}, "model.safetensors": {"scale"}}
    assert files["embed.safetensors"]["embed.weight"] is model.embed.weight
    assert set(weight_files(model, without={"embed", "twin"})) == {"out.safetensors", "model.safetensors"}
    saved(tmp_path, model)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", *files}
    second = Parts()
    assert load_weights(second, tmp_path).loaded == 3
    torch.testing.assert_close(values(second), values(model), atol=0, rtol=0)


def test_the_static_part_is_the_configuration_alone_and_the_same_as_in_a_whole_folder(tmp_path):
    (tmp_path / "whole").mkdir()
    parts = {"embed": StoredPart(part="0" * 32)}
    write_static(tmp_path, Parts(), parts=parts, **STATIC)
    saved(tmp_path / "whole", Parts(), **parts)
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "config.json"}
    assert (tmp_path / "config.json").read_bytes() == (tmp_path / "whole" / "config.json").read_bytes()
    assert read_config(tmp_path).weights == ("model.safetensors", "out.safetensors")
    assert read_config(tmp_path).parts == parts


def test_a_tensor_file_that_the_configuration_does_not_name_is_not_read(tmp_path):
    saved(tmp_path, Toy())
    (tmp_path / "optimizer.safetensors").write_text("junk")
    assert load_weights(Toy(), tmp_path).loaded == 3


def test_files_are_as_readable_as_others_are(tmp_path):
    saved(tmp_path, Toy())
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1


def test_a_good_file_beside_a_damaged_one_is_not_loaded(tmp_path):
    saved(tmp_path, Parts())
    (tmp_path / "out.safetensors").write_bytes((tmp_path / "out.safetensors").read_bytes()[:-1])
    model = Parts()
    before = values(model)
    with pytest.raises(ModelError, match=r"out\.safetensors: damaged"):
        load_weights(model, tmp_path)
    torch.testing.assert_close(values(model), before, atol=0, rtol=0)


@pytest.mark.parametrize(("weights", "parts"), [
    (["../other.safetensors"], {}), (["/tmp/other.safetensors"], {}), (["model.bin"], {}),
    ([], {"embed": {"part": "../../0"}}), ([], {"embed": {"hub": "lab/encoder"}})])
def test_a_configuration_names_only_files_of_its_folder_and_whole_parts(tmp_path, weights, parts):
    config = json.loads((saved(tmp_path, Toy()) / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "weights": weights, "parts": parts}))
    with pytest.raises(ModelError, match=r"config.json: (weights|parts)\."):
        read_config(tmp_path)


def hub_part(model, component):
    return HubPart(**HUB, hash=weights_hash(component_tensors(model)[component]))


@pytest.mark.parametrize("partial", [False, True])
def test_a_part_of_the_hub_is_not_held_and_is_verified_in_the_model_as_built(tmp_path, partial):
    first, second = Parts(), Parts()
    second.embed.load_state_dict(first.embed.state_dict())
    saved(tmp_path, first, embed=hub_part(first, "embed"))
    assert not (tmp_path / "embed.safetensors").exists()
    assert load_weights(second, tmp_path, partial=partial).loaded == 3
    torch.testing.assert_close(values(second), values(first), atol=0, rtol=0)
    with torch.no_grad():
        second.embed.weight[0, 0] += 1e-3
    before, names = values(second), [weights_hash({"embed.weight": m.embed.weight}) for m in (second, first)]
    with pytest.raises(ModelError, match=f"'embed': the weights of lab/encoder at .* {names[0]}; expected {names[1]}"):
        load_weights(second, tmp_path, partial=partial)
    torch.testing.assert_close(values(second), before, atol=0, rtol=0)


def test_a_part_of_the_hub_that_the_model_lacks_is_unexpected(tmp_path):
    first = Parts()
    saved(tmp_path, first, other=HubPart(**HUB, hash="0" * 32))
    with pytest.raises(ModelError, match="not in the model: other"):
        load_weights(Parts(), tmp_path)
    assert load_weights(Parts(), tmp_path, partial=True).unexpected == ("other",)


def test_the_hash_of_weights_tells_names_types_shapes_and_values():
    ones = torch.ones(2, 3)
    different = [{"a": ones}, {"b": ones}, {"a": ones.double()}, {"a": ones.T}, {"a": ones.reshape(6)}, {"a": -ones},
                 {"a": ones.bfloat16()}, {"a": ones, "b": torch.zeros(0)}, {"a": ones, "b": torch.tensor(1)}, {}]
    assert len({weights_hash(tensors) for tensors in different}) == len(different)
    strided = torch.stack([ones, -ones], dim=2)[..., 0]
    assert weights_hash({"b": ones, "a": strided}) == weights_hash({"a": ones, "b": ones.clone()})
