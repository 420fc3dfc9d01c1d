"""What a machine can do, tried there by whatever Python it has: how fast its disk confirms writes, and whether it
reaches the network."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from auricle.remote.place import Place
from auricle.remote.setup.facts import Facts

ANSWER_SECONDS = 40.0
PROBE = r"""
import os, sys, tempfile, threading, time
folder, hosts = sys.argv[1], sys.argv[2:]

def say(key, value):
    sys.stdout.write("%s=%s\n" % (key, value))

def disk():
    count, started = 0, time.time()
    with tempfile.NamedTemporaryFile(prefix=".auricle-probe-", dir=folder) as stream:
        while time.time() - started < 0.5 and count < 20000:
            stream.write(b"x" * 4096)
            stream.flush()
            os.fsync(stream.fileno())
            count += 1
            if count % 256 == 0:
                stream.seek(0)
    say("fsync", count / (time.time() - started))

def reach(host):
    from urllib.error import HTTPError
    from urllib.request import urlopen
    try:
        urlopen("https://%s/" % host, timeout=5).close()
    except HTTPError:
        pass
    except Exception as error:
        said[host] = str(getattr(error, "reason", error)) or type(error).__name__
        return
    said[host] = "ok"

said = {}
try:
    disk()
except (OSError, IOError) as error:
    say("fsync_error", error)
threads = [threading.Thread(target=reach, args=(host,)) for host in hosts]
for thread in threads:
    thread.daemon = True
    thread.start()
for thread in threads:
    thread.join(6)
for host in hosts:
    say("host " + host, said.get(host, "no answer within 5 s"))
sys.stdout.flush()
os._exit(0)
"""
"""For Python 3.6 and newer."""
POWER = """
import json
from auricle.remote.renting.inside import power
found = power()
print(json.dumps(found and {"provider": found.inside.provider, "can_stop": found.inside.can_stop,
                            "can_release": found.inside.can_release}))
"""


@dataclass(frozen=True, kw_only=True)
class Tried:
    fsyncs: float | None
    """4 kB writes a second that the disk confirms; None where that was not measured."""
    disk_error: str | None
    network: Mapping[str, str]
    """Host → ok, or what was said."""


def tried(place: Place, facts: Facts, hosts: Sequence[str]) -> Tried:
    """An empty `Tried` where there is no Python at all."""
    pythons = sorted(facts.pythons, key=lambda found: found.version, reverse=True)
    if not pythons:
        return Tried(fsyncs=None, disk_error=None, network={})
    near = f'near={shlex.quote(facts.folder)}; while [ ! -d "$near" ]; do near=$(dirname "$near"); done'
    words = shlex.join(hosts)
    script = f'{near}; exec {shlex.quote(pythons[0].path)} - "$near" {words}'
    done = place.connection.run(f"exec sh -c {shlex.quote(script)}", stdin=PROBE.encode(), timeout=ANSWER_SECONDS)
    rows = dict(line.partition("=")[::2] for line in done.text.splitlines() if "=" in line)
    rate = rows.get("fsync", "")
    return Tried(fsyncs=float(rate) if re.fullmatch(r"[\d.]+(e\+\d+)?", rate) else None,
                 disk_error=rows.get("fsync_error"),
                 network={host: rows[f"host {host}"] for host in hosts if f"host {host}" in rows})
