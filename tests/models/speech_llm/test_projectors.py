"""What every projector promises, whoever wrote it. A new one adds a line to `TINY` and one to `PARAMETERS`."""

import io
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auricle.core.decode import decode_model, to_plain
from auricle.core.folder import names
from auricle.core.frame import Block, Frame
from auricle.models.speech_llm.projector_configs import (
    MlpConfig,
    MoeConfig,
    ProjectorConfig,
    QformerConfig,
    ResidualConfig,
    SharedMoeConfig,
    SwigluConfig,
)
from auricle.models.speech_llm.projectors.parts.build import ROOM, build

NAMES = names(ROOM)
TINY = {
    "swiglu": SwigluConfig(frames_per_token=3, hidden=16),
    "mlp": MlpConfig(hidden=16),
    "residual": ResidualConfig(hidden=16),
    "moe": MoeConfig(hidden=16, router_hidden=8, dropout=0.0),
    "shared_moe": SharedMoeConfig(hidden=16, dropout=0.0),
    "qformer": QformerConfig(window_frames=5, queries=2, heads=2, hidden=8, dropout=0.0),
}
PARAMETERS = {"swiglu": 36_704_768, "mlp": 14_684_160, "residual": 72_380_416, "moe": 88_244_740,
              "shared_moe": 91_760_640, "qformer": 55_107_328}
"""Of the defaults, from 1280 to 2048."""
WIDTH_IN, WIDTH_OUT = 12, 10


class Holder(Frame):
    projector: ProjectorConfig


def built(name, dtype=torch.float32):
    """No parameter is zero, so that padding that is not masked shows itself."""
    torch.manual_seed(0)
    projector = build(TINY[name], WIDTH_IN, WIDTH_OUT).to(dtype).eval()
    with torch.no_grad():
        for parameter in projector.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return projector


def batch(lengths, dtype=torch.float32, filler=7.0, frames=None):
    """(B, E, D) with rubbish in the padding, (B,)."""
    encoded = torch.full((len(lengths), frames or max(0, *lengths, 0), WIDTH_IN), filler, dtype=dtype)
    for row, length in enumerate(lengths):
        encoded[row, :length] = torch.randn(length, WIDTH_IN, dtype=dtype)
    return encoded, torch.tensor(lengths, dtype=torch.long)


def test_the_folder_the_union_and_these_tests_know_the_same_projectors():
    union = {config.model_fields["kind"].default: config for config in get_args(get_args(ProjectorConfig)[0])}
    assert set(NAMES) == set(union) == set(TINY) == set(PARAMETERS)
    assert all(isinstance(config, Block) and type(config) is union[name] for name, config in TINY.items())


@pytest.mark.parametrize("name", NAMES)
def test_the_config_comes_back_from_plain_values(name):
    holder = Holder(projector=TINY[name])
    assert decode_model(Holder, to_plain(holder)) == holder
    assert decode_model(Holder, {"projector": {"kind": name}}).projector == type(TINY[name])()


@pytest.mark.parametrize("name", NAMES)
def test_parameters_of_the_default_are_as_many_as_its_definition_has(name):
    with torch.device("meta"):
        projector = build(type(TINY[name])(), 1280, 2048)
    assert sum(parameter.numel() for parameter in projector.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", NAMES)
def test_lengths_are_the_real_ones_for_every_length_from_nothing_up(name):
    projector = built(name)

    @settings(deadline=None, max_examples=40)
    @given(lengths=st.lists(st.integers(0, 40), max_size=4), more=st.integers(0, 9))
    def check(lengths, more):
        frames = max(0, *lengths, 0) + more
        projected = projector(*batch(lengths, frames=frames))
        assert projected.tokens.shape == (len(lengths), projector.lengths(frames), WIDTH_OUT)
        assert projected.lengths.tolist() == [projector.lengths(length) for length in lengths]
        assert projected.lengths.tolist() == projector.lengths(torch.tensor(lengths, dtype=torch.long)).tolist()
        assert projected.tokens.isfinite().all()

    check()


@pytest.mark.parametrize("name", NAMES)
def test_every_frame_reaches_the_tokens_and_no_frames_give_none(name):
    projector = built(name, torch.float64)
    assert projector.lengths(0) == 0
    for frames in (1, 2, 3, 4, 5, 7, 16):
        encoded, lengths = batch([frames], torch.float64)
        tokens = projector(encoded.requires_grad_(), lengths).tokens
        (tokens * torch.randn_like(tokens)).sum().backward()
        assert (encoded.grad.abs().sum(-1) > 0).all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("filler", [7.0, float("nan")])
@pytest.mark.parametrize("name", NAMES)
def test_a_clip_alone_equals_the_clip_in_a_ragged_batch(name, filler, dtype, tolerance):
    projector = built(name, dtype)
    ragged = [0, 1, 23, 5, 8, 14, 2, 3]
    encoded, lengths = batch(ragged, dtype, filler, frames=31)
    together = projector(encoded, lengths)
    for row, length in enumerate(ragged):
        alone = projector(encoded[row : row + 1, :length], lengths[row : row + 1]).tokens[0]
        assert len(alone) == together.lengths[row]
        torch.testing.assert_close(together.tokens[row, : len(alone)], alone, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_rubbish_in_the_padding_reaches_no_gradient(name):
    projector = built(name).train()
    encoded, lengths = batch([9, 4], filler=float("nan"))
    projected = projector(encoded.requires_grad_(), lengths)
    valid = torch.arange(projected.tokens.shape[1]) < projected.lengths.unsqueeze(1)
    losses = [auxiliary.sum for auxiliary in projected.auxiliary.values()]
    (projected.tokens[valid].square().sum() + sum(losses)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in projector.parameters())
    assert not encoded.grad[1, 4:].any()


@pytest.mark.parametrize("shape", [(0, 7), (0, 0), (2, 0), (2, 7)])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_passes_through_and_gives_every_parameter_zeros(name, shape):
    projector = built(name).train()
    projected = projector(torch.zeros(*shape, WIDTH_IN), torch.zeros(shape[0], dtype=torch.long))
    assert projected.tokens.shape == (shape[0], projector.lengths(shape[1]), WIDTH_OUT)
    assert projected.lengths.tolist() == [0] * shape[0]
    (0 * projected.tokens.sum() + sum(auxiliary.sum for auxiliary in projected.auxiliary.values())).backward()
    assert all(p.grad is not None and not p.grad.any() for p in projector.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_what_is_reported_has_the_same_names_for_an_empty_batch(name):
    projector = built(name).train()
    full, empty = projector(*batch([9, 4])), projector(*batch([]))
    assert full.auxiliary.keys() == empty.auxiliary.keys()
    assert full.health.keys() == empty.health.keys()
    assert all(value.shape == () and value.isfinite() and not value.requires_grad for value in full.health.values())
    assert all(value.shape == () and value.isnan() for value in empty.health.values())
    assert all(auxiliary.sum == 0 for auxiliary in empty.auxiliary.values())


@pytest.mark.parametrize("name", NAMES)
def test_forward_changes_no_state(name):
    projector, states = built(name).train(), []
    for _ in range(2):
        states.append(io.BytesIO())
        torch.save(projector.state_dict(), states[-1])
        first, second = (projector(*one) for one in [batch([9, 4])] * 2)
        assert torch.equal(first.tokens, second.tokens)
    assert states[0].getvalue() == states[1].getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_one_update_lowers_the_loss(name):
    projector = built(name).train()
    encoded, lengths = batch([9, 4, 12])
    wanted = torch.randn(3, projector.lengths(12), WIDTH_OUT)

    def loss():
        projected = projector(encoded, lengths)
        valid = torch.arange(wanted.shape[1]) < projected.lengths.unsqueeze(1)
        return (projected.tokens - wanted)[valid].square().mean()

    optimizer = torch.optim.AdamW(projector.parameters(), lr=1e-3)
    before = loss()
    before.backward()
    optimizer.step()
    assert loss() < before


@pytest.mark.parametrize("name", NAMES)
def test_autocast_changes_little(name):
    projector = built(name).train()
    encoded, lengths = batch([9, 4, 0])
    exact = projector(encoded, lengths)
    with torch.autocast("cpu", torch.bfloat16):
        rough = projector(encoded, lengths)
        (rough.tokens.float().square().mean() + sum(one.sum for one in rough.auxiliary.values())).backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in projector.parameters())
    for row, length in enumerate(exact.lengths):
        difference = rough.tokens[row, :length].float() - exact.tokens[row, :length]
        assert not length or difference.norm() < 0.1 * exact.tokens[row, :length].norm()


@pytest.mark.parametrize("name", [name for name in NAMES if hasattr(TINY[name], "dropout")])
def test_dropout_acts_while_training_only(name):
    projector = build(TINY[name].model_copy(update={"dropout": 0.5}), WIDTH_IN, WIDTH_OUT)
    encoded, lengths = batch([12])
    assert not torch.equal(projector(encoded, lengths).tokens, projector(encoded, lengths).tokens)
    projector.eval()
    assert torch.equal(projector(encoded, lengths).tokens, projector(encoded, lengths).tokens)
