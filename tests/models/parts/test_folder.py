import json

import pytest
import torch
from torch import nn

from auricle.core.errors import ModelError
from auricle.core.frame import Block
from auricle.models.parts.folder import load_weights, read_config, save_model


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


class Task(Block):
    labels: int = 4


def saved(folder, model):
    save_model(folder, model, model_config=Block(kind="toy"), task_config=Task(kind="counting"), vocabulary=5)
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
    assert config["model"] == {"kind": "toy"}
    assert config["task"] == {"kind": "counting", "labels": 4}
    assert config["vocabulary"] == 5
    assert config["auricle"]


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
    ("config.json", json.dumps({"format": "auricle-2"}), "format: "),
    ("model.safetensors", None, "no such file"), ("model.safetensors", "junk", "damaged")])
def test_a_folder_that_is_no_model_is_one_sentence(tmp_path, name, content, message):
    saved(tmp_path, Toy())
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ModelError, match=message) as caught:
        (read_config(tmp_path), load_weights(Toy(), tmp_path))
    assert "\n" not in str(caught.value)
