"""Vast.ai's API as its reference has it: bundles, asks and instances v0, the list of instances v1, GPU names."""

import contextlib
import json
import re
import time
from collections.abc import Iterator
from typing import Any

from tests.remote.providers.api_server import ApiServer, Call, Reply, is_flag, is_text, only, serving

KEY = "KEY-THAT-IS-SECRET-0002"
NAMES = ("RTX 4090", "RTX 3090", "RTX 3090 Ti", "RTX A6000", "A100 SXM4", "RTX 6000Ada", "H100 SXM")
OPERATORS = {"eq": lambda a, b: a == b, "neq": lambda a, b: a != b, "gt": lambda a, b: a > b, "lt": lambda a, b: a < b,
             "gte": lambda a, b: a >= b, "lte": lambda a, b: a <= b, "in": lambda a, b: a in b,
             "notin": lambda a, b: a not in b}
COLUMNS = {"verified", "rentable", "rented", "gpu_name", "num_gpus", "dph_total", "geolocation", "reliability",
           "cuda_max_good", "direct_port_count", "disk_space", "static_ip", "gpu_ram", "external"}
ASK = {"image": is_text, "label": is_text, "disk": lambda value: value > 0,
       "price": lambda value: 0.001 <= value <= 128,
       "runtype": lambda value: value in ("ssh", "jupyter", "args", "ssh_proxy", "ssh_direct", "jupyter_proxy",
                                          "jupyter_direct"),
       "target_state": lambda value: value in ("running", "stopped"), "cancel_unavail": is_flag, "onstart": is_text,
       "env": lambda value: isinstance(value, dict), "vm": is_flag, "image_login": is_text}


class VastServer(ApiServer):
    """`instances` are what is paid for, by id; `machines` what is offered. `host`: where a new instance's sshd is."""

    base = "/api"

    def __init__(self, key: str = KEY) -> None:
        super().__init__(key)
        self.instances: dict[str, dict[str, Any]] = {}
        self.machines = [offer(1000 + number, name, price) for number, (name, price) in enumerate((
            ("RTX 4090", 0.41), ("RTX 4090", 0.38), ("RTX 4090", 0.52), ("RTX 3090", 0.19), ("A100 SXM4", 0.95),
            ("A100 SXM4", 1.05), ("A100 SXM4", 1.15)))]
        self.host: tuple[str, int, str] | None = ("127.0.0.1", 1, "root")
        self.is_full = False
        self.starts_as: str | None = "running"
        self.page = 25
        self._count = 0

    @property
    def pods(self) -> dict[str, dict[str, Any]]:
        return self.instances

    def error(self, status: int, detail: str = "") -> Any:
        if status == 429:
            return "API requests too frequent: endpoint threshold=4.5"
        codes = {401: ("auth_error", "Invalid user key"), 404: ("no_such_instance", "Instance not found"),
                 400: ("invalid_args", "Invalid args")}
        code, message = codes.get(status, ("internal", "internal error"))
        return {"success": False, "error": code, "msg": detail or message}

    def is_public(self, call: Call) -> bool:
        return call.path == "/v0/gpu_types/"

    def handle(self, call: Call) -> Any:
        ask, instance = re.fullmatch(r"/v0/asks/(\d+)/", call.path), re.fullmatch(r"/v0/instances/(\d+)/", call.path)
        key = re.fullmatch(r"/v0/instances/(\d+)/ssh/", call.path)
        match call.method, call.path:
            case "GET", "/v0/gpu_types/":
                return {"gpu_types": [{"canonical_name": name, "gpu_ram_mb": 24564} for name in NAMES]}
            case "POST", "/v0/bundles/":
                return {"offers": self._search(call.body)}
            case "GET", "/v1/instances/":
                return self._list(call.query)
            case "PUT", _ if ask:
                return self._rent(int(ask[1]), call.body)
            case method, _ if instance:
                return self._one(method, instance[1], call.body)
            case "POST", _ if key:
                return self._attach(key[1], call.body)
        raise Reply(404, self.error(404, "no such path"))

    def _search(self, query: dict[str, Any]) -> list[dict[str, Any]]:
        query = dict(query)
        kind = query.pop("type", "ondemand")
        order, limit = query.pop("order", [["score", "desc"]]), query.pop("limit", 64)
        query.pop("allocated_storage", None)
        if kind not in ("ondemand", "on-demand", "bid", "reserved") or not isinstance(limit, int):
            raise Reply(400, self.error(400, "invalid type"))
        for column, tests in query.items():
            if column not in COLUMNS or not isinstance(tests, dict) or not set(tests) <= set(OPERATORS):
                raise Reply(400, self.error(400, f"Error in query parameters: {column} is not a valid search key"))
        found = [dict(machine) for machine in self.machines
                 if all(OPERATORS[name](_value(machine, column), value)
                        for column, tests in query.items() for name, value in tests.items())]
        for machine in found:
            machine["is_bid"] = kind == "bid"
        for column, direction in reversed(order):
            found.sort(key=lambda machine, column=column: machine.get(column, 0), reverse=direction == "desc")
        return found[:limit]

    def _rent(self, id_: int, body: Any) -> dict[str, Any]:
        if wrong := only(body, ASK, ("image",)):
            raise Reply(400, {**self.error(400, f"error 400/3467: Invalid args: {wrong}"), "ask_id": id_})
        machine = next((one for one in self.machines if one["id"] == id_ and one["rentable"]), None)
        if machine is None or self.is_full:
            raise Reply(410, {"success": False, "error": "no_such_ask", "ask_id": id_,
                              "msg": f"error 410/3907: no_such_ask Instance type {id_} is no longer available."})
        machine["rentable"] = False
        self._count += 1
        contract = 7000000 + self._count
        host = self.host or ("127.0.0.1", 1, "root")
        self.instances[str(contract)] = {
            "id": contract, "label": body.get("label"), "actual_status": None, "next": self.starts_as,
            "intended_status": "running", "cur_state": "running", "status_msg": None, "gpu_name": machine["gpu_name"],
            "num_gpus": machine["num_gpus"], "dph_total": machine["dph_total"], "start_date": time.time(),
            "public_ipaddr": f"{host[0]} ", "ssh_host": "ssh6.vast.ai", "ssh_port": 10600, "is_bid": "price" in body,
            "ssh_keys": [], "ports": {"22/tcp": [{"HostIp": "0.0.0.0", "HostPort": str(host[1])}]}}
        return {"success": True, "new_contract": contract, "instance_api_key": "d15a-KEY-OF-THE-INSTANCE"}

    def _list(self, query: dict[str, str]) -> dict[str, Any]:
        if not set(query) <= {"limit", "after_token", "order_by", "select_cols", "select_filters"}:
            raise Reply(400, {"error": "invalid_request", "msg": "Error in query parameters"})
        rows = [self.instances[id_] for id_ in sorted(self.instances, key=int)]
        begin = int(json.loads(query["after_token"])) if "after_token" in query else 0
        page = min(int(query.get("limit", 25)), self.page)
        shown = [self._shown(row) for row in rows[begin:begin + page]]
        token = json.dumps(begin + page) if begin + page < len(rows) else None
        return {"success": True, "instances_found": len(shown), "total_instances": len(rows), "label_counts": {},
                "next_token": token, "instances": shown}

    def _shown(self, row: dict[str, Any]) -> dict[str, Any]:
        shown = {name: value for name, value in row.items() if name not in ("next", "ssh_keys")}
        if shown["actual_status"] != "running":
            shown["ports"] = None
        row["actual_status"] = row["next"]
        return shown

    def _one(self, method: str, id_: str, body: Any) -> Any:
        if id_ not in self.instances:
            raise Reply(404, self.error(404))
        row = self.instances[id_]
        match method:
            case "GET":
                return {"instances": self._shown(row)}
            case "DELETE":
                del self.instances[id_]
                return {"success": True, "msg": "Instance destroyed successfully"}
            case "PUT":
                if only(body, {"state": lambda value: value in ("running", "stopped"), "label": is_text}) or not body:
                    raise Reply(400, self.error(400))
                if "state" in body:
                    row["intended_status"] = body["state"]
                    row["next"] = row["actual_status"] = {"stopped": "exited", "running": "running"}[body["state"]]
                return {"success": True}
        raise Reply(405, self.error(400))

    def _attach(self, id_: str, body: Any) -> dict[str, Any]:
        if id_ not in self.instances:
            raise Reply(404, self.error(404))
        if only(body, {"ssh_key": is_text}, ("ssh_key",)) or body["ssh_key"] in self.instances[id_]["ssh_keys"]:
            raise Reply(400, self.error(400, "SSH key already associated with instance."))
        self.instances[id_]["ssh_keys"].append(body["ssh_key"])
        return {"success": True, "msg": "SSH key attached successfully"}


def offer(id_: int, name: str, price: float, **other: Any) -> dict[str, Any]:
    return {"id": id_, "ask_contract_id": id_, "gpu_name": name, "num_gpus": 1, "gpu_ram": 24564, "dph_total": price,
            "dph_base": price - 0.01, "min_bid": price / 2, "geolocation": "Sweden, SE", "reliability": 0.995,
            "cuda_max_good": 12.8, "direct_port_count": 10, "disk_space": 500.0, "verification": "verified",
            "rentable": True, "rented": False, "static_ip": False, "external": None, **other}


def _value(machine: dict[str, Any], column: str) -> Any:
    if column == "verified":
        return machine["verification"] == "verified"
    if column == "geolocation":
        return machine["geolocation"].rpartition(", ")[2]
    return machine[column]


@contextlib.contextmanager
def serving_vast(key: str = KEY, address: str = "127.0.0.1") -> Iterator[VastServer]:
    """Its `url` is for AURICLE_VAST_URL, its `key` for VAST_API_KEY."""
    server = VastServer(key)
    with serving(server, address):
        yield server
