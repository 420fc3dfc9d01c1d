"""From an offer to a machine on which a run trains, and no machine that is paid for and forgotten on the way.

    offers ─► rent ─► noted in machines.json ─► waits for ssh ─► the steps that are handed in

A machine that does not come up is released and the next offer taken. Whoever leaves early is told what still costs.
"""

import contextlib
import fcntl
import shlex
from collections.abc import Callable, Iterator, Sequence

from auricle.core.errors import UsageError
from auricle.remote.connection import Connection
from auricle.remote.machine.job import key_of
from auricle.remote.place import Place
from auricle.remote.project import Project
from auricle.remote.providers import Offer, Provider, ProviderError, Wanted
from auricle.remote.providers.parts.http import Taken
from auricle.remote.renting.await_ssh import Down
from auricle.remote.renting.lease import Lease, Order, Say
from auricle.remote.target import Target

TRIES = 3
"""Machines that are rented at most until one comes up."""

Step = Callable[[Place], None]


def launch(order: Order, providers: Sequence[Provider], project: Project, steps: Sequence[Step], say: Say) -> Place:
    """Rents (or finds) the run's machine, and takes the steps on it.

    Raises ProviderError, and what a step raises; then a machine that was rented is released where the order says so,
    and told of where not.
    """
    with _alone(project, order.run), Lease(order, project, say).kept() as lease:
        target = _found(lease, providers) or _rented(lease, providers)
        place = Place(Connection(target, project), project, order.folder)
        for step in steps:
            step(place)
    return place


def _found(lease: Lease, providers: Sequence[Provider]) -> Target | None:
    """The machine that this run has already."""
    for provider in providers:
        there = provider.find(lease.order.run)
        if not there:
            continue
        newest = there[0]
        if len(there) > 1:
            others = ", ".join(machine.id for machine in there[1:])
            lease.say(f"{len(there)} machines of {lease.order.run} are paid for at {provider.name}: taking the newest, "
                      f"{newest.id}; the others: {others}")
        if newest.state == "stopped":
            raise ProviderError(f"{provider.name}: {newest.id}, the machine of {lease.order.run}, is stopped, with its "
                                "disk kept; start it in the provider's console, or end it: auricle remote release "
                                f"--run {shlex.quote(lease.order.run)}")
        return lease.take(provider, newest)
    return None


def _rented(lease: Lease, providers: Sequence[Provider]) -> Target:
    wanted, order, tries = lease.order.wanted, lease.order, 0
    for provider, offer in offers(providers, wanted):
        if tries == TRIES:
            break
        lease.say(f"{provider.name}: {described(offer)}")
        if ending := order.ending(offer.price_per_hour):
            lease.say(f"  ends by itself: {ending}")
        try:
            return lease.rent(provider, offer)
        except Taken as error:
            lease.say(f"{error}: taking the next offer")
        except Down as error:
            if lease.holds:  # it was there before: another one would be a second bill
                raise
            tries += 1
            lease.say(str(error))
    tried = f"{tries} machines did not come up" if tries else "all offers were taken by others"
    raise ProviderError(f"{order.run}: no machine: {tried}; try again, or another GPU, region or provider")


def offers(providers: Sequence[Provider], wanted: Wanted) -> list[tuple[Provider, Offer]]:
    """Of all providers, cheapest first. Raises ProviderError where there is none, with what each one said."""
    found: list[tuple[Provider, Offer]] = []
    errors = []
    for provider in providers:
        try:
            found += [(provider, offer) for offer in provider.offers(wanted)]
        except ProviderError as error:
            errors.append(str(error))
    if not found:
        limit = f" for at most ${wanted.max_price:g} an hour" if wanted.max_price is not None else ""
        asked = ", ".join(provider.name for provider in providers)
        raise ProviderError("\n".join(errors) or f"{asked}: nobody offers {wanted.gpus} x {wanted.gpu}{limit} now; "
                            "raise --max-price, or name another GPU, region or provider")
    return sorted(found, key=lambda pair: pair[1].price_per_hour)


def described(offer: Offer) -> str:
    facts = [offer.region, f"reliability {offer.reliability:.3f}" if offer.reliability is not None else "",
             f"CUDA {offer.cuda}" if offer.cuda else "", "interruptible" if offer.spot else ""]
    return (f"{offer.gpus} x {offer.gpu}, {offer.vram_gb:g} GB, ${offer.price_per_hour:g} an hour "
            f"({', '.join(filter(None, facts))})")


@contextlib.contextmanager
def _alone(project: Project, run: str) -> Iterator[None]:
    """Two launches of one run at once would rent two machines."""
    with (project.folder / f"launch-{key_of(run)}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{run}: another auricle remote launch of this run is under way here; wait for it") \
                from None
        yield
