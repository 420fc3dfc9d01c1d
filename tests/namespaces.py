"""Two machines on this one: network name spaces with a cable between them that can be cut (root)."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

NETWORK = f"10.77.{os.getpid() % 251}"
"""Of this process: tests that run side by side have cables of their own."""
HERE, THERE = f"{NETWORK}.1", f"{NETWORK}.2"


@dataclass(frozen=True)
class Far:
    """The other machine, seen from this name space."""

    name: str
    address: str
    prefix: tuple[str, ...]
    cable: str
    cable_there: str

    def cut(self) -> None:
        _ip("link", "set", self.cable, "down")

    def mend(self) -> None:
        _ip("link", "set", self.cable, "up")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def _possible() -> str | None:
    """Why there are no name spaces here, or None."""
    if os.getuid() != 0:
        return "needs root"
    if not shutil.which("ip"):
        return "not installed: ip (iproute2)"
    name = f"auricle-try-{os.getpid()}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return tried.stderr.strip() or None if tried.returncode else None


needs_namespaces = pytest.mark.skipif(bool(reason := _possible()), reason=reason or "")


@contextlib.contextmanager
def far_machine() -> Iterator[Far]:
    name, here, there = f"auricle-{os.getpid()}", f"aur{os.getpid() % 100000}a", f"aur{os.getpid() % 100000}b"
    _ip("netns", "add", name)
    try:
        _ip("link", "add", here, "type", "veth", "peer", "name", there)
        _ip("link", "set", there, "netns", name)
        _ip("addr", "add", f"{HERE}/24", "dev", here)
        _ip("link", "set", here, "up")
        for words in (("addr", "add", f"{THERE}/24", "dev", there), ("link", "set", there, "up"),
                      ("link", "set", "lo", "up")):
            _ip("-n", name, *words)
        yield Far(name, THERE, ("ip", "netns", "exec", name), here, there)
    finally:
        pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False).stdout.split()
        for pid in pids:
            subprocess.run(["kill", "-9", pid], check=False)
        subprocess.run(["ip", "netns", "del", name], check=False)
        subprocess.run(["ip", "link", "del", here], capture_output=True, check=False)
