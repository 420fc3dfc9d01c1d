import pytest
import torch
from torch.nn import functional as F

from auricle.models.speech_llm.projector_configs import MoeConfig
from auricle.models.speech_llm.projectors.moe import build

CONFIG = MoeConfig(hidden=16, router_hidden=8, dropout=0.0)


def moe(width_in=6, width_out=5, config=CONFIG):
    torch.manual_seed(0)
    projector = build(config, width_in, width_out)
    with torch.no_grad():
        for parameter in projector.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return projector


def test_every_expert_answers_weighted_by_the_mean_logits_of_the_valid_frames():
    projector, encoded = moe(), torch.randn(1, 5, 6)
    logits = projector.router(encoded[0])
    gates = torch.stack([logits[:4].mean(0), logits[4]]).softmax(-1)  # (2, X): the second token has one frame
    x = F.relu(F.conv1d(encoded.mT, projector.first.weight, projector.first.bias, stride=2, padding=1))  # (1, L, 3)
    x = F.relu(F.conv1d(x, projector.second.weight, projector.second.bias, stride=2, padding=1)).mT  # (1, 2, L)
    mixed = torch.einsum("px,pxl->pl", gates, torch.stack([expert(x[0]) for expert in projector.experts], 1))
    expected = F.rms_norm(mixed, (5,), projector.norm.weight, 1e-6)
    projected = projector(encoded, torch.tensor([5]))
    torch.testing.assert_close(projected.tokens[0], expected)
    assert projected.health["max_load"].item() == pytest.approx(gates.mean(0).max().item())


def test_every_expert_has_a_share_at_the_start():
    torch.manual_seed(0)
    health = build(MoeConfig(), 64, 32)(torch.randn(4, 400, 64), torch.full((4,), 400)).health
    assert health["dead_experts"] == 0
    assert health["load_entropy"] > 0.9


def test_an_expert_below_one_percent_is_dead():
    projector = moe()
    with torch.no_grad():
        projector.router[2].weight.zero_()
        projector.router[2].bias.copy_(torch.tensor([0.0, 0.0, 0.0, -5.0]))  # 0.2 %
    assert projector(torch.randn(1, 8, 6), torch.tensor([8])).health["dead_experts"] == 1


def test_padding_counts_for_nothing_in_the_health():
    projector, clip = moe(), torch.randn(1, 5, 6)
    alone = projector(clip, torch.tensor([5])).health
    padded = projector(F.pad(clip, (0, 0, 0, 30), value=7.0), torch.tensor([5])).health
    torch.testing.assert_close(padded, alone)


def test_there_is_no_auxiliary_loss():
    assert not moe().train()(torch.randn(1, 8, 6), torch.tensor([8])).auxiliary
