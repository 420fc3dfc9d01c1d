"""Follows the runs of many machines into a folder here, and tells of what a person should know.

A machine has two threads, so that none that hangs delays another, and no transfer delays noticing that it is gone.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from auricle.remote.place import Place
from auricle.remote.watching.memory import Memory
from auricle.remote.watching.watched import Watched

SAVE_SECONDS = 10.0
Places = Callable[[], Sequence[Place]]
"""The machines as they are known now: some come and go while we watch."""
Make = Callable[[Place], Watched]


def watch(places: Places, make: Make, memory: Memory, interval: float, stopped: threading.Event) -> None:
    """Returns when `stopped` is set."""
    known: dict[str, Watched] = {}
    while True:
        now = {str(place.connection.target): place for place in places()}
        for address in [address for address in known if address not in now]:
            known.pop(address).is_ended = True
        for address in [address for address in now if address not in known]:
            known[address] = make(now[address])
            _start(known[address], interval, stopped)
        if stopped.wait(SAVE_SECONDS):
            return
        memory.save()


def once(places: Places, make: Make) -> list[Watched]:
    """One round of all machines at once."""
    machines = [make(place) for place in places()]
    if machines:
        with ThreadPoolExecutor(len(machines)) as threads:
            list(threads.map(_round, machines))
    return machines


def _round(machine: Watched) -> None:
    if _safely(machine, machine.look):
        _safely(machine, machine.carry)


def _safely(machine: Watched, work: Callable[[], bool | None]) -> bool | None:
    """A thread that ends watches no more: what nobody expected is told, and the next round tries again."""
    try:
        came = work()
    except Exception as error:
        machine.failed(work.__name__, error)
        return None
    machine.worked(work.__name__)
    return came


def _start(machine: Watched, interval: float, stopped: threading.Event) -> None:
    news = threading.Event()

    def look() -> None:
        while not stopped.is_set() and not machine.is_ended:
            if _safely(machine, machine.look):
                news.set()
            stopped.wait(interval)

    def carry() -> None:
        while not stopped.is_set() and not machine.is_ended:
            if news.wait(1.0):
                news.clear()
                _safely(machine, machine.carry)

    for work in (look, carry):
        threading.Thread(target=work, name=f"{work.__name__} {machine.machine}", daemon=True).start()
