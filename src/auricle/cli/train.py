"""`auricle train`: runs an experiment from where its run folder stands; the same command again resumes it."""

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from auricle.core.config import ExperimentConfig
from auricle.core.errors import Preempted, UsageError
from auricle.train.ranks import Ranks, run_ranks
from auricle.train.run_folder import Start, location, run_record

if TYPE_CHECKING:
    from auricle.train.claim import Options


def train(
    overrides: Annotated[list[str] | None, typer.Argument(help="+experiments=NAME and key=value, as in Hydra.")] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Rename the run folder and start anew; nothing is deleted.")
    ] = False,
    extend: Annotated[
        bool, typer.Option("--extend", help="Accept another end although it changes the learning rate of what is left.")
    ] = False,
    allow_replan: Annotated[
        bool, typer.Option("--allow-replan", help="Accept other data or budgets: plan the rest of the epoch anew.")
    ] = False,
    nproc: Annotated[int, typer.Option("--nproc", min=1, help="Processes on this machine, one a GPU.")] = 1,
    nnodes: Annotated[int, typer.Option("--nnodes", min=1, help="Machines that train together.")] = 1,
    node_rank: Annotated[
        int, typer.Option("--node-rank", min=0, help="Which of them this is; the first, 0, keeps the run folder.")
    ] = 0,
    rendezvous: Annotated[
        str | None, typer.Option("--rendezvous", metavar="HOST:PORT", help="Where they meet, on the first of them.")
    ] = None,
    mirror: Annotated[
        str | None, typer.Option("--from", metavar="URL", help="Go on with the run of a mirror, on this machine.")
    ] = None,
) -> None:
    """Train an experiment; the same command again resumes it or says that it is done."""
    ranks = Ranks(nproc=nproc, nnodes=nnodes, node_rank=node_rank, rendezvous=rendezvous)
    config, start = _from_mirror(mirror, overrides or []) if mirror else _experiment(overrides or [])
    if ranks.needed:
        raise typer.Exit(run_ranks(ranks, sys.argv[1:], location(config, start.experiment)))
    from auricle.train.claim import Options

    raise typer.Exit(_train(config, start, Options(fresh=fresh, extend=extend, allow_replan=allow_replan)))


def _experiment(overrides: list[str]) -> tuple[ExperimentConfig, Start]:
    """What was typed."""
    from auricle.core.compose import compose
    from auricle.core.decode import decode, to_yaml

    composed = compose(overrides)
    config = decode(composed)
    command = shlex.join(["auricle", "train", *composed.overrides])
    start = Start(
        experiment=composed.experiment or "", command=command, config_yaml=to_yaml(config, composed.overrides)
    )
    return config, start


def _from_mirror(url: str, overrides: list[str]) -> tuple[ExperimentConfig, Start]:
    """A run with its own configuration, in outputs/NAME; fetched where it is not there yet."""
    from auricle.core.decode import decode, to_yaml
    from auricle.store.mirror_restore import restore

    if overrides:
        raise UsageError(f"--from {url}: the run brings its own configuration; leave {overrides[0]} out")
    folder = Path("outputs") / url.rstrip("/").rpartition("/")[2]
    if not (folder / "run.json").exists() and "RANK" not in os.environ:
        back = restore(url, None, folder, report=print, progress=lambda *_: None)
        print(f"{folder}: fetched step {back.step}, {back.bytes / 1e6:,.1f} MB, all verified", flush=True)
    record, plain = run_record(folder)
    plain["training"] |= {"output_dir": str(folder), "resume_from_checkpoint": None}
    config = decode(plain)
    return config, Start(experiment=record["experiment"], command=record["command"], config_yaml=to_yaml(config, []))


def _train(config: ExperimentConfig, start: Start, options: "Options") -> int:
    from auricle.cli.console import preparing, show_event
    from auricle.dashboard import follow
    from auricle.dashboard.trainer_state import keep_trainer_state
    from auricle.train.start import train

    folder = location(config, start.experiment)
    if os.environ.get("RANK", "0") == "0":
        print(f"Configuration (kept in {folder / 'config.yaml'}):\n{start.config_yaml}", flush=True)
    is_main = os.environ.get("RANK", "0") == "0"
    with preparing() as progress, follow.trackers(folder, config.training.report_to if is_main else []) as on_event:
        outcome = train(
            config, start, options=options, progress=progress, sinks=[show_event, keep_trainer_state(folder), on_event]
        )
    if outcome.reason == "already finished" and is_main:
        print(
            f"{outcome.folder} is done: {outcome.step} steps. Give it more with training.max_steps=…, "
            "or start anew with --fresh"
        )
    return Preempted.exit_code if outcome.reason == "interrupted" else 0
