"""`auricle remote watch`: follows the runs of machines into a folder here, and raises alarms."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from auricle.cli.remote_verbs.shared import Folder, Jump, Many, places_of
from auricle.cli.remote_verbs.status import NO_MACHINES

if TYPE_CHECKING:
    from auricle.remote.place import Place
    from auricle.remote.watching.alarms import Alarm, Channel, Delivery

DELIVERY_SECONDS = 60.0
"""`--once` waits so long for its alarms to be delivered."""


def watch(
    words: Many = None,
    to: Annotated[Path, typer.Option("--to", help="Where the run folders go.")] = Path("outputs"),
    interval: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks at a machine; one that is gone is "
                                                          "noticed 20 s later at most.")] = 5.0,
    webhook: Annotated[list[str] | None, typer.Option(
        envvar="AURICLE_WEBHOOK", help="Post alarms there (Slack, Discord, ntfy …); repeatable. Best in the variable: "
                                       "a command line can be seen by others.")] = None,
    apprise: Annotated[list[str] | None, typer.Option(
        envvar="AURICLE_APPRISE", help="Send alarms by a URL of apprise (extra [alarms]); repeatable.")] = None,
    once: Annotated[bool, typer.Option("--once", help="One round, then end: for cron.")] = False,
    keep: Annotated[int, typer.Option(min=1, help="Newest checkpoints to keep here, beside the best one.")] = 2,
    jump: Jump = None,
    folder: Folder = None,
) -> None:
    """Follow the runs of machines into a folder here (events, logs, verified checkpoints), and raise alarms.

    Machines that are lost and come back, runs that end or fail, limits, dead guards, whatever the runs warn of.
    """
    from auricle.cli.console import say, transferring
    from auricle.remote.machine.journal import quiet
    from auricle.remote.project import here
    from auricle.remote.watching import watch as watching
    from auricle.remote.watching.alarms import Delivery
    from auricle.remote.watching.memory import remembered
    from auricle.remote.watching.watched import Settings, Watched

    def places() -> "list[Place]":
        return places_of(words, jump, folder)

    if not places():
        print(NO_MACHINES)
        return
    tell, progress = quiet(say), quiet(transferring())
    delivery = Delivery(_channels(webhook or [], apprise or []), tell)
    settings = Settings(to=to, environ=os.environ, keep=keep, progress=progress)
    with remembered(here().folder) as memory:

        def make(place: "Place") -> Watched:
            return Watched(place, settings, memory, lambda alarm: _show(alarm, delivery), tell)

        if once:
            watching.once(places, make)
            delivery.finish(DELIVERY_SECONDS)
        else:
            say(f"watching {', '.join(str(place.connection.target) for place in places())}; copies go to {to}; Ctrl-C "
                "ends it, and no run")
            _until_stopped(lambda stopped: watching.watch(places, make, memory, interval, stopped))


def _channels(webhooks: list[str], urls: list[str]) -> "list[Channel]":
    from auricle.remote.watching import alarms

    found = [alarms.desktop(), *map(alarms.webhook, webhooks), alarms.apprise(urls) if urls else None]
    return [channel for channel in found if channel]


def _show(alarm: "Alarm", delivery: "Delivery") -> None:
    delivery.send(str(alarm))
    with contextlib.suppress(OSError):
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(alarm.time))}  {alarm.kind:<7}  {alarm}", flush=True)


def _until_stopped(work: Callable[[threading.Event], None]) -> None:
    """Ctrl-C and SIGTERM end it quietly."""
    stopped = threading.Event()
    before = {number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        work(stopped)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
