import torch
from torch import nn
from torch.nn import functional as F

from auricle.models.speech_llm.projectors.parts.layers import RMSNorm, SwiGLU, draw_small


def test_swiglu_by_its_formula():
    torch.manual_seed(0)
    layer, x = SwiGLU(6, 8, 5, 0.0), torch.randn(3, 6)
    w1, w2, w3 = layer.gate.weight, layer.up.weight, layer.down.weight
    torch.testing.assert_close(layer(x), (F.silu(x @ w1.T) * (x @ w2.T)) @ w3.T)


def test_rms_norm_by_its_formula_in_the_type_of_its_weights():
    norm, x = RMSNorm(6), torch.randn(3, 6).bfloat16()
    nn.init.normal_(norm.weight)
    exact = x.float()
    expected = exact * (exact.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * norm.weight
    torch.testing.assert_close(norm(x), expected)


def test_small_weights_are_small_and_biases_zero():
    torch.manual_seed(0)
    for layer in (nn.Linear(200, 200), nn.Conv1d(100, 100, 3)):
        draw_small(layer)
        assert abs(layer.weight.std().item() - 0.02) < 1e-3
        assert not layer.bias.any()
