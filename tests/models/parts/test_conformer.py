import torch
from torch.nn import functional as F

from auricle.models.parts.conformer import (
    ConformerBlock,
    ConformerEncoder,
    Convolution,
    SelfAttention,
    rotary_angles,
    rotate,
)
from auricle.models.parts.masks import attention_mask
from auricle.models.parts.subsampling import ConvSubsampling

CPU = torch.device("cpu")


def test_rotary_scores_depend_on_the_distance_alone():
    angles = rotary_angles(12, 8, CPU)
    q, k = torch.randn(2, 8)
    turned_q, turned_k = (rotate(x.expand(1, 12, 1, 8), angles)[0, :, 0] for x in (q, k))
    scores = turned_q @ turned_k.T  # (12, 12)
    for distance in range(-11, 12):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5, rtol=0)
    assert scores[0].std() > 1e-3
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm().expand(12))


def test_rotary_turns_pairs_by_the_formula():
    cos, sin = rotary_angles(5, 4, CPU)
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).expand(1, 5, 1, 4)
    pairs, rates = torch.tensor([1 + 3j, 2 + 4j]), torch.tensor([1.0, 0.01])
    expected = pairs * torch.exp(1j * 3 * rates)
    torch.testing.assert_close(rotate(x, (cos, sin))[0, 3, 0], torch.cat([expected.real, expected.imag]))


def test_attention_is_softmax_of_scaled_products_over_valid_keys():
    torch.manual_seed(0)
    module, x, lengths = SelfAttention(8, 2, 0.0), torch.randn(2, 6, 8), torch.tensor([6, 4])
    angles = rotary_angles(6, 4, CPU)
    q, k, v = module.project_in(module.norm(x)).view(2, 6, 3, 2, 4).unbind(2)  # (B, F, H, K) each
    q, k = rotate(q, angles), rotate(k, angles)
    for row, length in enumerate(lengths.tolist()):
        scores = torch.einsum("qhk,shk->hqs", q[row], k[row, :length]) / 2
        heads = torch.einsum("hqs,shk->qhk", scores.softmax(-1), v[row, :length])
        expected = module.project_out(heads.flatten(1))
        torch.testing.assert_close(module(x, angles, attention_mask(lengths, 6))[row], expected, atol=1e-6, rtol=1e-5)


def test_the_depthwise_convolution_is_a_one_dimensional_one():
    torch.manual_seed(0)
    module, x = Convolution(6, 5, 0.0), torch.randn(2, 11, 6)
    gated = F.glu(module.project_in(module.norm_in(x)))
    weight, bias = module.depthwise.weight.squeeze(-1), module.depthwise.bias
    convolved = F.conv1d(gated.transpose(1, 2), weight, bias, padding=2, groups=6)
    expected = module.project_out(F.silu(module.norm_out(convolved.transpose(1, 2))))
    torch.testing.assert_close(module(x, torch.zeros(2, 11, 1, dtype=torch.bool)), expected, atol=1e-6, rtol=1e-5)


def test_a_block_has_half_steps_around_attention_and_convolution():
    torch.manual_seed(0)
    block, x, lengths = ConformerBlock(8, 2, 4, 3, 0.0), torch.randn(1, 5, 8), torch.tensor([5])
    around = rotary_angles(5, 4, CPU), attention_mask(lengths, 5)
    padding = torch.zeros(1, 5, 1, dtype=torch.bool)
    y = x + 0.5 * block.feedforward_in(x)
    y = y + block.attention(y, *around)
    y = y + block.convolution(y, padding)
    y = block.norm(y + 0.5 * block.feedforward_out(y))
    torch.testing.assert_close(block(x, *around, padding), y)


def test_dropout_acts_while_training_only():
    encoder = ConformerEncoder(ConvSubsampling(8, 8, 2, 2), width=8, layers=1, heads=2, feedforward_factor=2, kernel=3,
                               dropout=0.5)
    features, lengths = torch.randn(1, 9, 8), torch.tensor([9])
    assert not torch.equal(encoder(features, lengths)[0], encoder(features, lengths)[0])
    encoder.eval()
    assert torch.equal(encoder(features, lengths)[0], encoder(features, lengths)[0])
