"""`auricle remote offers`: machines that can be rented now, cheapest first."""

from typing import TYPE_CHECKING, Annotated

import typer

from auricle.cli.remote_verbs.shared import AsJson
from auricle.core.errors import UsageError

if TYPE_CHECKING:
    from auricle.remote.providers import Provider

ProviderName = Annotated[str | None, typer.Option(
    "--provider", help="runpod, vast or lambda_cloud; all whose key is set by default.")]
Gpu = Annotated[str, typer.Option(help="As 4090, a100 or \"RTX A6000\".")]
MaxPrice = Annotated[float | None, typer.Option(min=0, help="Dollars an hour, for the machine.")]
Gpus = Annotated[int, typer.Option(min=1, help="GPUs of the machine.")]
Disk = Annotated[int, typer.Option("--disk", min=10, help="GB that are needed.")]
Spot = Annotated[bool, typer.Option("--spot", help="Interruptible machines: cheaper, and taken away without notice.")]
Region = Annotated[str | None, typer.Option(help="Vast.ai: a country as SE; else a part of a region's name.")]


def offers(
    gpu: Gpu,
    provider: ProviderName = None,
    max_price: MaxPrice = None,
    gpus: Gpus = 1,
    disk: Disk = 60,
    spot: Spot = False,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """List the machines that can be rented now, cheapest first."""
    from dataclasses import asdict

    from auricle.cli.console import show_json, show_table
    from auricle.remote.providers import Wanted
    from auricle.remote.renting.launch import offers as found_by

    wanted = Wanted(gpu=gpu, gpus=gpus, max_price=max_price, disk_gb=disk, spot=spot, region=region)
    rows = [{"provider": by.name, **asdict(offer)} for by, offer in found_by(chosen(provider), wanted)]
    if as_json:
        show_json(rows)
        return
    show_table({"provider": row["provider"], "gpus": row["gpus"], "gpu": row["gpu"], "vram": f"{row['vram_gb']:g} GB",
                "$/h": f"{row['price_per_hour']:.3f}", "region": row["region"],
                "reliability": "" if row["reliability"] is None else f"{row['reliability']:.3f}", "cuda": row["cuda"],
                "id": row["id"]} for row in rows)


def chosen(provider: str | None) -> "list[Provider]":
    """The one that is named, or all whose key is set. Raises UsageError where there is none."""
    import os

    from auricle.remote.renting.accounts import provider_of, with_keys

    found = [provider_of(provider, os.environ)] if provider else with_keys(os.environ)
    if not found:
        raise UsageError("no provider's key is set; expected one of RUNPOD_API_KEY, VAST_API_KEY, LAMBDA_API_KEY "
                         "(`--provider NAME` says where to get it)")
    return found
