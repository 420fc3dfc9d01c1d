import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from auricle.models.voxformer.chunks import Chunks, Memory

frames = st.integers(1, 23)
sizes = st.integers(1, 9)


def convolved(x, kernel, chunks, owner="it"):
    """A moving weighted sum over an odd number of frames."""
    windows = chunks.around(x, len(kernel) // 2, owner)  # (B·N, F + 2 half, D)
    y = functional.conv1d(windows.transpose(1, 2), kernel.expand(x.shape[2], 1, -1), groups=x.shape[2])
    return chunks.joined(y.transpose(1, 2), len(x), x.shape[1])


def in_turn(x, size):
    return [x[:, first : first + size] for first in range(0, x.shape[1], size)]


@given(frames, sizes)
def test_a_frame_looks_at_earlier_chunks_and_its_own(length, size):
    mask = Chunks(size).attention_mask(torch.tensor([length]), length)[0, 0]
    for frame in range(length):
        for other in range(length):
            assert mask[frame, other] == (other // size <= frame // size)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=4), sizes)
def test_nobody_looks_at_padding_and_everybody_looks_at_something(lengths, size):
    mask = Chunks(size).attention_mask(torch.tensor(lengths), max(1, *lengths))
    for row, length in enumerate(lengths):
        assert not mask[row, 0, :, max(1, length) :].any()
    assert mask.any(-1).all()


@pytest.mark.parametrize("size", [None, 1, 3, 4, 8, 50])
def test_a_convolution_sees_what_came_before_and_zeros_after_its_chunk(size):
    x, kernel, half = torch.randn(2, 21, 3, dtype=torch.float64), torch.randn(5, dtype=torch.float64), 2
    found = convolved(x, kernel, Chunks(size))
    for frame in range(21):
        end = 21 if size is None else (frame // size + 1) * size
        near = range(frame - half, frame + half + 1)
        window = [x[:, one] if 0 <= one < min(end, 21) else torch.zeros(2, 3) for one in near]
        expected = sum(weight * one for weight, one in zip(kernel, window, strict=True))
        torch.testing.assert_close(found[:, frame], expected)


@given(frames, sizes, st.sampled_from([1, 3, 7, 15]))
def test_a_stream_of_chunks_gives_what_all_chunks_at_once_give(length, size, width):
    x, kernel = torch.randn(1, length, 2, dtype=torch.float64), torch.randn(width, dtype=torch.float64)
    stream = Chunks(size, Memory())
    pieces = [convolved(piece, kernel, stream) for piece in in_turn(x, size)]
    torch.testing.assert_close(torch.cat(pieces, 1), convolved(x, kernel, Chunks(size)))


@given(frames, sizes, st.integers(0, 6))
def test_a_stream_has_the_frames_before_each_chunk(length, size, count):
    x = torch.randn(1, length, 2)
    padded, stream, first = functional.pad(x, (0, 0, count, 0)), Chunks(size, Memory()), 0
    for piece in in_turn(x, size):
        assert torch.equal(stream.before(piece, count, "it"), padded[:, first : first + count + piece.shape[1]])
        first += piece.shape[1]


def test_owners_remember_by_themselves_and_count_what_they_saw():
    memory = Memory()
    first, second = torch.ones(1, 2, 1), torch.zeros(1, 3, 1)
    assert memory.extend("one", first).shape == (1, 2, 1)
    assert memory.extend("other", second).shape == (1, 3, 1)
    assert memory.extend("one", second).flatten().tolist() == [1, 1, 0, 0, 0]
    asked = (("one", 2), ("one", 3), ("other", 1), ("one", 0))
    assert [memory.seen(owner, count) for owner, count in asked] == [0, 2, 0, 5]


def test_half_the_rate_has_half_the_frames():
    assert Chunks(8).halved() == Chunks(4)
    assert Chunks().halved() == Chunks()
