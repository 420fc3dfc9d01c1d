import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from auricle.models.parts.components import count
from auricle.models.voxformer.chunks import Chunks, Memory
from auricle.models.voxformer.config import ConformerConfig
from auricle.models.voxformer.encoders.conformer import Convolution, Doubling, FeedForward, Halving, build

WIDTH = 8
WHOLE = Chunks()
SMALL = {"width": WIDTH, "layers": 1, "heads": 2, "feedforward_width": 12, "convolution_kernel": 5, "dropout": 0.0}
lengths_of = st.integers(1, 43)
chunk_sizes = st.sampled_from([4, 8, 12, 44])


def encoder(**changes):
    torch.manual_seed(0)
    return build(ConformerConfig(**{**SMALL, **changes})).double().eval()


def frames(*shape):
    return torch.randn(*shape, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def alone(model, x, chunks=WHOLE):
    return model(x, torch.tensor([x.shape[1]] * len(x)), chunks)


def view(model, x, length=None, chunks=WHOLE):
    return model._view(0, x, torch.tensor([x.shape[1] if length is None else length] * len(x)), chunks)


@settings(deadline=None, max_examples=25)
@given(length=lengths_of)
def test_there_are_as_many_frames_after_it_as_before(length):
    assert alone(encoder(), frames(2, length)).shape == (2, length, WIDTH)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("size", [None, 8])
@settings(deadline=None, max_examples=15)
@given(lengths=st.lists(st.integers(0, 30), min_size=1, max_size=4))
def test_padding_changes_nothing_whatever_stands_in_it(size, train, lengths):
    model, x = encoder().train(train), frames(len(lengths), max(1, *lengths))
    for row, length in enumerate(lengths):
        x[row, length:] = 7.0
    together = model(x, torch.tensor(lengths), Chunks(size))
    assert together.isfinite().all()
    for row, length in enumerate(lengths):
        if length:
            by_itself = alone(model, x[row : row + 1, :length], Chunks(size))
            torch.testing.assert_close(together[row, :length], by_itself[0], atol=1e-10, rtol=0)


@settings(deadline=None, max_examples=25)
@given(length=lengths_of, size=chunk_sizes, layers=st.integers(1, 2))
def test_a_stream_of_chunks_gives_what_all_chunks_at_once_give(length, size, layers):
    model, x, memory = encoder(layers=layers), frames(1, length), Memory()
    pieces = [alone(model, x[:, first : first + size], Chunks(memory=memory)) for first in range(0, length, size)]
    torch.testing.assert_close(torch.cat(pieces, 1), alone(model, x, Chunks(size)), atol=1e-10, rtol=0)


@settings(deadline=None, max_examples=15)
@given(length=lengths_of)
def test_a_chunk_as_long_as_the_utterance_is_the_whole(length):
    model, x = encoder(), frames(2, length)
    torch.testing.assert_close(alone(model, x, Chunks(44)), alone(model, x), atol=1e-10, rtol=0)


@pytest.mark.parametrize("size", [4, 8, 12])
def test_no_frame_sees_beyond_its_chunk_and_the_last_of_it_sees_all_before(size):
    model, x = encoder(), frames(1, 31)
    before = alone(model, x, Chunks(size))
    for frame in range(31):
        other = x.clone()
        other[:, frame] = frames(1, frame + 50)[:, 0]
        moved = (alone(model, other, Chunks(size)) - before).abs().amax(-1)[0] > 1e-12
        first = frame // size * size
        assert not moved[:first].any()
        assert moved[frame:].all()


def test_a_whole_utterance_is_seen_by_all():
    model, x = encoder(), frames(1, 21)
    x.requires_grad_()
    for frame in (0, 20):
        gradient, = torch.autograd.grad(alone(model, x)[0, frame, 0], x)
        assert (gradient.abs().sum(-1) > 0).all()


def test_going_down_is_a_convolution_of_three_with_stride_two():
    torch.manual_seed(0)
    module = Halving(WIDTH).double()
    kernel = module.project.weight.unflatten(1, (WIDTH, 3))
    for length in (1, 2, 7, 8):
        x = frames(2, length)
        expected = F.conv1d(F.pad(x.transpose(1, 2), (1, length % 2)), kernel, stride=2).transpose(1, 2)
        torch.testing.assert_close(module(x, view(encoder(), x)), module.norm(expected))


def test_going_down_sees_padding_as_zeros():
    torch.manual_seed(0)
    module, x = Halving(WIDTH).double(), frames(1, 8)
    x[:, 5:] = float("nan")
    by_itself = module(x[:, :5], view(encoder(), x[:, :5]))
    torch.testing.assert_close(module(x, view(encoder(), x, length=5))[:, :3], by_itself)


def test_going_up_is_a_transposed_convolution_of_three_with_stride_two():
    torch.manual_seed(0)
    module, x = Doubling(WIDTH).double(), frames(2, 6)
    here, before = module.even.weight.chunk(2, 1)
    kernel = torch.stack([here.T, module.odd.weight.T, before.T], -1)  # (D in, D out, 3)
    expected = F.conv_transpose1d(x.transpose(1, 2), kernel, stride=2)[..., :-1].transpose(1, 2)
    torch.testing.assert_close(module(x, WHOLE), module.norm(expected))


def test_a_feed_forward_module_is_gated():
    torch.manual_seed(0)
    module, x = FeedForward(WIDTH, 12, 0.0).double(), frames(1, 3)
    gate, value = module.project_in.weight.chunk(2)
    normed = F.layer_norm(x, (WIDTH,))
    expected = (F.silu(normed @ gate.T) * (normed @ value.T)) @ module.project_out.weight.T
    torch.testing.assert_close(module(x), expected)


def test_the_depthwise_convolution_is_a_one_dimensional_one():
    torch.manual_seed(0)
    module, x = Convolution(WIDTH, 5, 0.0).double(), frames(2, 11)
    gated = F.glu(module.project_in(module.norm_in(x)))
    convolved = F.conv1d(gated.transpose(1, 2), module.depthwise.weight.squeeze(-1), padding=2, groups=WIDTH)
    expected = module.project_out(F.silu(module.norm_out(convolved.transpose(1, 2))))
    torch.testing.assert_close(module(x, view(encoder(), x)), expected)


def test_attention_normalises_what_it_looks_at():
    """The original forgot it: there, twice the input was four times the score."""
    model, x = encoder(), frames(1, 9)
    attention = model.layers[0].attention
    torch.testing.assert_close(attention(100 * x, view(model, x)), attention(x, view(model, x)), atol=1e-3, rtol=1e-3)


def test_each_rate_has_its_blocks_in_their_order():
    model, seen = encoder(layers=2), []
    for number, layer in enumerate(model.layers):
        layer.register_forward_pre_hook(lambda _, inputs, number=number: seen.append((number, inputs[0].shape[1])))
    alone(model, frames(1, 41))
    assert seen == list(enumerate([41, 41, 21, 21, 11, 11, 21, 21, 41, 41]))


def test_dropout_acts_while_training_only():
    model, x = encoder(dropout=0.5), frames(1, 9)
    assert torch.equal(alone(model, x), alone(model, x))
    model.train()
    assert not torch.equal(alone(model, x), alone(model, x))


def test_it_trains_under_autocast():
    model, x = encoder().float().train(), frames(2, 13).float()
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x, torch.tensor([13, 6]), WHOLE)
    y.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


def test_the_size_of_the_original_is_its_own_and_the_norms_that_it_lacked():
    """10 blocks of width 512 more: systems.md §4.2 counts 85,675,008 without the norms before attention."""
    with torch.device("meta"):
        model = build(ConformerConfig())
    assert count(model.parameters()) == 85_675_008 + 10 * 2 * 512
