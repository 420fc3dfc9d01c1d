"""What a machine is: asked in one go by a POSIX shell script, and read in one place."""

import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass

from auricle.remote.connection import Refused, RemoteError, runpod_basic, said
from auricle.remote.place import Place

OLDEST_PYTHON = (3, 11)
PYTHONS = ("python3.13", "python3.12", "python3.11", "python3", "/opt/conda/bin/python3", "/usr/local/bin/python3",
           "/usr/bin/python3")
"""The newest first: the first that is fit ends the search."""
COMMANDS = ("tmux", "rsync", "git", "setsid", "apt-get")
PROVIDED = ("RUNPOD_POD_ID", "RUNPOD_API_KEY", "CONTAINER_ID", "CONTAINER_API_KEY")
"""Variables by which RunPod and Vast.ai name a machine to itself; their values are not asked for."""
ANSWER_SECONDS = 60.0
RUNPOD_BASIC = "ssh.runpod.io"
NO_TERMINAL = re.compile(r"client doesn't support pty", re.I)

PROBE = ("import sys; import venv, ensurepip; sys.stdout.write('%d.%d.%d venv' % sys.version_info[:3])",
         "import sys; sys.stdout.write('%d.%d.%d' % sys.version_info[:3])")
SCRIPT = r"""
say() { printf '%s=%s\n' "$1" "$2"; }
say facts begin
say user "$(id -u)"
say home "$HOME"
say folder "$folder"
[ -d "$folder" ] && say has folder
[ -x "$folder/.venv/bin/python" ] && say has environment
if [ "$(id -u)" = 0 ]; then say root yes; elif sudo -n true 2>/dev/null; then say root sudo; fi
for name in $commands; do command -v "$name" >/dev/null 2>&1 && say command "$name"; done
for name in $packages; do
  command -v "$name" >/dev/null 2>&1 || dpkg -s "$name" 2>/dev/null | grep -q '^Status: .* installed' \
    || say missing "$name"
done
for name in $pythons; do
  path=$(command -v "$name" 2>/dev/null) || continue
  told=$("$path" -c "$with_venv" 2>/dev/null </dev/null) || told=$("$path" -c "$without" 2>/dev/null </dev/null)
  say python "$told|$path"
  case $told in 3.1[1-9].*venv) break;; esac
done
[ -f /root/onstart.sh ] && say hook /root/onstart.sh
grep -q post_start /start.sh 2>/dev/null && say hook /post_start.sh
command -v crontab >/dev/null 2>&1 && cat /proc/[0-9]*/comm 2>/dev/null | grep -Eqx 'crond?' && say hook cron
for name in $provided; do
  tr '\0' '\n' 2>/dev/null </proc/1/environ | grep -q "^$name=." && say provided "$name"
done
if command -v nvidia-smi >/dev/null 2>&1; then
  ask=name,memory.total,driver_version
  form=--format=csv,noheader,nounits
  { nvidia-smi --query-gpu=$ask,compute_cap $form || nvidia-smi --query-gpu=$ask $form; } 2>/dev/null \
    | while IFS= read -r line; do say gpu "$line"; done
  say cuda "$(nvidia-smi 2>/dev/null | sed -n 's/.*CUDA Version: *\([0-9.]*\).*/\1/p' | head -n 1)"
fi
near=$folder
while [ ! -d "$near" ]; do near=$(dirname "$near"); done
say disk "$(df -Pk "$near" 2>/dev/null | tail -n 1 | awk '{print $2, $4}')"
[ -w "$near" ] || say unwritable "$near"
say shm "$(df -Pk /dev/shm 2>/dev/null | tail -n 1 | awk '{print $2, $4}')"
say clock "$(date +%s)"
say facts end
"""


@dataclass(frozen=True, kw_only=True)
class Python:
    path: str
    version: tuple[int, ...]
    has_venv: bool

    @property
    def shown(self) -> str:
        return ".".join(map(str, self.version))


@dataclass(frozen=True, kw_only=True)
class Gpu:
    name: str
    gb: float
    driver: str
    capability: tuple[int, int] | None
    """CUDA's compute capability, as (8, 9); None where the driver is too old to tell."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    folder: str
    """Where the project lies, or will lie."""
    has: frozenset[str]
    """`folder` where the project's folder is there, `environment` where its Python is."""
    user: int
    may_install: str
    """Empty: no packages may be installed; else the word before apt-get (`sudo -n`), or `env` as root."""
    commands: frozenset[str]
    missing: tuple[str, ...]
    """Of the packages that were asked for."""
    pythons: tuple[Python, ...]
    gpus: tuple[Gpu, ...]
    cuda: str | None
    """Newest CUDA that the driver runs."""
    has_nvidia_smi: bool
    hooks: tuple[str, ...]
    """What can run something when the machine boots, as `machine/boot.py` uses it."""
    provided: frozenset[str]
    disk_gb: float | None
    """Free where the project lies, in 10⁹ bytes."""
    shm_gb: float | None
    """Size of /dev/shm."""
    unwritable: str | None
    """The nearest folder of the project's that is there, where it cannot be written."""
    skew_seconds: float
    """How far the clock there is ahead of ours, beyond what the way there explains."""

    @property
    def python(self) -> Python | None:
        """The newest one that Auricle runs on, one with venv before one without."""
        fit = [found for found in self.pythons if found.version[:2] >= OLDEST_PYTHON]
        return max(fit, key=lambda found: (found.has_venv, found.version), default=None)

    @property
    def driver(self) -> str | None:
        return self.gpus[0].driver if self.gpus else None


def gather(place: Place, packages: Sequence[str] = ()) -> Facts:
    """Raises Unreachable; Refused, also for RunPod's SSH that has a terminal alone; RemoteError where no shell
    answers."""
    target = place.connection.target
    if target.host.lower() == RUNPOD_BASIC:
        raise Refused(runpod_basic(target))
    words = {"commands": COMMANDS, "packages": packages, "pythons": PYTHONS, "provided": PROVIDED}
    lines = [f"folder={place.expression}", f"with_venv={shlex.quote(PROBE[0])}", f"without={shlex.quote(PROBE[1])}",
             *(f"{name}={shlex.quote(' '.join(values))}" for name, values in words.items())]
    script = "\n".join([*lines, SCRIPT])
    before = time.time()
    done = place.connection.run("sh", stdin=script.encode(), timeout=ANSWER_SECONDS)
    after = time.time()
    if "facts=end" not in done.text.splitlines():
        printed = f"{done.text}\n{done.stderr}"
        if NO_TERMINAL.search(printed):
            raise Refused(runpod_basic(target))
        raise RemoteError(f"{target}: no shell answers there ({said(printed)[:200] or 'it printed nothing'}); expected "
                          "a login that runs commands, as `ssh HOST true` does")
    return read(done.text, before, after)


def read(text: str, before: float, after: float) -> Facts:
    """What the script printed; it was asked and answered at these Unix times here."""
    rows = [line.partition("=")[::2] for line in text.splitlines() if "=" in line]
    one = dict(rows)

    def all_of(key: str) -> tuple[str, ...]:
        return tuple(value for name, value in rows if name == key)

    clock = _number(one.get("clock")) or before
    return Facts(
        folder=one.get("folder", ""), has=frozenset(all_of("has")), user=int(_number(one.get("user")) or 0),
        may_install={"yes": "env", "sudo": "sudo -n"}.get(one.get("root", ""), ""),
        commands=frozenset(all_of("command")), missing=all_of("missing"),
        pythons=tuple(filter(None, map(_python, all_of("python")))),
        gpus=tuple(filter(None, map(_gpu, all_of("gpu")))), cuda=one.get("cuda") or None,
        has_nvidia_smi="cuda" in one, hooks=all_of("hook"), provided=frozenset(all_of("provided")),
        disk_gb=_gigabytes(one.get("disk"), 1), shm_gb=_gigabytes(one.get("shm"), 0),
        unwritable=one.get("unwritable"),
        skew_seconds=clock - after if clock > after else min(0.0, clock + 1 - before))


def _python(text: str) -> Python | None:
    told, _, path = text.partition("|")
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", told)
    if not found:
        return None
    return Python(path=path, version=tuple(int(part or 0) for part in found.groups()), has_venv=told.endswith(" venv"))


def _gpu(text: str) -> Gpu | None:
    """
    >>> _gpu("NVIDIA GeForce RTX 4090, 24564, 580.65.06, 8.9").capability
    (8, 9)
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) < 3 or not re.match(r"\d+\.", parts[2]):
        return None
    capability = re.fullmatch(r"(\d+)\.(\d+)", parts[3]) if len(parts) > 3 else None
    return Gpu(name=parts[0], gb=round((_number(parts[1]) or 0) * 2**20 / 1e9, 1), driver=parts[2],
               capability=(int(capability[1]), int(capability[2])) if capability else None)


def _gigabytes(text: str | None, column: int) -> float | None:
    """Of df's kilobytes: "size free"."""
    parts = (text or "").split()
    number = _number(parts[column]) if len(parts) == 2 else None
    return None if number is None else number * 1024 / 1e9


def _number(text: str | None) -> float | None:
    return float(text) if text and re.fullmatch(r"\d+(\.\d+)?", text) else None
