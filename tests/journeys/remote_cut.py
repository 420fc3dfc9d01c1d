"""The link is cut in mid-run, mid-deploy and mid-pull: `python -m tests.journeys.remote_cut --seconds 60`.

A run trains on a machine in a name space of its own; while a large file is deployed to it and a checkpoint is pulled
over a slow cable, the cable is pulled, and put back. The run goes on; each verb says that the machine does not answer,
and succeeds when it is typed again; nothing torn is left on either side.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from auricle.store import directory, steps
from tests.hosts import give_environment, host
from tests.journeys.remote import RUN, Laptop, There, laptop, until
from tests.namespaces import far_machine
from tests.paths import has

SLOW = "rate", "24mbit", "burst", "64kbit", "latency", "400ms"
BYTES = 40_000_000
"""Of a file to deploy; a dozen seconds at that speed."""
WIDE = ("model.width=192", "model.layers=6", "training.save_steps=null", "training.save_minutes=0.4")
"""A checkpoint of some 60 MB, seldom enough that one is pulled before it is pruned."""


@dataclass(frozen=True)
class Cut:
    """What a cut did."""

    seconds: float
    steps_meanwhile: int
    codes: dict[str, int]
    """Exit codes of the verbs that were under way, or typed while it was dark …"""
    verb_seconds: dict[str, float]
    """… how long each took to say so …"""
    repeated: dict[str, int]
    """… and their exit codes when they were typed again."""
    torn: int


def cut_everything(folder: Path, seconds: float) -> Cut:
    with far_machine() as far, host(folder / "pod", far=far) as pod:
        here = laptop(folder, pod)
        there = There(pod.project("speech"))
        give_environment(there.folder)
        deploy = ["deploy", *pod.words, "--folder", str(there.folder), "--skip-deps"]
        here.remote(*deploy)
        here.remote("start", *pod.words, "--experiment", "digits", *WIDE)
        until(lambda: steps.all_steps(there.run), "a checkpoint", seconds=200)
        subprocess.run(["tc", "qdisc", "add", "dev", far.cable, "root", "tbf", *SLOW], check=True)
        subprocess.run(["ip", "netns", "exec", far.name, "tc", "qdisc", "add", "dev", far.cable_there, "root", "tbf",
                        *SLOW], check=True)
        content = random.Random(0).randbytes(BYTES)  # rsync compresses
        (here.folder / "large.bin").write_bytes(content)
        verbs = {"deploy": here.popen("remote", *deploy), "pull": here.popen("remote", "pull", *pod.words)}
        until(lambda: _under_way(here, there), "both transfers are under way", seconds=60, poll=0.02)
        before, began = there.step(), time.monotonic()
        far.cut()
        verbs["status"] = here.popen("remote", "status", *pod.words)
        ends = {}
        while time.monotonic() < began + seconds:
            ends |= {name: time.monotonic() for name, verb in verbs.items()
                     if name not in ends and verb.poll() is not None}
            time.sleep(0.1)
        meanwhile = there.step() - before
        far.mend()
        for verb in verbs.values():
            verb.communicate(timeout=60)
        codes = {name: verb.returncode for name, verb in verbs.items()}
        took = {name: round(ends.get(name, time.monotonic()) - began, 1) for name in verbs}
        repeated = {name: _again(here, words) for name, words in
                    {"deploy": deploy, "pull": ["pull", *pod.words], "status": ["status", *pod.words]}.items()}
        torn = sum(bool(directory.problems(path)) for path in steps.all_steps(here.folder / "outputs" / RUN))
        torn += (there.folder / "large.bin").read_bytes() != content
        here.remote("stop", *pod.words)
        return Cut(seconds, meanwhile, codes, took, repeated, torn)


def _under_way(here: Laptop, there: There) -> bool:
    """Half-done files on both sides."""
    going = any(there.folder.glob(".large.bin.*")) or any(
        "large.bin" in names and Path(folder).name.startswith(".") for folder, _, names in os.walk(there.folder))
    return going and has(here.folder / "outputs", ".incoming-")


def _again(here: Laptop, words: list[str]) -> int:
    """Typed until it succeeds, as a person would: a link that comes back needs a moment."""
    for _ in range(5):
        process = here.popen("remote", *words)
        process.communicate(timeout=200)
        if process.returncode == 0:
            return 0
        time.sleep(2)
    return process.returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        line = json.dumps({"time": time.time(), **asdict(cut_everything(Path(folder), options.seconds))})
    sys.stdout.write(line + "\n")
    if options.log:
        with options.log.open("a", encoding="utf-8") as log:
            log.write(line + "\n")


if __name__ == "__main__":
    main()
