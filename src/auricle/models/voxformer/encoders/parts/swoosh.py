"""The activations of Zipformer (Yao et al. 2024, §3.4, eq. 4): close to swish, but never flat for negative inputs."""

from torch import Tensor
from torch.nn import functional as F

SLOPE = 0.08


def swoosh_r(x: Tensor) -> Tensor:
    """log(1 + exp(x - 1)) - 0.08 x - 0.313261687, which is 0 at 0."""
    return F.softplus(x - 1.0).sub_(x, alpha=SLOPE).sub_(0.313261687)


def swoosh_l(x: Tensor) -> Tensor:
    """log(1 + exp(x - 4)) - 0.08 x - 0.035: for modules that are off for most inputs."""
    return F.softplus(x - 4.0).sub_(x, alpha=SLOPE).sub_(0.035)
