"""What a rented machine can do to itself, with the key that its provider put into it."""

import os
from dataclasses import dataclass
from pathlib import Path

from auricle.core.folder import find, names
from auricle.remote.providers import Environ, Inside, Provider

CONTAINER = Path("/proc/1/environ")
"""An SSH session lacks the variables that the provider gave to the container."""


@dataclass(frozen=True)
class Power:
    """Over the machine that this process runs on."""

    inside: Inside
    provider: Provider

    def end(self, *, keep_disk: bool) -> None:
        """Stops or destroys this machine. Raises ProviderError."""
        self.provider.release(self.inside.id, keep_disk=keep_disk)


def power(environ: Environ | None = None) -> Power | None:
    """None where no provider has put its key into this machine: it can be ended from elsewhere alone."""
    known = _container() | dict(os.environ) if environ is None else environ
    for name in names("remote.providers"):
        module = find("remote.providers", name)
        if (found := module.inside(known)) and found.key:
            return Power(found, module.connect(known))
    return None


def _container() -> dict[str, str]:
    try:
        entries = CONTAINER.read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return {}
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)
