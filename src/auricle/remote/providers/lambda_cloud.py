"""Lambda Cloud: whole virtual machines by the minute, which can be terminated and not stopped.

Shapes: the "Lambda Cloud API" (its OpenAPI document, version 1.10.0), and "Billing" of its public cloud's pages. An
instance does not tell when it was launched, so that it bears the time as a tag.
"""

import hashlib
import re
import time
from typing import Any

from auricle.remote.providers import Environ, Inside, Offer, ProviderError, Rented, Wanted
from auricle.remote.providers.parts.gpus import named
from auricle.remote.providers.parts.http import Api, Denied, Taken, key_of, reading
from auricle.remote.providers.parts.rentals import cheapest_first, is_of, label_of, newest_first, once, run_of

URL = "https://cloud.lambda.ai/api/v1"
NEW_KEY = "cloud.lambda.ai under API keys, and set LAMBDA_API_KEY"
SINCE = "auricle-since"
STATES = {"booting": "starting", "active": "running", "terminating": "gone", "terminated": "gone",
          "preempted": "gone"}
GONE = "global/object-does-not-exist"
FULL = "instance-operations/launch/insufficient-capacity"


class LambdaCloud:
    name = "lambda_cloud"
    can_stop = False
    billing = ("Lambda Cloud bills by the minute until the instance is terminated, also when it is idle; it cannot be "
               "stopped, and shutting it down from inside does not end the bill. Its disk goes with it; a filesystem "
               "is billed until it is deleted.")

    def __init__(self, api: Api) -> None:
        self._api = api

    @reading("Lambda Cloud")
    def offers(self, wanted: Wanted) -> list[Offer]:
        if wanted.spot:
            raise ProviderError("Lambda Cloud: rents no interruptible machines; leave --spot out, or take --provider "
                                "vast")
        kinds = self._api.call("GET", "/instance-types")["data"]
        names = {name: kind["instance_type"]["gpu_description"] for name, kind in kinds.items()
                 if kind["instance_type"]["specs"]["gpus"]}
        found = [offer for name in named(wanted.gpu, names, "Lambda Cloud") for offer in _offers(kinds[name], wanted)]
        return cheapest_first(found, wanted)

    def rent(self, offer: Offer, *, run: str, public_key: str, disk_gb: int,  # noqa: ARG002 (a type has its disk)
             image: str | None) -> Rented:
        return once(self, run, lambda: self._buy(offer, run, public_key, image))

    @reading("Lambda Cloud")
    def _buy(self, offer: Offer, run: str, public_key: str, image: str | None) -> Rented:
        kind, region = offer.id.split("/")
        now = time.time()
        body = {"region_name": region, "instance_type_name": kind, "ssh_key_names": [self._key_name(public_key)],
                "name": label_of(run), "tags": [{"key": SINCE, "value": f"{now:.0f}"}]}
        if image:
            body["image"] = {"family": image}
        try:
            ids = self._api.call("POST", "/instance-operations/launch", body, once=True)["data"]["instance_ids"]
        except Denied as error:
            if error.code == FULL:
                raise Taken(str(error), status=error.status, code=error.code) from None
            raise
        return Rented(id=ids[0], run=run_of(label_of(run)) or "", state="starting", address=None,
                      price_per_hour=offer.price_per_hour, since=now)

    def _key_name(self, public_key: str) -> str:
        """An instance takes keys by their names in the account: of the one that is there, or that is put there."""
        for known in self._api.call("GET", "/ssh-keys")["data"]:
            if known["public_key"].split()[:2] == public_key.split()[:2]:
                return known["name"]
        name = f"auricle-{hashlib.sha256(public_key.encode()).hexdigest()[:8]}"
        return self._api.call("POST", "/ssh-keys", {"name": name, "public_key": public_key})["data"]["name"]

    @reading("Lambda Cloud")
    def find(self, run: str | None = None, *, foreign: bool = False) -> list[Rented]:
        found = [_rented(row) for row in self._api.call("GET", "/instances")["data"]
                 if foreign or run_of(row.get("name"))]
        return newest_first(machine for machine in found if is_of(machine, run))

    @reading("Lambda Cloud")
    def release(self, machine_id: str, *, keep_disk: bool) -> None:
        if keep_disk:
            raise ProviderError(f"Lambda Cloud: {machine_id} cannot be stopped with its disk kept, only "
                                "terminated; mirror or pull what is on it, and release it without --keep-disk")
        try:
            self._api.call("POST", "/instance-operations/terminate", {"instance_ids": [machine_id]})
        except Denied as error:
            if error.code != GONE:
                raise


def _offers(kind: dict[str, Any], wanted: Wanted) -> list[Offer]:
    type_, specs = kind["instance_type"], kind["instance_type"]["specs"]
    if specs["gpus"] != wanted.gpus or specs["storage_gib"] < wanted.disk_gb:
        return []
    vram = re.search(r"\((\d+) GB", type_["gpu_description"])
    return [Offer(id=f"{type_['name']}/{region['name']}", gpu=type_["gpu_description"], gpus=specs["gpus"],
                  vram_gb=float(vram[1]) if vram else 0.0, price_per_hour=type_["price_cents_per_hour"] / 100,
                  region=region["name"]) for region in kind["regions_with_capacity_available"]
            if not wanted.region or wanted.region.lower() in f"{region['name']} {region['description']}".lower()]


def _rented(row: dict[str, Any]) -> Rented:
    since = next((tag["value"] for tag in row.get("tags") or () if tag["key"] == SINCE), "")
    return Rented(id=row["id"], run=run_of(row.get("name")) or "", state=STATES.get(row["status"]) or row["status"],
                  address=f"ubuntu@{row['ip']}:22" if row.get("ip") and row["status"] == "active" else None,
                  price_per_hour=row["instance_type"]["price_cents_per_hour"] / 100,
                  since=float(since) if since.isdigit() else 0.0)


def connect(environ: Environ) -> LambdaCloud:
    key = key_of(environ, ("LAMBDA_API_KEY",), ".lambda_cloud/lambda_keys", NEW_KEY, "Lambda Cloud")
    return LambdaCloud(Api(provider="Lambda Cloud", url=environ.get("AURICLE_LAMBDA_URL") or URL, key=key,
                           new_key=NEW_KEY))


def inside(_: Environ) -> Inside | None:
    """Lambda puts no key into its machines: they are ended from elsewhere alone."""
    return None
