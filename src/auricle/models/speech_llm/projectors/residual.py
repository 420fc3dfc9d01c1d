"""A linear map of frames side by side, then layers that correct it and begin with almost no correction.

# B utterances · E encoder frames · D width of the encoder · k frames a token · P tokens · L width of the language model
"""

from torch import Tensor, nn

from auricle.models.parts.dropout import Dropout
from auricle.models.speech_llm.projector_configs import ResidualConfig
from auricle.models.speech_llm.projectors import Length, Projected
from auricle.models.speech_llm.projectors.parts.frames import side_by_side
from auricle.models.speech_llm.projectors.parts.layers import STD, RMSNorm, draw_small


class Correction(nn.Module):
    """(…, L) → (…, L): RMSNorm(x + MLP(x))."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.expand, self.contract = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.activation, self.dropout = nn.GELU(), Dropout(dropout)
        self.norm = RMSNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        inside = self.dropout(self.activation(self.expand(x)))
        return self.norm(x + self.dropout(self.contract(inside)))


class ResidualProjector(nn.Module):
    """(B, E, D) → (B, E/k, L), rounded up."""

    def __init__(self, frames_per_token: int, width_in: int, hidden: int, width_out: int, *, layers: int,
                 dropout: float) -> None:
        super().__init__()
        self.frames_per_token = frames_per_token
        self.project = nn.Linear(frames_per_token * width_in, width_out)
        self.norm = RMSNorm(width_out)
        self.layers = nn.Sequential(*(Correction(width_out, hidden, dropout) for _ in range(layers)))
        self.dropout = Dropout(dropout)

    def lengths(self, frames: Length) -> Length:
        return -(-frames // self.frames_per_token)

    def forward(self, encoded: Tensor, lengths: Tensor) -> Projected:
        utterances, frames, _ = encoded.shape
        x, _ = side_by_side(encoded, lengths, self.frames_per_token)  # (B, P, kD)
        x = self.dropout(self.layers(self.norm(self.project(x))))  # (B, P, L)
        return Projected(x[:utterances, : self.lengths(frames)], self.lengths(lengths))


def build(config: ResidualConfig, width_in: int, width_out: int) -> ResidualProjector:
    projector = ResidualProjector(
        config.frames_per_token, width_in, config.hidden or 4 * width_out, width_out, layers=config.layers,
        dropout=config.dropout).apply(draw_small)
    for layer in projector.layers:
        nn.init.normal_(layer.contract.weight, std=STD / 10)
    return projector
