"""A folder of another machine as a target, through the OpenSSH client and rsync: ssh://[user@]host[:port]/folder.

The host may be an alias of ~/.ssh/config, with its keys and jumps; AURICLE_SSH_CONFIG names another such file. The far
side needs coreutils and rsync. Its copies are verified there by `sha256sum`, against sums that are taken here from
bytes whose own hashes are verified in the same pass; SHA256SUMS stays in the copy, so that it can be verified again.
"""

import hashlib
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

import xxhash

from auricle.core.errors import CheckpointError, UsageError
from auricle.store import directory
from auricle.store.targets import BrokenOff, MirrorError, Progress
from auricle.store.targets.parts import transfer
from auricle.store.targets.parts.rsync import BROKEN_OFF, FAILED, rsync, said
from auricle.store.targets.parts.urls import without_password

SUMS = "SHA256SUMS"
DAMAGED = 65
"""Exit code of `COMMIT` for a copy that does not verify."""
OPTIONS = ("BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=5", "ServerAliveCountMax=3",
           "StrictHostKeyChecking=accept-new")
STALLED_SECONDS = 60
"""rsync gives up when nothing moved for so long."""

PREPARE = """
mkdir -p {parent} && cd {parent} || exit 1
for left in .incoming-* .trash-*; do [ "$left" = {incoming} ] || rm -rf -- "$left"; done
for old in .replaced-*; do
  [ -d "$old" ] || continue
  if [ -e "${{old#.replaced-}}" ]; then rm -rf -- "$old"; else mv -T -- "$old" "${{old#.replaced-}}"; fi
done
mkdir -p {incoming}
"""
COMMIT = """
cd {parent}/{incoming} && printf %s {sums} > SHA256SUMS || exit 1
sha256sum --quiet -c SHA256SUMS || {{ cd .. && rm -rf {incoming}; exit 65; }}
sync -f . && cd .. || exit 1
if [ -e {name} ]; then mv -T {name} .replaced-{name} || exit 1; fi
mv -T {incoming} {name} && sync -f . && rm -rf .replaced-{name}
"""
REMOVE = "cd {parent} && mv -T {name} .trash-{name} && rm -rf .trash-{name}"


def connect(url: str) -> "Ssh":
    """Raises UsageError."""
    address = urlsplit(url)
    folder = unquote(address.path).rstrip("/")
    if not address.hostname or not folder:
        raise UsageError(f"mirror target '{without_password(url)}': no host or no folder; expected ssh://[user@]host[:port]/folder")
    user = f"{unquote(address.username)}@" if address.username else ""
    host, port, config = f"{user}{address.hostname}", address.port, os.environ.get("AURICLE_SSH_CONFIG")
    client = ["ssh", *(["-F", config] if config else []), *(["-p", str(port)] if port else []),
              *(word for option in OPTIONS for word in ("-o", option))]
    return Ssh(f"ssh://{host}{f':{port}' if port else ''}{folder}", client, host, folder)


class Ssh:
    """Every call is a connection of its own: one that broke leaves nothing to mend."""

    is_own_disk = False

    def __init__(self, url: str, client: Sequence[str], host: str, folder: str) -> None:
        """`client`: the words of an ssh command line before the host."""
        self.url, self._client, self._host, self._folder = url, list(client), host, folder

    def probe(self) -> None:
        self._run(f"mkdir -p {self._at('')} && cd {self._at('')} && : > .probe-$$ && rm .probe-$$ && "
                  "command -v rsync > /dev/null || { echo 'cannot be written, or has no rsync' >&2; exit 1; }")

    def held(self) -> dict[str, str | None]:
        """Fetches each CHECKSUMS.json in one go."""
        only = ["/checkpoints/", "/checkpoints/step-*/", "/checkpoints/parts/", "/checkpoints/parts/*/",
                directory.CHECKSUMS]
        with tempfile.TemporaryDirectory() as here:
            self._rsync([*(f"--include={name}" for name in only), "--exclude=*", self._remote("/"), f"{here}/"])
            return {f"{group}/{path.name}": transfer.identity(path) for group in transfer.GROUPS
                    for path in sorted((Path(here) / group).glob("*"))
                    if path.is_dir() and transfer.is_committed_name(path.name)}

    def put(self, folder: Path, name: str, progress: Progress) -> None:
        parent, _, last = name.rpartition("/")
        aside = transfer.incoming(folder, name)
        words = {"parent": self._at(parent), "incoming": shlex.quote(aside), "name": shlex.quote(last)}
        self._run(PREPARE.format(**words))
        # What is there already of an immutable file is its beginning, or fails the sums and is thrown away.
        self._rsync(["--append", f"--exclude=/{SUMS}", f"{folder}/", self._remote(f"/{parent}/{aside}/")], progress)
        committed = self._shell(COMMIT.format(**words, sums=shlex.quote(_sums(folder))))
        if committed.returncode == DAMAGED:
            raise MirrorError(f"{self.url}: the copy of {name} is damaged there: {said(committed.stdout)}")
        self._check(committed)

    def get(self, name: str, to: Path, progress: Progress) -> None:
        def fetch(aside: Path) -> None:
            aside.mkdir(exist_ok=True)
            self._rsync(["--append", f"--exclude=/{SUMS}", self._remote(f"/{name}/"), f"{aside}/"], progress)

        transfer.receive(to, self.url, fetch)

    def problems(self, name: str) -> list[str]:
        """By the sums that lie there; a copy that came another way has none and is fetched to be verified."""
        checksums, sums = self.read(f"{name}/{directory.CHECKSUMS}"), self.read(f"{name}/{SUMS}")
        if sums is None:
            with tempfile.TemporaryDirectory() as here:
                self._rsync([self._remote(f"/{name}/"), f"{here}/"])
                return directory.problems(Path(here))
        with transfer.laid_out(checksums) as here:
            try:
                expected = {*transfer.listed(here), directory.CHECKSUMS}
            except CheckpointError as error:
                return [str(error)]
        if {line[66:] for line in sums.decode(errors="replace").splitlines()} != expected:
            return [f"{SUMS} does not list the files that {directory.CHECKSUMS} does"]
        said = self._run(f"cd {self._at(name)} && {{ sha256sum --quiet -c {SUMS} 2>&1 || true; }}")
        return [line for line in said.decode(errors="replace").splitlines() if line]

    def remove(self, name: str) -> None:
        parent, _, last = name.rpartition("/")
        self._run(REMOVE.format(parent=self._at(parent), name=shlex.quote(last)))

    def put_files(self, folder: Path, names: Sequence[str]) -> None:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8") as listing:
            listing.write("\n".join(names))
            listing.flush()
            self._rsync([f"--files-from={listing.name}", f"{folder}/", self._remote("/")])

    def get_files(self, to: Path) -> None:
        self._rsync(["--exclude=/checkpoints/", "--exclude=.*", self._remote("/"), f"{to}/"])

    def read(self, name: str) -> bytes | None:
        path = self._at(name)
        return self._run(f"if [ -f {path} ]; then cat {path}; fi") or None

    def _at(self, name: str) -> str:
        return shlex.quote(f"{self._folder}/{name}" if name else self._folder)

    def _remote(self, path: str) -> str:
        host = re.sub(r"([^@]*:.*)$", r"[\1]", self._host)  # an IPv6 address
        return f"{host}:{self._folder}{path}"

    def _run(self, script: str) -> bytes:
        """What a shell script prints there."""
        done = self._shell(script)
        self._check(done)
        return done.stdout

    def _check(self, done: subprocess.CompletedProcess[bytes]) -> None:
        if done.returncode:
            error = BrokenOff if done.returncode == FAILED else MirrorError
            raise error(f"{self.url}: {said(done.stderr) or 'ssh failed'} (code {done.returncode})")

    def _shell(self, script: str) -> subprocess.CompletedProcess[bytes]:
        command = [*self._client, "--", self._host, script]
        # stderr is a file: an ssh client that stays for the commands to come would hold a pipe open
        with tempfile.TemporaryFile() as errors:
            try:
                done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
                                      check=False)
            except FileNotFoundError:
                raise MirrorError(f"{self.url}: needs 'ssh', which is not installed here") from None
            errors.seek(0)
            return subprocess.CompletedProcess(command, done.returncode, done.stdout, errors.read())

    def _rsync(self, arguments: list[str], progress: Progress | None = None) -> None:
        try:
            ran = rsync(self._client, ["--recursive", "--times", *arguments], STALLED_SECONDS, progress)
        except FileNotFoundError:
            raise MirrorError(f"{self.url}: needs 'rsync', which is not installed here") from None
        if ran.code:
            error = BrokenOff if ran.code in BROKEN_OFF else MirrorError
            raise error(f"{self.url}: {said(ran.errors) or 'rsync failed'} (code {ran.code})")


def _sums(folder: Path) -> str:
    """SHA256SUMS of a directory whose bytes verify in the same pass. Raises CheckpointError."""
    lines = []
    for name, entry in transfer.listed(folder).items():
        own, sha256 = xxhash.xxh3_128(), hashlib.sha256()
        for block in directory.blocks(folder / name):
            own.update(block)
            sha256.update(block)
        if own.hexdigest() != entry["xxh3_128"]:
            transfer.refuse_damaged(folder)
        lines.append(f"{sha256.hexdigest()}  {name}\n")
    checksums = hashlib.sha256((folder / directory.CHECKSUMS).read_bytes()).hexdigest()
    return "".join([*lines, f"{checksums}  {directory.CHECKSUMS}\n"])
