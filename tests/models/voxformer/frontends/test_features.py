import pytest
import torch

from auricle.models.voxformer.chunks import Chunks, Memory
from auricle.models.voxformer.config import FeaturesConfig
from auricle.models.voxformer.frontends.features import build


def front_end(**changes):
    torch.manual_seed(0)
    return build(FeaturesConfig(**{"width": 4, "channels": 3, **changes}), 6).double()


def test_features_with_their_deltas_are_what_it_takes():
    assert front_end().frontend(torch.randn(20, 4)).shape == (20, 4 * 3)
    assert front_end(deltas=0).frontend.n_mels == 4


@pytest.mark.parametrize("rate", [100, 200, 400])
def test_a_second_has_fifty_frames_whatever_rate_they_come_at(rate):
    module = front_end(frame_rate=rate)
    assert module.lengths(3 * rate) == 150
    made, lengths = module(torch.randn(1, 3 * rate, 12).double(), torch.tensor([3 * rate]), Chunks())
    assert made.shape == (1, 150, 6)
    assert lengths.tolist() == [150]


@pytest.mark.parametrize("rate", [100, 200, 400])
@pytest.mark.parametrize("frames", [1, 30, 47])
def test_a_stream_gives_what_the_whole_utterance_gives(rate, frames):
    module, memory, step = front_end(frame_rate=rate), Memory(), rate // 50 * 4
    x = torch.randn(1, frames, 12, dtype=torch.float64)
    pieces = [module(piece, torch.tensor([piece.shape[1]]), Chunks(memory=memory))[0] for piece in x.split(step, 1)]
    expected, _ = module(x, torch.tensor([frames]), Chunks())
    torch.testing.assert_close(torch.cat(pieces, 1), expected, atol=1e-12, rtol=0)
