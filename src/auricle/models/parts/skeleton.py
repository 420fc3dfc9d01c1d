"""A module without its weights, for what its settings alone tell, such as lengths; light enough for a worker process.
"""

import copy

from torch import nn
from torch.nn.utils.parametrize import is_parametrized


def skeleton(module: nn.Module) -> nn.Module:
    """The module and all inside it, each parameter and buffer replaced by None. The original stays as it is.

    A module whose weights are computed (weight norm) cannot be copied; an empty one stands in its place.
    """
    if is_parametrized(module):
        return nn.Module()
    bare = copy.copy(module)
    bare.__dict__ = {
        **module.__dict__,
        "_parameters": dict.fromkeys(module._parameters),
        "_buffers": dict.fromkeys(module._buffers),
        "_modules": {name: child and skeleton(child) for name, child in module._modules.items()},
    }
    return bare
