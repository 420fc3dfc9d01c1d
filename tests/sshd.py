"""An SSH server of the test's own on this machine, or in a network namespace."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
MISSING = [name for name, found in (("sshd", SSHD), ("ssh", shutil.which("ssh")), ("rsync", shutil.which("rsync")))
           if not found]
needs_sshd = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")

SERVER = """
ListenAddress {address}:{port}
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {folder}/key.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
StrictModes no
UseDNS no
MaxStartups 50
Subsystem sftp internal-sftp
"""
CLIENT = """
Host *
  User {user}
  IdentityFile {folder}/key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
"""


@dataclass(frozen=True, kw_only=True)
class Server:
    address: str
    port: int
    client_config: Path
    """For `ssh -F`, and for AURICLE_SSH_CONFIG."""

    def url(self, folder: Path) -> str:
        return f"ssh://{self.address}:{self.port}{folder}"


@contextlib.contextmanager
def serving(folder: Path, *, address: str = "127.0.0.1", port: int | None = None,
            prefix: Sequence[str] = ()) -> Iterator[Server]:
    """`prefix` runs the server elsewhere: ("ip", "netns", "exec", NAME) for an address of that namespace."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    port = port or _free_port()
    for name in ("key", "host_key"):
        if not (folder / name).exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "sshd_config").write_text(SERVER.format(address=address, port=port, folder=folder))
    client = folder / "ssh_config"
    client.write_text(CLIENT.format(user=getpass.getuser(), folder=folder))
    log = folder / "sshd.log"
    with log.open("w") as stderr:
        process = subprocess.Popen([*prefix, SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=stderr)
    try:
        while "Server listening" not in log.read_text():
            assert process.poll() is None, log.read_text()
            time.sleep(0.02)
        yield Server(address=address, port=port, client_config=client)
    finally:
        process.terminate()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
