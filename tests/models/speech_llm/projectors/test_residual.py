import torch
from torch.nn import functional as F

from auricle.models.speech_llm.projector_configs import ResidualConfig
from auricle.models.speech_llm.projectors.residual import build


def norm(x):
    return F.rms_norm(x, x.shape[-1:], eps=1e-6)


def test_each_layer_corrects_what_came_before():
    torch.manual_seed(0)
    projector, encoded = build(ResidualConfig(), 6, 5), torch.randn(1, 4, 6)
    assert projector.layers[0].expand.out_features == 4 * 5
    x = norm(projector.project(encoded.view(1, 2, 12)))
    for layer in projector.layers:
        x = norm(x + layer.contract(F.gelu(layer.expand(x))))
    torch.testing.assert_close(projector(encoded, torch.tensor([4])).tokens, x)


def test_at_first_the_corrections_are_small():
    torch.manual_seed(0)
    projector, encoded = build(ResidualConfig(), 64, 128), torch.randn(1, 20, 64)
    linear = norm(projector.project(encoded.view(1, 10, 128)))
    difference = projector(encoded, torch.tensor([20])).tokens - linear
    assert 0 < difference.norm() < 0.05 * linear.norm()
