import torch
from torch.nn import functional as F

from auricle.models.speech_llm.projector_configs import MlpConfig
from auricle.models.speech_llm.projectors.mlp import build


def test_it_is_two_linear_layers_each_with_its_norm():
    torch.manual_seed(0)
    projector, encoded = build(MlpConfig(), 6, 5), torch.randn(1, 8, 6)
    first, second = (layer.weight for layer in (projector.layers[0], projector.layers[3]))
    assert first.shape == (5, 24)
    inside = F.gelu(F.rms_norm(encoded.view(1, 2, 24) @ first.T, (5,), eps=1e-6))
    expected = F.rms_norm(inside @ second.T, (5,), eps=1e-6)
    torch.testing.assert_close(projector(encoded, torch.tensor([8])).tokens, expected)
