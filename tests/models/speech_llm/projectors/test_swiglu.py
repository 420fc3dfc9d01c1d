import torch
from torch.nn import functional as F

from auricle.models.speech_llm.projector_configs import SwigluConfig
from auricle.models.speech_llm.projectors.swiglu import build


def test_it_is_a_swiglu_of_normalised_pairs_of_frames():
    torch.manual_seed(0)
    projector, encoded = build(SwigluConfig(), 6, 5), torch.randn(1, 4, 6)
    assert projector.swiglu.gate.out_features == 4 * 6
    pairs = torch.cat([encoded[:, 0::2], encoded[:, 1::2]], -1)
    expected = F.rms_norm(projector.swiglu(F.rms_norm(pairs, (12,), eps=1e-6)), (5,), eps=1e-6)
    torch.testing.assert_close(projector(encoded, torch.tensor([4])).tokens, expected)
