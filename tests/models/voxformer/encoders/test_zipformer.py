import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from auricle.models.voxformer.chunks import Chunks, Memory
from auricle.models.voxformer.config import ZipformerConfig
from auricle.models.voxformer.encoders.zipformer import Downsample, Zipformer, build, latest

TINY = {"widths": [8, 12, 16, 12, 8], "layers": [1, 1, 2, 1, 1], "heads": [2, 2, 4, 2, 2], "dropout": 0.0,
        "feedforward_widths": [8, 12, 16, 12, 8], "convolution_kernels": [5, 5, 3, 5, 5], "query_head_width": 4,
        "value_head_width": 3, "position_head_width": 2, "position_width": 8}


def tiny(dtype=torch.float64, **keys) -> Zipformer:
    """With weights at which every part matters."""
    torch.manual_seed(0)
    encoder = build(ZipformerConfig(**{**TINY, **keys})).to(dtype)
    for name, parameter in encoder.named_parameters():
        if name.endswith("scale"):
            torch.nn.init.uniform_(parameter, 0.3, 0.9)
        elif "down" in name:
            torch.nn.init.normal_(parameter)
    return encoder.eval()


ENCODER = tiny()


def frames(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, 8, dtype=torch.float64)


def whole(x: torch.Tensor, chunks: Chunks | None = None) -> torch.Tensor:
    return ENCODER(x, torch.full((len(x),), x.shape[1]), chunks or Chunks())


def test_frames_come_back_at_their_rate_as_wide_as_the_widest_stack():
    assert whole(frames(2, 13)).shape == (2, 13, 16)


@pytest.mark.parametrize("factor", [2, 4])
def test_down_is_an_average_with_shares_of_a_softmax(factor):
    module, x = Downsample(factor).double(), torch.randn(1, 3 * factor, 5, dtype=torch.float64)
    torch.nn.init.normal_(module.weights)
    shares = module.weights.exp() / module.weights.exp().sum()
    found = module(x, torch.tensor([3 * factor]))
    for frame in range(3):
        expected = sum(shares[n] * x[:, frame * factor + n] for n in range(factor))
        torch.testing.assert_close(found[:, frame], expected)


def test_the_frames_that_there_are_at_an_end_share_everything():
    module, x = Downsample(4).double(), torch.ones(4, 7, 1, dtype=torch.float64)
    torch.nn.init.normal_(module.weights)
    lengths = [7, 5, 4, 0]
    for row, length in enumerate(lengths):
        x[row, length:] = 1e6
    found = module(x, torch.tensor(lengths))
    assert found.shape == (4, 2, 1)
    torch.testing.assert_close(found[:3, 0], torch.ones(3, 1, dtype=torch.float64))
    torch.testing.assert_close(found[:2, 1], torch.ones(2, 1, dtype=torch.float64))
    assert found.isfinite().all()


def test_each_channel_is_the_last_that_has_it():
    stacks = [torch.full((1, 1, width), float(number)) for number, width in enumerate([3, 6, 5, 4, 2])]
    assert latest(stacks).flatten().tolist() == [4, 4, 3, 3, 2, 1]
    widest_last = [torch.zeros(1, 1, 2), torch.ones(1, 1, 4)]
    assert latest(widest_last) is widest_last[1]


def test_stacks_run_at_their_rates_and_widths_and_go_around_the_lower_ones():
    seen, x = [], frames(1, 13)
    hooks = [layer.register_forward_hook(lambda _, given, made: seen.append((given[0].shape[1:], made)))
             for layer in ENCODER.layers]
    found = whole(x)
    for hook in hooks:
        hook.remove()
    assert [tuple(shape) for shape, _ in seen] == [(13, 8), (7, 12), (4, 16), (4, 16), (7, 12), (13, 8)]
    first, second, _, third, fourth, last = (made for _, made in seen)
    widened = torch.cat([first, torch.zeros(1, 13, 4)], -1)
    second = ENCODER.bypass[0](widened, second[:, torch.arange(13) // 2])
    third = ENCODER.bypass[1](torch.cat([second, torch.zeros(1, 13, 4)], -1), third[:, torch.arange(13) // 4])
    fourth = ENCODER.bypass[2](third[..., :12], fourth[:, torch.arange(13) // 2])
    torch.testing.assert_close(found, torch.cat([last, fourth[..., 8:], third[..., 12:]], -1))


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=4), st.sampled_from([None, 4, 8, 100]), st.booleans())
def test_padding_changes_nothing_whatever_stands_in_it(lengths, size, training):
    ENCODER.train(training)
    x = frames(len(lengths), max(1, *lengths) + 3)
    for row, length in enumerate(lengths):
        x[row, length:] = float("nan")
    together = ENCODER(x, torch.tensor(lengths), Chunks(size))
    ENCODER.eval()
    assert together.isfinite().all()
    for row, length in enumerate(lengths):
        if length:
            torch.testing.assert_close(together[row : row + 1, :length], whole(x[row : row + 1, :length], Chunks(size)),
                                       atol=1e-10, rtol=0)


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 40), st.integers(1, 40))
def test_padding_changes_nothing_in_single_precision(first, second):
    encoder, x = tiny(torch.float32), torch.randn(2, max(first, second), 8)
    together = encoder(x, torch.tensor([first, second]), Chunks())
    for row, length in enumerate((first, second)):
        alone = encoder(x[row : row + 1, :length], torch.tensor([length]), Chunks())
        torch.testing.assert_close(together[row : row + 1, :length], alone, atol=1e-5, rtol=0)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 45), st.sampled_from([4, 8, 12, 20]))
def test_a_stream_of_chunks_gives_what_all_chunks_at_once_give(length, size):
    x, memory = frames(1, length), Chunks(size, Memory())
    pieces = [whole(x[:, first : first + size], memory) for first in range(0, length, size)]
    torch.testing.assert_close(torch.cat(pieces, 1), whole(x, Chunks(size)), atol=1e-10, rtol=0)


@given(st.integers(1, 30))
@settings(deadline=None, max_examples=15)
def test_one_chunk_is_the_whole_utterance(length):
    x = frames(2, length)
    torch.testing.assert_close(whole(x, Chunks(-(-length // 4) * 4)), whole(x), atol=1e-10, rtol=0)


@pytest.mark.parametrize("size", [4, 8, 16])
def test_a_frame_sees_its_chunk_and_all_before_and_nothing_later(size):
    x = frames(1, 32).requires_grad_()
    for frame in (0, 7, 15, 22):
        end = (frame // size + 1) * size
        (seen,) = torch.autograd.grad(whole(x, Chunks(size))[0, frame].square().sum(), x)
        assert (seen[0, :end].abs().sum(-1) > 0).all()
        assert not seen[0, end:].any()


def test_without_chunks_a_frame_sees_everything():
    x = frames(1, 32).requires_grad_()
    (seen,) = torch.autograd.grad(whole(x)[0, 3].square().sum(), x)
    assert (seen[0].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("lengths", [[13, 6], [1], [0, 1]])
def test_a_gradient_reaches_every_parameter(lengths):
    encoder = tiny().train()
    x = frames(len(lengths), max(lengths))
    encoder(x, torch.tensor(lengths), Chunks()).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in encoder.parameters())
    if max(lengths) > 4:
        assert all(parameter.grad.any() for parameter in encoder.parameters())


def test_the_default_has_42_million_parameters():
    with torch.device("meta"):
        encoder = build(ZipformerConfig())
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 42_105_300


@pytest.mark.parametrize(("keys", "said"), [
    ({"widths": [8, 8]}, "widths has 2 values; expected one for each of the 5 stacks"),
    ({"widths": [8, 8, 8, 10, 8]}, "widths: 10 is no multiple of 4"),
    ({"feedforward_widths": [8, 8, 9, 8, 8]}, "feedforward_widths: 9 is no multiple of 4"),
    ({"convolution_kernels": [5, 5, 4, 5, 5]}, "convolution_kernels: 4 is even"),
    ({"position_width": 7}, "position_width 7 is odd")])
def test_shapes_that_do_not_fit_are_refused(keys, said):
    with pytest.raises(ValidationError, match=said):
        ZipformerConfig(**{**TINY, **keys})
