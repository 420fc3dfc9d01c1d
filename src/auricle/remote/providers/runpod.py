"""RunPod: pods on its Secure and Community Cloud, as containers with a volume at /workspace.

Shapes: RunPod's "REST API v2" (its OpenAPI document, version 2.0.0; v1 ended in November 2026), "Pods: Pricing" for
what is billed, and "Pods: Environment variables" for what is inside a pod.
"""

from datetime import datetime
from typing import Any

from auricle.remote.providers import Environ, Inside, Offer, ProviderError, Rented, Wanted
from auricle.remote.providers.parts.gpus import named
from auricle.remote.providers.parts.http import Api, Denied, Taken, key_of, reading
from auricle.remote.providers.parts.rentals import CUDA, cheapest_first, is_of, label_of, newest_first, once, run_of

URL = "https://api.runpod.io/v2"
NEW_KEY = "console.runpod.io under Settings, API Keys, and set RUNPOD_API_KEY"
IMAGE = "runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404"
CLOUDS = ("SECURE", "COMMUNITY")
CONTAINER_DISK_GB = 20
"""For the system; the project is on the volume."""
STATES = {"PROVISIONING": "starting", "STARTING": "starting", "RUNNING": "running", "EXITED": "stopped",
          "TERMINATED": "gone"}


class RunPod:
    name = "runpod"
    can_stop = True
    billing = ("RunPod bills a stopped pod for its volume disk, at $0.20 per GB and month (twice the price while it "
               "runs), and erases all that is not under /workspace; a terminated pod is billed no more and its disks "
               "are gone. A network volume is billed until it is deleted.")

    def __init__(self, api: Api) -> None:
        self._api = api

    @reading("RunPod")
    def offers(self, wanted: Wanted) -> list[Offer]:
        if wanted.spot:
            raise ProviderError("RunPod: rents no interruptible machines; leave --spot out, or take --provider vast")
        found: list[Offer] = []
        for cloud in CLOUDS:
            query = {"include": "AVAILABILITY", "product": "POD", "count": wanted.gpus, "cloud": cloud,
                     "minCudaVersion": CUDA}
            kinds = {kind["id"]: kind for kind in self._api.call("GET", "/catalog/gpus", query=query)["gpus"]
                     if kind["manufacturer"] == "NVIDIA"}
            for id_ in named(wanted.gpu, {id_: f"{id_} {kind['name']}" for id_, kind in kinds.items()}, "RunPod"):
                found += _offers(kinds[id_], cloud, wanted)
        return cheapest_first(found, wanted)

    def rent(self, offer: Offer, *, run: str, public_key: str, disk_gb: int, image: str | None) -> Rented:
        cloud, gpu, *places = offer.id.split("/")
        body = {
            "name": label_of(run), "image": image or IMAGE, "cloud": cloud,
            "gpu": {"id": gpu, "count": offer.gpus, "minCudaVersion": CUDA},
            "disk": CONTAINER_DISK_GB, "mounts": {"persistent": {"size": max(disk_gb, 10), "path": "/workspace"}},
            "ports": ["22/tcp"], "startSsh": True, "env": {"PUBLIC_KEY": public_key},
        }
        if places:
            body["dataCenterIds"] = places
        return once(self, run, lambda: self._buy(body))

    @reading("RunPod")
    def _buy(self, body: dict[str, Any]) -> Rented:
        try:
            return _rented(self._api.call("POST", "/pods", body, once=True))
        except Denied as error:
            if error.status in (400, 403):  # its documentation: both no capacity, and this GPU is not for this account
                raise Taken(str(error), status=error.status) from None
            raise

    @reading("RunPod")
    def find(self, run: str | None = None, *, foreign: bool = False) -> list[Rented]:
        pods = [_rented(pod) for pod in self._api.call("GET", "/pods")["pods"] if foreign or run_of(pod["name"])]
        return newest_first(pod for pod in pods if is_of(pod, run))

    @reading("RunPod")
    def release(self, machine_id: str, *, keep_disk: bool) -> None:
        try:
            if keep_disk:
                self._api.call("POST", f"/pods/{machine_id}/action", {"action": "stop"})
            else:
                self._api.call("DELETE", f"/pods/{machine_id}")
        except Denied as error:
            if error.status == 404 or (error.status == 409 and keep_disk and self._has_ended(machine_id)):
                return
            raise

    def _has_ended(self, machine_id: str) -> bool:
        return self._api.call("GET", f"/pods/{machine_id}")["status"] in ("EXITED", "TERMINATED")


def _offers(kind: dict[str, Any], cloud: str, wanted: Wanted) -> list[Offer]:
    """One, or one a data centre where a region is asked for."""
    price = kind["price"][cloud.lower()]
    if not kind[cloud.lower()] or not price or kind["maxCount"][cloud.lower()] < wanted.gpus or _is_out(kind):
        return []
    places = [""]
    if wanted.region:
        places = [place["id"] for place in kind.get("dataCenters", ())
                  if wanted.region.lower() in f"{place['id']} {place['name']}".lower() and not _is_out(place)]
    cuda = [version["version"] for version in kind.get("cudaVersions", ()) if version["available"]]
    newest = max(cuda, key=lambda version: [int(part) for part in version.split(".")], default="")
    return [Offer(id="/".join(filter(None, (cloud, kind["id"], place))), gpu=kind["name"], gpus=wanted.gpus,
                  vram_gb=kind["memory"], price_per_hour=round(price * wanted.gpus, 4),
                  region=place or cloud.lower(), cuda=newest) for place in places]


def _is_out(stock: dict[str, Any]) -> bool:
    return stock.get("availability", "NONE") == "NONE"


def _rented(pod: dict[str, Any]) -> Rented:
    direct = (pod.get("ssh") or {}).get("direct")
    return Rented(id=pod["id"], run=run_of(pod["name"]) or "", state=STATES.get(pod["status"]) or pod["status"].lower(),
                  address=f"{direct['username']}@{direct['host']}:{direct['port']}" if direct else None,
                  price_per_hour=pod["cost"], since=datetime.fromisoformat(pod["createdAt"]).timestamp())


def connect(environ: Environ) -> RunPod:
    key = key_of(environ, ("RUNPOD_API_KEY",), ".runpod/config.toml", NEW_KEY, "RunPod")
    return RunPod(Api(provider="RunPod", url=environ.get("AURICLE_RUNPOD_URL") or URL, key=key, new_key=NEW_KEY))


def inside(environ: Environ) -> Inside | None:
    """A pod has its own id, and a key that is good for itself."""
    if not environ.get("RUNPOD_POD_ID"):
        return None
    key = environ.get("RUNPOD_API_KEY") or None
    return Inside(provider="runpod", id=environ["RUNPOD_POD_ID"], key=key, can_stop=bool(key), can_release=bool(key))
