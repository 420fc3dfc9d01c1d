"""ScaledAdam (Yao et al. 2024, §3.5 and algorithm 1): Adam whose steps are relative to the size of what they change.

With g the gradient of a tensor θ, r the root mean square of θ, and m, v, n, w the moving averages of g, g², h, h²:

    h = g · θ                                                    the gradient of θ's scale
    θ ← θ - α c r m / (√v + ε) - η α c θ n / (√w + ε)            c = √(1 - β₂ᵗ) / (1 - β₁ᵗ), η = 0.1

so that scaling a tensor, and its use the other way, scales its path and changes nothing else. What the paper does not
say is taken from the authors' code (icefall), or decided here:

- r is at least 1e-5, or what begins as zeros would stay so; learning the scale shrinks no tensor below that and grows
  none above 3.
- A tensor of a single number has no scale: it moves by η α c m / (√v + ε).
- `weight_decay` is that of AdamW, θ ← θ - α · weight_decay · θ. The paper has none: set 0 for its recipe.
- The authors clip gradients by a multiple of their running median norm. Here the loop clips all by `max_grad_norm`.

The moments of the scale are two numbers a tensor, kept and computed on the host.
"""

import math
from typing import Any

import torch
from torch import Tensor

SCALE_RATE = 0.1
"""η: the rate of a tensor's scale, and of single numbers, relative to that of what is in a tensor."""
LEAST_SCALE, LARGEST_SCALE = 1e-5, 3.0


class ScaledAdam(torch.optim.Optimizer):
    """`groups` as every torch optimizer takes them; each has its `lr`, α, and perhaps a `weight_decay`."""

    def __init__(self, groups: Any, *, lr: float = 0.045, betas: tuple[float, float] = (0.9, 0.98), eps: float = 1e-8,
                 weight_decay: float = 0.0) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        """Moves every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self._move(parameters, group)

    def _move(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        states = [self.state[parameter] or self._begin(parameter) for parameter in parameters]
        gradients = [parameter.grad for parameter in parameters]
        first, second = [state["exp_avg"] for state in states], [state["exp_avg_sq"] for state in states]
        beta1, beta2 = group["betas"]
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
        below = torch._foreach_sqrt(second)
        torch._foreach_add_(below, group["eps"])
        # Before anything moves: norms and scale gradients of all tensors, in one copy to the host.
        products = [torch.dot(g.flatten(), p.flatten()) for g, p in zip(gradients, parameters, strict=True)]
        numbers = torch.stack([*torch._foreach_norm(parameters), *products]).tolist()
        sizes = [parameter.numel() for parameter in parameters]
        per_tensor = zip(states, sizes, numbers[: len(sizes)], numbers[len(sizes) :], strict=True)
        factors = [_factors(*numbers_of_one, group) for numbers_of_one in per_tensor]
        torch._foreach_mul_(parameters, [1.0 + growth - group["lr"] * group["weight_decay"] for _, growth in factors])
        torch._foreach_addcdiv_(parameters, first, below, [along for along, _ in factors])

    def _begin(self, parameter: Tensor) -> dict[str, Tensor]:
        self.state[parameter] = moments_of(parameter)
        return self.state[parameter]


def moments_of(parameter: Tensor) -> dict[str, Tensor]:
    """What the optimizer keeps of a parameter, as it is before the first step."""
    kept = {"step": torch.zeros((), dtype=torch.float32), "exp_avg": torch.zeros_like(parameter).detach(),
            "exp_avg_sq": torch.zeros_like(parameter).detach()}
    if parameter.numel() == 1:
        return kept
    return kept | {kind: torch.zeros((), dtype=torch.float64) for kind in ("scale_exp_avg", "scale_exp_avg_sq")}


def _factors(
    state: dict[str, Tensor], size: int, norm: float, product: float, group: dict[str, Any]
) -> tuple[float, float]:
    """Counts the step and follows the scale. → (what m / (√v + ε) is multiplied with, growth of θ as a part of it)"""
    beta1, beta2 = group["betas"]
    state["step"] += 1
    count = float(state["step"])
    rate = group["lr"] * math.sqrt(1 - beta2**count) / (1 - beta1**count)
    if size == 1:
        return -SCALE_RATE * rate, 0.0
    first = beta1 * float(state["scale_exp_avg"]) + (1 - beta1) * product
    second = beta2 * float(state["scale_exp_avg_sq"]) + (1 - beta2) * product**2
    state["scale_exp_avg"].fill_(first)
    state["scale_exp_avg_sq"].fill_(second)
    scale = min(max(norm / math.sqrt(size), LEAST_SCALE), LARGEST_SCALE)
    growth = -SCALE_RATE * rate * first / (math.sqrt(second) + group["eps"])
    return -rate * scale, min(max(growth, LEAST_SCALE / scale - 1), LARGEST_SCALE / scale - 1)
