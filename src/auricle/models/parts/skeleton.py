"""A module without its weights, for what its settings alone tell, such as lengths; light enough for a worker process.
"""

import copy

from torch import nn


def skeleton(module: nn.Module) -> nn.Module:
    """The module and all inside it, each parameter and buffer replaced by None. The original stays as it is."""
    bare = copy.copy(module)
    bare.__dict__ = {
        **module.__dict__,
        "_parameters": dict.fromkeys(module._parameters),
        "_buffers": dict.fromkeys(module._buffers),
        "_modules": {name: child and skeleton(child) for name, child in module._modules.items()},
    }
    return bare
