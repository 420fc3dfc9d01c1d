"""`auricle remote deploy`: the project's files and its environment on a machine, as far as they lack."""

import shlex
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from auricle.cli.remote_verbs.shared import Folder, Jump, place_of
from auricle.remote.place import Place
from auricle.remote.renting.accounts import BY_HAND

if TYPE_CHECKING:
    from auricle.core.config import RemoteConfig

Experiment = Annotated[str | None, typer.Option(
    "--experiment", "-e", help="Take the settings `remote` of this experiment, as start will; KEY=VALUE changes them.")]


def deploy(
    words: Annotated[list[str], typer.Argument(
        metavar="HOST [PORT] [KEY=VALUE]…", help="A machine, then overrides of the experiment.")],
    jump: Jump = None,
    folder: Folder = None,
    experiment: Experiment = None,
    torch: Annotated[str | None, typer.Option(
        help="What pip installs for torch, as \"torch==2.13.0 --index-url URL\"; chosen by the GPU's driver.")] = None,
    extra: Annotated[list[str] | None, typer.Option(
        "--extra", help="An extra of Auricle to install, as synth; repeatable.")] = None,
    price: Annotated[float | None, typer.Option(min=0, help="What the machine costs an hour.")] = None,
    skip_setup: Annotated[bool, typer.Option("--skip-setup", help="Install no system packages.")] = False,
    skip_sync: Annotated[bool, typer.Option("--skip-sync", help="Bring no files.")] = False,
    skip_deps: Annotated[bool, typer.Option("--skip-deps", help="Install no Python packages.")] = False,
) -> None:
    """Bring the project and its environment to a machine; again, only what differs."""
    from auricle.remote.setup.deploy import Skip
    from auricle.remote.setup.deploy import deploy as deploy_to

    place, overrides = place_of(words, jump, folder)
    config = settings(experiment, overrides).remote
    changes = {"torch": torch, "extras": extra}
    config = config.model_copy(update={name: value for name, value in changes.items() if value is not None})
    if config.folder and not folder:
        place = Place(place.connection, place.project, config.folder)
    known = {} if price is None else {"price_per_hour": price}
    if _was_another(place):
        _say("What was deployed to this address is gone: it is taken for a new machine, whose cost is counted from now")
        place.project.remember(place.connection.target, since=time.time(), price_per_hour=price, run=None)
    deploy_to(place, config, _say, skip=Skip(setup=skip_setup, sync=skip_sync, deps=skip_deps), **known)
    print(f"auricle remote start {place.connection.target.typed} --experiment {experiment or 'NAME'}")


def _was_another(place: Place) -> bool:
    """Whether a machine that was not rented from here lacks the folder that is noted of it: its address has been given
    to another one, or its disk is gone. Raises Unreachable, Refused.
    """
    known = place.project.machine(place.connection.target)
    if known.provider != BY_HAND or known.folder is None or known.address != str(place.connection.target):
        return False
    return place.connection.run(f"[ -d {shlex.quote(known.folder)} ]").code == 1


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an experiment says that concerns a machine."""

    remote: "RemoteConfig"
    mirrors: list[str]
    price: float | None


def settings(experiment: str | None, overrides: list[str]) -> Settings:
    """Of an experiment, or of configs/hydra/remote/default.yaml and what was typed. Raises ConfigError."""
    from auricle.core.compose import compose
    from auricle.core.config import MirrorConfig, RemoteConfig
    from auricle.core.decode import decode, decode_model

    if experiment is not None:
        config = decode(compose([f"+experiments={experiment}", *overrides]))
        return Settings(remote=config.remote, mirrors=config.mirror.targets, price=config.training.price_per_hour)
    composed = compose(overrides)
    values, where = composed.values, composed.origins.where
    remote = decode_model(RemoteConfig, values.get("remote") or {}, where, ("remote",))
    mirror = decode_model(MirrorConfig, values.get("mirror") or {}, where, ("mirror",))
    return Settings(remote=remote, mirrors=mirror.targets, price=None)


def _say(line: str) -> None:
    print(line, flush=True)
