"""From an experiment that was composed here to a run on a machine: a `Job` and its secrets, handed over on stdin."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from auricle.core.config import ExperimentConfig
from auricle.core.errors import UsageError
from auricle.remote.connection import RemoteError, said
from auricle.remote.machine.job import Budget, Job
from auricle.remote.place import Place
from auricle.remote.project import Machine

LAUNCH_SECONDS = 120.0
RENDEZVOUS_PORT = 29500
LONGEST_NAME = 100
NAME = "expected a name, as voxformer-b, whose folder is outputs/NAME"


@dataclass(frozen=True, kw_only=True)
class Launched:
    """What a machine answered."""

    run: str
    session: str | None
    """Its tmux server; None without tmux."""
    boot_hook: str | None
    """What goes on with the run after a restart of the machine; None where nothing does."""
    resumed: bool
    """Whether there is a checkpoint of the run there already."""


def job_of(config: ExperimentConfig, train: Sequence[str], experiment: str, machine: Machine, *,
           nproc: int = 1) -> Job:
    """What a machine is to run: `train` are the words after `auricle train`, `config` what they compose to.

    Raises UsageError for a run whose name is a path.
    """
    folder = run_folder(config, experiment)
    remote, training = config.remote, config.training
    price = training.price_per_hour if training.price_per_hour is not None else machine.price_per_hour
    if remote.max_cost is not None and price is None:
        raise UsageError("remote.max_cost: the price of the machine is not known; say it with --price 0.44, or note it "
                         f"with auricle remote deploy {machine.target.typed} --price 0.44")
    since = machine.since if machine.id or machine.run else time.time()  # named by hand: from its first start
    budget = Budget(price_per_hour=price, since=since, max_cost=remote.max_cost, max_hours=remote.max_hours,
                    idle_minutes=remote.idle_minutes, on_limit=remote.on_limit)
    words = list(train)
    if training.price_per_hour is None and price is not None:
        words.append(f"training.price_per_hour={price}")
    return Job(run=folder.name, run_folder=str(folder), train=words, nproc=nproc, environment=dict(remote.environment),
               secrets=list(remote.secrets), has_mirror=bool(config.mirror.targets),
               budget=vars(budget))


def run_folder(config: ExperimentConfig, experiment: str) -> PurePosixPath:
    """Relative to the project. Raises UsageError for a name that is a path, or a folder elsewhere."""
    training = config.training
    if training.output_dir is not None:
        raise UsageError(f"training.output_dir is '{training.output_dir}': a machine keeps its runs in outputs/NAME; "
                         "name the run with training.run_name=NAME")
    name = training.run_name or experiment or "train"
    if "/" in name or "\\" in name or name.startswith(".") or not name.isprintable() or len(name) > LONGEST_NAME:
        raise UsageError(f"training.run_name is {name[:LONGEST_NAME]!r}; {NAME}")
    return PurePosixPath("outputs") / name


def secrets_of(names: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Those that are set here."""
    return {name: environ[name] for name in names if environ.get(name)}


def start(place: Place, job: Job, secrets: Mapping[str, str]) -> Launched:
    """Starts the run there: its guard first, then the trainer. Raises RemoteError, also where the run runs already."""
    told = json.dumps({"job": json.loads(job.to_json()), "secrets": dict(secrets)})
    done = place.auricle(["remote", "machine", "launch"], stdin=told.encode(), timeout=LAUNCH_SECONDS)
    target = place.connection.target
    if done.code:
        raise RemoteError(f"{target}: {said(done.stderr).removeprefix('error: ') or 'the run did not start'} "
                          f"(code {done.code})")
    try:
        answer: dict[str, Any] = json.loads(done.text.splitlines()[-1])
    except (ValueError, IndexError):
        raise RemoteError(f"{target}: answered '{said(done.text)[:200]}' to the start of a run; is the installation "
                          "there of another version? auricle remote deploy brings this one") from None
    return Launched(run=job.run, session=answer.get("session"), boot_hook=answer.get("boot_hook"),
                    resumed=bool(answer.get("resumed")))


def spread(jobs: Sequence[Job], places: Sequence[Place], meeting: str | None = None) -> list[Job]:
    """The jobs of several machines, each with its own budget, as ones that train together; the run is on the first.

    They meet there, at `meeting` (HOST:PORT) or at the address by which it is reached from here.
    """
    meeting = meeting or f"{places[0].connection.target.host}:{RENDEZVOUS_PORT}"
    return [replace(job, nnodes=len(jobs), node_rank=rank, rendezvous=meeting if len(jobs) > 1 else None)
            for rank, job in enumerate(jobs)]
