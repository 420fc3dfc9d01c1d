"""Frames side by side and one SwiGLU, with RMSNorm before and after.

# B utterances · E encoder frames · D width of the encoder · k frames a token · P tokens · L width of the language model
"""

from torch import Tensor, nn

from auricle.models.parts.dropout import Dropout
from auricle.models.speech_llm.projector_configs import SwigluConfig
from auricle.models.speech_llm.projectors import Length, Projected
from auricle.models.speech_llm.projectors.parts.frames import side_by_side
from auricle.models.speech_llm.projectors.parts.layers import RMSNorm, SwiGLU, draw_small


class SwigluProjector(nn.Module):
    """(B, E, D) → (B, E/k, L), rounded up."""

    def __init__(self, frames_per_token: int, width_in: int, hidden: int, width_out: int, dropout: float) -> None:
        super().__init__()
        self.frames_per_token = frames_per_token
        self.norm_in = RMSNorm(frames_per_token * width_in)
        self.swiglu = SwiGLU(frames_per_token * width_in, hidden, width_out, dropout)
        self.norm_out = RMSNorm(width_out)
        self.dropout = Dropout(dropout)

    def lengths(self, frames: Length) -> Length:
        return -(-frames // self.frames_per_token)

    def forward(self, encoded: Tensor, lengths: Tensor) -> Projected:
        utterances, frames, _ = encoded.shape
        x, _ = side_by_side(encoded, lengths, self.frames_per_token)  # (B, P, kD)
        x = self.dropout(self.norm_out(self.swiglu(self.norm_in(x))))  # (B, P, L)
        return Projected(x[:utterances, : self.lengths(frames)], self.lengths(lengths))


def build(config: SwigluConfig, width_in: int, width_out: int) -> SwigluProjector:
    hidden = config.hidden or 4 * width_in
    projector = SwigluProjector(config.frames_per_token, width_in, hidden, width_out, config.dropout)
    return projector.apply(draw_small)
