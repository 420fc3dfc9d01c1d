import pytest
import torch
from torch import nn

from auricle.core.errors import ModelError
from auricle.models.parts.components import canonical, count, resolve, tied

KINDS = ("weight", "bias")


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 3)
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(4))


class Toy(nn.Module):
    """Components whose names are not the attributes', and a head that shares its matrix with the embedding."""

    def __init__(self):
        super().__init__()
        self.stack, self.out = Stack(), nn.Linear(3, 7)
        self.out.weight = self.stack.embed.weight

    def components(self):
        return {"encoder": self.stack, "head": self.out}


def named(found):
    return {name: [parameter_name for parameter_name, _ in parameters] for name, parameters in found.items()}


def test_a_component_stands_for_all_its_parameters_under_their_canonical_names():
    found = named(resolve(Toy(), ["head", "encoder"]))
    assert found["head"] == ["out.bias"]
    assert found["encoder"] == ["stack.embed.weight", *(f"stack.layers.{n}.{kind}" for n in range(4) for kind in KINDS)]


def test_the_longest_name_wins():
    found = named(resolve(Toy(), ["encoder", "encoder.top(2)", "encoder.layers.1", "encoder.layers.1.bias"]))
    assert found == {"encoder": ["stack.embed.weight", "stack.layers.0.weight", "stack.layers.0.bias"],
                     "encoder.top(2)": [f"stack.layers.{n}.{kind}" for n in (2, 3) for kind in KINDS],
                     "encoder.layers.1": ["stack.layers.1.weight"], "encoder.layers.1.bias": ["stack.layers.1.bias"]}


def test_names_end_where_a_path_ends():
    model = Toy()
    model.stack.layers.extend(nn.Linear(3, 3) for _ in range(8))
    found = named(resolve(model, ["encoder.layers.1"]))
    assert found == {"encoder.layers.1": [f"stack.layers.1.{kind}" for kind in KINDS]}


def test_a_tie_is_an_error_that_names_both():
    with pytest.raises(ModelError, match=r"'encoder.top\(1\)' and 'encoder.layers.3' both name encoder.layers.3.wei"):
        resolve(Toy(), ["encoder.top(1)", "encoder.layers.3"])


def test_a_tied_tensor_appears_once_and_both_its_names_are_known():
    model = Toy()
    parameters = [p for group in resolve(model, ["encoder", "head"]).values() for _, p in group]
    assert len(parameters) == len(set(parameters)) == len(list(model.parameters()))
    assert tied(model) == {"stack.embed.weight": ["out.weight"]}
    assert named(resolve(model, ["head"]))["head"] == ["stack.embed.weight", "out.bias"]


@pytest.mark.parametrize(("name", "hint"), [
    ("encodr", r"did you mean 'encoder'\? Known: encoder, encoder.top\(4\), head"), ("head.top(1)", "no layers"),
    ("encoder.top(5)", "'encoder' has 4 layers"), ("encoder.top(0)", "'encoder' has 4 layers"),
    ("encoder.layers.9", "matches no parameter"), ("encoder.", "matches no parameter"), ("", "matches no parameter")])
def test_a_name_that_matches_nothing_is_an_error_with_the_names_there_are(name, hint):
    with pytest.raises(ModelError, match=hint):
        resolve(Toy(), ["head", name])


def test_a_tensor_can_be_named_by_each_of_its_paths():
    model = Toy()
    model.stack.layers[2].weight = model.stack.layers[1].weight
    found = named(resolve(model, ["encoder.layers.2"]))
    assert found == {"encoder.layers.2": ["stack.layers.1.weight", "stack.layers.2.bias"]}


def test_wrappers_do_not_change_the_names():
    class Wrapper(nn.Module):
        """As DistributedDataParallel: hides all but forward."""

        def __init__(self, module):
            super().__init__()
            self.module = module

    model = Toy()
    bare = named(resolve(model, ["encoder.top(1)", "head"]))
    assert named(resolve(Wrapper(model), ["encoder.top(1)", "head"])) == bare
    assert named(resolve(torch.compile(model), ["encoder.top(1)", "head"])) == bare
    assert canonical("a.base_layer.module.weight") == "a.weight"
    model.stack.layers[3] = torch.compile(model.stack.layers[3])
    assert named(resolve(model, ["encoder.top(1)", "head"])) == bare


def test_count_takes_each_tensor_once():
    model = Toy()
    assert count([*model.parameters(), model.out.weight]) == 21 + 4 * 12 + 7
