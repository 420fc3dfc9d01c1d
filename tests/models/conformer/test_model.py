import pytest
import torch
from pydantic import ValidationError

from auricle.models.conformer.config import Config
from auricle.models.conformer.model import build
from auricle.models.parts.components import count, resolve


def tiny() -> Config:
    """What tests/contracts/test_models.py builds."""
    return Config(width=16, layers=2, heads=2, feedforward_factor=2, convolution_kernel=5, subsampling_channels=4,
                  dropout=0.0)


def test_the_blank_is_a_class_of_its_own_after_the_labels():
    assert build(tiny(), 5).ctc_head.out_features == 6


def test_the_depth_of_a_stage_can_be_named():
    model = build(tiny(), 5)
    found = resolve(model, ["encoder.top(1)", "ctc_head"])
    assert count(p for _, p in found["encoder.top(1)"]) == count(model.encoder.layers[1].parameters())
    assert {name.split(".")[0] for name, _ in found["ctc_head"]} == {"ctc_head"}


@pytest.mark.parametrize("subsampling", [2, 4, 8])
def test_subsampling_decides_the_frame_rate(subsampling):
    model = build(tiny().model_copy(update={"subsampling": subsampling}), 5)
    logits, lengths = model(torch.randn(1, 100, 80), torch.tensor([100]))
    assert logits.shape == (1, -(-100 // subsampling), 6)
    assert lengths.tolist() == [logits.shape[1]]


def test_no_layer_sees_a_batch_of_nobody():
    model, seen = build(tiny(), 5), []
    model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    assert model(torch.zeros(0, 0, 80), torch.zeros(0, dtype=torch.long))[0].shape == (0, 1, 6)
    assert seen == [(1, 1, 80)]


@pytest.mark.parametrize(("keys", "said"), [
    ({"width": 30, "heads": 4}, "width 30 is no multiple of 2 · heads"),
    ({"convolution_kernel": 4}, "convolution_kernel 4 is even"),
    ({"subsampling": 3}, "subsampling"), ({"dropout": 1.5}, "dropout"), ({"frontend": {"style": "mfcc"}}, "frontend")])
def test_shapes_that_do_not_fit_are_refused(keys, said):
    with pytest.raises(ValidationError, match=said):
        Config(**keys)
