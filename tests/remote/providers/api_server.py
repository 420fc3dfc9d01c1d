"""A provider's web API on loopback: what the fake servers share. Strict: what the published shapes lack is refused."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

ACCEPTED, DROPPED = "accepted", "dropped"
"""What can be scripted beside a status: done and then no answer; not done and no answer."""


@dataclass(frozen=True)
class Call:
    """A request as it came."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    time: float
    """By the monotonic clock."""


@dataclass
class Reply(Exception):
    """An answer that ends the handling of a request."""

    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Script:
    """What goes wrong with the next calls that begin so: ("POST /pods", 429, {"Retry-After": "1"})."""

    begins: str
    how: int | str
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None


class ApiServer:
    """A provider: subclasses answer `handle`, and say `error(status)` as it does."""

    base = ""

    def __init__(self, key: str) -> None:
        self.key, self.url = key, ""
        self.calls: list[Call] = []
        self.scripts: list[Script] = []
        self.lock = threading.RLock()

    def handle(self, call: Call) -> Any:
        """→ the JSON of the answer; raises Reply for another status."""
        raise Reply(404, self.error(404))

    def error(self, status: int, detail: str = "") -> Any:
        """The body of an error."""

    def fail(self, begins: str, how: int | str, times: int = 1, body: Any = None, **headers: str) -> None:
        """The next calls that begin so ("POST /pods") fail; ACCEPTED, DROPPED, or a status."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.scripts += [Script(begins, how, named, body) for _ in range(times)]

    def asked(self, begins: str) -> list[Call]:
        return [call for call in self.calls if f"{call.method} {call.path}".startswith(begins)]

    def is_public(self, call: Call) -> bool:
        return False

    def answer(self, call: Call, authorization: str | None) -> Reply:
        with self.lock:
            self.calls.append(call)
            script = next((one for one in self.scripts if f"{call.method} {call.path}".startswith(one.begins)), None)
            if script:
                self.scripts.remove(script)
            if script and script.how == DROPPED:
                raise ConnectionAbortedError
            if script and isinstance(script.how, int):
                return Reply(script.how, script.body or self.error(script.how), script.headers)
            try:
                if authorization != f"Bearer {self.key}" and not self.is_public(call):
                    return Reply(401, self.error(401))
                reply = Reply(200, self.handle(call))
            except Reply as raised:
                reply = raised
            if script:
                raise ConnectionAbortedError
            return reply


def only(given: Any, allowed: dict[str, Callable[[Any], bool]], required: tuple[str, ...] = ()) -> str | None:
    """What is wrong with the fields of a request, or None."""
    if not isinstance(given, dict):
        return "not an object"
    for name, value in given.items():
        if name not in allowed:
            return f"$: additional properties '{name}' not allowed"
        if not allowed[name](value):
            return f"$.{name}: not a valid value"
    lacking = [name for name in required if name not in given]
    return f"$: missing properties '{lacking[0]}'" if lacking else None


def is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def is_flag(value: Any) -> bool:
    return isinstance(value, bool)


@contextlib.contextmanager
def serving(api: ApiServer, address: str = "127.0.0.1") -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        def do(self) -> None:
            path, query = urlsplit(self.path).path, dict(parse_qsl(urlsplit(self.path).query))
            text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            call = Call(self.command, path.removeprefix(api.base), query, json.loads(text) if text else None,
                        time.monotonic())
            try:
                reply = api.answer(call, self.headers.get("Authorization"))
            except ConnectionAbortedError:
                self.close_connection = True
                return
            plain = isinstance(reply.body, str)
            content = b"" if reply.body is None else (reply.body if plain else json.dumps(reply.body)).encode()
            self.send_response(reply.status)
            self.send_header("Content-Type", "text/plain" if plain else "application/json")
            if reply.status != 204:
                self.send_header("Content-Length", str(len(content)))
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer((address, 0), Handler)
    server.daemon_threads = True
    api.url = f"http://{address}:{server.server_port}{api.base}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
