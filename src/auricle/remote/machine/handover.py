"""Secrets go from one process to another through a socket that only this user can open: no file, no command line."""

import contextlib
import json
import shutil
import socket
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from auricle.core.errors import AuricleError
from auricle.remote.machine.job import Job

SECONDS = 30.0
SHORTEST = 6
"""A value shorter than this is not searched for: it may occur by chance."""


class NotTaken(AuricleError):
    """The process that was started did not ask for its secrets."""


def give(secrets: Mapping[str, str], start: Callable[[str], None], seconds: float = SECONDS) -> None:
    """Calls `start` with the address at which the process that it starts can `take` them, and waits until it has.

    Raises NotTaken.
    """
    folder = Path(tempfile.mkdtemp(prefix="auricle-"))  # for this user alone
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(folder / "socket"))
            server.listen(1)
            server.settimeout(seconds)
            start(str(folder / "socket"))
            with contextlib.closing(server.accept()[0]) as client:
                client.sendall(json.dumps(dict(secrets)).encode())
    except TimeoutError:
        raise NotTaken(f"the process that was started did not answer within {seconds:.0f} s") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def take(address: str) -> dict[str, str]:
    """Raises NotTaken where nobody gives any more."""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(address)
            return json.loads(b"".join(iter(lambda: client.recv(1 << 16), b"")))
    except (OSError, ValueError) as error:
        raise NotTaken(f"{address}: no secrets are given there ({error})") from None


def written_down(job: Job, secrets: Mapping[str, str]) -> str | None:
    """The name of a secret whose value is in what would be written to job.json."""
    text = json.dumps([job.run, job.run_folder, job.train, job.environment], ensure_ascii=False)
    return next((name for name, value in secrets.items()
                 if len(value) >= SHORTEST and json.dumps(value, ensure_ascii=False)[1:-1] in text), None)
