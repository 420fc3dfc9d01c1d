"""A mixture of simple adapters: every expert answers for every token, weighted by a router (MOSA, arXiv 2508.18998).

Two convolutions leave a quarter of the frames; the router looks at the frames before them. No expert can be forgotten
by a choice, so there is no loss for balance.

# B utterances · E encoder frames · D width of the encoder · P tokens (E/4) · L width of the language model · X experts
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from auricle.models.parts.dropout import Dropout
from auricle.models.parts.masks import valid_frames
from auricle.models.speech_llm.projector_configs import MoeConfig
from auricle.models.speech_llm.projectors import Length, Projected
from auricle.models.speech_llm.projectors.parts.frames import silenced, whole_groups
from auricle.models.speech_llm.projectors.parts.layers import RMSNorm, draw_small
from auricle.models.speech_llm.projectors.parts.load import load_health

FRAMES_PER_TOKEN = 4
"""Of two convolutions with stride 2."""
DEAD = 0.01
"""Below this mean weight an expert counts as dead."""


class MoeProjector(nn.Module):
    """(B, E, D) → (B, E/4, L), rounded up. Its health is about the mean weight of each expert."""

    def __init__(self, width_in: int, width_out: int, *, experts: int, hidden: int, router_hidden: int,
                 dropout: float) -> None:
        super().__init__()
        self.first = nn.Conv1d(width_in, width_out, 3, stride=2, padding=1)
        self.second = nn.Conv1d(width_out, width_out, 3, stride=2, padding=1)
        self.router = nn.Sequential(nn.Linear(width_in, router_hidden), nn.ReLU(), nn.Linear(router_hidden, experts))
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width_out, hidden), nn.ReLU(), Dropout(dropout), nn.Linear(hidden, width_out))
            for _ in range(experts))
        self.norm = RMSNorm(width_out)

    def lengths(self, frames: Length) -> Length:
        return -(-frames // FRAMES_PER_TOKEN)

    def forward(self, encoded: Tensor, lengths: Tensor) -> Projected:
        utterances, frames, _ = encoded.shape
        tokens = self.lengths(lengths)
        encoded, lengths = silenced(encoded, lengths)
        gates = self._gates(encoded, lengths)  # (B, P, X)
        x = self._fewer(encoded, lengths)  # (B, P, L)
        mixed = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            mixed = mixed + gates[..., number, None] * expert(x)
        x = self.norm(mixed)
        return Projected(x[:utterances, : self.lengths(frames)], tokens, health=self._health(gates, lengths))

    def _fewer(self, encoded: Tensor, lengths: Tensor) -> Tensor:
        x = F.relu(self.first(encoded.transpose(1, 2)))  # (B, L, E/2)
        padding = ~valid_frames(-(-lengths // 2), x.shape[2]).unsqueeze(1)  # after the bias it is not silent any more
        return F.relu(self.second(x.masked_fill(padding, 0.0))).transpose(1, 2)  # (B, P, L)

    def _gates(self, encoded: Tensor, lengths: Tensor) -> Tensor:
        """(B, E, D) → (B, P, X), in sum 1: softmax of the logits' mean over the valid frames of each token."""
        valid = valid_frames(lengths, encoded.shape[1]).unsqueeze(-1)  # (B, E, 1)
        logits = self.router(encoded).masked_fill(~valid, 0.0)  # (B, E, X)
        sums, counts = (whole_groups(x, FRAMES_PER_TOKEN).sum(2) for x in (logits, valid))  # (B, P, X), (B, P, 1)
        return (sums / counts.clamp(min=1)).softmax(-1)

    def _health(self, gates: Tensor, lengths: Tensor) -> dict[str, Tensor]:
        valid = valid_frames(self.lengths(lengths), gates.shape[1])  # (B, P)
        load = gates.detach()[valid].mean(0)  # (X,)
        return load_health(load, dead=load < DEAD)


def build(config: MoeConfig, width_in: int, width_out: int) -> MoeProjector:
    projector = MoeProjector(
        width_in, width_out, experts=config.experts, hidden=config.hidden, router_hidden=config.router_hidden,
        dropout=config.dropout)
    return projector.apply(draw_small)
