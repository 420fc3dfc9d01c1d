"""`auricle remote sky`: writes an experiment as a task of SkyPilot, for those who outgrow single machines."""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from auricle.core.errors import UsageError


def sky(
    experiment: Annotated[str, typer.Argument(help="A file of configs/hydra/experiments.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="As `auricle train`'s.")] = None,
    gpu: Annotated[str | None, typer.Option("--gpu", metavar="NAME[:COUNT]", help="As A100:8; none trains on CPUs.")
                   ] = None,
    cloud: Annotated[str | None, typer.Option("--cloud", help="As runpod or aws/us-east-1; SkyPilot chooses.")] = None,
    spot: Annotated[bool, typer.Option("--spot", help="Interruptible machines.")] = False,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Machines that train together.")] = 1,
    disk: Annotated[int, typer.Option("--disk", min=20, help="Disk of each, in GB.")] = 100,
    mirror: Annotated[str | None, typer.Option("--mirror", metavar="URL", help="mirror.targets=[URL]")] = None,
    to: Annotated[Path | None, typer.Option("--to", help="A file that does not exist yet; printed by default.")] = None,
) -> None:
    """Write an experiment as a task of SkyPilot; it resumes from its mirror on whatever machine SkyPilot brings."""
    from auricle.cli.remote_verbs.start import composed
    from auricle.remote import sky as tasks
    from auricle.remote.project import here

    words = [f"+experiments={experiment}", *(overrides or [])]
    words += [f"mirror.targets=[{mirror}]"] if mirror else []
    config = composed(words)
    machines = tasks.Machines(gpu=gpu, cloud=cloud, spot=spot, nodes=nodes, disk_gb=disk)
    handed = [name for name in config.remote.secrets if os.environ.get(name)]
    made = tasks.task(config, words, machines, name=config.training.run_name or experiment, root=here().root,
                      secrets=handed)
    written = tasks.text(made, shlex.join(["auricle", *sys.argv[1:]]), config)
    if to is None:
        print(written, end="")
        return
    try:
        with to.open("x", encoding="utf-8") as file:
            file.write(written)
    except FileExistsError:
        raise UsageError(f"{to}: exists already; choose another file with --to, or remove it first") from None
    except OSError as error:
        raise UsageError(f"{to}: cannot be written ({error.strerror}); choose another file with --to") from None
    secrets = "".join(f" --secret {name}" for name in handed)
    print(f"{to} is written. SkyPilot runs it: sky jobs launch {shlex.quote(str(to))}{secrets}")
