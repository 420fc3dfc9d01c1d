"""Whether a machine is fit for runs: every question is asked, and what is wrong is shown with what to do.

Only where there is no way to the machine is that the one row.
"""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auricle.remote.connection import Connection, RemoteError, said
from auricle.remote.place import PYTHON, Place
from auricle.remote.setup import checks
from auricle.remote.setup.checks import Check
from auricle.remote.setup.deploy import torch_words
from auricle.remote.setup.facts import Facts, gather
from auricle.remote.setup.installer import CHECK as IMPORTS
from auricle.remote.setup.probes import POWER, tried
from auricle.remote.start import secrets_of
from auricle.store.targets.parts.urls import without_password

if TYPE_CHECKING:
    from auricle.core.config import RemoteConfig

HOSTS = ("pypi.org", "huggingface.co")
IMPORT_SECONDS = 120.0
MIRROR_SECONDS = 180.0


def examine(place: Place, config: "RemoteConfig", *, targets: Sequence[str] = (), price: float | None = None,
            environ: Mapping[str, str] | None = None) -> list[Check]:
    """The doctor's table. `targets`: mirrors of the run; `environ`: where secrets are looked for, this process's by
    default. What is wrong with the machine, or with the way to it, raises nothing."""
    environ = os.environ if environ is None else environ
    try:
        facts = gather(place, config.system_packages)
    except RemoteError as error:
        return [Check("ssh", "fails", str(error))]
    known = place.project.machine(place.connection.target)
    secrets = secrets_of(config.secrets, environ)
    return [
        *_way(place), *checks.of_facts(facts), *_asking("torch", lambda: [_torch(place, facts, config)]),
        checks.clock(facts), *_asking("disk and network", lambda: _tried(place, facts)),
        *(row for target in targets
          for row in _asking("mirror", lambda target=target: [_mirror(place, facts, target, secrets)])),
        checks.price(known.price_per_hour if price is None else price), checks.budget(config), checks.boot_hook(facts),
        *_asking("ends itself", lambda: [checks.ending(facts, _power(place, facts), known.provider)]),
        checks.secrets(config.secrets, secrets)]


def _asking(name: str, ask: Callable[[], list[Check]]) -> list[Check]:
    """The rows of a question that is asked there; where it cannot be, that is the row."""
    try:
        return ask()
    except RemoteError as error:
        return [Check(name, "fails", str(error))]


def _way(place: Place) -> list[Check]:
    target = place.connection.target
    via = [Check("jump", "ok", f"through {target.via}")] if target.via else []
    return [Check("ssh", "ok", f"{target} lets your key in"), host_key(place.connection), *via]


def host_key(connection: Connection) -> Check:
    """Its fingerprint, to compare with the provider's console."""
    asked = subprocess.run([*connection.client(), "-G", "--", connection.destination], capture_output=True, text=True,
                           check=False).stdout
    settings = dict(line.partition(" ")[::2] for line in asked.splitlines())
    host, port = settings.get("hostname", connection.target.host), settings.get("port", "22")
    name = settings.get("hostkeyalias") or (host if port == "22" else f"[{host}]:{port}")
    for known in re.findall(r'"[^"]+"|\S+', settings.get("userknownhostsfile", "")):
        command = ["ssh-keygen", "-l", "-F", name, "-f", str(Path(known.strip('"')).expanduser())]
        printed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        if found := re.search(r"\S+ (SHA256:\S+)", printed):
            return Check("host key", "ok", f"pinned: {found[0]}")
    return Check("host key", "warning", "not pinned: ssh's own settings pass over it")


def _tried(place: Place, facts: Facts) -> list[Check]:
    result = tried(place, facts, HOSTS)
    return [checks.durability(result), checks.network(result)]


def _torch(place: Place, facts: Facts, config: "RemoteConfig") -> Check:
    words, misfit = "", None
    try:
        words = torch_words(place, facts, config)
    except RemoteError as error:
        misfit = str(error)
    found = None
    if "environment" in facts.has:
        found = _asked(place, [PYTHON, "-c", IMPORTS], IMPORT_SECONDS) or {"error": "it says nothing"}
    return checks.torch(facts, words, misfit, found)


def _asked(place: Place, command: Sequence[str], seconds: float) -> dict[str, Any] | None:
    """The JSON that a command of the environment there prints last; its last words as `error` where it fails."""
    done = place.run(f"exec {shlex.join(command)}", timeout=seconds)
    if done.code:
        return {"error": (done.stderr.strip().splitlines() or [f"exit code {done.code}"])[-1]}
    try:
        return json.loads(done.text.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return None


def _mirror(place: Place, facts: Facts, target: str, secrets: Mapping[str, str]) -> Check:
    shown = without_password(target)
    if "environment" not in facts.has:
        return Check("mirror", "warning", f"{shown}: not tried yet", "deploy, then ask the doctor again")
    done = place.auricle(["mirror", "probe", target, "--json", "--secrets"], stdin=json.dumps(dict(secrets)).encode(),
                         timeout=MIRROR_SECONDS)
    if done.code:
        return Check("mirror", "fails", said(done.stderr).removeprefix("error: ") or f"{shown}: exit code {done.code}",
                     "mend it, or name another one with mirror.targets=[URL]")
    probed = json.loads(done.text)
    what = f"{shown}: {probed['bytes'] / 1e6:.0f} MB went there, was verified and removed, in {probed['seconds']:.1f} s"
    if probed.get("own_disk"):
        return Check("mirror", "warning", f"{what}; it lies on a disk of this machine, and is lost with it",
                     "name one elsewhere, as mirror.targets=[ssh://HOST/FOLDER]")
    return Check("mirror", "ok", what)


def _power(place: Place, facts: Facts) -> dict[str, Any] | None:
    if "environment" not in facts.has:
        return None
    found = _asked(place, [PYTHON, "-c", POWER], IMPORT_SECONDS)
    return None if found is None or "error" in found else found
