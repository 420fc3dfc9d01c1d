"""An SSH server of the test's own on this machine, or in a network namespace."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
AllowTcpForwarding yes
MaxSessions 50
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
    _processes: "list[subprocess.Popen[bytes]]" = field(default_factory=list, repr=False)
    _command: tuple[str, ...] = ()

    def start(self) -> None:
        log = self.client_config.parent / "sshd.log"
        with log.open("w") as stderr:
            process = subprocess.Popen(self._command, stderr=stderr)
        self._processes.append(process)
        while "Server listening" not in log.read_text():
            assert process.poll() is None, log.read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        """As a power cut: with a prefix that makes a process name space, all that it started is gone too."""
        process = self._processes[-1]
        inside = self.first()
        process.kill()
        process.wait()
        while inside and Path(f"/proc/{inside}").exists():  # the kernel ends it after unshare, and all else with it
            time.sleep(0.002)

    def first(self) -> int | None:
        """The process, by its number here, that is number 1 in the name space of the server; None without one."""
        if "--kill-child" not in self._command or self._processes[-1].poll() is not None:
            return None
        pid = self._processes[-1].pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0]) if children else None

    def restart(self) -> None:
        """The machine is back, with its disk and at its address."""
        self.kill()
        self.start()

    def url(self, folder: Path) -> str:
        return f"ssh://{self.address}:{self.port}{folder}"


@contextlib.contextmanager
def serving(folder: Path, *, address: str = "127.0.0.1", port: int | None = None, prefix: Sequence[str] = (),
            environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """`prefix` runs the server elsewhere: ("ip", "netns", "exec", NAME) for an address of that namespace.

    `environment`: variables of all that is run there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    port = port or _free_port()
    for name in ("key", "host_key"):
        if not (folder / name).exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    variables = " ".join(f'"{name}={value}"' for name, value in (environment or {}).items())
    (folder / "sshd_config").write_text(SERVER.format(address=address, port=port, folder=folder)
                                        + (f"SetEnv {variables}\n" if variables else ""))
    client = folder / "ssh_config"
    client.write_text(CLIENT.format(user=getpass.getuser(), folder=folder))
    server = Server(address=address, port=port, client_config=client,
                    _command=(*prefix, str(SSHD), "-D", "-e", "-f", str(folder / "sshd_config")))
    try:
        server.start()
        yield server
    finally:
        server.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
