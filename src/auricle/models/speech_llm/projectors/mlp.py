"""Frames side by side and two linear layers without biases, each with its RMSNorm.

As in GLM-ASR, but where that drops the frames that do not fill a last group, here zeros fill it up: the end of a
sentence is speech too.

# B utterances · E encoder frames · D width of the encoder · k frames a token · P tokens · L width of the language model
"""

from torch import Tensor, nn

from auricle.models.speech_llm.projector_configs import MlpConfig
from auricle.models.speech_llm.projectors import Length, Projected
from auricle.models.speech_llm.projectors.parts.frames import side_by_side
from auricle.models.speech_llm.projectors.parts.layers import RMSNorm, draw_small


class MlpProjector(nn.Module):
    """(B, E, D) → (B, E/k, L), rounded up."""

    def __init__(self, frames_per_token: int, width_in: int, hidden: int, width_out: int) -> None:
        super().__init__()
        self.frames_per_token = frames_per_token
        self.layers = nn.Sequential(
            nn.Linear(frames_per_token * width_in, hidden, bias=False), RMSNorm(hidden), nn.GELU(),
            nn.Linear(hidden, width_out, bias=False), RMSNorm(width_out))

    def lengths(self, frames: Length) -> Length:
        return -(-frames // self.frames_per_token)

    def forward(self, encoded: Tensor, lengths: Tensor) -> Projected:
        utterances, frames, _ = encoded.shape
        x, _ = side_by_side(encoded, lengths, self.frames_per_token)  # (B, P, kD)
        x = self.layers(x)  # (B, P, L)
        return Projected(x[:utterances, : self.lengths(frames)], self.lengths(lengths))


def build(config: MlpConfig, width_in: int, width_out: int) -> MlpProjector:
    projector = MlpProjector(config.frames_per_token, width_in, config.hidden or width_out, width_out)
    return projector.apply(draw_small)
