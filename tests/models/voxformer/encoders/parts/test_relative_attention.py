import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from auricle.models.voxformer.chunks import Chunks, Memory
from auricle.models.voxformer.encoders.parts.relative_attention import (
    AttentionWeights,
    View,
    by_key,
    relative_positions,
)

DOUBLE = torch.zeros(0, dtype=torch.float64)


def described(offset: int, width: int) -> torch.Tensor:
    squeezed = math.copysign(math.sqrt(width) * math.log(1 + abs(offset) / math.sqrt(width)), offset)
    angle = math.atan(squeezed * 2 * math.pi / width)
    numbers = range(1, width // 2 + 1)
    both = [math.cos(n * angle) for n in numbers] + [math.sin(n * angle) for n in numbers]
    return torch.tensor(both, dtype=torch.float64)


def full_view(lengths: torch.Tensor, frames: int, width: int) -> View:
    padding = torch.arange(frames) >= lengths.unsqueeze(1)
    positions = relative_positions(frames, frames, width, DOUBLE)
    return View(positions, Chunks().attention_mask(lengths, frames), padding.unsqueeze(-1), Chunks())


def test_offsets_are_described_by_the_formula():
    found = relative_positions(3, 5, 8, DOUBLE)
    torch.testing.assert_close(found, torch.stack([described(offset, 8) for offset in range(-4, 4)]))


def test_near_offsets_are_told_apart_and_far_ones_hardly():
    found = relative_positions(500, 500, 48, DOUBLE)  # offset o is at o + 499
    apart = (found[1:] - found[:-1]).norm(dim=1)
    assert apart[499:503].min() > 0.5
    assert apart[-100:].max() < 0.05
    assert found.unique(dim=0).shape == found.shape


@given(st.integers(1, 9), st.integers(0, 9))
def test_scores_by_offset_become_scores_by_key(frames, before):
    keys = frames + before
    scores = torch.randn(2, 3, frames, keys + frames)
    found = by_key(scores, keys)
    for query in range(frames):
        for key in range(keys):
            offset = key - before - query
            assert torch.equal(found[..., query, key], scores[..., query, offset + keys - 1])


@pytest.mark.parametrize("lengths", [[7, 4], [7, 0]])
def test_weights_are_a_softmax_over_contents_and_distances(lengths):
    torch.manual_seed(0)
    module = AttentionWeights(12, 2, 5, 3, 6).double()
    x, lengths = torch.randn(2, 7, 12, dtype=torch.float64), torch.tensor(lengths)
    found = module(x, full_view(lengths, 7, 6))
    assert found.shape == (2, 2, 7, 7)
    for row, length in enumerate(lengths.clamp(min=1).tolist()):
        for head in range(2):
            q, p = module.project_queries(x[row])[:, head * 8 : head * 8 + 8].split([5, 3], 1)
            k = module.project_keys(x[row])[:, head * 5 : head * 5 + 5]
            w = module.project_positions.weight[head * 3 : head * 3 + 3]
            for frame in range(7):
                scores = [q[frame] @ k[other] / math.sqrt(5) + p[frame] @ (w @ described(other - frame, 6))
                          for other in range(length)]
                expected = torch.cat([torch.stack(scores).softmax(0), torch.zeros(7 - length)])
                torch.testing.assert_close(found[row, head, frame], expected, atol=1e-12, rtol=0)


def test_each_part_of_the_scores_has_a_gradient():
    module = AttentionWeights(8, 2, 4, 2, 6).double()
    weights = module(torch.randn(1, 5, 8, dtype=torch.float64), full_view(torch.tensor([5]), 5, 6))
    (weights * torch.randn_like(weights)).sum().backward()
    assert all(parameter.grad.any() for parameter in module.parameters())


def test_a_stream_remembers_keys_and_counts_distances_from_its_own_frames():
    torch.manual_seed(0)
    module = AttentionWeights(8, 2, 4, 2, 6).double()
    x = torch.randn(1, 10, 8, dtype=torch.float64)
    whole = module(x, full_view(torch.tensor([10]), 10, 6))
    stream = Chunks(memory=Memory())
    module(x[:, :6], View(relative_positions(6, 6, 6, x), None, torch.zeros(1, 6, 1, dtype=torch.bool), stream))
    end = View(relative_positions(4, 10, 6, x), None, torch.zeros(1, 4, 1, dtype=torch.bool), stream)
    torch.testing.assert_close(module(x[:, 6:], end), whole[:, :, 6:])
