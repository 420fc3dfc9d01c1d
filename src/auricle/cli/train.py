"""`auricle train`: runs an experiment from where its run folder stands; the same command again resumes it."""

import os
import shlex
import subprocess
import sys
from typing import Annotated

import typer


def train(
    overrides: Annotated[list[str] | None, typer.Argument(help="+experiments=NAME and key=value, as in Hydra.")] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Rename the run folder and start anew; nothing is deleted.")
    ] = False,
    nproc: Annotated[int, typer.Option("--nproc", min=1, help="Processes on this machine, one a GPU.")] = 1,
) -> None:
    """Train an experiment; the same command again resumes it or says that it is done."""
    overrides = overrides or []
    if nproc > 1 and "RANK" not in os.environ:
        raise typer.Exit(_with_torchrun(overrides, fresh, nproc))
    from auricle.core.compose import compose
    from auricle.core.decode import decode

    composed = compose(overrides)
    config = decode(composed)
    raise typer.Exit(_train(composed, config, fresh))


def _with_torchrun(overrides: list[str], fresh: bool, nproc: int) -> int:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={nproc}",
        "-m",
        "auricle",
        "train",
        *overrides,
        *(["--fresh"] if fresh else []),
    ]
    return subprocess.run(command, check=False).returncode


def _train(composed, config, fresh: bool) -> int:
    from auricle.cli.console import preparing, show_event
    from auricle.core.decode import to_yaml
    from auricle.dashboard import follow
    from auricle.dashboard.trainer_state import keep_trainer_state
    from auricle.train.run_folder import location
    from auricle.train.start import Start, train

    command = shlex.join(["auricle", "train", *composed.overrides])
    start = Start(
        experiment=composed.experiment or "", command=command, config_yaml=to_yaml(config, composed.overrides)
    )
    folder = location(config, start.experiment)
    if os.environ.get("RANK", "0") == "0":
        print(f"Configuration (kept in {folder / 'config.yaml'}):\n{start.config_yaml}", flush=True)
    is_main = os.environ.get("RANK", "0") == "0"
    with preparing() as progress, follow.trackers(folder, config.training.report_to if is_main else []) as on_event:
        outcome = train(
            config, start, fresh=fresh, progress=progress, sinks=[show_event, keep_trainer_state(folder), on_event]
        )
    if outcome.reason == "already finished" and is_main:
        print(
            f"{outcome.folder} is done: {outcome.step} steps. Give it more with training.max_steps=…, "
            "or start anew with --fresh"
        )
    return 130 if outcome.reason == "interrupted" else 0
