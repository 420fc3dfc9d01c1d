"""A rented machine on this one: an SSH server with a home, a PATH and processes of its own, which can be killed.

With root it lives in a process name space, so that killing it kills all that it runs, as a power cut does; `far` puts
it into a network name space (`tests.namespaces`), so that its cable can be cut too.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from auricle.remote.project import Project
from auricle.remote.target import Target, parse
from tests.namespaces import Far
from tests.paths import ROOT
from tests.sshd import Server, needs_sshd, serving

ALONE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
"""A process name space."""
needs_hosts = [needs_sshd, pytest.mark.skipif(os.getuid() != 0, reason="needs root: a machine that can be killed")]


@dataclass(frozen=True, kw_only=True)
class Host:
    server: Server
    home: Path

    @property
    def address(self) -> str:
        return f"{self.server.address}:{self.server.port}"

    @property
    def target(self) -> Target:
        return parse(self.address)

    @property
    def words(self) -> list[str]:
        """As HOST PORT on a command line."""
        return [self.server.address, str(self.server.port)]

    def kill(self) -> None:
        """A power cut: everything that runs there is gone at once; the disk stays."""
        self.server.kill()

    def processes(self, group: int) -> list[int]:
        """By their numbers here, those of a process group of the machine; only where it has a name space."""
        space, found = Path(f"/proc/{self.server.first()}/ns/pid").readlink(), []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                is_there = (process / "ns" / "pid").readlink() == space
                status = (process / "status").read_text() if is_there else ""
            except OSError:
                continue
            numbers = next((line.split()[1:] for line in status.splitlines() if line.startswith("NSpgid")), [])
            if numbers[-1:] == [str(group)]:
                found.append(int(process.name))
        return found

    def project(self, name: str) -> Path:
        """Where a project of that name lies there."""
        return self.home / name


def tools(folder: Path, *, without: tuple[str, ...] = (), also: dict[str, str] | None = None) -> str:
    """A PATH that lacks some commands, and has others as shell scripts (name → script)."""
    folder.mkdir(parents=True)
    for place in system_path().split(":"):
        for command in Path(place).glob("*"):
            if command.name not in without and not (folder / command.name).exists():
                (folder / command.name).symlink_to(command)
    for name, script in (also or {}).items():
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return str(folder)


def system_path() -> str:
    """The PATH without the virtual environment that the tests run in, and with the Python that it was made of."""
    own = {str(Path(sys.prefix) / "bin"), str(Path(sys.executable).parent)}
    places = [str(Path(sys.base_prefix) / "bin"), *os.environ["PATH"].split(":"), "/usr/sbin", "/sbin"]
    return ":".join(dict.fromkeys(place for place in places if place and place not in own and "shims" not in place))


@contextlib.contextmanager
def host(folder: Path, *, path: str | None = None, far: Far | None = None, key_of: "Host | None" = None,
         environment: dict[str, str] | None = None) -> Iterator[Host]:
    """`key_of`: a machine whose client key (and known hosts) this one accepts too. `path`: see `tools`."""
    home = folder / "home"
    home.mkdir(parents=True)
    prefix = (*(far.prefix if far else ()), *(ALONE if os.getuid() == 0 else ()))
    where = {"address": far.address, "port": 2222} if far else {}
    if key_of:
        for name in ("key", "key.pub"):
            shutil.copy(key_of.server.client_config.parent / name, folder / name)
    variables = {"HOME": str(home), "PATH": path or system_path(), "OMP_NUM_THREADS": "1", **(environment or {})}
    try:
        with serving(folder, prefix=prefix, environment=variables, **where) as server:
            yield Host(server=server, home=home)
    finally:
        remove_dead_sockets()


def remove_dead_sockets() -> None:
    """Of tmux servers that died with their machine; one that is a minute old has begun to listen if it ever will."""
    for path in Path(f"/tmp/tmux-{os.getuid()}").glob("auricle-*"):
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(FileNotFoundError):
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                if time.time() - path.stat().st_mtime > 60:
                    path.unlink()


@pytest.fixture
def laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """An empty project on this side, as the working directory."""
    folder = tmp_path / "laptop" / "speech"
    folder.mkdir(parents=True)
    subprocess.run(["git", "init", "-q", folder], check=True)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("AURICLE_SSH_MULTIPLEX", raising=False)
    return Project(folder)


def use(monkeypatch: pytest.MonkeyPatch, machine: Host) -> None:
    """This side finds the key of that machine."""
    monkeypatch.setenv("AURICLE_SSH_CONFIG", str(machine.server.client_config))


def give_environment(project: Path) -> None:
    """What `deploy` would install, at once: the environment that the tests run in."""
    project.mkdir(parents=True, exist_ok=True)
    (project / ".venv").symlink_to(ROOT / ".venv" if (ROOT / ".venv").is_dir() else sys.prefix)
