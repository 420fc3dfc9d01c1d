"""The machine that is paid for while it is got ready: noted at once, and never left costing without a word."""

import contextlib
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from auricle.remote.project import Machine, Project
from auricle.remote.providers import Offer, Provider, ProviderError, Rented, Wanted
from auricle.remote.providers.parts.http import Denied, Unanswered
from auricle.remote.renting.await_ssh import Down, await_ssh
from auricle.remote.target import Target, parse

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Order:
    run: str
    """Its machine is labelled and found by it."""
    wanted: Wanted
    public_key: str
    image: str | None = None
    folder: str | None = None
    """Where the project is to lie there."""
    release_on_failure: bool = False
    ending: Callable[[float], str] = lambda _: ""
    """What ends the machine by itself, for a price per hour."""


class Lease:
    """The machine that is being paid for while this runs."""

    def __init__(self, order: Order, project: Project, say: Say) -> None:
        self.order, self.project, self.say = order, project, say
        self._asked: Provider | None = None
        self._held: Rented | None = None
        self._noted: Target | None = None
        self._known: Machine | None = None
        """What was noted of it before."""
        self._is_new = False

    @property
    def holds(self) -> bool:
        """Whether there is a machine that goes on costing."""
        return self._held is not None

    @contextlib.contextmanager
    def kept(self) -> Iterator["Lease"]:
        is_well = False
        try:
            yield self
            is_well = True
        finally:
            if not is_well:
                self._left()

    def rent(self, provider: Provider, offer: Offer) -> Target:
        """Raises Taken, Down (then it is released again, unless it was there before), ProviderError."""
        order = self.order
        if there := provider.find(order.run):  # rented from elsewhere, since the first look
            return self.take(provider, there[0])
        self._asked, self._known, self._is_new = provider, None, True
        try:
            rented = provider.rent(offer, run=order.run, public_key=order.public_key, disk_gb=order.wanted.disk_gb,
                                   image=order.image)
        except (Denied, Unanswered):  # it did nothing
            self._asked = None
            raise
        if not rented.is_new:
            return self.take(provider, rented)
        self._note(rented, parse(f"pending-{rented.id}.{provider.name}"))
        self.say(f"rented {rented.id} at {provider.name}, labelled for run {order.run}: from now on it costs "
                 f"${rented.price_per_hour:g} an hour")
        try:
            return self._come_up(provider, rented)
        except Down:
            self.release()
            raise

    def take(self, provider: Provider, rented: Rented) -> Target:
        """A machine of this run that there is already. Raises Down."""
        self.say(f"{rented.id} at {provider.name} is the machine of {self.order.run} already, at "
                 f"${rented.price_per_hour:g} an hour: going on with it")
        self._asked, self._is_new = provider, False
        self._known = known = self._earlier(provider, rented)
        self._noted = known.target if known else None
        address = rented.address or (known.address if known else f"pending-{rented.id}.{provider.name}")
        self._note(rented, replace(parse(address), jump=self._jump))
        return self._come_up(provider, rented)

    def release(self) -> None:
        """Raises ProviderError."""
        if self._asked and self._held:
            self._asked.release(self._held.id, keep_disk=False)
            self.say(f"released {self._held.id} again: it costs no more")
        if self._noted:
            self.project.forget(str(self._noted))
        self._asked = self._held = self._noted = None

    @property
    def _jump(self) -> Target | None:
        return self._known.target.jump if self._known else None

    def _earlier(self, provider: Provider, rented: Rented) -> Machine | None:
        """What is noted of that machine, perhaps at an address that it has no more; or of its address, by hand."""
        same = [machine for machine in self.project.machines() if (machine.provider, machine.id) ==
                (provider.name, rented.id) or (machine.id is None and rented.is_at(machine.target))]
        return max(same, key=lambda machine: machine.folder is not None, default=None)

    def _come_up(self, provider: Provider, rented: Rented) -> Target:
        target = await_ssh(provider, rented, self.project, self.say, is_new=self._is_new,
                           jump=self._jump)
        self._note(rented, target)
        return target

    def _note(self, rented: Rented, target: Target) -> None:
        provider, known = self._asked.name if self._asked else "", self._known
        before, self._held, self._noted = self._noted, rented, target
        moves = str(before) != str(target)
        # an address is used again by others' machines: what was noted of an earlier one holds no more
        carried = {"folder": known.folder if known else None,
                   "rented_here": known.rented_here if known else self._is_new} if moves else {}
        self.project.remember(target, provider=provider, id=rented.id, run=self.order.run,
                              price_per_hour=rented.price_per_hour or (known.price_per_hour if known else None),
                              since=rented.since or (known.since if known else time.time()), **carried)
        if before and moves:
            self.project.forget(str(before))

    def _left(self) -> None:
        """What was not finished still costs: it is released, or the user knows."""
        end = f"auricle remote release --run {shlex.quote(self.order.run)}"
        if self._asked and not self._held:  # broken off while renting
            try:
                with contextlib.suppress(ProviderError):
                    there = self._asked.find(self.order.run)
                    self._held = there[0] if there else None
            finally:
                if not self._held:
                    self.say(f"a machine may have been rented at {self._asked.name}, and cost: auricle remote list "
                             f"shows it, and this ends it: {end}; the provider's console shows it too")
        if not self._asked or not self._held:
            return
        held = self._held
        if self.order.release_on_failure and self._is_new:
            try:
                self.release()
                return
            except ProviderError as error:
                self.say(f"it could not be released: {error}")
        self.say(f"{held.id} at {self._asked.name} goes on costing ${held.price_per_hour:g} an hour. The same command "
                 f"goes on with it; this ends it: {end}")
