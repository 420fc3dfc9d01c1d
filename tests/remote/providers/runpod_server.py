"""RunPod's REST API v2, as its OpenAPI document (2.0.0) has it: pods and the catalogue of GPUs."""

import contextlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from tests.remote.providers.api_server import ApiServer, Call, Reply, is_count, is_flag, is_text, only, serving

KEY = "rpa_KEY-THAT-IS-SECRET-0001"
TITLES = {400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden", 404: "Not Found",
          405: "Method Not Allowed", 409: "Conflict", 422: "Unprocessable Entity", 429: "Too Many Requests",
          500: "Internal Server Error"}
DETAILS = {401: "invalid bearer token", 403: "access denied", 404: "pod not found",
           429: "rate limit exceeded for the minute window", 500: "upstream failure"}
ACTIONS = {"PROVISIONING": ["stop", "terminate"], "STARTING": ["stop", "terminate"],
           "RUNNING": ["stop", "restart", "terminate"], "EXITED": ["start", "terminate"],
           "ERROR": ["start", "terminate"]}
KINDS = {"NVIDIA GeForce RTX 4090": ("RTX 4090", "NVIDIA", 24, 0.69, 0.34),
         "NVIDIA GeForce RTX 3090": ("RTX 3090", "NVIDIA", 24, 0.46, 0.22),
         "NVIDIA GeForce RTX 3090 Ti": ("RTX 3090 Ti", "NVIDIA", 24, 0.47, 0.27),
         "NVIDIA RTX A6000": ("RTX A6000", "NVIDIA", 48, 0.49, 0.33),
         "NVIDIA A100-SXM4-80GB": ("A100 SXM", "NVIDIA", 80, 1.49, 1.39),
         "AMD Instinct MI300X OAM": ("MI300X", "AMD", 192, 2.39, 0.0)}
CREATE = {"name": is_text, "image": is_text, "args": is_text, "templateId": is_text, "registry": is_text,
          "cloud": lambda value: value in ("SECURE", "COMMUNITY"), "disk": is_count, "startSsh": is_flag,
          "startJupyter": is_flag, "globalNetworking": is_flag,
          "dataCenterIds": lambda value: isinstance(value, list) and all(map(is_text, value)),
          "ports": lambda value: isinstance(value, list) and all(re.fullmatch(r"\d+/(tcp|http)", one) for one in value),
          "env": lambda value: isinstance(value, dict) and all(isinstance(one, str) for one in value.values()),
          "gpu": lambda value: only(value, GPU, ("id",)) is None, "mounts": lambda value: only(value, MOUNTS) is None}
GPU = {"id": is_text, "count": is_count, "minCudaVersion": lambda value: bool(re.fullmatch(r"\d+\.\d+", value)),
       "allowedCudaVersions": lambda value: isinstance(value, list)}
MOUNTS = {"persistent": lambda value: only(value, PERSISTENT, ("size", "path")) is None,
          "network": lambda value: isinstance(value, list) and len(value) == 1}
PERSISTENT = {"size": lambda value: is_count(value) and value >= 10, "path": is_text}
CATALOGUE = {"include": lambda value: value == "AVAILABILITY", "product": lambda value: value in ("POD", "CLUSTER"),
             "count": str.isdigit, "cloud": lambda value: value in ("SECURE", "COMMUNITY"), "countryCodes": is_text,
             "minCudaVersion": lambda value: bool(re.fullmatch(r"\d+(\.\d+)?", value)), "cudaVersions": is_text}


class RunpodServer(ApiServer):
    """`pods` are what is paid for, by id. `host` is where a new pod's sshd is: (address, port, user)."""

    base = "/v2"

    def __init__(self, key: str = KEY) -> None:
        super().__init__(key)
        self.pods: dict[str, dict[str, Any]] = {}
        self.host: tuple[str, int, str] | None = ("127.0.0.1", 1, "root")
        self.stock = "HIGH"
        self.is_full = False
        """Creating a pod finds no capacity."""
        self.starts_as = "RUNNING"
        """What a new pod is when it is looked at next."""
        self._count = 0

    def error(self, status: int, detail: str = "") -> dict[str, Any]:
        detail = detail or DETAILS.get(status, "failed")
        return {"title": TITLES.get(status, "Error"), "status": status, "detail": detail}

    def handle(self, call: Call) -> Any:
        found = re.fullmatch(r"/pods/([^/]+)(/action)?", call.path)
        match call.method, call.path:
            case "GET", "/catalog/gpus":
                return {"gpus": self._catalogue(call)}
            case "GET", "/pods":
                return {"pods": [self._shown(pod) for pod in self.pods.values()]}
            case "POST", "/pods":
                raise Reply(201, self._create(call.body))
            case method, _ if found:
                return self._one(method, found[1], bool(found[2]), call.body)
        raise Reply(404, self.error(404, "no such path"))

    def _catalogue(self, call: Call) -> list[dict[str, Any]]:
        if wrong := only(call.query, CATALOGUE):
            raise Reply(422, {**self.error(422, "Request validation failed."), "errors": [wrong]})
        if ("include" in call.query) != ("product" in call.query):
            raise Reply(400, self.error(400, "product is required with include=AVAILABILITY"))
        rows = []
        for id_, (name, maker, memory, secure, community) in KINDS.items():
            row = {"id": id_, "name": name, "pool": None, "manufacturer": maker, "memory": memory, "secure": True,
                   "community": community > 0, "price": {"secure": secure, "community": community},
                   "maxCount": {"secure": 8, "community": 4}, "availability": self.stock}
            if self.stock != "NONE":
                row["dataCenters"] = [{"id": "US-KS-2", "name": "US Kansas 2", "availability": self.stock},
                                      {"id": "EU-RO-1", "name": "EU Romania 1", "availability": "NONE"}]
            if maker == "NVIDIA":
                row["cudaVersions"] = [{"version": "12.8", "available": True}, {"version": "13.0", "available": False}]
            rows.append(row)
        return rows

    def _create(self, body: Any) -> dict[str, Any]:
        if wrong := only(body, CREATE, ("name", "image")):
            raise Reply(422, {**self.error(422, "Request validation failed."), "errors": [wrong]})
        if "gpu" not in body:
            raise Reply(400, self.error(400, "exactly one of gpu or cpu must be set"))
        if self.is_full or body["gpu"]["id"] not in KINDS:
            raise Reply(400, self.error(400, "There are no instances currently available"))
        self._count += 1
        secure, community = KINDS[body["gpu"]["id"]][3:]
        price = (secure if body.get("cloud", "SECURE") == "SECURE" else community) * body["gpu"].get("count", 1)
        pod = {"id": f"pod{self._count:07d}", "name": body["name"], "image": body["image"], "args": "",
               "disk": body.get("disk", 50), "ports": body.get("ports", []), "env": body.get("env", {}),
               "registry": None, "status": "PROVISIONING", "mounts": body.get("mounts", {}), "gpu": body["gpu"],
               "cloud": body.get("cloud", "SECURE"), "dataCenterId": "US-KS-2", "cudaVersion": "12.8",
               "template": None, "price": price, "locked": False, "globalNetworking": {"enabled": False},
               "createdAt": datetime.now(UTC).isoformat().replace("+00:00", "Z"), "startedAt": None}
        self.pods[pod["id"]] = pod
        shown = self._shown(pod)
        pod["status"] = self.starts_as
        return shown

    def _one(self, method: str, id_: str, is_action: bool, body: Any) -> Any:
        if id_ not in self.pods:
            raise Reply(404, self.error(404))
        pod = self.pods[id_]
        match method, is_action:
            case "GET", False:
                return self._shown(pod)
            case "DELETE", False:
                del self.pods[id_]
                raise Reply(204)
            case "POST", True:
                if wrong := only(body, {"action": lambda value: value in ("start", "stop", "restart", "terminate")},
                                 ("action",)):
                    raise Reply(422, self.error(422, wrong))
                if body["action"] not in ACTIONS[pod["status"]]:
                    raise Reply(409, self.error(409, f"{body['action']} is not valid while {pod['status']}"))
                if body["action"] == "terminate":
                    del self.pods[id_]
                    raise Reply(204)
                pod["status"] = {"stop": "EXITED", "start": "STARTING", "restart": "RUNNING"}[body["action"]]
                return self._shown(pod)
        raise Reply(405, self.error(405))

    def _shown(self, pod: dict[str, Any]) -> dict[str, Any]:
        is_up = pod["status"] == "RUNNING" and "22/tcp" in pod["ports"] and self.host is not None
        direct = None
        if is_up:
            address, port, user = self.host
            direct = {"host": address, "port": port, "username": user, "command": f"ssh {user}@{address} -p {port}"}
        proxy = {"host": "ssh.runpod.io", "port": 22, "username": f"{pod['id']}-64411eb2",
                 "command": f"ssh {pod['id']}-64411eb2@ssh.runpod.io"}
        return {**{name: value for name, value in pod.items() if name != "price"}, "actions": ACTIONS[pod["status"]],
                "ssh": {"proxy": proxy, "direct": direct}, "runtime": None,
                "cost": 0.0 if pod["status"] == "EXITED" else pod["price"]}


@contextlib.contextmanager
def serving_runpod(key: str = KEY, address: str = "127.0.0.1") -> Iterator[RunpodServer]:
    """Its `url` is for AURICLE_RUNPOD_URL, its `key` for RUNPOD_API_KEY."""
    server = RunpodServer(key)
    with serving(server, address):
        yield server
