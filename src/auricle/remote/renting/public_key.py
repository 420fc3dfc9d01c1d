"""The public key that a rented machine is to let in: the one that ssh would use."""

import os
import subprocess
from pathlib import Path

from auricle.core.errors import UsageError
from auricle.remote.connection import CONFIG


def public_key() -> str:
    """The first of ssh's identity files with a .pub beside it, else the agent's first. Raises UsageError."""
    config = os.environ.get(CONFIG)
    settings = _printed(["ssh", *(["-F", config] if config else []), "-G", "anywhere"])
    files = [line.split(None, 1)[1] for line in settings.splitlines() if line.startswith("identityfile ")]
    for file in files:
        path = Path(f"{file}.pub").expanduser()
        if path.is_file():
            return path.read_text(encoding="utf-8").strip()
    agent = [line for line in _printed(["ssh-add", "-L"]).splitlines() if line.startswith(("ssh-", "ecdsa-", "sk-"))]
    if not agent:
        raise UsageError("no SSH key is found here, neither in ~/.ssh nor in the agent, and a rented machine needs "
                         "one; make one with: ssh-keygen -t ed25519")
    return agent[0].strip()


def _printed(command: list[str]) -> str:
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return ""
