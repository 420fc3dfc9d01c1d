"""The OpenSSH client by subprocess: one machine, through jump hosts, over one connection that stays.

    ssh … -o ControlPath=DIR/HASH -o ProxyCommand="ssh … -W %h:%p JUMP" HOST SCRIPT

Keys and agents only; nothing prompts; what does not answer is given up within `LOST_SECONDS`. Host keys are pinned at
first contact in the project's known_hosts. Every failure is one sentence that says what to do.
"""

import contextlib
import functools
import hashlib
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from auricle.core.errors import AuricleError
from auricle.remote.project import Project
from auricle.remote.target import Target
from auricle.store.targets import Progress
from auricle.store.targets.parts.rsync import BROKEN_OFF, FAILED, rsync, said

ALIVE_SECONDS, ALIVE_COUNT, CONNECT_SECONDS = 5, 2, 10
LOST_SECONDS = ALIVE_SECONDS * ALIVE_COUNT + CONNECT_SECONDS
"""A machine that does not answer is noticed within this."""
PERSIST_SECONDS = 600
"""A connection that nobody uses is closed after this."""
STALLED_SECONDS = 20
"""rsync gives up when nothing moved for so long."""
CONFIG, MULTIPLEX = "AURICLE_SSH_CONFIG", "AURICLE_SSH_MULTIPLEX"
"""Environment: another ssh_config file; `no` opens a connection a command (where sockets are not possible: WSL 1)."""
VANISHED = 24
"""rsync's exit code where a file went away after it was listed: the rest went over."""
MULTIPLEX_FAILED = re.compile(r"ControlPath|ControlSocket|control socket|mux_client|muxserver|multiplex", re.I)
OFFENDING = re.compile(r"^Offending .*?key.*? in (.+):\d+\s*$", re.M)
CHANGED = re.compile(r"^Host key for (\S+) has changed", re.M)
"""Where ssh found the key that is not the machine's, and for which host."""
CLOSED_PORT = re.compile(r"connect to host (\S+) port (\d+): Connection refused")
NOT_FORWARDED = re.compile(r"open failed: (?:connect failed: )?(.+?)\s*$", re.M)
"""Why a jump does not reach the next hop."""
PROGRESS = re.compile(r" *\d+ +\d+% ")
"""How rsync's lines of progress begin."""


class RemoteError(AuricleError):
    """What the machine, or the way to it, does not let happen; the sentence begins with the machine."""

    exit_code = 8


class Unreachable(RemoteError):
    """No answer, now: the network, the machine or its ssh server. The same command later may succeed."""


class Refused(RemoteError):
    """The way is there and does not let us in: a key, a host key, no such user. Trying again will not help."""


class DiskFull(RemoteError):
    """There."""


@dataclass(frozen=True)
class Done:
    """What a command there printed, and its exit code."""

    stdout: bytes
    stderr: str
    code: int

    @property
    def text(self) -> str:
        return self.stdout.decode(errors="replace")


class Connection:
    """The way to one machine. Opening it costs nothing; the first command connects."""

    def __init__(self, target: Target, project: Project, *, is_new: bool = False) -> None:
        """`is_new`: just rented; what ~/.ssh/known_hosts has of its address is another machine's."""
        self.target = target
        self._is_new = is_new
        self._known_hosts = project.known_hosts
        self._sockets = _socket_folder() if os.environ.get(MULTIPLEX, "yes") != "no" else None

    def client(self) -> list[str]:
        """The words of an ssh command line up to where the host stands (as rsync's `-e` and mirrors take them)."""
        words = _words(self.target, self._known_hosts, is_new=self._is_new)
        if self._socket is None:
            return [*words, *_proxy(self.target, self._known_hosts)]
        return [*words, *_proxy(self.target, self._known_hosts, self._jump_log), *_options({
            "ControlMaster": "auto", "ControlPath": str(self._socket), "ControlPersist": str(PERSIST_SECONDS)})]

    @property
    def _socket(self) -> Path | None:
        """Of the connection that stays: another one for another way to the machine."""
        return self._sockets / self._way if self._sockets else None

    @functools.cached_property
    def _way(self) -> str:
        words = [*_words(self.target, self._known_hosts, is_new=self._is_new), *_proxy(self.target, self._known_hosts)]
        return hashlib.sha256(shlex.join([*words, self.destination]).encode()).hexdigest()[:20]

    @property
    def _jump_log(self) -> Path | None:
        """What jumps say where a connection stays: ssh would let nobody hear it."""
        return self._socket.with_suffix(".jump") if self._socket and self.target.jump else None

    def _clear_jump_log(self) -> None:
        if self._jump_log:
            self._jump_log.unlink(missing_ok=True)

    def _said_by_jumps(self) -> str:
        with contextlib.suppress(OSError):
            return self._jump_log.read_text(errors="replace") if self._jump_log else ""
        return ""

    @property
    def destination(self) -> str:
        """As ssh takes it; the port is in `client`."""
        return f"{self.target.login}{self.target.host}"

    def run(self, script: str, *, stdin: bytes = b"", timeout: float | None = None) -> Done:
        """Runs a shell script there. Its exit code is the caller's to judge. Raises Unreachable, Refused."""
        self._clear_jump_log()
        done = self._ssh([*self.client(), "--", self.destination, script], stdin, timeout)
        if done.code == FAILED and self._sockets and MULTIPLEX_FAILED.search(done.stderr):
            self._sockets = None
            done = self._ssh([*self.client(), "--", self.destination, script], stdin, timeout)
        if done.code == FAILED:
            raise explained(self.target, self._said_by_jumps() + done.stderr)
        return done

    def check(self, script: str, *, stdin: bytes = b"", timeout: float | None = None) -> str:
        """What a shell script prints there. Raises RemoteError where it fails."""
        done = self.run(script, stdin=stdin, timeout=timeout)
        if done.code:
            raise RemoteError(f"{self.target}: {said(done.stderr) or said(done.text) or 'a command failed there'} "
                              f"(code {done.code})")
        return done.text

    def stream(self, script: str) -> subprocess.Popen[bytes]:
        """A command there whose standard output is read as it comes; standard error is ours."""
        return self._popen([*self.client(), "--", self.destination, script], stdin=subprocess.DEVNULL,
                           stdout=subprocess.PIPE)

    def interactive(self, script: str) -> int:
        """A command there with this terminal; → its exit code, 255 where the connection was lost."""
        process = self._popen([*self.client(), "-t", "--", self.destination, script])
        with contextlib.suppress(KeyboardInterrupt):
            return process.wait()
        return process.wait()

    def rsync(self, arguments: Sequence[str], progress: Progress | None = None) -> str:
        """Runs rsync with this connection; a remote path is `remote(path)`. → what it printed beside its progress.

        Raises Unreachable (what went over so far is kept, and the same call goes on), RemoteError for a full disk or
        a refused write there.
        """
        self._clear_jump_log()
        try:
            ran = rsync(self.client(), arguments, STALLED_SECONDS, progress)
        except FileNotFoundError:
            raise self._missing("rsync") from None
        if ran.code not in (0, VANISHED):
            raise _rsync_failed(self.target, self._said_by_jumps() + ran.errors, ran.code)
        shown = (line.rpartition("\r")[2] for line in ran.printed.decode(errors="replace").split("\n"))
        return "\n".join(line for line in shown if not PROGRESS.match(line))

    def remote(self, path: str) -> str:
        """A path there, as rsync takes it."""
        host = f"[{self.target.host}]" if ":" in self.target.host else self.target.host
        return f"{self.target.login}{host}:{path}"

    def close(self) -> None:
        """Ends the connection that stays."""
        if self._sockets:
            command = [*self.client(), "-O", "exit", "--", self.destination]
            subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)

    def _ssh(self, command: list[str], stdin: bytes, timeout: float | None) -> Done:
        # stderr is a file: the connection that stays (and a jump's) would hold a pipe open
        with tempfile.TemporaryFile() as errors:
            process = self._popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
            try:
                stdout, _ = process.communicate(stdin, timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                raise Unreachable(f"{self.target}: no answer within {timeout:.0f} s; try again") from None
            errors.seek(0)
            return Done(stdout, errors.read().decode(errors="replace"), process.returncode)

    def _popen(self, command: list[str], **files: object) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(command, **files)  # type: ignore[call-overload]
        except FileNotFoundError:
            raise self._missing(command[0]) from None

    def _missing(self, program: str) -> RemoteError:
        return RemoteError(f"{self.target}: needs '{program}', which is not installed here (Debian, Ubuntu: apt "
                           "install openssh-client rsync)")


def _words(target: Target, known_hosts: Path, *, is_new: bool = False, log: Path | None = None) -> list[str]:
    """ssh's words for one hop: nothing that prompts, nothing that hangs. `log`: instead of standard error."""
    config = os.environ.get(CONFIG)
    pins = [known_hosts, *([] if is_new else [Path("~/.ssh/known_hosts").expanduser()])]
    files = " ".join(f'"{path}"' for path in pins)
    options = {
        "BatchMode": "yes", "ConnectTimeout": str(CONNECT_SECONDS), "ConnectionAttempts": "1",
        "ServerAliveInterval": str(ALIVE_SECONDS), "ServerAliveCountMax": str(ALIVE_COUNT), "TCPKeepAlive": "yes",
        "StrictHostKeyChecking": "accept-new", "UserKnownHostsFile": files, "LogLevel": "INFO" if log else "ERROR",
        "PasswordAuthentication": "no", "KbdInteractiveAuthentication": "no",
    }
    return ["ssh", *(["-E", str(log)] if log else []), *(["-F", config] if config else []),
            *(["-p", str(target.port)] if target.port else []), *_options(options)]


def _options(options: dict[str, str]) -> list[str]:
    return [word for name, value in options.items() for word in ("-o", f"{name}={value}")]


def _proxy(target: Target, known_hosts: Path, log: Path | None = None) -> list[str]:
    """The jump as a command of our own: with ProxyJump, ssh would apply none of our options to it.

    `log`: gets what the jumps say, instead of standard error.
    """
    if target.jump is None:
        return []
    jump = target.jump
    way = [*_words(jump, known_hosts, log=log), *_proxy(jump, known_hosts, log), "-W", "[%h]:%p", "--",
           f"{jump.login}{jump.host}"]
    # ssh expands %h and %p in what stands here, also in a proxy's proxy: there they are doubled
    command = shlex.join(word if word == "[%h]:%p" else word.replace("%", "%%") for word in way)
    return _options({"ProxyCommand": command})


def _socket_folder() -> Path | None:
    """A folder that is ours alone and short enough for a socket's path; None where there is none."""
    for base in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):
        if not base or len(base) > 50:
            continue
        folder = Path(base) / f"auricle-{os.getuid()}"
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, exist_ok=True)
            status = folder.lstat()
            if status.st_uid == os.getuid() and not status.st_mode & 0o077:
                return folder
    return None


def _rsync_failed(target: Target, printed: str, code: int) -> RemoteError:
    first = said(printed)
    if "No space left" in printed:
        return DiskFull(f"{target}: its disk is full ({first}); free some there, or rent one with a larger disk. "
                        "What is there is as it was")
    if "command not found" in printed or code == 127:
        return RemoteError(f"{target}: has no rsync; install it there (apt install rsync), or let `auricle remote "
                           "deploy` do it")
    if "Permission denied (" not in printed and re.search(r"rsync: .*(Permission denied|Read-only)", printed):
        return RemoteError(f"{target}: {first}")
    if code in BROKEN_OFF or "connection unexpectedly closed" in printed:
        error = explained(target, printed)
        return error if isinstance(error, Refused) else Unreachable(
            f"{target}: the transfer broke off ({first or 'no answer'}); what went over is kept, the same command "
            "goes on")
    return RemoteError(f"{target}: {first or 'rsync failed'} (rsync code {code})")


def explained(target: Target, printed: str) -> RemoteError:
    """ssh's several lines as one sentence with what to do."""
    where, low = f"{target}", printed.lower()
    if "host identification has changed" in low or "host key verification failed" in low:
        return Refused(
            f"{where}: its host key is not the one that was pinned. Either the machine was made anew (rented ports are "
            "used again), or someone is in between. Compare with the fingerprint in your provider's console; if it is "
            f"new, forget the old one: {_forgetting(target, printed)}")
    if "your ssh client doesn't support pty" in low or ("pty" in low and "runpod" in target.host):
        return Refused(runpod_basic(target))
    if "permission denied (" in low or "too many authentication failures" in low:
        return Refused(
            f"{where}: refused your key ({said(printed)}). Is the public key of `ssh-add -L` or ~/.ssh/*.pub in your "
            "provider's settings, and was it there before the machine was started? The user is mostly root: "
            f"root@{target.host}")
    if "could not resolve hostname" in low:
        return Unreachable(f"{where}: no such host name ({said(printed)}); compare it with your provider's console")
    if "stdio forwarding failed" in low:
        why = NOT_FORWARDED.search(printed)
        return Unreachable(
            f"{where}: its jump host is there and does not reach it{f' ({why[1]})' if why else ''}; is the machine "
            "running, and are its address and port those in your provider's console, where both may change with a "
            "restart?")
    if "connection refused" in low:
        hop = CLOSED_PORT.search(printed)
        port = f"{hop[2]} of {hop[1]}" if hop and target.jump else target.port or 22
        return Unreachable(
            f"{where}: nothing listens on port {port}; providers give each machine a port of its own, and "
            "a new one after a restart: compare it with your provider's console. A machine that just started needs a "
            "minute")
    if "permissions" in low and "too open" in low:
        return Refused(f"{where}: ssh ignores a key that others can read ({said(printed)}); chmod 600 it")
    return Unreachable(f"{where}: no connection ({said(printed) or 'no answer'}); is the machine running, and this one "
                       "online? The same command goes on later")


def runpod_basic(target: Target) -> str:
    return (f"{target}: this is RunPod's basic SSH, which has a terminal and no file transfer (no scp, sftp or rsync). "
            "In the console, under Connect, take \"SSH over exposed TCP\": root@PUBLIC-IP and its own port. A pod "
            "without a public IP cannot be deployed to")


def _forgetting(target: Target, printed: str) -> str:
    """What removes a pin: of the host and in the file that ssh names, which may be a jump's, or the user's own."""
    name, file = CHANGED.search(printed), OFFENDING.search(printed)
    plain = f"[{target.host}]:{target.port}" if target.port and target.port != 22 else target.host
    return shlex.join(["ssh-keygen", "-R", name[1] if name else plain,
                       "-f", file[1] if file else ".auricle/known_hosts"])
