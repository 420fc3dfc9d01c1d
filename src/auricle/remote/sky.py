"""An experiment as a task of SkyPilot, which rents, recovers and ends machines on many clouds by itself.

    sky jobs launch NAME.sky.yaml --secret HF_TOKEN

A machine that SkyPilot brings back has an empty disk, so the run must have a mirror: its command goes on from there.
Fields: docs.skypilot.co, "Task YAML" and "Managed jobs", as version 0.14.1 reads them.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from auricle.core.config import ExperimentConfig
from auricle.core.errors import Preempted, UsageError
from auricle.remote.setup.environment import INPUTS, project_words
from auricle.remote.setup.torch_build import DEFAULT

RENDEZVOUS_PORT = 29500
MOST_RESTARTS = 3
"""After errors of the run's own; losing the machine does not count."""
FILE_SYSTEMS = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
"""What fsspec needs for a mirror there; hf:// comes with huggingface_hub."""
NOT_ELSEWHERE = ("", "file", "local", "memory", "ssh")
"""Schemes of mirrors that an empty machine does not reach: its own disk and memory, and what needs a key there."""
ACCELERATOR = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(:\d+)?")
FIND_PYTHON = """\
[ -x .venv/bin/python ] || for python in python3.13 python3.12 python3.11 python3; do
  "$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
  "$python" -m venv .venv && break
done
[ -x .venv/bin/python ] || uv venv --seed --python 3.12 .venv
"""


@dataclass(frozen=True, kw_only=True)
class Machines:
    """What SkyPilot is to look for. What is None, it chooses."""

    gpu: str | None = None
    """NAME or NAME:COUNT, as `sky gpus list` spells it; None trains on CPUs."""
    cloud: str | None = None
    """A cloud, perhaps with a region: runpod, vast, aws/us-east-1."""
    spot: bool = False
    nodes: int = 1
    disk_gb: int = 100


def task(config: ExperimentConfig, words: Sequence[str], machines: Machines, *, name: str, root: Path,
         secrets: Sequence[str]) -> dict[str, Any]:
    """What SkyPilot reads. `words` follow `auricle train`; `secrets` are names, whose values nobody writes down.

    Raises UsageError for a run without a mirror, and for a GPU that is no name.
    """
    _refuse_without_mirror(config.mirror.targets)
    remote = config.remote
    resources: dict[str, Any] = {"disk_size": machines.disk_gb}
    if machines.gpu:
        if not ACCELERATOR.fullmatch(machines.gpu):
            raise UsageError(f"--gpu {machines.gpu}: expected NAME or NAME:COUNT, as A100:8; `sky gpus list` has them")
        resources["accelerators"] = machines.gpu if ":" in machines.gpu else f"{machines.gpu}:1"
    if machines.cloud:
        resources["infra"] = machines.cloud
    resources["use_spot"] = machines.spot
    if remote.idle_minutes is not None:
        resources["autostop"] = {"idle_minutes": max(1, round(remote.idle_minutes)), "down": True}
    resources["job_recovery"] = {"max_restarts_on_errors": MOST_RESTARTS,
                                 "recover_on_exit_codes": [Preempted.exit_code]}
    made: dict[str, Any] = {"name": re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-") or "auricle"}
    if machines.nodes > 1:
        made["num_nodes"] = machines.nodes
    made |= {"resources": resources, "workdir": ".", "envs": dict(remote.environment)}
    if secrets:
        made["secrets"] = dict.fromkeys(secrets)
    return made | {"setup": _setup(config, root), "run": _run(words, machines)}


def _refuse_without_mirror(targets: Sequence[str]) -> None:
    if not any(_scheme(target) not in NOT_ELSEWHERE for target in targets):
        listed = ", ".join(targets)
        found = f"{listed} is nothing that a machine of SkyPilot's reaches" if targets else "there is none"
        raise UsageError(f"mirror.targets: {found}; a machine that SkyPilot brings back has an empty disk and no SSH "
                         "key, so the run must be kept in a bucket. Name one with --mirror URL, as s3://BUCKET/runs")


def _scheme(target: str) -> str:
    return target.partition("://")[0] if "://" in target else ""


def _setup(config: ExperimentConfig, root: Path) -> str:
    there = {name for name in INPUTS if (root / name).is_file()}
    pinned = "-c constraints-torch.txt torch" if "constraints-torch.txt" in there else DEFAULT
    systems = sorted({FILE_SYSTEMS[_scheme(target)] for target in config.mirror.targets
                      if _scheme(target) in FILE_SYSTEMS})
    steps = [shlex.split(config.remote.torch or pinned), project_words(root, there, config.remote.extras), systems]
    pip = [f".venv/bin/python -m pip install --quiet {shlex.join(words)}\n" for words in steps if words]
    return f"set -e\n{FIND_PYTHON}{''.join(pip)}"


def _run(words: Sequence[str], machines: Machines) -> str:
    ranks = ['--nproc "$SKYPILOT_NUM_GPUS_PER_NODE"'] if machines.gpu else []
    if machines.nodes > 1:
        first = '"$(echo "$SKYPILOT_NODE_IPS" | head -n 1)'
        ranks += ['--nnodes "$SKYPILOT_NUM_NODES"', '--node-rank "$SKYPILOT_NODE_RANK"',
                  f'--rendezvous {first}:{RENDEZVOUS_PORT}"']
    return f"exec {' '.join(['.venv/bin/python -m auricle train', *ranks, shlex.join(words)])}\n"


def text(made: dict[str, Any], command: str, config: ExperimentConfig) -> str:
    """The YAML, with a header for whoever finds it. `command` wrote it."""
    secrets = "".join(f" --secret {name}" for name in made.get("secrets", ()))
    limits = [f"remote.{key}={getattr(config.remote, key):g}" for key in ("max_cost", "max_hours")
              if getattr(config.remote, key) is not None]
    kept = f"# {' and '.join(limits)}: SkyPilot keeps no budget; training.max_wall_hours ends a run by time\n"
    machine = made["resources"].get("accelerators", "CPUs")
    return f"""\
# {made['name']} as a task of SkyPilot, written by: {command}
#
# Hardware   {machine}{' × ' + str(made['num_nodes']) + ' machines' if 'num_nodes' in made else ''}\
{', interruptible' if made['resources']['use_spot'] else ''}; SkyPilot looks for it
# Command    sky jobs launch FILE{secrets}     recovered where it is lost; its machines end with it
#            sky launch -c {made['name']} FILE{secrets}     one cluster, ended when it idles
# Resume     an empty machine goes on from mirror.targets; exit code {Preempted.exit_code} asks for a new one
{kept if limits else ''}{_dumped(made)}"""


class _Dumper(yaml.SafeDumper):
    """Scripts as blocks."""


def _string(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _string)


def _dumped(made: dict[str, Any]) -> str:
    return yaml.dump(made, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
