"""How evenly the experts of a mixture are used.

# X experts
"""

import math

import torch
from torch import Tensor


def load_health(load: Tensor, dead: Tensor) -> dict[str, Tensor]:
    """(X,) share of each expert, (X,) bool which of them count as dead → numbers to watch; NaN where the shares are."""
    experts = len(load)
    return {
        "load_entropy": torch.special.entr(load).sum() / math.log(experts),  # 1 = perfectly even, 0 = all on one
        "dead_experts": torch.where(load.isnan().any(), load.new_tensor(math.nan), dead.sum()),
        "max_load": load.max(),
    }
