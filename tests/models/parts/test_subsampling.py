import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auricle.models.parts.subsampling import ConvSubsampling

FACTORS = (2, 4, 8)


def subsampling(factor, n_mels=10):
    torch.manual_seed(0)
    return ConvSubsampling(n_mels, 6, factor, 3).double()


@settings(deadline=None, max_examples=40)
@given(frames=st.integers(1, 90), factor=st.sampled_from(FACTORS), n_mels=st.integers(1, 20))
def test_lengths_are_the_real_ones(frames, factor, n_mels):
    x, lengths = subsampling(factor, n_mels)(torch.randn(1, frames, n_mels).double(), torch.tensor([frames]))
    assert x.shape == (1, lengths.item(), 6)
    assert subsampling(factor, n_mels).lengths(frames) == lengths.item() == -(-frames // factor)


def test_no_frames_give_no_frames():
    assert subsampling(4).lengths(0) == 0
    assert subsampling(4).lengths(torch.tensor([0, 1, 4, 5])).tolist() == [0, 1, 1, 2]


@settings(deadline=None, max_examples=40)
@given(lengths=st.lists(st.integers(0, 40), min_size=1, max_size=5), factor=st.sampled_from(FACTORS))
def test_padding_changes_nothing_whatever_stands_in_it(lengths, factor):
    module = subsampling(factor)
    features = torch.randn(len(lengths), max(1, *lengths), 10).double()
    for row, length in enumerate(lengths):
        features[row, length:] = float("nan")
    together, frames = module(features, torch.tensor(lengths))
    for row, length in enumerate(lengths):
        if length:
            alone, _ = module(features[row : row + 1, :length], torch.tensor([length]))
            torch.testing.assert_close(together[row, : frames[row]], alone[0], atol=1e-12, rtol=0)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("frames", [1, 7, 8, 9, 15])
def test_every_frame_reaches_the_output(factor, frames):
    features = torch.randn(1, frames, 10).double().requires_grad_()
    subsampling(factor)(features, torch.tensor([frames]))[0].square().sum().backward()
    assert (features.grad.abs().sum(-1) > 0).all()
