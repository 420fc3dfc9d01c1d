import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auricle.models.voxformer.chunks import Chunks, Memory
from auricle.models.voxformer.config import LogMelConfig
from auricle.models.voxformer.frontends.logmel import build

WHOLE = Chunks()


def front_end(**changes):
    torch.manual_seed(0)
    return build(LogMelConfig(**{"n_mels": 12, "channels": 3, **changes}), 6).double()


def features(frames):
    return torch.randn(1, frames, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(frames))


@settings(deadline=None, max_examples=25)
@given(frames=st.integers(1, 60))
def test_frames_are_those_of_the_convolution_over_the_whole_utterance(frames):
    module, x, lengths = front_end(), features(frames), torch.tensor([frames])
    ours, expected = module(x, lengths, WHOLE), module.adapter(x, lengths)
    torch.testing.assert_close(ours[0], expected[0], atol=1e-12, rtol=0)
    assert torch.equal(ours[1], expected[1])


@settings(deadline=None, max_examples=25)
@given(frames=st.integers(1, 60), chunk=st.integers(1, 12))
def test_a_stream_gives_what_the_whole_utterance_gives(frames, chunk):
    module, x, stream = front_end(), features(frames), Chunks(memory=Memory())
    pieces = [module(piece, torch.tensor([piece.shape[1]]), stream) for piece in x.split(2 * chunk, 1)]
    expected, lengths = module(x, torch.tensor([frames]), WHOLE)
    torch.testing.assert_close(torch.cat([piece for piece, _ in pieces], 1), expected, atol=1e-12, rtol=0)
    assert sum(int(length) for _, length in pieces) == int(lengths)


@settings(deadline=None, max_examples=25)
@given(lengths=st.lists(st.integers(0, 30), min_size=1, max_size=4))
def test_padding_changes_nothing_whatever_stands_in_it(lengths):
    module, x = front_end(), features(max(1, *lengths)).repeat(len(lengths), 1, 1)
    for row, length in enumerate(lengths):
        x[row, length:] = float("nan")
    together, frames = module(x, torch.tensor(lengths), WHOLE)
    assert frames.tolist() == [-(-length // 2) for length in lengths]
    assert together.isfinite().all()
    for row, length in enumerate(lengths):
        if length:
            alone, _ = module(x[row : row + 1, :length], torch.tensor([length]), WHOLE)
            torch.testing.assert_close(together[row, : frames[row]], alone[0], atol=1e-12, rtol=0)


@pytest.mark.parametrize(("rate", "style"), [(16_000, "kaldi"), (8_000, "kaldi"), (16_000, "whisper")])
def test_a_second_has_fifty_frames(rate, style):
    module = front_end(sample_rate=rate, style=style)
    assert module.lengths(10 * rate) in (499, 500)
    for samples in (0, 10, rate // 40, rate // 40 - 1, 7777):
        heard = module.frontend(torch.randn(samples))
        made, lengths = module(heard.double()[None], torch.tensor([len(heard)]), WHOLE)
        assert module.lengths(samples) == made.shape[1] == int(lengths)
