"""Layers that several projectors are built from, and how their weights begin.

# D width in · H width inside · L width out
"""

from torch import Tensor, nn
from torch.nn import functional as F

from auricle.models.parts.dropout import Dropout

STD = 0.02
"""Of weights that begin as N(0, 0.02²)."""


class RMSNorm(nn.RMSNorm):
    """(…, D) → (…, D) (Zhang & Sennrich 2019), in the type of its weights: autocast forgets this layer, and with a
    bfloat16 input and float32 weights PyTorch leaves its fused kernel."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


class SwiGLU(nn.Module):
    """(…, D) → (…, L): down(silu(gate(x)) · up(x)), without biases (Shazeer 2020, eq. 6)."""

    def __init__(self, width_in: int, hidden: int, width_out: int, dropout: float) -> None:
        super().__init__()
        self.gate = nn.Linear(width_in, hidden, bias=False)
        self.up = nn.Linear(width_in, hidden, bias=False)
        self.dropout = Dropout(dropout)
        self.down = nn.Linear(hidden, width_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.dropout(F.silu(self.gate(x)) * self.up(x)))


def draw_small(module: nn.Module) -> None:
    """For `module.apply`: weights N(0, 0.02²), biases 0."""
    if isinstance(module, nn.Linear | nn.Conv1d):
        nn.init.normal_(module.weight, std=STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
