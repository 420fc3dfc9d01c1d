"""What a provider of machines is, and how to add one.

Add a provider: one file `remote/providers/NAME.py` with `connect(environ) -> Provider` and
`inside(environ) -> Inside | None`, a fake server of its API in `tests/remote/providers/NAME_server.py`, and its name in
`tests/contracts/test_providers.py`, whose tests every provider passes.

    offers(wanted) ─► rent(offer, …) ─► find(run) until it has an address ─► … ─► release(machine, keep_disk=…)

A rented machine bears the run's name as its label, and is found again by it: rent asks `find` first, so that a call
that broke off rents nothing twice. Money is in US dollars.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from auricle.core.errors import AuricleError
from auricle.remote.target import Target, parse


class ProviderError(AuricleError):
    """The provider's API cannot be reached, refuses, or has no such machine. No secret is in its message."""

    exit_code = 9


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to look for."""

    gpu: str
    """As users say it, in any case: 4090, a100, "RTX A6000"."""
    gpus: int = 1
    max_price: float | None = None
    """Per hour, for the machine with all its GPUs."""
    disk_gb: int = 60
    spot: bool = False
    """Interruptible machines: cheaper, and taken away without notice."""
    region: str | None = None


@dataclass(frozen=True, kw_only=True)
class Offer:
    id: str
    gpu: str
    gpus: int
    vram_gb: float
    """Of one GPU."""
    price_per_hour: float
    region: str = ""
    reliability: float | None = None
    """0–1, where the provider tells."""
    cuda: str = ""
    """Newest CUDA that its driver runs, where the provider tells."""
    spot: bool = False


@dataclass(frozen=True, kw_only=True)
class Rented:
    """A machine that is being paid for."""

    id: str
    run: str
    """Its label; empty where it bears none of ours."""
    state: str
    """starting, running, stopped, gone; what else the provider says, as it says it."""
    address: str | None
    """user@host:port for ssh, as soon as it has one."""
    price_per_hour: float
    since: float
    """Unix time of renting."""
    is_new: bool = False
    """The call of `rent` that returned it rented it, and did not find it."""

    def is_at(self, target: Target) -> bool:
        """Whether that is its address, whoever the user."""
        there = parse(self.address) if self.address else None
        return there is not None and (there.host, there.port or 22) == (target.host, target.port or 22)


@dataclass(frozen=True, kw_only=True)
class Inside:
    """What a machine knows of itself: the key that the provider put into it, where it does."""

    provider: str
    id: str
    key: str | None
    can_stop: bool
    """With that key, from inside: keeping the disk …"""
    can_release: bool
    """… or deleting it."""


class Provider(Protocol):
    """Every method raises ProviderError; rate limits and server errors are tried again first."""

    name: str
    can_stop: bool
    """Whether a machine can be stopped with its disk kept; otherwise it can be destroyed alone."""
    billing: str
    """What goes on being billed after a stop and after a release, in a sentence."""

    def offers(self, wanted: Wanted) -> list[Offer]:
        """Cheapest first."""
        ...

    def rent(self, offer: Offer, *, run: str, public_key: str, disk_gb: int, image: str | None) -> Rented:
        """Idempotent by `run`: a machine that bears it is returned and no other one rented.

        Raises Denied and Unanswered where nothing was rented; after any other error something may have been.
        """
        ...

    def find(self, run: str | None = None, *, foreign: bool = False) -> list[Rented]:
        """Machines that this key pays for and that bear a label of ours; of one run, or all. `foreign`: also those
        that bear none."""
        ...

    def release(self, machine_id: str, *, keep_disk: bool) -> None:
        """Stops (keep_disk) or destroys; a machine that is gone already is released. Raises ProviderError where
        `keep_disk` is asked of a provider that cannot stop."""
        ...


Environ = Mapping[str, str]
