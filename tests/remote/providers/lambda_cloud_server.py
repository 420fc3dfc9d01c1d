"""Lambda Cloud's API as its OpenAPI document (1.10.0) has it: instance types, instances, their operations, SSH keys."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from tests.remote.providers.api_server import ApiServer, Call, Reply, is_text, only, serving

KEY = "secret_KEY-THAT-IS-SECRET-0003.abc"
KINDS = {"gpu_1x_a10": ("A10 (24 GB PCIe)", 1, 75), "gpu_1x_a100_sxm4": ("A100 (40 GB SXM4)", 1, 129),
         "gpu_8x_a100": ("A100 (40 GB SXM4)", 8, 1032), "gpu_1x_h100_pcie": ("H100 (80 GB PCIe)", 1, 249)}
ERRORS = {401: ("global/invalid-api-key", "API key was invalid, expired, or deleted.",
                "Check your API key or create a new one, then try again."),
          404: ("global/object-does-not-exist", "Specified instance does not exist.", None),
          400: ("global/invalid-parameters", "Invalid request data.", None),
          429: ("global/rate-limit", "Too many requests.", None), 500: ("global/internal-error", "Internal.", None)}
LAUNCH = {"region_name": is_text, "instance_type_name": is_text, "name": lambda value: len(value) <= 64,
          "ssh_key_names": lambda value: isinstance(value, list) and len(value) == 1,
          "image": lambda value: set(value) in ({"family"}, {"id"}), "hostname": is_text, "user_data": is_text,
          "file_system_names": lambda value: isinstance(value, list),
          "tags": lambda value: all(set(tag) == {"key", "value"} and re.fullmatch(r"[a-z][a-z0-9-:]+", tag["key"])
                                    for tag in value)}


class LambdaCloudServer(ApiServer):
    """`instances` are what is paid for, by id. `host`: where a new instance's sshd is; Lambda has it at port 22."""

    base = "/api/v1"

    def __init__(self, key: str = KEY) -> None:
        super().__init__(key)
        self.instances: dict[str, dict[str, Any]] = {}
        self.keys = [{"id": "ddf9a910ceb744a0bb95242cbba6cb50", "name": "other", "public_key": "ssh-rsa AAAAother x"}]
        self.host: tuple[str, int, str] | None = ("127.0.0.1", 22, "ubuntu")
        self.regions = [{"name": "us-west-1", "description": "California, USA"}]
        self.is_full = False
        self.starts_as = "active"
        self._count = 0

    @property
    def pods(self) -> dict[str, dict[str, Any]]:
        return self.instances

    def error(self, status: int, detail: str = "") -> dict[str, Any]:
        code, message, suggestion = ERRORS.get(status, ("global/error", "Failed.", None))
        return {"error": {"code": code, "message": detail or message,
                          **({"suggestion": suggestion} if suggestion else {})}}

    def handle(self, call: Call) -> Any:
        match call.method, call.path:
            case "GET", "/instance-types":
                return {"data": {name: {"instance_type": kind(name), "regions_with_capacity_available": self.regions}
                                 for name in KINDS}}
            case "GET", "/instances":
                return {"data": [self._shown(row) for row in self.instances.values()]}
            case "GET", "/ssh-keys":
                return {"data": self.keys}
            case "POST", "/ssh-keys":
                return {"data": self._add_key(call.body)}
            case "POST", "/instance-operations/launch":
                return {"data": {"instance_ids": [self._launch(call.body)]}}
            case "POST", "/instance-operations/terminate":
                return {"data": {"terminated_instances": [self._terminate(id_) for id_ in call.body["instance_ids"]]}}
        raise Reply(404, self.error(404, "no such path"))

    def _add_key(self, body: Any) -> dict[str, Any]:
        if only(body, {"name": is_text, "public_key": is_text}, ("name",)):
            raise Reply(400, self.error(400))
        key = {"id": f"{len(self.keys):032x}", **body}
        self.keys.append(key)
        return key

    def _launch(self, body: Any) -> str:
        if wrong := only(body, LAUNCH, ("region_name", "instance_type_name", "ssh_key_names")):
            raise Reply(400, self.error(400, wrong))
        if not {key["name"] for key in self.keys} >= set(body["ssh_key_names"]):
            raise Reply(404, self.error(404, "SSH key"))
        regions = [region["name"] for region in self.regions]
        if self.is_full or body["region_name"] not in regions or body["instance_type_name"] not in KINDS:
            code = "instance-operations/launch/insufficient-capacity"
            raise Reply(400, {"error": {"code": code, "message": "Not enough capacity to fulfill launch request."}})
        self._count += 1
        id_ = f"{self._count:032x}"
        self.instances[id_] = {
            "id": id_, "name": body.get("name"), "status": "booting", "next": self.starts_as,
            "ssh_key_names": body["ssh_key_names"], "file_system_names": [], "region": self.regions[0],
            "instance_type": kind(body["instance_type_name"]), "tags": body.get("tags", []), "is_reserved": False,
            "hostname": "h", "jupyter_token": "t"}
        return id_

    def _terminate(self, id_: str) -> dict[str, Any]:
        if id_ not in self.instances:
            raise Reply(404, self.error(404))
        return {**self._shown(self.instances.pop(id_)), "status": "terminating"}

    def _shown(self, row: dict[str, Any]) -> dict[str, Any]:
        shown = {name: value for name, value in row.items() if name != "next"}
        if row["status"] == "active" and self.host:
            shown["ip"] = self.host[0]
        row["status"] = row["next"]
        return shown


def kind(name: str) -> dict[str, Any]:
    gpu, count, cents = KINDS[name]
    return {"name": name, "description": f"{count}x {gpu}", "gpu_description": gpu, "price_cents_per_hour": cents,
            "specs": {"vcpus": 30, "memory_gib": 200, "storage_gib": 512, "gpus": count}}


@contextlib.contextmanager
def serving_lambda(key: str = KEY, address: str = "127.0.0.1") -> Iterator[LambdaCloudServer]:
    """Its `url` is for AURICLE_LAMBDA_URL, its `key` for LAMBDA_API_KEY."""
    server = LambdaCloudServer(key)
    with serving(server, address):
        yield server
