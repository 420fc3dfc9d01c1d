"""A web server on loopback that serves byte ranges of a folder, counts what it serves, and fails on demand."""

import collections
import http.server
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class RangeServer:
    """`faults` are used up one a request of a body: "503", "stall", "cut", "reset", or a status as "404"."""

    folder: Path
    url: str = ""
    served: collections.Counter = field(default_factory=collections.Counter)
    """Bytes by file name."""
    requests: list[tuple[str, str]] = field(default_factory=list)
    """(method and file name, range) of each."""
    faults: collections.deque = field(default_factory=collections.deque)
    always: str | None = None
    failing: str = ""
    """What a path contains whose requests fail."""
    stall_seconds: float = 30.0
    ranges: bool = True
    lock: threading.Lock = field(default_factory=threading.Lock)
    answer: Callable | None = None
    """Called with each request first; True where it has answered it."""

    def next_fault(self) -> str | None:
        with self.lock:
            return self.faults.popleft() if self.faults else self.always


def _handler(server: RangeServer) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_args) -> None:
            pass

        def do_HEAD(self) -> None:
            self._serve(body=False)

        def do_GET(self) -> None:
            self._serve(body=True)

        def do_POST(self) -> None:
            self.content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._serve(body=True)

        def status(self, code: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _serve(self, *, body: bool) -> None:
            wanted = self.headers.get("Range", "")
            with server.lock:
                server.requests.append((f"{self.command} {self.path.rpartition('/')[2]}", wanted))
            fault = server.next_fault() if server.failing in self.path else None
            if fault == "stall":
                time.sleep(server.stall_seconds)
                self.close_connection = True
                return
            if fault == "reset":
                self.close_connection = True
                self.connection.close()
                return
            if fault and fault.isdigit():
                self.status(int(fault))
                return
            if server.answer and server.answer(self):
                return
            self._serve_file(server.folder / self.path.lstrip("/"), wanted, body=body, cut=fault == "cut")

        def _serve_file(self, path: Path, wanted: str, *, body: bool, cut: bool) -> None:
            if not path.is_file():
                self.status(404)
                return
            data, found = path.read_bytes(), re.fullmatch(r"bytes=(\d+)-(\d+)", wanted)
            size = len(data)
            if found and server.ranges and body:
                first, last = int(found[1]), min(int(found[2]), size - 1)
                if first >= size:
                    self.status(416)
                    return
                data = data[first : last + 1]
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            else:
                self.send_response(200)
            self.send_header("ETag", f'"{path.stat().st_mtime_ns}-{size}"')
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                data = data[: len(data) // 2] if cut else data
                with server.lock:
                    server.served[path.name] += len(data)
                self.wfile.write(data)
                if cut:
                    self.wfile.flush()
                    self.close_connection = True

    return Handler


class _Quiet(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, _request, _client_address) -> None:
        """A client that hangs up is what some tests are about."""


@contextmanager
def serving(folder: Path) -> Iterator[RangeServer]:
    server = RangeServer(folder)
    http_server = _Quiet(("127.0.0.1", 0), _handler(server))
    server.url = f"http://127.0.0.1:{http_server.server_address[1]}"
    thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http_server.shutdown()
        http_server.server_close()
        thread.join()
