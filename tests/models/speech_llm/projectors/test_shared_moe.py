"""The router: not collapsed at the start, balanced by a loss that means something, blind to padding."""

import pytest
import torch
from torch.nn import functional as F

from auricle.models.speech_llm.projector_configs import SharedMoeConfig
from auricle.models.speech_llm.projectors.shared_moe import balance_loss, build, shares

CONFIG = SharedMoeConfig(hidden=16, dropout=0.0)
EVEN, ON_TWO = [[0, 1], [2, 3], [1, 2], [3, 0]], [[0, 1], [1, 0], [0, 1], [1, 0]]


def shared_moe(config=CONFIG, width_in=12, width_out=10):
    torch.manual_seed(0)
    projector = build(config, width_in, width_out)
    with torch.no_grad():
        projector.router.weight.normal_()
        for expert in projector.experts:
            torch.nn.init.orthogonal_(expert.down.weight)  # as loud as the shared one, so that a wrong mixture shows
    return projector


def load_at_the_start(projector):
    routes = projector._route(projector.norm_in(torch.randn(1000, 128)))
    return shares(routes.experts, 4)


def test_at_the_start_every_expert_receives_a_share():
    torch.manual_seed(0)
    assert (load_at_the_start(build(CONFIG, 64, 32)) > 0.05).all()


def test_a_router_of_zeros_would_collapse_onto_two_while_the_balance_loss_reads_perfect():
    projector = build(CONFIG, 64, 32)
    torch.nn.init.zeros_(projector.router.weight)
    load = load_at_the_start(projector)
    assert sorted(load.tolist()) == [0, 0, 0.5, 0.5]
    assert balance_loss(torch.full((1000, 4), 0.25), load) == 1


@pytest.mark.parametrize(("probabilities", "experts", "expected"), [
    ([0.25, 0.25, 0.25, 0.25], EVEN, 1.0), ([0.5, 0.5, 0.0, 0.0], ON_TWO, 2.0), ([0.4, 0.4, 0.1, 0.1], ON_TWO, 1.6)])
def test_the_balance_loss_is_one_when_even_and_two_when_two_of_four_do_all(probabilities, experts, expected):
    load = shares(torch.tensor(experts), 4)
    assert balance_loss(torch.tensor([probabilities] * 4), load).item() == pytest.approx(expected)


def test_sparse_computation_equals_the_dense_formula():
    projector, x = shared_moe().double(), torch.randn(50, 24).double()
    routes = projector._route(x)
    probabilities = (x @ projector.router.weight.T).softmax(-1)
    best = probabilities >= probabilities.topk(2).values[:, 1:]
    weights = probabilities * best / (probabilities * best).sum(-1, keepdim=True)  # (N, X)
    answers = torch.stack([expert(x) for expert in projector.experts], 1)  # (N, X, L)
    expected = projector.shared(x) + torch.einsum("nx,nxl->nl", weights, answers)
    torch.testing.assert_close(projector._mix(x, routes), expected)

    encoded = torch.randn(1, 10, 12).double()
    inside = projector.norm_in(encoded.view(5, 24))
    expected = F.rms_norm(projector._mix(inside, projector._route(inside)), (10,), eps=1e-6)
    torch.testing.assert_close(projector(encoded, torch.tensor([10])).tokens[0], expected)


def test_gradients_of_the_sparse_computation_equal_those_of_the_dense_formula():
    projector, x = shared_moe().double(), torch.randn(50, 24).double()
    towards = torch.randn(50, 10).double()
    (projector._mix(x, projector._route(x)) * towards).sum().backward()
    sparse = {name: parameter.grad for name, parameter in projector.named_parameters()}
    projector.zero_grad()
    probabilities = (x @ projector.router.weight.T).softmax(-1)
    best = probabilities >= probabilities.topk(2).values[:, 1:]
    weights = probabilities * best / (probabilities * best).sum(-1, keepdim=True)
    answers = torch.stack([expert(x) for expert in projector.experts], 1)
    ((projector.shared(x) + torch.einsum("nx,nxl->nl", weights, answers)) * towards).sum().backward()
    torch.testing.assert_close(sparse, {name: parameter.grad for name, parameter in projector.named_parameters()})


def test_an_expert_without_tokens_gets_a_gradient_of_zeros():
    projector = shared_moe().train()
    torch.nn.init.zeros_(projector.router.weight)
    projected = projector(torch.randn(1, 8, 12), torch.tensor([8]))
    assert projected.health["dead_experts"] == 2
    projected.tokens.square().sum().backward()
    used = [bool(expert.down.weight.grad.any()) for expert in projector.experts]
    assert sorted(used) == [False, False, True, True]


def test_the_z_loss_is_a_sum_over_tokens_and_the_balance_a_number_a_batch():
    projector, encoded = shared_moe().train(), torch.randn(1, 8, 12)
    logits = projector.norm_in(encoded.view(4, 24)) @ projector.router.weight.T
    auxiliary = projector(encoded, torch.tensor([8])).auxiliary
    torch.testing.assert_close(auxiliary["z"].sum, logits.logsumexp(-1).square().sum())
    load = shares(logits.topk(2).indices, 4)
    torch.testing.assert_close(auxiliary["balance"].sum, 4 * (load * logits.softmax(-1).mean(0)).sum())
    assert (auxiliary["z"].per_batch, auxiliary["balance"].per_batch) == (False, True)
    assert (auxiliary["z"].weight, auxiliary["balance"].weight) == (1e-3, 0.01)


def test_there_is_no_auxiliary_loss_in_an_evaluation():
    projected = shared_moe().eval()(torch.randn(1, 8, 12), torch.tensor([8]))
    assert not projected.auxiliary
    assert projected.health


def test_padding_counts_neither_for_the_losses_nor_for_the_health():
    projector = shared_moe().train()
    encoded = torch.full((3, 40, 12), float("nan"))
    clips = [torch.randn(length, 12) for length in (7, 20)]
    for row, clip in enumerate(clips):
        encoded[row, : len(clip)] = clip
    padded = projector(encoded, torch.tensor([7, 20, 0]))
    packed = torch.cat([F.pad(clips[0], (0, 0, 0, 1)), clips[1]]).unsqueeze(0)
    alone = projector(packed, torch.tensor([28]))
    torch.testing.assert_close(padded.health, alone.health)
    for name in ("z", "balance"):
        torch.testing.assert_close(padded.auxiliary[name].sum, alone.auxiliary[name].sum)


def test_the_balance_loss_spreads_a_collapsed_router_and_moves_nothing_else():
    projector = shared_moe().train()
    encoded = torch.randn(1, 200, 12) + 3 * torch.randn(12)  # what all frames share puts two experts ahead
    optimizer = torch.optim.SGD(projector.parameters(), lr=0.1)
    entropies = []
    for _ in range(60):
        projected = projector(encoded, torch.tensor([200]))
        entropies.append(projected.health["load_entropy"].item())
        projected.auxiliary["balance"].sum.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
    assert [name for name, parameter in projector.named_parameters() if parameter.grad is not None] == ["router.weight"]
    assert entropies[0] < 0.8
    assert entropies[-1] > 0.95


def test_the_router_decides_in_float32_under_autocast():
    projector = shared_moe()
    x = torch.randn(50, 24)
    with torch.autocast("cpu", torch.bfloat16):
        routes = projector._route(x)
    assert routes.logits.dtype == routes.weights.dtype == torch.float32
    torch.testing.assert_close(routes.logits, x @ projector.router.weight.T)


def test_the_encoder_s_loudness_changes_nothing():
    projector, encoded, lengths = shared_moe(), torch.randn(1, 8, 12), torch.tensor([8])
    torch.testing.assert_close(projector(30 * encoded, lengths).tokens, projector(encoded, lengths).tokens)


def test_routed_experts_grow_in():
    torch.manual_seed(0)
    projector, x = build(CONFIG, 12, 10), torch.randn(50, 24)
    loudness = projector.shared(x).norm()
    assert all(0 < expert(x).norm() < 0.05 * loudness for expert in projector.experts)
