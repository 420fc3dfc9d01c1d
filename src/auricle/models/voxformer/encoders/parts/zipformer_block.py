"""The block of Zipformer (Yao et al. 2024, §3.2-3.4, figure 2).

    x ─ feed-forward ─ non-linear attention ─ self-attention ─ convolution ─ feed-forward ─ bypass of x ─┐
                                           ┌─────────────────────────────────────────────────────────────┘
                                           └─ self-attention ─ convolution ─ feed-forward ─ norm ─ bypass of x

Every module before a bypass but the norm adds to what it is given. The three kinds of attention use the same weights,
which are computed from x: non-linear attention those of the first head, self-attention all of them.

The paper's regularisers of activations (balancer, whitener, §A.3) and its random skipping of modules and channels are
left out: the only randomness here is dropout, in feed-forward modules. Query and key are scaled as usual, by 1 / √Q,
where the paper's code begins with smaller weights instead, which only its optimizer is made for.

# B batch · F frames of queries · K frames of keys · D width · H heads · Q width of a query · V of a value · N chunks
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from auricle.models.parts.dropout import Dropout
from auricle.models.voxformer.encoders.parts.relative_attention import AttentionWeights, View
from auricle.models.voxformer.encoders.parts.swoosh import swoosh_l, swoosh_r

LEAST_SHARE = 0.2
"""Of what a bypass goes around …"""
FIRST_SHARE = 0.9
"""… and at the beginning of training."""
EPSILON = 1e-8
"""Keeps the norm of a frame of zeros finite."""


class BiasNorm(nn.Module):
    """(…, D) → (…, D): x / RMS[x - b] · exp(γ) (eq. 2), in which b lets the length of x matter."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(width) * 1e-4)  # not zeros, which have no scale (train/scaled_adam.py)
        self.log_scale = nn.Parameter(torch.zeros(1))  # FSDP shards no scalar

    def forward(self, x: Tensor) -> Tensor:
        square = (x - self.bias).square().mean(-1, keepdim=True)  # (…, 1)
        return x * ((square + EPSILON).rsqrt() * self.log_scale.exp())


class Bypass(nn.Module):
    """Of a module's input x and output y, (…, D) both: (1 - c) ⊙ x + c ⊙ y, with c a learned number a channel.

    The paper keeps c in [0.9, 1] at first and in [0.2, 1] after 20,000 steps. A module knows no step: here c begins at
    0.9 and is kept in [0.2, 1] always. The gradient passes as if there were no limits, so that c can come back.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((width,), FIRST_SHARE))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        outside = self.scale.detach() - self.scale.detach().clamp(LEAST_SHARE, 1.0)
        return torch.lerp(x, y.to(x.dtype), (self.scale - outside).to(x.dtype))


class FeedForward(nn.Sequential):
    """(B, F, D) → (B, F, D)"""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.project_in, self.project_out = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.project_out(self.dropout(swoosh_l(self.project_in(x))))


class NonLinearAttention(nn.Module):
    """(B, F, D), (B, F, K) weights of one head → (B, F, D): linear(A ⊙ attention(tanh(B) ⊙ C)), A, B and C ¾ D wide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = 3 * width // 4
        self.project_in, self.project_out = nn.Linear(width, 3 * hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor, weights: Tensor, view: View) -> Tensor:
        a, b, c = self.project_in(x).chunk(3, -1)  # (B, F, ¾ D) each
        return self.project_out(a * (weights @ view.so_far(b.tanh() * c, self)))


class SelfAttention(nn.Module):
    """(B, F, D), (B, H, F, K) weights → (B, F, D)"""

    def __init__(self, width: int, heads: int, value_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.project_in, self.project_out = nn.Linear(width, heads * value_width), nn.Linear(heads * value_width, width)

    def forward(self, x: Tensor, weights: Tensor, view: View) -> Tensor:
        v = view.so_far(self.project_in(x), self).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, K, V)
        return self.project_out((weights @ v).transpose(1, 2).flatten(2))


class Convolution(nn.Module):
    """(B, F, D) → (B, F, D): sees kernel // 2 frames to either side, and padding as zeros."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.half = kernel // 2
        self.project_in, self.project_out = nn.Linear(width, 2 * width), nn.Linear(width, width)
        # One over (B, D, F, 1) with D innermost in memory: on a CPU several times as fast as nn.Conv1d.
        self.depthwise = nn.Conv2d(width, width, (kernel, 1), groups=width)

    def forward(self, x: Tensor, view: View) -> Tensor:
        batch, frames, _ = x.shape
        x = F.glu(self.project_in(x)).masked_fill(view.padding, 0.0)
        x = view.chunks.around(x, self.half, self)  # (B·N, size + 2 half, D)
        x = self.depthwise(x.unsqueeze(2).permute(0, 3, 1, 2))  # (B·N, D, size, 1)
        x = view.chunks.joined(x.permute(0, 2, 3, 1).squeeze(2), batch, frames)  # (B, F, D)
        return self.project_out(swoosh_r(x))


class ZipformerBlock(nn.Module):
    """(B, F, D) → (B, F, D). `hidden` is the width inside the middle feed-forward module; the first has ¾ of it and the
    last 5/4."""

    def __init__(self, width: int, attention_weights: AttentionWeights, *, value_width: int, hidden: int, kernel: int,
                 dropout: float) -> None:
        super().__init__()
        heads = attention_weights.heads
        self.attention_weights = attention_weights
        self.feedforward_in = FeedForward(width, 3 * hidden // 4, dropout)
        self.nonlinear_attention = NonLinearAttention(width)
        self.attention_1 = SelfAttention(width, heads, value_width)
        self.convolution_1 = Convolution(width, kernel)
        self.feedforward_1 = FeedForward(width, hidden, dropout)
        self.bypass_1 = Bypass(width)
        self.attention_2 = SelfAttention(width, heads, value_width)
        self.convolution_2 = Convolution(width, kernel)
        self.feedforward_2 = FeedForward(width, 5 * hidden // 4, dropout)
        self.norm = BiasNorm(width)
        self.bypass_2 = Bypass(width)

    def forward(self, x: Tensor, view: View) -> Tensor:
        given, weights = x, self.attention_weights(x, view)
        x = x + self.feedforward_in(x)
        x = x + self.nonlinear_attention(x, weights[:, 0], view)
        x = x + self.attention_1(x, weights, view)
        x = x + self.convolution_1(x, view)
        x = x + self.feedforward_1(x)
        x = self.bypass_1(given, x)
        x = x + self.attention_2(x, weights, view)
        x = x + self.convolution_2(x, view)
        x = x + self.feedforward_2(x)
        return self.bypass_2(given, self.norm(x))
