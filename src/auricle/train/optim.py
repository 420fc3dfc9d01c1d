"""Parameter groups and the optimizer.

Each component has its rate; norms, biases and scalars are not decayed. Groups carry `base_lr`: schedules set
`lr = base_lr · factor(progress)` and keep no state of their own.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from auricle.core.config import TrainingConfig
from auricle.core.errors import ModelError, nearest
from auricle.models.parts.components import resolve
from auricle.train import scaled_adam
from auricle.train.scaled_adam import ScaledAdam


def trainable(model: nn.Module, config: TrainingConfig) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """Component → (name, parameter) that learn in this stage; parts with a rate of their own stand apart.

    Raises ModelError for a component that matches no parameter, or a rate for one that does not train.
    """
    names = list(model.components()) if config.trainable is None else config.trainable
    parts = [name for name in config.learning_rates if name not in names and config.trainable is None]
    rated = resolve(model, [*names, *parts])
    unknown = [name for name in config.learning_rates if name not in rated]
    if unknown:
        raise ModelError(
            f"training.learning_rates: '{unknown[0]}' does not train in this stage; {nearest(unknown[0], rated)}"
        )
    return {name: parameters for name, parameters in rated.items() if parameters}


def freeze_others(model: nn.Module, learning: dict[str, list[tuple[str, nn.Parameter]]]) -> None:
    """Only the parameters in `learning` get gradients; modules without one of them go to eval mode."""
    chosen = {id(parameter) for parameters in learning.values() for _, parameter in parameters}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in chosen)


def train_mode(model: nn.Module) -> None:
    """Train mode where something learns; frozen modules stay in eval mode (no dropout, no statistics)."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def is_decayed(name: str, parameter: nn.Parameter) -> bool:
    """Matrices and kernels are decayed; norms, biases, scalars and embeddings of one dimension are not."""
    return parameter.ndim >= 2 and not name.endswith(".bias")


def build_optimizer(
    learning: dict[str, list[tuple[str, nn.Parameter]]], config: TrainingConfig
) -> torch.optim.AdamW | ScaledAdam:
    """AdamW (Loshchilov & Hutter 2019) or ScaledAdam, with two groups a component: decayed and not."""
    groups = []
    for component, parameters in learning.items():
        rate = config.learning_rates.get(component, config.learning_rate)
        for decayed in (True, False):
            members = [(name, p) for name, p in parameters if is_decayed(name, p) == decayed]
            if members:
                groups.append(
                    {
                        "params": [p for _, p in members],
                        "names": [name for name, _ in members],
                        "component": component,
                        "optim": config.optim,
                        "base_lr": rate,
                        "lr": rate,
                        "weight_decay": config.weight_decay if decayed else 0.0,
                    }
                )
    betas = (config.adam_beta1, config.adam_beta2)
    if config.optim == "scaled_adam":
        return ScaledAdam(groups, betas=betas, eps=config.adam_epsilon)
    fused = all(p.device.type in ("cpu", "cuda") for group in groups for p in group["params"])
    return torch.optim.AdamW(groups, betas=betas, eps=config.adam_epsilon, fused=fused)


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Sets every group's rate for the next step; returns the largest."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    return max(group["lr"] for group in optimizer.param_groups)


def adamw_moments_of(parameter: Tensor) -> dict[str, Tensor]:
    """What torch.optim.AdamW keeps of a parameter, as it is before the first step."""
    zeros = {kind: torch.zeros_like(parameter).detach() for kind in ("exp_avg", "exp_avg_sq")}
    return {"step": torch.zeros((), dtype=torch.float32), **zeros}


MOMENTS_OF: dict[str, Callable[[Tensor], dict[str, Tensor]]] = {
    "adamw_torch": adamw_moments_of, "scaled_adam": scaled_adam.moments_of
}  # fmt: skip
"""`training.optim` → (parameter → kind of moment → zeros)."""
ON_HOST = frozenset({"step", "scale_exp_avg", "scale_exp_avg_sq"})
"""Kinds that are a number a parameter, which optimizers keep there unless they are fused."""


def moment_shapes(optim: str, parameter: Tensor) -> dict[str, Tensor]:
    """Kind → a tensor without memory that tells the shape and type of what the optimizer keeps."""
    return MOMENTS_OF[optim](torch.empty(parameter.shape, dtype=parameter.dtype, device="meta"))


def allocate_moments(optimizer: torch.optim.Optimizer) -> None:
    """Gives each parameter without moments its zeros at once, as the first step would.

    So a checkpoint has one layout from the first step on, and what training needs is in memory before it begins.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if not optimizer.state[parameter]:
                zeros = MOMENTS_OF[group["optim"]](parameter)
                optimizer.state[parameter] = {
                    kind: zero.to(_device(kind, parameter, group)) for kind, zero in zeros.items()
                }


def moments(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state by parameter name, not copied: {"exp_avg/encoder.x.weight": …}."""
    return {
        f"{kind}/{name}": value
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
        for kind, value in optimizer.state.get(parameter, {}).items()
    }


def load_moments(optimizer: torch.optim.Optimizer, named: dict[str, Tensor]) -> tuple[int, int]:
    """Gives each parameter the moments saved under its name, where they are all that this optimizer keeps; the others
    start afresh. → (carried, fresh) parameters."""
    by_parameter: dict[str, dict[str, Tensor]] = {}
    for key, value in named.items():
        kind, _, name = key.partition("/")
        by_parameter.setdefault(name, {})[kind] = value
    carried = fresh = 0
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            saved, kinds = by_parameter.get(name, {}), moment_shapes(group["optim"], parameter).keys()
            if not kinds <= saved.keys():
                fresh += 1
                continue
            carried += 1
            optimizer.state[parameter] = {
                kind: saved[kind].clone().to(_device(kind, parameter, group)) for kind in kinds
            }
    return carried, fresh


def _device(kind: str, parameter: nn.Parameter, group: dict) -> torch.device | str:
    return parameter.device if kind not in ON_HOST or group.get("fused") else "cpu"
