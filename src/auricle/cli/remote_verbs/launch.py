"""`auricle remote launch`: from a GPU's name to a run that trains on a machine that was just rented."""

from typing import TYPE_CHECKING, Annotated

import typer

from auricle.cli.remote_verbs.offers import Disk, Gpu, Gpus, MaxPrice, ProviderName, Region, Spot, chosen
from auricle.core.errors import AuricleError
from auricle.remote.project import here

if TYPE_CHECKING:
    from auricle.core.config import ExperimentConfig
    from auricle.remote.place import Place


class Unfit(AuricleError):
    """The doctor found something that fails."""


def launch(
    experiment: Annotated[str, typer.Option("--experiment", "-e", help="A file of configs/hydra/experiments.")],
    gpu: Gpu,
    words: Annotated[list[str] | None, typer.Argument(
        metavar="[KEY=VALUE]…", help="Overrides of the experiment, as `auricle train`'s.")] = None,
    provider: ProviderName = None,
    max_price: MaxPrice = None,
    gpus: Gpus = 1,
    disk: Disk = 60,
    spot: Spot = False,
    region: Region = None,
    image: Annotated[str | None, typer.Option(help="A container image, or Lambda's image family.")] = None,
    max_cost: Annotated[float | None, typer.Option(help="End at this cost: remote.max_cost.")] = None,
    max_hours: Annotated[float | None, typer.Option(help="End after so many hours: remote.max_hours.")] = None,
    on_limit: Annotated[str | None, typer.Option(help="stop, release or keep the machine then.")] = None,
    release_on_failure: Annotated[bool, typer.Option(
        "--release-on-failure", help="End a machine that was rented and on which something fails before the run starts."
    )] = False,
) -> None:
    """Rent a machine, wait for it, look at it, deploy, and start the experiment; the same command goes on with it."""
    from auricle.cli.remote_verbs.start import composed
    from auricle.remote.providers import Wanted
    from auricle.remote.renting.launch import launch as launch_with
    from auricle.remote.renting.lease import Order
    from auricle.remote.renting.public_key import public_key
    from auricle.remote.start import run_folder

    limits = {"remote.max_cost": max_cost, "remote.max_hours": max_hours, "remote.on_limit": on_limit}
    overrides = [*(words or []), *(f"{key}={value}" for key, value in limits.items() if value is not None)]
    config = composed([f"+experiments={experiment}", *overrides])
    order = Order(run=run_folder(config, experiment).name, image=image, public_key=public_key(),
                  wanted=Wanted(gpu=gpu, gpus=gpus, max_price=max_price, disk_gb=disk, spot=spot, region=region),
                  folder=config.remote.folder, release_on_failure=release_on_failure,
                  ending=lambda price: _ending(config, experiment, overrides, price))
    launch_with(order, chosen(provider), here(),
                [lambda place: _examine(place, config), lambda place: _deploy(place, config),
                 lambda place: _start(place, experiment, overrides, gpus)], _say)


def _examine(place: "Place", config: "ExperimentConfig") -> None:
    """What deploy will bring is no reason to stop here. Raises Unfit."""
    from auricle.remote.setup.doctor import examine

    _say(f"{place.connection.target}: looking at it")
    found = examine(place, config.remote, targets=config.mirror.targets, price=config.training.price_per_hour)
    for check in found:
        if check.result != "ok":
            _say(f"  {check.check}: {check.what}{f'; {check.todo}' if check.todo else ''}")
    failing = [check.check for check in found if check.result == "fails"]
    if failing:
        raise Unfit(f"{place.connection.target}: unfit for the run: {', '.join(failing)}; auricle remote doctor "
                    f"{place.connection.target} shows all")


def _deploy(place: "Place", config: "ExperimentConfig") -> None:
    from auricle.remote.setup.deploy import deploy

    deploy(place, config.remote, _say)


def _start(place: "Place", experiment: str, overrides: list[str], gpus: int) -> None:
    from auricle.cli.remote_verbs.start import start

    start([str(place.connection.target), *overrides], experiment=experiment, nproc=gpus)


def _ending(config: "ExperimentConfig", experiment: str, overrides: list[str], price: float) -> str:
    from auricle.cli.remote_verbs.start import budget_line
    from auricle.remote.project import Machine
    from auricle.remote.start import job_of

    job = job_of(config, overrides, experiment, Machine(address="new", price_per_hour=price))
    return budget_line(config, job)


def _say(line: str) -> None:
    print(line, flush=True)
