"""Ending a rented machine by hand: not before its newest checkpoints are verified elsewhere, and with the bill told."""

import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from auricle.core.errors import AuricleError
from auricle.remote.connection import Connection, RemoteError
from auricle.remote.machine.job import key_of
from auricle.remote.place import WORKSPACE, Place
from auricle.remote.project import Machine, Project
from auricle.remote.providers import Provider, ProviderError, Rented
from auricle.remote.renting.accounts import BY_HAND, connected, provider_of, with_keys
from auricle.remote.renting.risks import risks
from auricle.remote.target import Target

Say = Callable[[str], None]


class Unsafe(AuricleError):
    """Something would be lost: a line for each thing, and what to type."""

    exit_code = 10


@dataclass(frozen=True, kw_only=True)
class Held:
    """A rented machine: what is noted here, and how its provider has it."""

    machine: Machine
    provider: Provider
    there: Rented | None
    """None where the provider lists it no more."""


def of_target(project: Project, environ: Mapping[str, str], target: Target) -> Held:
    """The machine at an address. Raises ProviderError where it was not rented."""
    noted = project.machine(target)
    if noted.id is not None and noted.provider != BY_HAND:
        return _held(noted, provider_of(noted.provider, environ))
    for provider in with_keys(environ):
        for rented in provider.find(foreign=True):
            if rented.is_at(target):
                machine = replace(_machine(provider, rented), address=noted.address, jump=target.via or noted.jump)
                return Held(machine=machine, provider=provider, there=rented)
    raise ProviderError(f"{target}: was not rented from here, and no provider whose key is set has a machine at this "
                        "address: it cannot be released from here; end it in your provider's console")


def of_run(project: Project, environ: Mapping[str, str], run: str, say: Say) -> Held | None:
    """The newest machine of a run, noted or not; None where there is none to pay for.

    A provider that cannot be asked is told, and an error where nothing is found at another one. Raises ProviderError.
    """
    # the one with a folder last: it is taken where a machine is noted twice
    noted = {machine.id: machine for machine in sorted(project.machines(), key=lambda one: one.folder is not None)
             if machine.run and key_of(machine.run) == key_of(run) and machine.provider != BY_HAND}
    found, errors = _of_providers(environ, run, noted)
    ids = {held.machine.id for held in found}
    found += [_held(machine, provider_of(machine.provider, environ)) for id_, machine in noted.items()
              if id_ not in ids]
    if errors and not found:
        raise errors[0]
    for error in errors:
        say(f"not asked for more machines of {run}: {error}")
    found.sort(key=lambda held: (held.there is not None, held.machine.since), reverse=True)
    if len(found) > 1:
        say(f"{run}: {len(found)} machines: {', '.join(str(held.machine.id) for held in found)}; this is about the "
            "newest, the same command again about the next")
    return found[0] if found else None


def _of_providers(environ: Mapping[str, str], run: str,
                  noted: Mapping[str | None, Machine]) -> tuple[list[Held], list[ProviderError]]:
    found: list[Held] = []
    errors: list[ProviderError] = []
    for provider in connected(environ).values():
        try:
            if isinstance(provider, ProviderError):
                raise provider
            found += [Held(machine=noted.get(rented.id) or _machine(provider, rented), provider=provider, there=rented)
                      for rented in provider.find(run)]
        except ProviderError as error:
            errors.append(error)
    return found, errors


def release(held: Held, project: Project, say: Say, *, keep_disk: bool = False, force: bool = False) -> None:
    """Ends it, or stops it with its disk kept. A machine that is gone is forgotten.

    Raises Unsafe for what would be lost (not with `force`), ProviderError.
    """
    machine, provider = held.machine, held.provider
    if keep_disk and not provider.can_stop:
        provider.release(machine.id or "", keep_disk=True)  # says why not
    if not force and (lost := _lost(held, project, keep_disk)):
        raise Unsafe("\n".join(lost) + "\n" + f"{_name(held)}: not {'stopped' if keep_disk else 'released'}; --force "
                     "does it, and what is named above is lost")
    if held.there is None:
        say(f"{_name(held)}: {provider.name} lists it no more: it is forgotten here")
        project.forget(machine.address)
        return
    provider.release(machine.id or "", keep_disk=keep_disk)
    if not keep_disk:
        project.forget(machine.address)
    say(f"{_name(held)}: {'stopped, its disk is kept' if keep_disk else 'released'}{_cost(held)}")
    say(provider.billing)


def _lost(held: Held, project: Project, keep_disk: bool) -> list[str]:
    """A sentence for each thing that is not safe."""
    machine = held.machine
    if machine.address.startswith("pending-"):
        state = held.there.state if held.there else "gone"
        if state == "gone" or (machine.rented_here and state != "stopped"):  # nothing came to it
            return []
        how = "is stopped" if state == "stopped" else f"has no address (it is {state})"
        return [f"{_name(held)}: {how}, and what lies on its disk is not known here"]
    folder = project.machine(machine.target).folder
    if machine.rented_here and folder is None:  # nothing was deployed to it from here
        return []
    place = Place(Connection(machine.target, project), project)
    try:
        return risks(place, keeps_disk=keep_disk and bool(folder) and str(folder).startswith(f"{WORKSPACE}/"))
    except RemoteError as error:
        if held.there is None:
            return []
        return [f"{error}", f"{_name(held)}: whether its runs are safe elsewhere cannot be seen"]


def _held(machine: Machine, provider: Provider) -> Held:
    there = next((rented for rented in provider.find(foreign=True) if rented.id == machine.id), None)
    return Held(machine=machine, provider=provider, there=there)


def _machine(provider: Provider, rented: Rented) -> Machine:
    address = rented.address or f"pending-{rented.id}.{provider.name}"
    return Machine(address=address, provider=provider.name, id=rented.id, run=rented.run,
                   price_per_hour=rented.price_per_hour, since=rented.since)


def _name(held: Held) -> str:
    run = f" ({shlex.quote(held.machine.run)})" if held.machine.run else ""
    return f"{held.machine.id} at {held.provider.name}{run}"


def _cost(held: Held) -> str:
    machine = held.machine
    price = machine.price_per_hour or (held.there.price_per_hour if held.there else 0.0)
    if not price or not machine.since or (held.there and held.there.state == "stopped"):
        return ""
    hours = (time.time() - machine.since) / 3600
    return f"; it cost ${price * hours:.2f} in {hours:.1f} h"
