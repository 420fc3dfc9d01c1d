"""`auricle remote start`: trains an experiment on a machine, within a budget that the machine keeps."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from auricle.cli.remote_verbs.shared import Folder, Jump, place, place_of
from auricle.core.errors import UsageError
from auricle.remote.place import Place
from auricle.remote.target import parse_all

if TYPE_CHECKING:
    from auricle.core.config import ExperimentConfig
    from auricle.remote.machine.job import Job


def start(
    words: Annotated[list[str], typer.Argument(
        metavar="HOST [PORT] [KEY=VALUE]…", help="A machine, then overrides of the experiment, as `auricle train`'s.")],
    experiment: Annotated[str, typer.Option("--experiment", "-e", help="A file of configs/hydra/experiments.")],
    jump: Jump = None,
    folder: Folder = None,
    price: Annotated[float | None, typer.Option(min=0, help="What the machine costs an hour.")] = None,
    max_cost: Annotated[float | None, typer.Option(help="End at this cost: remote.max_cost.")] = None,
    max_hours: Annotated[float | None, typer.Option(help="End after so many hours: remote.max_hours.")] = None,
    on_limit: Annotated[str | None, typer.Option(help="stop, release or keep the machine then.")] = None,
    nproc: Annotated[int, typer.Option(min=1, help="Processes on each machine, one a GPU.")] = 1,
    node: Annotated[list[str] | None, typer.Option(
        "--node", metavar="USER@HOST:PORT", help="A further machine that trains along; repeatable.")] = None,
    nnodes: Annotated[int | None, typer.Option(min=1, help="Machines in all; as many as are named.")] = None,
    rendezvous: Annotated[str | None, typer.Option(
        metavar="HOST:PORT", help="Where several machines meet: the first one, as the others reach it.")] = None,
    attach: Annotated[bool, typer.Option("--attach", help="Look at the run at once.")] = False,
) -> None:
    """Train an experiment on a machine; the same command again resumes it, also on another machine with its mirror."""
    first, overrides = place_of(words, jump, folder)
    project = first.project
    places = [first, *(place(target, project, folder) for target in parse_all(node or [], jump))]
    if nnodes not in (None, len(places)):
        raise UsageError(f"--nnodes {nnodes}: {len(places)} machines are named; add each further one with --node")
    options = {"training.price_per_hour": price, "remote.max_cost": max_cost, "remote.max_hours": max_hours,
               "remote.on_limit": on_limit}
    overrides += [f"{key}={value}" for key, value in options.items() if value is not None]
    _start(places, experiment, overrides, nproc, rendezvous)
    if attach:
        from auricle.cli.remote_verbs.attach import attach as look

        look([str(first.connection.target)], jump=jump, folder=folder)


def _start(places: list[Place], experiment: str, overrides: list[str], nproc: int, rendezvous: str | None) -> None:
    from auricle.remote import start as starting

    words = [f"+experiments={experiment}", *overrides]
    config = composed(words)
    machines = [each.project.machine(each.connection.target) for each in places]
    jobs = [starting.job_of(config, words, experiment, machine, nproc=nproc) for machine in machines]
    jobs = starting.spread(jobs, places, rendezvous)
    secrets = starting.secrets_of(config.remote.secrets, os.environ)
    for each, job in zip(places, jobs, strict=True):
        launched = starting.start(each, job, secrets)
        price, since = job.limits.price_per_hour, job.limits.since
        known = {} if price is None else {"price_per_hour": price}
        each.project.remember(each.connection.target, folder=each.folder(), run=job.run, since=since, **known)
        print(f"{each.connection.target}: {'goes on with' if launched.resumed else 'started'} {job.run}"
              f"{f' in tmux {launched.session}' if launched.session else ' without tmux'}", flush=True)
        if launched.boot_hook is None:
            print("  after a restart of this machine the run does not go on by itself: it has no boot hook")
    _tell(places, jobs, config, sorted(secrets))


def _tell(places: list[Place], jobs: list["Job"], config: "ExperimentConfig", secrets: list[str]) -> None:
    """What holds for the run, and what to type next."""
    again = places[0].connection.target.typed
    if secrets:
        print(f"  handed over, and written nowhere: {', '.join(secrets)}")
    if len(jobs) == 1:
        print(f"  budget: {budget_line(config, jobs[0])}")
    else:
        print(f"  each of {len(jobs)} machines keeps a budget of its own:")
        for place, job in zip(places, jobs, strict=True):
            print(f"    {place.connection.target}: {budget_line(config, job)}")
    if not config.mirror.targets:
        print("  no mirror: what is lost with this machine is lost; name one with mirror.targets=[URL], or let "
              "`auricle remote watch` copy its checkpoints")
    print(f"auricle remote logs {again} -f\nauricle remote status {again}\nauricle remote stop {again}")


def budget_line(config: "ExperimentConfig", job: "Job") -> str:
    """
    When the machine ends the run by itself, and what becomes of the machine.
    """
    remote, price = config.remote, job.limits.price_per_hour
    limits = [f"{remote.max_cost:g} at {price:g} an hour" if remote.max_cost is not None else "",
              f"{remote.max_hours:g} h" if remote.max_hours is not None else "",
              f"{remote.idle_minutes:g} min without training" if remote.idle_minutes is not None else ""]
    then = {"stop": "the machine is stopped", "release": "the machine is released", "keep": "the machine goes on"}
    known = ", ".join(filter(None, limits))
    cost = "" if remote.max_cost is not None or price is None else f"; {price:g} an hour"
    return f"{known or 'no limit'}{cost}{f'; then {then[remote.on_limit]}' if known else ''}"


def composed(words: list[str]) -> "ExperimentConfig":
    """The experiment, as the machine will compose it from the same files: mistakes are told before it is asked."""
    from auricle.core.compose import compose
    from auricle.core.decode import decode

    return decode(compose(words))
