"""What every model promises, whoever wrote it.

A model's own test file gives the `tiny` config to build it from, for VOCABULARY labels, and perhaps `LABELLING`: the
components that take part when features become labels, where not all do.
"""

import importlib
import io
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auricle.core.decode import decode_block
from auricle.core.folder import find, names
from auricle.core.frame import Block
from auricle.models.parts.components import resolve
from auricle.models.parts.folder import load_weights, save_model
from tests.utterances import words

NAMES = names("models")
VOCABULARY = 5


def tiny(name):
    return importlib.import_module(f"tests.models.{name}.test_model").tiny()


def built(name, dtype=torch.float32):
    torch.manual_seed(0)
    return find("models", name, "model").build(tiny(name), VOCABULARY).to(dtype).eval()


def labelling(name, model):
    """The parameters that take part when features become labels."""
    chosen = getattr(importlib.import_module(f"tests.models.{name}.test_model"), "LABELLING", model.components())
    return [parameter for component in chosen for parameter in model.components()[component].parameters()]


def batch(features, dtype=torch.float32, filler=7.0):
    """(B, F, M) with rubbish in the padding, (B,)."""
    lengths = torch.tensor([len(one) for one in features])
    padded = torch.full((len(features), int(lengths.max()), features[0].shape[1]), filler, dtype=dtype)
    for row, one in enumerate(features):
        padded[row, :len(one)] = one
    return padded, lengths


def test_the_room_has_a_model():
    assert "conformer" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_config_is_a_block_that_comes_back_from_plain_values(name):
    config = tiny(name)
    assert isinstance(config, Block)
    assert type(config).model_fields["kind"].default == name
    assert decode_block("models", config.model_dump(mode="json"), "here") == config


@pytest.mark.parametrize("name", NAMES)
def test_components_cover_all_parameters_once(name):
    model = built(name)
    found = [p for group in resolve(model, model.components()).values() for _, p in group]
    assert len(found) == len(set(found))
    assert set(found) == set(model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_output_lengths_are_the_real_ones_for_every_length_from_nothing_up(name):
    model = built(name)

    @settings(deadline=None, max_examples=40)
    @given(samples=st.lists(st.integers(0, 12_000), min_size=1, max_size=3))
    def check(samples):
        features = [model.frontend(torch.randn(length)) for length in samples]
        logits, lengths = model(*batch(features))
        assert lengths.tolist() == model.output_lengths(torch.tensor(samples)).tolist()
        assert logits.shape == (len(samples), max(1, *lengths.tolist()), VOCABULARY + 1)
        assert logits.isfinite().all()

    check()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("name", NAMES)
def test_a_clip_alone_equals_the_clip_in_a_ragged_batch(name, dtype, tolerance):
    model = built(name, dtype)
    features = [model.frontend(audio).to(dtype) for audio in (*(one.audio for one in words(4)), torch.randn(700))]
    for filler in (7.0, float("nan")):
        together, lengths = model(*batch(features, dtype, filler))
        for row, one in enumerate(features):
            alone, _ = model(one.unsqueeze(0), torch.tensor([len(one)]))
            assert lengths[row] == alone.shape[1]
            torch.testing.assert_close(together[row, : lengths[row]], alone[0], atol=tolerance, rtol=0)


@pytest.mark.parametrize("shape", [(0, 40), (0, 0), (1, 0), (2, 40)])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_passes_through_and_gives_every_parameter_zeros(name, shape):
    model = built(name).train()
    logits, lengths = model(torch.zeros(*shape, model.frontend.n_mels), torch.zeros(shape[0], dtype=torch.long))
    assert len(logits) == len(lengths) == shape[0]
    assert lengths.tolist() == [0] * shape[0]
    (logits[:0].sum() + 0 * logits.sum()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in labelling(name, model))


@pytest.mark.parametrize("name", NAMES)
def test_saving_and_loading_is_the_identity(name, tmp_path):
    first, second = built(name), built(name)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(1.0)
    save_model(tmp_path, first, model_config=tiny(name), task_config=Block(kind="none"), vocabulary=VOCABULARY)
    load_weights(second, tmp_path)
    torch.testing.assert_close(second.state_dict(), first.state_dict(), atol=0, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_the_front_end_travels_to_a_worker(name):
    model = built(name)
    audio = words(1)[0].audio
    there = pickle.loads(pickle.dumps(model.frontend))
    assert torch.equal(there(audio), model.frontend(audio))
    assert len(pickle.dumps(model.frontend)) < 1_000_000


@pytest.mark.parametrize("name", NAMES)
def test_forward_changes_no_state(name):
    model = built(name).train()
    before = io.BytesIO()
    torch.save(model.state_dict(), before)
    model(torch.randn(2, 40, model.frontend.n_mels), torch.tensor([40, 30]))
    after = io.BytesIO()
    torch.save(model.state_dict(), after)
    assert before.getvalue() == after.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_one_update_lowers_the_loss(name):
    model = built(name).train()
    features, lengths = batch([model.frontend(one.audio) for one in words(4)])
    labels = torch.tensor([[0, 1, 2], [3, 4, 0], [1, 2, 3], [4, 0, 1]])

    def loss():
        logits, frames = model(features, lengths)
        return torch.nn.functional.ctc_loss(logits.log_softmax(-1).transpose(0, 1), labels, frames, torch.full((4,), 3),
                                            blank=VOCABULARY)

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    before = loss()
    before.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in labelling(name, model))
    optimizer.step()
    assert loss() < before
