import pytest
import torch
from torch import nn

from auricle.core.config import TrainingConfig
from auricle.core.errors import ModelError
from auricle.train.optim import build_optimizer, freeze_others, load_moments, moments, set_rates, train_mode, trainable


class Toy(nn.Module):
    """Two named parts, with a norm and a bias."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Dropout(0.5))
        self.head = nn.Linear(4, 2)

    def components(self):
        return {"body": self.body, "head": self.head}

    def forward(self, x):
        return self.head(self.body(x))


def config(**keys) -> TrainingConfig:
    return TrainingConfig(max_steps=1, per_device_train_batch_size=1, **keys)


def step(model, optimizer):
    model(torch.ones(3, 4)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_norms_biases_and_scalars_are_not_decayed_and_each_component_has_its_rate():
    model = Toy()
    settings = config(learning_rate=1e-3, learning_rates={"head": 1e-4}, weight_decay=0.1)
    optimizer = build_optimizer(trainable(model, settings), settings)
    found = {
        name: (group["weight_decay"], group["base_lr"]) for group in optimizer.param_groups for name in group["names"]
    }
    assert found == {
        "body.0.weight": (0.1, 1e-3),
        "body.0.bias": (0.0, 1e-3),
        "body.1.weight": (0.0, 1e-3),
        "body.1.bias": (0.0, 1e-3),
        "head.weight": (0.1, 1e-4),
        "head.bias": (0.0, 1e-4),
    }


def test_what_is_not_named_is_frozen_in_eval_mode_and_does_not_move():
    model = Toy()
    settings = config(trainable=["head"])
    learning = trainable(model, settings)
    freeze_others(model, learning)
    train_mode(model)
    assert model.head.training
    assert not model.body.training
    assert not model.body[2].training
    before = [p.clone() for p in model.parameters()]
    step(model, build_optimizer(learning, settings))
    moved = [name for (name, p), old in zip(model.named_parameters(), before, strict=True) if not torch.equal(p, old)]
    assert moved == ["head.weight", "head.bias"]


def test_a_component_that_matches_nothing_lists_the_names_there_are():
    with pytest.raises(ModelError, match=r"body.*head"):
        trainable(Toy(), config(trainable=["encodr"]))
    with pytest.raises(ModelError, match="learning_rates"):
        trainable(Toy(), config(trainable=["head"], learning_rates={"body": 1e-3}))


def test_moments_are_carried_by_name_across_other_groups():
    model = Toy()
    first = build_optimizer(trainable(model, config(trainable=["head"])), config())
    step(model, first)
    saved = moments(first)
    assert set(saved) == {
        f"{kind}/head.{part}" for kind in ("exp_avg", "exp_avg_sq", "step") for part in ("weight", "bias")
    }
    second = build_optimizer(trainable(model, config()), config())
    assert load_moments(second, saved) == (2, 4)
    again = moments(second)
    assert all(torch.equal(again[name], saved[name]) for name in saved)
    step(model, second)


def test_rates_are_the_base_times_the_factor():
    settings = config(learning_rate=1e-3, learning_rates={"head": 1e-4})
    optimizer = build_optimizer(trainable(Toy(), settings), settings)
    set_rates(optimizer, 0.5)
    assert set_rates(optimizer, 0.1) == pytest.approx(1e-4)
    assert {round(group["lr"], 9) for group in optimizer.param_groups} == {1e-4, 1e-5}
