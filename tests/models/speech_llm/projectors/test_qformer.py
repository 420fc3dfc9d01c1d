import pytest
import torch

from auricle.core.errors import ConfigError
from auricle.models.speech_llm.projector_configs import QformerConfig
from auricle.models.speech_llm.projectors.qformer import build


def qformer(width_in=12, **keys):
    torch.manual_seed(0)
    config = QformerConfig(**{"window_frames": 5, "queries": 2, "heads": 2, "hidden": 8, **keys})
    return build(config, width_in, 10).double().eval()


def test_queries_look_at_the_valid_frames_of_a_window_alone():
    wide, narrow, clip = qformer(), qformer(window_frames=3), torch.randn(1, 3, 12).double()
    lengths = torch.tensor([3])
    torch.testing.assert_close(wide(clip, lengths).tokens, narrow(clip, lengths).tokens)


def test_no_window_has_nothing_to_look_at():
    assert qformer()._valid(torch.tensor([7, 0]), 2).sum(1).tolist() == [5, 2, 1, 1]


def test_each_window_becomes_its_own_tokens_in_order():
    projector, clip = qformer(), torch.randn(1, 12, 12).double()
    tokens = projector(clip, torch.tensor([12])).tokens
    assert tokens.shape == (1, 6, 10)
    for window in range(3):
        part = clip[:, 5 * window : 5 * window + 5]
        torch.testing.assert_close(tokens[:, 2 * window : 2 * window + 2],
                                   projector(part, torch.tensor([part.shape[1]])).tokens)


def test_queries_of_a_window_differ():
    first, second = qformer()(torch.randn(1, 5, 12).double(), torch.tensor([5])).tokens[0]
    assert (first - second).norm() > 0.1 * first.norm()


def test_the_width_of_a_query_is_the_encoder_s_unless_given():
    assert qformer(hidden=None).queries.shape == (2, 12)
    with pytest.raises(ConfigError, match="heads is 16, but the encoder's width 12 is no multiple of it"):
        qformer(hidden=None, heads=16)
