"""The gated feed-forward module of the Conformer blocks and of the decoder.

# B batch · F frames or tokens · D width
"""

from torch import Tensor, nn
from torch.nn import functional as F

from auricle.models.parts.dropout import Dropout


class FeedForward(nn.Module):
    """(B, F, D) → (B, F, D): W₃(swish(W₁x) · W₂x), normalised before (Shazeer 2020, §2, SwiGLU)."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.project_in = nn.Linear(width, 2 * hidden, bias=False)
        self.project_out = nn.Linear(hidden, width, bias=False)
        self.dropout_in, self.dropout_out = Dropout(dropout), Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.project_in(self.norm(x)).chunk(2, -1)
        return self.dropout_out(self.project_out(self.dropout_in(F.silu(gate) * value)))
