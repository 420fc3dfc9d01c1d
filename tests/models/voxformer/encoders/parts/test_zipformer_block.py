import pytest
import torch

from auricle.models.voxformer.chunks import Chunks
from auricle.models.voxformer.encoders.parts.relative_attention import AttentionWeights, View, relative_positions
from auricle.models.voxformer.encoders.parts.swoosh import swoosh_l, swoosh_r
from auricle.models.voxformer.encoders.parts.zipformer_block import (
    BiasNorm,
    Bypass,
    Convolution,
    FeedForward,
    NonLinearAttention,
    SelfAttention,
    ZipformerBlock,
)

WIDTH, HEADS, FRAMES = 8, 2, 7


@pytest.fixture(autouse=True)
def _double():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def view(*lengths: int) -> View:
    ends = torch.tensor(lengths)
    padding = (torch.arange(FRAMES) >= ends.unsqueeze(1)).unsqueeze(-1)
    return View(relative_positions(FRAMES, FRAMES, 6, torch.zeros(0)), Chunks().attention_mask(ends, FRAMES), padding,
                Chunks())


def test_bias_norm_divides_by_the_length_without_the_bias():
    norm, x = BiasNorm(WIDTH), torch.randn(3, WIDTH)
    with torch.no_grad():
        norm.bias.normal_()
        norm.log_scale.fill_(0.3)
    for row in range(3):
        root_mean_square = sum((x[row] - norm.bias) ** 2 / WIDTH) ** 0.5
        torch.testing.assert_close(norm(x)[row], x[row] / root_mean_square * torch.tensor(0.3).exp())
    assert norm(torch.zeros(1, WIDTH)).isfinite().all()


def test_a_frame_of_zeros_has_a_norm_without_a_bias():
    norm = BiasNorm(WIDTH)
    torch.nn.init.zeros_(norm.bias)
    x = torch.zeros(1, WIDTH, requires_grad=True)
    norm(x).sum().backward()
    assert x.grad.isfinite().all()


def test_a_bypass_mixes_by_channel_within_its_limits():
    bypass, x, y = Bypass(4), torch.randn(3, 4), torch.randn(3, 4)
    torch.testing.assert_close(bypass(x, y), 0.1 * x + 0.9 * y)
    with torch.no_grad():
        bypass.scale.copy_(torch.tensor([-3.0, 0.2, 0.7, 1.4]))
    c = torch.tensor([0.2, 0.2, 0.7, 1.0])
    torch.testing.assert_close(bypass(x, y), (1 - c) * x + c * y)
    bypass(x, y).sum().backward()
    torch.testing.assert_close(bypass.scale.grad, (y - x).sum(0))


def test_a_feed_forward_module_is_two_layers_around_swoosh_l():
    module, x = FeedForward(WIDTH, 12, 0.0), torch.randn(2, FRAMES, WIDTH)
    torch.testing.assert_close(module(x), module.project_out(swoosh_l(module.project_in(x))))


def test_dropout_acts_inside_a_feed_forward_module_while_training():
    module, x = FeedForward(WIDTH, 12, 0.5), torch.randn(2, FRAMES, WIDTH)
    assert not torch.equal(module(x), module(x))
    module.eval()
    assert torch.equal(module(x), module(x))


def test_non_linear_attention_gates_around_one_head():
    module, x = NonLinearAttention(WIDTH), torch.randn(2, FRAMES, WIDTH)
    weights = torch.rand(2, FRAMES, FRAMES).softmax(-1)
    a, b, c = (module.project_in(x)[..., first : first + 6] for first in (0, 6, 12))
    expected = torch.zeros(2, FRAMES, 6)
    for frame in range(FRAMES):
        for other in range(FRAMES):
            expected[:, frame] += weights[:, frame, other, None] * torch.tanh(b[:, other]) * c[:, other]
    torch.testing.assert_close(module(x, weights, view(7, 7)), module.project_out(a * expected))


def test_self_attention_sums_each_heads_values_with_its_weights():
    module, x = SelfAttention(WIDTH, HEADS, 3), torch.randn(2, FRAMES, WIDTH)
    weights = torch.rand(2, HEADS, FRAMES, FRAMES).softmax(-1)
    values = module.project_in(x)
    heads = [weights[:, head] @ values[..., 3 * head : 3 * head + 3] for head in range(HEADS)]
    torch.testing.assert_close(module(x, weights, view(7, 7)), module.project_out(torch.cat(heads, -1)))


def test_a_convolution_sees_half_its_kernel_to_either_side_and_padding_as_zeros():
    module, x = Convolution(WIDTH, 5), torch.randn(2, FRAMES, WIDTH)
    value, gate = module.project_in(x).chunk(2, -1)
    gated = value * torch.sigmoid(gate)
    expected = torch.zeros(2, FRAMES, WIDTH)
    for row, length in enumerate((7, 4)):
        for frame in range(FRAMES):
            for tap in range(5):
                if 0 <= frame + tap - 2 < length:
                    expected[row, frame] += gated[row, frame + tap - 2] * module.depthwise.weight[:, 0, tap, 0]
    expected = module.project_out(swoosh_r(expected + module.depthwise.bias))
    torch.testing.assert_close(module(x, view(7, 4)), expected)


@pytest.fixture
def block() -> ZipformerBlock:
    weights = AttentionWeights(WIDTH, HEADS, 4, 2, 6)
    return ZipformerBlock(WIDTH, weights, value_width=3, hidden=12, kernel=3, dropout=0.0)


def test_a_block_is_two_groups_that_share_the_weights_of_its_input(block):
    x, around = torch.randn(2, FRAMES, WIDTH), view(7, 4)
    weights = block.attention_weights(x, around)
    y = x + block.feedforward_in(x)
    y = y + block.nonlinear_attention(y, weights[:, 0], around)
    y = y + block.attention_1(y, weights, around)
    y = y + block.convolution_1(y, around)
    y = block.bypass_1(x, y + block.feedforward_1(y))
    y = y + block.attention_2(y, weights, around)
    y = y + block.convolution_2(y, around)
    y = block.norm(y + block.feedforward_2(y))
    torch.testing.assert_close(block(x, around), block.bypass_2(x, y))


def test_attention_weights_are_computed_once_a_block(block):
    times = []
    block.attention_weights.register_forward_hook(lambda *_: times.append(1))
    block(torch.randn(1, FRAMES, WIDTH), view(7))
    assert len(times) == 1


def test_a_block_has_the_parameters_of_its_modules_and_one_set_for_attention_weights(block):
    d, h, q, p, v, c, n, k = WIDTH, HEADS, 4, 2, 3, 6, 12, 3
    three_quarters = 3 * d // 4
    assert sum(one.numel() for one in block.parameters()) == (
        d * h * (2 * q + p) + h * (q + p) + c * h * p  # attention weights, once
        + 2 * (2 * d * h * v + h * v + d)  # self-attention
        + 4 * d * three_quarters + 3 * three_quarters + d  # non-linear attention
        + sum(2 * d * m + m + d for m in (3 * n // 4, n, 5 * n // 4))  # feed-forward
        + 2 * (3 * d * d + 3 * d + d * k + d)  # convolution
        + d + 1 + 2 * d)  # norm, bypasses
