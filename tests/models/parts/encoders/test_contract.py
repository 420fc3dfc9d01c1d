"""What every encoder promises."""

import copy
import io
import json
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from auricle.core.folder import names
from auricle.models.parts.components import resolve
from auricle.models.parts.encoders.parts.build import build, standalone
from auricle.models.parts.encoders.parts.config import ROOM, EncoderConfig
from tests.models.parts.encoders.small import CASES, batch, built
from tests.utterances import words

pytestmark = pytest.mark.parametrize("case", CASES)


class Model(nn.Module):
    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def components(self):
        return {"encoder": self.encoder}


def clips():
    """Words, and a clip that is too short for a frame of most."""
    noise = torch.randn(1000, generator=torch.Generator().manual_seed(0)).numpy()
    return [*(one.audio for one in words(3)), noise[100:], noise[:100]]


def test_every_encoder_is_tried(case):
    assert {config.kind for config in CASES.values()} == set(names(ROOM))


def test_lengths_are_the_real_ones_for_every_length_from_nothing_up(case):
    encoder = built(case)

    @settings(deadline=None, max_examples=20)
    @given(samples=st.lists(st.integers(0, 14_000), min_size=1, max_size=3), extra=st.integers(0, 3))
    def check(samples, extra):
        with torch.no_grad():
            encoded, lengths = encoder(*batch(encoder, [torch.randn(length) for length in samples], extra=extra))
        assert lengths.tolist() == encoder.lengths(torch.tensor(samples)).tolist()
        assert lengths.tolist() == [encoder.lengths(length) for length in samples]
        assert encoded.shape[::2] == (len(samples), encoder.width)
        assert encoded.shape[1] >= max(lengths)
        assert encoded.isfinite().all()

    check()


@pytest.mark.parametrize("filler", [7.0, float("nan")])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_a_clip_alone_equals_the_clip_in_a_ragged_batch(case, dtype, tolerance, filler):
    encoder = built(case, dtype)
    with torch.no_grad():
        together, lengths = encoder(*batch(encoder, clips(), dtype, filler, extra=5))
        for row, clip in enumerate(clips()):
            alone, (length,) = encoder(*batch(encoder, [clip], dtype))
            assert lengths[row] == length
            torch.testing.assert_close(together[row, :length], alone[0, :length], atol=tolerance, rtol=0)
    assert lengths.max() > 20


@pytest.mark.parametrize("shape", [(0, 40), (0, 0), (1, 0), (2, 40), (1, 500)])
def test_nothing_passes_through_and_gives_every_parameter_zeros(case, shape):
    encoder = built(case).train()
    features = torch.full((*shape, encoder.frontend.n_mels), float("nan"))
    encoded, lengths = encoder(features, torch.zeros(shape[0], dtype=torch.long))
    assert len(encoded) == len(lengths) == shape[0]
    assert lengths.tolist() == [0] * shape[0]
    (encoded[:0].sum() + 0 * encoded.sum()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in encoder.parameters())


def test_gradients_reach_every_parameter_and_are_finite_whatever_the_padding_holds(case):
    encoder = built(case).train()
    encoded, lengths = encoder(*batch(encoder, clips(), filler=float("nan")))
    sum(encoded[row, :length].square().sum() for row, length in enumerate(lengths)).backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_the_depth_of_a_stage_can_be_named(case):
    found = resolve(Model(built(case)), ["encoder.top(2)"])["encoder.top(2)"]
    assert {name.split(".")[2] for name, _ in found} == {"1", "2"}
    assert all(name.startswith("encoder.layers.") for name, _ in found)


def test_training_without_dropout_draws_nothing(case):
    """Neither SpecAugment nor layerdrop, which transformers turns on by default."""
    encoder = built(case)
    inputs = batch(encoder, clips())
    expected, lengths = encoder(*inputs)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    for _ in range(3):
        trained, _ = encoder.train()(*inputs)
        for row, length in enumerate(lengths):
            torch.testing.assert_close(trained[row, :length], expected[row, :length], atol=1e-5, rtol=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_acts_while_training_only(case):
    keys = {"dropout": 0.5} if CASES[case].kind in ("whisper", "conformer") else {"hidden_dropout": 0.5}
    encoder = built(case, config={**CASES[case].config, **keys})
    inputs = batch(encoder, clips()[:1])
    assert torch.equal(encoder(*inputs)[0], encoder(*inputs)[0])
    encoder.train()
    assert not torch.equal(encoder(*inputs)[0], encoder(*inputs)[0])


def test_forward_changes_no_state(case):
    encoder = built(case).train()
    before, after = io.BytesIO(), io.BytesIO()
    torch.save(encoder.state_dict(), before)
    encoder(*batch(encoder, clips()))
    torch.save(encoder.state_dict(), after)
    assert before.getvalue() == after.getvalue()


def test_its_configuration_builds_the_same_architecture_with_fresh_weights(case):
    encoder = built(case)
    plain = json.loads(json.dumps(encoder.configuration))
    assert plain == encoder.configuration
    again = build(EncoderConfig(kind=CASES[case].kind, config=plain))
    shapes = {name: tensor.shape for name, tensor in encoder.state_dict().items()}
    assert {name: tensor.shape for name, tensor in again.state_dict().items()} == shapes
    assert again.configuration == encoder.configuration
    assert again.commit is None


def test_a_standalone_configuration_needs_only_the_weights_to_give_the_same(case):
    encoder = built(case)
    again = build(EncoderConfig.model_validate_json(standalone(CASES[case], encoder).model_dump_json()))
    again.load_state_dict(encoder.state_dict())
    for ours, copied in zip(encoder(*batch(encoder, clips())), again(*batch(again, clips())), strict=True):
        assert torch.equal(ours, copied)


def test_the_front_end_travels_to_a_worker(case):
    encoder = built(case)
    audio = clips()[0]
    there = pickle.loads(pickle.dumps(encoder.frontend))
    assert torch.equal(there(audio), encoder.frontend(audio))
    assert torch.equal(there(torch.from_numpy(audio)), encoder.frontend(audio))
    assert len(pickle.dumps(encoder.frontend)) < 1_000_000
    assert not encoder.frontend.state_dict()


def test_weights_of_low_precision_give_nearly_the_same(case):
    encoder, low = built(case), built(case, dtype=torch.bfloat16)
    fresh = build(CASES[case].model_copy(update={"dtype": "bfloat16"}))
    assert {parameter.dtype for parameter in fresh.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        exact, lengths = encoder(*batch(encoder, clips()))
        rough, _ = low(*batch(low, clips(), filler=float("nan")))
    assert rough.dtype == torch.bfloat16
    assert (rough[0, :lengths[0]] - exact[0, :lengths[0]]).abs().mean() < 0.05 * exact[0, :lengths[0]].abs().mean()


def test_it_trains_under_autocast(case):
    encoder = built(case).train()
    with torch.autocast("cpu", torch.bfloat16):
        encoded, lengths = encoder(*batch(encoder, clips(), filler=float("nan")))
    sum(encoded[row, :length].float().square().sum() for row, length in enumerate(lengths)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


def test_a_copy_is_independent(case):
    encoder = built(case)
    inputs = batch(encoder, clips())
    expected, copied = encoder(*inputs)[0], copy.deepcopy(encoder)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert torch.equal(encoder(*inputs)[0], expected)
