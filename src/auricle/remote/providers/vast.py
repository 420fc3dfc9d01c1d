"""Vast.ai: containers on machines of many hosts, at prices that they set.

Shapes: Vast.ai's "API reference" (bundles, asks, instances v0; the list of instances v1), "Rate limits and errors",
"Pricing", "Docker environment: predefined variables"; the list of GPU names is the one that its own command asks for.
"""

import contextlib
from typing import Any

from auricle.remote.providers import Environ, Inside, Offer, ProviderError, Rented, Wanted
from auricle.remote.providers.parts.gpus import named
from auricle.remote.providers.parts.http import Api, Denied, Taken, key_of, reading, said
from auricle.remote.providers.parts.rentals import CUDA, cheapest_first, is_of, label_of, newest_first, once, run_of

URL = "https://console.vast.ai/api"
NEW_KEY = "cloud.vast.ai under Keys, and set VAST_API_KEY"
IMAGE = "vastai/base-image:@vastai-automatic-tag"
RELIABLE = 0.98
"""Of a host, 0–1: less is taken only where there is nothing else."""
OFFERS, PAGE = 64, 25
STATES = {None: "starting", "created": "starting", "loading": "starting", "rebooting": "starting",
          "running": "running", "stopped": "stopped"}


class Vast:
    name = "vast"
    can_stop = True
    billing = ("Vast.ai bills a stopped instance for its disk, often at more than while it runs, until it is "
               "destroyed, and its GPU may be rented to someone else meanwhile; a destroyed one is billed no more and "
               "its disk is gone.")

    def __init__(self, api: Api) -> None:
        self._api = api

    @reading("Vast.ai")
    def offers(self, wanted: Wanted) -> list[Offer]:
        kinds = [kind["canonical_name"] for kind in self._api.call("GET", "/v0/gpu_types/")["gpu_types"]]
        names = named(wanted.gpu, {kind: kind for kind in kinds if kind}, "Vast.ai")
        found = self._search(names, wanted, RELIABLE) or self._search(names, wanted, 0.0)
        return cheapest_first(found, wanted)

    def _search(self, names: list[str], wanted: Wanted, reliability: float) -> list[Offer]:
        query: dict[str, Any] = {
            "gpu_name": {"in": names}, "num_gpus": {"eq": wanted.gpus}, "verified": {"eq": True},
            "rentable": {"eq": True}, "rented": {"eq": False}, "direct_port_count": {"gte": 1},
            "cuda_max_good": {"gte": float(CUDA)}, "reliability": {"gte": reliability},
            "disk_space": {"gte": wanted.disk_gb}, "allocated_storage": wanted.disk_gb,
            "type": "bid" if wanted.spot else "ondemand", "order": [["dph_total", "asc"]], "limit": OFFERS,
        }
        if wanted.max_price is not None:
            query["dph_total"] = {"lte": wanted.max_price}
        if wanted.region:
            query["geolocation"] = {"in": [wanted.region.upper()]}
        return [_offer(ask, wanted) for ask in self._api.call("POST", "/v0/bundles/", query)["offers"]]

    def rent(self, offer: Offer, *, run: str, public_key: str, disk_gb: int, image: str | None) -> Rented:
        body: dict[str, Any] = {"image": image or IMAGE, "label": label_of(run), "disk": disk_gb,
                                "runtype": "ssh_direct", "target_state": "running", "cancel_unavail": True}
        if offer.spot:
            body["price"] = offer.price_per_hour  # the bid
        rented = once(self, run, lambda: self._buy(offer, body))
        # it has the key already, or the account has; one without it is told apart when ssh is refused
        with contextlib.suppress(ProviderError):
            self._api.call("POST", f"/v0/instances/{rented.id}/ssh/", {"ssh_key": public_key})
        return rented

    @reading("Vast.ai")
    def _buy(self, offer: Offer, body: dict[str, Any]) -> Rented:
        import time

        try:
            answer = self._api.call("PUT", f"/v0/asks/{offer.id}/", body, once=True)
        except Denied as error:
            if error.status in (404, 410):
                raise Taken(str(error), status=error.status) from None
            raise
        if not answer.get("success"):
            raise Taken(f"Vast.ai: {said(answer)[1]}", status=200)
        return Rented(id=str(answer["new_contract"]), run=run_of(body["label"]) or "", state="starting", address=None,
                      price_per_hour=offer.price_per_hour, since=time.time())

    @reading("Vast.ai")
    def find(self, run: str | None = None, *, foreign: bool = False) -> list[Rented]:
        rows: list[dict[str, Any]] = []
        query: dict[str, Any] = {"limit": PAGE}
        while True:
            page = self._api.call("GET", "/v1/instances/", query=query)
            rows += page["instances"]
            if not page.get("next_token"):
                break
            query["after_token"] = page["next_token"]
        found = [_rented(row) for row in rows if foreign or run_of(row["label"])]
        return newest_first(machine for machine in found if is_of(machine, run))

    @reading("Vast.ai")
    def release(self, machine_id: str, *, keep_disk: bool) -> None:
        path = f"/v0/instances/{machine_id}/"
        try:
            answer = self._api.call("PUT", path, {"state": "stopped"}) if keep_disk else self._api.call("DELETE", path)
        except Denied as error:
            if error.status == 404:
                return
            raise
        if not answer.get("success") and "no_such_instance" not in said(answer):
            raise ProviderError(f"Vast.ai: instance {machine_id} was not ended: {said(answer)[1]}")


def _offer(ask: dict[str, Any], wanted: Wanted) -> Offer:
    return Offer(id=str(ask["id"]), gpu=ask["gpu_name"], gpus=ask["num_gpus"], vram_gb=round(ask["gpu_ram"] / 1024, 1),
                 price_per_hour=round(ask["dph_total"], 4), region=ask.get("geolocation") or "",
                 reliability=ask.get("reliability"), cuda=str(ask.get("cuda_max_good") or ""), spot=wanted.spot)


def _rented(row: dict[str, Any]) -> Rented:
    actual = row["actual_status"]
    state = "stopped" if row["intended_status"] == "stopped" else STATES.get(actual) or actual
    return Rented(id=str(row["id"]), run=run_of(row["label"]) or "", state=state, address=_address(row),
                  price_per_hour=round(row["dph_total"], 4), since=row["start_date"] or 0.0)


def _address(row: dict[str, Any]) -> str | None:
    """Directly where it has a port, else through Vast's proxy."""
    if row["actual_status"] != "running":
        return None
    if ports := (row.get("ports") or {}).get("22/tcp"):
        return f"root@{row['public_ipaddr'].strip()}:{ports[0]['HostPort']}"
    return f"root@{row['ssh_host']}:{row['ssh_port']}" if row.get("ssh_host") else None


def connect(environ: Environ) -> Vast:
    key = key_of(environ, ("VAST_API_KEY", "CONTAINER_API_KEY"), ".config/vastai/vast_api_key", NEW_KEY, "Vast.ai")
    return Vast(Api(provider="Vast.ai", url=environ.get("AURICLE_VAST_URL") or URL, key=key, new_key=NEW_KEY))


def inside(environ: Environ) -> Inside | None:
    """An instance has its own id, and a key that starts, stops and destroys itself alone."""
    label = environ.get("VAST_CONTAINERLABEL")
    id_ = environ.get("CONTAINER_ID") or (label or "").removeprefix("C.")
    if not label or not id_.isdigit():
        return None
    key = environ.get("CONTAINER_API_KEY") or None
    return Inside(provider="vast", id=id_, key=key, can_stop=bool(key), can_release=bool(key))
