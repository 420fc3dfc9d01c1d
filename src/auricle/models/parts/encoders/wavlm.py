"""WavLM (Chen et al. 2022): HuBERT with a gated relative position bias in its attention (§III-B).

transformers computes that attention step by step, with all its weights in memory; here the bias goes into PyTorch's
fused one, which gives the same numbers.

# B batch · E encoder frames · D width · H heads · K head width (D/H)
"""

from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import WavLMModel
from transformers.models.wavlm.modeling_wavlm import WavLMAttention

from auricle.models.parts.encoders.parts.config import EncoderConfig
from auricle.models.parts.encoders.parts.wave import WaveEncoder, build_wave
from auricle.models.parts.encoders.parts.waveform import Waveform


class FusedAttention(WavLMAttention):
    """(B, E, D) → (B, E, D), and the position bias (H, E, E), which the first block computes for all."""

    @classmethod
    def of(cls, theirs: WavLMAttention) -> Self:
        """With the very parameters of theirs."""
        with torch.device("meta"):
            ours = cls(theirs.embed_dim, theirs.num_heads, theirs.dropout, theirs.num_buckets, theirs.max_distance,
                       hasattr(theirs, "rel_attn_embed"))
        ours.load_state_dict(theirs.state_dict(keep_vars=True), assign=True)
        return ours

    def forward(self, hidden_states: Tensor, attention_mask: Tensor, position_bias: Tensor | None = None,
                **_index: int) -> tuple[Tensor, None, Tensor]:
        frames = hidden_states.shape[1]
        if position_bias is None:
            position_bias = self.compute_bias(frames, frames)  # (H, E, E)
        gates = self.gru_rel_pos_linear(self._by_head(hidden_states))  # (B, H, E, 8)
        update, reset = gates.unflatten(-1, (2, 4)).sum(-1).sigmoid().chunk(2, -1)  # (B, H, E, 1) each
        bias = (update * (reset * self.gru_rel_pos_const - 1.0) + 2.0) * position_bias  # (B, H, E, E)
        q, k, v = (self._by_head(project(hidden_states)) for project in (self.q_proj, self.k_proj, self.v_proj))
        bias = bias.to(q.dtype).masked_fill(~attention_mask, -torch.inf)
        dropout = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)  # (B, H, E, K)
        return self.out_proj(x.transpose(1, 2).flatten(2)), None, position_bias

    def _by_head(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, H, E, K)


class WavLM(WaveEncoder):
    """(B, T, 1) samples, (B,) lengths → (B, E, D), (B,) lengths."""

    def __init__(self, model: WavLMModel, frontend: Waveform, commit: str | None) -> None:
        super().__init__(model, frontend, commit)
        for layer in self.layers:
            layer.attention = FusedAttention.of(layer.attention)

    def transformed(self, x: Tensor, mask: Tensor) -> Iterator[Tensor]:
        bias = None
        for layer in self.layers:
            x, bias = layer(x, attention_mask=mask, position_bias=bias)
            yield x


def build(config: EncoderConfig) -> WavLM:
    return build_wave(config, WavLMModel, WavLM)
