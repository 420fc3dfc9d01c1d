"""Learned queries look at one window of frames after the other (BLIP-2, Li et al. 2023, §3.1; windows: Granite Speech).

# B utterances · E encoder frames · D width of the encoder · W windows · S frames a window · Q queries · H their width
# P tokens (W · Q) · L width of the language model
"""

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from auricle.core.errors import ConfigError
from auricle.models.parts.masks import valid_frames
from auricle.models.speech_llm.projector_configs import QformerConfig
from auricle.models.speech_llm.projectors import Length, Projected
from auricle.models.speech_llm.projectors.parts.frames import silenced, whole_groups
from auricle.models.speech_llm.projectors.parts.layers import draw_small


class QformerProjector(nn.Module):
    """(B, E, D) → (B, E/S · Q, L), with the windows rounded up."""

    def __init__(self, qformer: Blip2QFormerModel, window_frames: int, queries: int, width_out: int) -> None:
        super().__init__()
        self.window_frames, self.tokens_per_window = window_frames, queries
        self.queries = nn.Parameter(torch.randn(queries, qformer.config.hidden_size))
        self.qformer = qformer
        self.project = nn.Linear(qformer.config.hidden_size, width_out)

    def lengths(self, frames: Length) -> Length:
        return -(-frames // self.window_frames) * self.tokens_per_window

    def forward(self, encoded: Tensor, lengths: Tensor) -> Projected:
        utterances, frames, _ = encoded.shape
        tokens = self.lengths(lengths)
        encoded, lengths = silenced(encoded, lengths)
        windows = whole_groups(encoded, self.window_frames)  # (B, W, S, D)
        shape, windows = windows.shape[:2], windows.flatten(0, 1)  # (BW, S, D)
        queries = self.queries.expand(len(windows), -1, -1)  # (BW, Q, H)
        x = self.qformer(query_embeds=queries, encoder_hidden_states=windows,
                         encoder_attention_mask=self._valid(lengths, shape[1])).last_hidden_state
        x = self.project(x).unflatten(0, shape).flatten(1, 2)  # (B, P, L)
        return Projected(x[:utterances, : self.lengths(frames)], tokens)

    def _valid(self, lengths: Tensor, windows: int) -> Tensor:
        """(B,) → (BW, S) bool. A window without frames may look at its first: a softmax over nothing would be NaN."""
        starts = torch.arange(windows, device=lengths.device) * self.window_frames
        inside = (lengths.unsqueeze(1) - starts).clamp(min=1)  # (B, W)
        return valid_frames(inside.flatten(), self.window_frames)


def build(config: QformerConfig, width_in: int, width_out: int) -> QformerProjector:
    hidden = config.hidden or width_in
    if hidden % config.heads:
        raise ConfigError(f"projector: heads is {config.heads}, but the encoder's width {hidden} is no multiple of it; "
                          "give it a divisor, or give 'hidden' a multiple of it")
    qformer = Blip2QFormerModel(Blip2QFormerConfig(
        hidden_size=hidden, num_hidden_layers=config.layers, num_attention_heads=config.heads,
        intermediate_size=4 * hidden, encoder_hidden_size=width_in, cross_attention_frequency=1,
        hidden_dropout_prob=config.dropout, attention_probs_dropout_prob=config.dropout))
    projector = QformerProjector(qformer, config.window_frames, config.queries, width_out)
    return projector.apply(draw_small)
