"""Debian packages that a machine lacks: installed where that is allowed."""

import shlex
from collections.abc import Sequence

from auricle.remote.connection import said
from auricle.remote.place import Place
from auricle.remote.setup.facts import Facts

LOG = "/tmp/auricle-packages.log"
LOCK_SECONDS = 300
"""Another installation there is waited for so long."""
INSTALL = """
apt() { setsid {may} env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout={lock} "$@" </dev/null; }
{ apt update; apt install -y --no-install-recommends {packages}; } >{log} 2>&1 || { grep '^E: ' {log} >&2; exit 1; }
"""
"""Its output goes to a file, so that a connection that is lost does not break it off."""


def install(place: Place, facts: Facts, packages: Sequence[str]) -> str | None:
    """Why the packages could not be installed there; None where they were."""
    if not facts.may_install:
        return "the user there is neither root nor in sudo without a password"
    if "apt-get" not in facts.commands:
        return "there is no apt-get there"
    script = INSTALL.replace("{may}", facts.may_install).replace("{lock}", str(LOCK_SECONDS)).replace(
        "{packages}", shlex.join(packages)).replace("{log}", LOG)
    done = place.connection.run("sh", stdin=script.encode())
    return (said(done.stderr) or f"apt-get failed; its log there is {LOG}") if done.code else None
