"""Which build of torch a machine's GPU driver runs.

A build for CUDA 13 needs driver 580, one for CUDA 12 driver 525 (docs.nvidia.com/deploy/cuda-compatibility, minor
version compatibility). Builds and their GPUs by release: RELEASE.md of github.com/pytorch/pytorch; 12.6 is the one
that still has kernels for Maxwell, Pascal and Volta and the last for CUDA 12 in torch 2.12 and 2.13; Blackwell has
kernels for CUDA 12 in 12.8 alone, which ends with torch 2.11.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from auricle.core.errors import AuricleError

DEFAULT = "torch==2.13.0"
INDEX = "https://download.pytorch.org/whl"
Capability = tuple[int, int]


class Unfit(AuricleError):
    """No build runs there; the sentence lacks the machine."""


@dataclass(frozen=True, kw_only=True)
class Build:
    name: str
    cuda: str
    driver: int
    """The oldest that runs it, by its major number."""
    gpus: tuple[Capability, Capability]
    """Lowest and highest compute capability that it has kernels for."""
    torch: str | None = None
    """Its newest release, where the default one has no such build."""

    def words(self, default: str) -> str:
        return f"{self.torch or default} --index-url {INDEX}/{self.name}"


NEWEST: Capability = (99, 0)
BUILDS = (
    Build(name="cu130", cuda="13.0", driver=580, gpus=((7, 5), NEWEST)),
    Build(name="cu126", cuda="12.6", driver=525, gpus=((5, 0), (9, 0))),
    Build(name="cu128", cuda="12.8", driver=525, gpus=((7, 5), (12, 9)), torch="torch==2.11.0"),
)
"""The one that is preferred first."""
DRIVER_OF_CUDA = {11: 450, 12: 525, 13: 580}
"""Major number of the newest CUDA that a driver runs → the oldest such driver."""


def choose(driver: str | None, cuda: str | None, gpus: Sequence[Capability | None], default: str = DEFAULT) -> str:
    """pip's words for torch. `default`: those for the release that the project uses, without an index.

    Raises Unfit: a driver that is too old, a GPU that no build has kernels for.

    >>> choose("550.54.15", "12.4", [(8, 9)])
    'torch==2.13.0 --index-url https://download.pytorch.org/whl/cu126'
    """
    if not gpus:
        return default
    number = _driver(driver, cuda)
    known = [gpu for gpu in gpus if gpu]
    fit = [build for build in BUILDS if all(build.gpus[0] <= gpu <= build.gpus[1] for gpu in known)]
    runs = next((build for build in fit if build.driver <= number), None)
    if runs:
        return runs.words(default)
    if fit:
        least = min(fit, key=lambda build: build.driver)
        known = driver or f"for CUDA {cuda}"
        raise Unfit(f"its GPU driver is {known}; torch for CUDA {least.cuda} needs {least.driver} or newer."
                    " Rent a machine with a newer one (filter offers by CUDA 13), or name a build: --torch "
                    "\"torch==… --index-url …\"")
    shown = ", ".join(sorted({f"{major}.{minor}" for major, minor in known}))
    raise Unfit(f"no build of torch 2.11 or newer has kernels for GPUs of compute capability {shown}; expected 5.0 "
                "or newer and GPUs that one build serves. Rent another GPU")


def _driver(driver: str | None, cuda: str | None) -> int:
    """The driver's major number, by the CUDA that it runs where it does not say. Raises Unfit."""
    if found := re.match(r"\d+", driver or ""):
        return int(found[0])
    if found := re.match(r"\d+", cuda or ""):
        return DRIVER_OF_CUDA.get(int(found[0]), 0)
    raise Unfit("its GPU driver does not say its version; does `nvidia-smi` work there? Name a build of torch: --torch "
                "\"torch==… --index-url …\"")
