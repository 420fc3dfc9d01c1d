"""What is being paid for: the machines that this project noted, and those that the providers know of.

A machine that was rented and is in no file shows up here too, with its price and what it has cost so far, also one
that was rented by hand.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from auricle.remote.project import Machine, Project
from auricle.remote.providers import Provider, ProviderError, Rented
from auricle.remote.renting.accounts import BY_HAND, connected


@dataclass(frozen=True, kw_only=True)
class Known:
    """A machine, as it stands at its provider; what is not known is None."""

    provider: str
    id: str | None
    run: str | None
    address: str | None
    state: str
    """As in `Rented`; "" for a machine that no provider was asked about."""
    price_per_hour: float | None
    hours: float | None
    """Since it was rented."""
    cost: float | None
    note: str = ""
    """What the user should know: that it is in no file, that the provider could not be asked."""


Answer = list[Rented] | ProviderError


def known(project: Project, environ: Mapping[str, str], now: float) -> list[Known]:
    """Machines of machines.json and of every provider whose key is set; `now` is Unix time. A provider that cannot be
    asked is a note, no error. Raises UsageError for a machines.json that is none."""
    answers = _asked(environ)
    known_as = [_named(machine, answers) for machine in project.machines()]
    noted = {(machine.provider, machine.id or machine.address): machine for machine in known_as}
    found = [_noted(machine, answers.get(machine.provider), now) for machine in noted.values()]
    for provider, answer in answers.items():
        if isinstance(answer, ProviderError):
            found.append(_unasked(provider, answer))
        else:
            found += [_forgotten(provider, rented, now) for rented in answer if (provider, rented.id) not in noted]
    return [_told_of_twins(machine, found) for machine in found]


def _asked(environ: Mapping[str, str]) -> dict[str, Answer]:
    """Each provider's machines, or why it could not be asked; all at once."""
    providers = connected(environ)
    if not providers:
        return {}
    with ThreadPoolExecutor(len(providers)) as threads:
        return dict(zip(providers, threads.map(_ask, providers.values()), strict=True))


def _ask(provider: Provider | ProviderError) -> Answer:
    try:
        return provider if isinstance(provider, ProviderError) else provider.find(foreign=True)
    except ProviderError as error:
        return error


def _named(machine: Machine, answers: Mapping[str, Answer]) -> Machine:
    """A machine that was named by its address is one of a provider's, where that has one there."""
    if machine.provider == BY_HAND:
        for provider, answer in answers.items():
            for rented in answer if isinstance(answer, list) else ():
                if rented.is_at(machine.target):
                    return replace(machine, provider=provider, id=rented.id, since=rented.since or machine.since)
    return machine


def _noted(machine: Machine, answer: Answer | None, now: float) -> Known:
    price, since = machine.price_per_hour, machine.since
    state, address, note = "", machine.address, ""
    if isinstance(answer, list):
        there = next((rented for rented in answer if rented.id == machine.id), None)
        state = there.state if there else "gone"
        price = there.price_per_hour or price if there else price
        address = there.address or address if there else address
        note = note_of(there)
    elif machine.provider != BY_HAND:
        note = "its provider was not asked: " + (str(answer) if answer else "no key of it is set here")
    return _known(machine.provider, machine.id, machine.run, address, state, price, since, now, note)


def _forgotten(provider: str, rented: Rented, now: float) -> Known:
    if rented.run:
        note = f"rented, and not noted here; auricle remote release --run {rented.run} ends it"
    else:
        end = f"auricle remote release {rented.address} ends it" if rented.address else "its console ends it"
        note = f"not rented by auricle; {end}"
    return _known(provider, rented.id, rented.run or None, rented.address, rented.state, rented.price_per_hour,
                  rented.since, now, note)


def _unasked(provider: str, error: ProviderError) -> Known:
    return Known(provider=provider, id=None, run=None, address=None, state="", price_per_hour=None, hours=None,
                 cost=None, note=f"could not be asked: {error}")


def note_of(there: Rented | None) -> str:
    if there is None:
        return "its provider has no such machine any more; auricle remote release forgets it"
    return "stopped: its disk is still billed" if there.state == "stopped" else ""


def _known(provider: str, id_: str | None, run: str | None, address: str | None, state: str, price: float | None,
           since: float, now: float, note: str) -> Known:
    """What a machine cost while it was stopped, or until it was gone, is not known."""
    hours = max(0.0, now - since) / 3600 if since else None
    is_running = state not in ("stopped", "gone")
    cost = round(price * hours, 4) if price is not None and hours is not None and is_running else None
    return Known(provider=provider, id=id_, run=run, address=address, state=state, price_per_hour=price, hours=hours,
                 cost=cost, note=note)


def _told_of_twins(machine: Known, found: list[Known]) -> Known:
    twins = [other.id or "" for other in found if other.run == machine.run and other.state not in ("gone", "")]
    if machine.run is None or machine.id not in twins or len(twins) < 2:
        return machine
    note = f"{len(twins)} machines are paid for {machine.run}: {', '.join(sorted(twins))}"
    return replace(machine, note=f"{machine.note}; {note}" if machine.note else note)
