"""The project's environment on a machine: what it is installed from, whether that is done, and doing it.

`installer.py` does the work there and goes on when the connection is lost; here it is started and waited for.
"""

import json
import shlex
import time
import tomllib
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auricle.remote.connection import DiskFull, RemoteError, Unreachable
from auricle.remote.place import PYTHON, Place
from auricle.remote.setup.facts import Facts, Python
from auricle.remote.setup.sync import refused_there

LOG = ".auricle/install.log"
INPUTS = ("pyproject.toml", "requirements.txt", "constraints.txt", "constraints-torch.txt")
"""Files that decide what is installed."""
LINE_SECONDS = 5.0
"""Between two lines of a long installation."""
LONG_LINE = 120
LEAST_KILOBYTES = 1000
VERSION = ("import sys; sys.version_info >= (3, 11) and "
           "sys.stdout.write('%d.%d.%d' % sys.version_info[:3])")
ASK = f"""
sha256sum {' '.join(INPUTS)} 2>/dev/null | sed 's/^/sum=/'
[ -L .venv ] && echo link=yes
printf 'python='; {PYTHON} -c "{VERSION}" 2>/dev/null; echo
printf 'noted='; tr -d '\\n' 2>/dev/null <.auricle/environment.json; echo
"""
START = """
cat > .auricle/install.py.$$ && mv -f .auricle/install.py.$$ .auricle/install.py || exit 1
{ {python} .auricle/install.py {plan} </dev/null >>.auricle/install.err 2>&1 & }
echo $!
"""
WAIT = """
count=0
while kill -0 {pid} 2>/dev/null && [ ! -f {result} ] && [ $count -lt 8 ]; do sleep 0.5; count=$((count + 1)); done
kill -0 {pid} 2>/dev/null && alive=yes
if [ -f {result} ]; then cat {result}; rm -f {result}; exit; fi
[ "$alive" ] || { echo "gone $(df -Pk . | tail -n 1 | awk '{print $4}')"; tail -n 1 .auricle/install.err; exit; }
echo; grep -v '^ *$' {log} 2>/dev/null | tail -n 1 | cut -c 1-{long}
"""
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What is installed there, as it was checked."""

    torch: str
    sees_gpu: bool
    auricle: str
    """What `auricle --version` prints there."""
    changed: bool
    """Whether something had to be installed."""


@dataclass(frozen=True)
class Standing:
    """What there is there before anything is installed."""

    sums: dict[str, str]
    python: str | None
    """Version of the environment's Python; None where there is no environment."""
    is_link: bool
    noted: dict[str, Any]


def standing(place: Place) -> Standing:
    rows = [line.partition("=")[::2] for line in place.run(ASK).text.splitlines() if "=" in line]
    one = dict(rows)
    sums = {name: digest for digest, name in (value.split(None, 1) for key, value in rows if key == "sum")}
    try:
        noted = json.loads(one.get("noted") or "{}")
    except ValueError:
        noted = {}
    return Standing(sums, one.get("python") or None, "link" in one, noted if isinstance(noted, dict) else {})


def installed(now: Standing, steps: Sequence[dict[str, Any]]) -> Environment | None:
    """What is installed already from exactly these inputs, and was checked."""
    for step in steps[-1:] if now.is_link else steps:
        found = now.noted.get(step["name"]) or {}
        if not now.python or found.get("inputs") != step["inputs"] or found.get("python") != now.python:
            return None
    return environment_of(now.noted, changed=False)


def environment_of(noted: dict[str, Any], *, changed: bool) -> Environment | None:
    found = noted.get("check") or {}
    if "torch" not in found:
        return None
    return Environment(torch=found["torch"], sees_gpu=bool(found.get("sees_gpu")), auricle=found.get("auricle", ""),
                       changed=changed)


def steps_of(root: Path, sums: dict[str, str], torch: str, extras: Sequence[str], *, gpu: bool) -> list[dict[str, Any]]:
    """What pip is to do, torch first, and the check at the end; each with the inputs that it depends on.

    `sums` has those of `INPUTS` that are there, with their hashes.
    """
    words, asked = shlex.split(torch), project_words(root, set(sums), extras)
    project = {name: sums[name] for name in INPUTS if name in sums}
    steps = [{"name": "torch", "pip": words,
              "inputs": {"words": words, "files": {name: project[name] for name in words if name in project}}}]
    if asked:
        steps.append({"name": "project", "pip": asked, "inputs": {"words": asked, "torch": words, "files": project}})
    return [*steps, {"name": "check", "inputs": {"gpu": gpu, "of": [step["inputs"] for step in steps]}}]


def project_words(root: Path, there: set[str], extras: Sequence[str]) -> list[str]:
    """What pip installs of the project: itself as it lies there, or what its requirements.txt lists."""
    constraints = ["-c", "constraints.txt"] if "constraints.txt" in there else []
    listed = f"[{','.join(extras)}]" if extras else ""
    if "pyproject.toml" in there:
        own = is_auricle(root)
        others = [f"auricle{listed}"] if extras and not own else []
        return [*constraints, "-e", f".{listed if own else ''}", *others]
    others = [f"auricle{listed}"] if extras else []
    required = ["-r", "requirements.txt"] if "requirements.txt" in there else []
    return [*constraints, *required, *others] if required or others else []


def is_auricle(root: Path) -> bool:
    """Whether the project is a checkout of Auricle itself."""
    try:
        return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8")).get("project", {}).get(
            "name") == "auricle"
    except (OSError, ValueError):
        return False


def install(place: Place, facts: Facts, steps: Sequence[dict[str, Any]], now: Standing, say: Say) -> Environment:
    """Starts the installer there and waits for it. Raises RemoteError, Unreachable: it goes on there, and the same
    call waits for it."""
    maker = facts.python.path if facts.python and facts.python.has_venv else None
    runner = maker or (PYTHON if now.python else fit_python(place, facts).path)
    result = wait(place, *begin(place, runner, maker, steps), say)
    if "installed" not in result:
        raise failed(place, result)
    environment = environment_of(result["installed"], changed=True)
    if environment is None:
        raise RemoteError(f"{place.connection.target}: the installation there ended without a result; its log is "
                          f"{place.folder()}/{LOG}")
    return environment


def fit_python(place: Place, facts: Facts) -> Python:
    """The Python that the environment is made with. Raises RemoteError."""
    target, python = place.connection.target, facts.python
    if python is None:
        known = ", ".join(dict.fromkeys(found.shown for found in facts.pythons))
        raise RemoteError(
            f"{target}: {f'Python there is {known}' if known else 'has no Python'}; expected 3.11 or newer. Rent it "
            "with an image that has one (RunPod's and Vast.ai's PyTorch templates of py3.11 and up), or install one "
            "there: apt install python3.11 python3.11-venv")
    if not python.has_venv:
        raise RemoteError(f"{target}: {python.path} ({python.shown}) there lacks the venv module; install it there: "
                          f"apt install {venv_package(python)}")
    return python


def venv_package(python: Python) -> str:
    """Debian's and Ubuntu's."""
    return f"python{python.version[0]}.{python.version[1]}-venv"


def begin(place: Place, runner: str, maker: str | None, steps: Sequence[dict[str, Any]]) -> tuple[str, int]:
    """Starts the installer by the Python `runner`; one that makes environments is `maker`. → the token by which its
    result is found, and its process."""
    token = uuid.uuid4().hex[:12]
    plan = json.dumps({"token": token, "python": maker, "steps": steps[:-1], "check": steps[-1]})
    code = (Path(__file__).with_name("installer.py")).read_bytes()
    script = START.replace("{python}", shlex.quote(runner)).replace("{plan}", shlex.quote(plan))
    done = place.run(script, stdin=code)
    if done.code or not done.text.strip().isdigit():
        raise refused_there(place, done.stderr)
    return token, int(done.text)


def wait(place: Place, token: str, pid: int, say: Say) -> dict[str, Any]:
    """What the installer says at its end; tells what it does every few seconds."""
    script = WAIT.replace("{pid}", str(pid)).replace("{result}", f".auricle/install-{token}.json").replace(
        "{log}", LOG).replace("{long}", str(LONG_LINE))
    told, said_last = time.monotonic(), ""
    while True:
        try:
            first, _, rest = place.run(script).text.partition("\n")
        except Unreachable as error:
            raise Unreachable(f"{error}. The installation goes on there; the same command waits for it") from None
        if first.startswith("gone"):
            raise _ended(place, first.removeprefix("gone").strip(), rest.strip())
        if first:
            return json.loads(first)
        line = rest.strip()
        if line and line != said_last and time.monotonic() - told > LINE_SECONDS:
            say(f"  {line}")
            told, said_last = time.monotonic(), line


def _ended(place: Place, free_kilobytes: str, printed: str) -> RemoteError:
    """The installer is gone without a result: a full disk keeps it from writing one."""
    if "No space left" in printed or (free_kilobytes.isdigit() and int(free_kilobytes) < LEAST_KILOBYTES):
        return failed(place, {"failed": "installation", "said": "No space left on device"})
    return RemoteError(f"{place.connection.target}: the installation there was ended from outside "
                       f"({printed or 'out of memory?'}); the same command goes on with it")


def failed(place: Place, result: dict[str, Any]) -> RemoteError:
    """As a sentence."""
    target, step, text = place.connection.target, result["failed"], result["said"]
    log = f"its log there is {place.folder()}/{LOG}"
    if "No space left" in text:
        return DiskFull(f"{target}: its disk is full ({text}); free some there, or rent one with a larger disk. The "
                        "same command goes on with the installation")
    if step == "gpu":
        return RemoteError(f"{target}: {text} there; another build may: --torch \"torch==… --index-url …\". Does "
                           "`nvidia-smi` work there?")
    if step == "auricle":
        return RemoteError(f"{target}: `auricle` does not run in the environment there ({text}); does the project's "
                           f"pyproject.toml or requirements.txt list auricle? {log}")
    if step == "torch" and "No module named 'torch'" in text:
        return RemoteError(f"{target}: torch was not installed by what was asked for; --torch \"torch==…\"; {log}")
    return RemoteError(f"{target}: installing {step} failed there: {text}; {log}. The same command goes on with it")
