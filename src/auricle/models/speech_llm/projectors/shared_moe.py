"""One expert for every token and the best few of several routed ones (Dai et al. 2024, DeepSeekMoE, §3).

Where we differ from the original, and why:

- The router begins as N(0, 0.02²), not as zeros: all logits would tie, top-k breaks ties by index, and every token
  would go to the same two experts while the balance loss reads a perfect 1.
- Frames and tokens pass an RMSNorm without a gain, so the parameters are as many: otherwise the loudness of the encoder
  would decide how sharply the router chooses, and its square how loud the tokens are.
- Only valid tokens are computed, routed and counted. Balance and z-loss exist while training only.

# B utterances · E encoder frames · D width of the encoder · k frames a token · P tokens · L width of the language model
# N valid tokens · X routed experts · K experts a token
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from auricle.models.parts.masks import valid_frames
from auricle.models.speech_llm.projector_configs import SharedMoeConfig
from auricle.models.speech_llm.projectors import Auxiliary, Length, Projected
from auricle.models.speech_llm.projectors.parts.frames import side_by_side
from auricle.models.speech_llm.projectors.parts.layers import STD, SwiGLU
from auricle.models.speech_llm.projectors.parts.load import load_health


class Routes(NamedTuple):
    """Which experts a token goes to."""

    logits: Tensor
    """(N, X), at least float32."""
    experts: Tensor
    """(N, K), the best first."""
    weights: Tensor
    """(N, K), in sum 1."""


class SharedMoeProjector(nn.Module):
    """(B, E, D) → (B, E/k, L), rounded up. Its health is about the share of the choices that each expert gets."""

    token_losses, batch_losses = ("z",), ("balance",)

    def __init__(self, config: SharedMoeConfig, width_in: int, width_out: int) -> None:
        super().__init__()
        self.config = config
        width = config.frames_per_token * width_in
        shape = (width, config.hidden or width, width_out, config.dropout)
        self.norm_in = nn.RMSNorm(width, eps=1e-6, elementwise_affine=False)
        self.router = nn.Linear(width, config.experts, bias=False)
        self.shared = SwiGLU(*shape)
        self.experts = nn.ModuleList(SwiGLU(*shape) for _ in range(config.experts))
        self.norm_out = nn.RMSNorm(width_out, eps=1e-6, elementwise_affine=False)

    def lengths(self, frames: Length) -> Length:
        return -(-frames // self.config.frames_per_token)

    def forward(self, encoded: Tensor, lengths: Tensor) -> Projected:
        utterances, frames, _ = encoded.shape
        x, tokens = side_by_side(encoded, lengths, self.config.frames_per_token)  # (B, P, kD)
        valid = valid_frames(tokens, x.shape[1])  # (B, P)
        x = self.norm_in(x)[valid]  # (N, kD)
        routes = self._route(x)
        mixed = self.norm_out(self._mix(x, routes))  # (N, L)
        x = mixed.new_zeros(*valid.shape, mixed.shape[1]).masked_scatter(valid.unsqueeze(-1), mixed)  # (B, P, L)
        load = shares(routes.experts, self.config.experts)  # (X,)
        auxiliary = self._auxiliary(routes.logits, load) if self.training else {}
        return Projected(x[:utterances, : self.lengths(frames)], self.lengths(lengths), auxiliary,
                         load_health(load, dead=load == 0))

    def _route(self, x: Tensor) -> Routes:
        """In float32 even under autocast: bfloat16 would round close logits to ties."""
        with torch.autocast(x.device.type, enabled=False):
            precise = torch.promote_types(x.dtype, torch.float32)
            logits = F.linear(x.to(precise), self.router.weight.to(precise))  # (N, X)
            best, experts = logits.softmax(-1).topk(self.config.experts_per_token)  # (N, K)
            return Routes(logits, experts, best / best.sum(-1, keepdim=True))

    def _mix(self, x: Tensor, routes: Routes) -> Tensor:
        """(N, kD) → (N, L): shared(x) + Σ weight · expert(x) over the token's experts.

        Each expert computes its own tokens only. One without tokens multiplies its weights by an empty matrix, so that
        they get a gradient (zero), and processes that train together need not look for unused parameters.
        """
        choices = routes.experts.flatten()  # (NK,)
        by_expert = choices.argsort(stable=True).split(choices.bincount(minlength=len(self.experts)).tolist())
        weights = routes.weights.flatten()
        mixed = self.shared(x)
        for expert, mine in zip(self.experts, by_expert, strict=True):
            rows = mine // self.config.experts_per_token
            answers = expert(x[rows]) * weights[mine, None]
            mixed = mixed.index_add(0, rows, answers.to(mixed.dtype))
        return mixed

    def _auxiliary(self, logits: Tensor, load: Tensor) -> dict[str, Auxiliary]:
        balance, z = balance_loss(logits.softmax(-1), load), logits.logsumexp(-1).square().sum()
        return {"balance": Auxiliary(balance, self.config.balance_weight, per_batch=True),
                "z": Auxiliary(z, self.config.z_weight, per_batch=False)}


def shares(experts: Tensor, count: int) -> Tensor:
    """(N, K) choices → (count,) share of them that fell on each expert; NaN if there are none."""
    return experts.flatten().bincount(minlength=count) / experts.numel()


def balance_loss(probabilities: Tensor, load: Tensor) -> Tensor:
    """X · Σ_x load_x · p_x: 1 when even, X/K when all choose the same K (Fedus et al. 2021, eq. 4); 0 without tokens.

    (N, X) probabilities, whose mean is p, and (X,) shares of the choices, which have no gradient.
    """
    mean = probabilities.sum(0) / max(len(probabilities), 1)
    return len(load) * (load.nan_to_num() * mean).sum()


def build(config: SharedMoeConfig, width_in: int, width_out: int) -> SharedMoeProjector:
    projector = SharedMoeProjector(config, width_in, width_out)
    nn.init.normal_(projector.router.weight, std=STD)
    for expert in (projector.shared, *projector.experts):
        nn.init.orthogonal_(expert.gate.weight)
        nn.init.orthogonal_(expert.up.weight)
        # Routed experts grow in: at first the shared one speaks almost alone.
        nn.init.orthogonal_(expert.down.weight, gain=0.5 if expert is projector.shared else 0.01)
    return projector
