"""What renting has in common: the label that a machine is found by, offers in order, and one machine a run."""

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from auricle.remote.machine.job import key_of
from auricle.remote.providers import Offer, Provider, ProviderError, Rented, Wanted
from auricle.remote.providers.parts.http import Lost

LABEL = "auricle-"
CUDA = "12.6"
"""The oldest that the builds of torch since 2.11 run on."""
LOOKS, LOOK_SECONDS = 5, 3.0
"""How often to look for a machine whose renting was not answered."""


def label_of(run: str) -> str:
    """The name of a run's machine at its provider, the same for the same run.

    >>> label_of("voxformer_tiny")
    'auricle-voxformer_tiny'
    """
    return LABEL + key_of(run)


def run_of(label: str | None) -> str | None:
    """The run of a label of ours, as `key_of` names it."""
    return label.removeprefix(LABEL) if label and label.startswith(LABEL) else None


def is_of(rented: Rented, run: str | None) -> bool:
    """Whether a machine is to be paid for, and of that run."""
    return rented.state != "gone" and (run is None or rented.run in (run, key_of(run)))


def newest_first(machines: Iterable[Rented]) -> list[Rented]:
    return sorted(machines, key=lambda machine: machine.since, reverse=True)


def cheapest_first(offers: Iterable[Offer], wanted: Wanted) -> list[Offer]:
    """Those within the price."""
    return sorted((offer for offer in offers if wanted.max_price is None or offer.price_per_hour <= wanted.max_price),
                  key=lambda offer: (offer.price_per_hour, -(offer.reliability or 0), offer.id))


def once(provider: Provider, run: str, buy: Callable[[], Rented]) -> Rented:
    """The machine of a run: the one that there is, else the one that `buy` rents.

    A renting whose answer is lost is looked for, and never repeated. Raises ProviderError.
    """
    if there := provider.find(run):
        return there[0]
    try:
        return replace(buy(), is_new=True)
    except Lost as error:
        with contextlib.suppress(ProviderError):  # what is lost is the renting, also where nobody can be asked now
            for _ in range(LOOKS):
                if there := provider.find(run):
                    return replace(there[0], is_new=True)
                time.sleep(LOOK_SECONDS)
        raise Lost(f"{error}. No machine named {label_of(run)} shows up; the same command looks again before it rents"
                   ) from None
