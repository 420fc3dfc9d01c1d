"""The network is cut while a checkpoint goes over it: `python -m tests.journeys.network_cut --seconds 600`.

A real run trains and mirrors over ssh to a machine in a name space of its own; the cable is pulled while an upload is
on its way, and put back. Training goes on as fast as before, the mirror is complete afterwards, nothing torn is there.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from auricle.core.events import Event, read
from auricle.store import directory, steps
from tests.namespaces import Far, far_machine
from tests.paths import has
from tests.speech import digits_manifest
from tests.sshd import serving

YAML = """# @package _global_
model: {{kind: conformer, width: 128, layers: 4, heads: 2, subsampling: 4, subsampling_channels: 32}}
task: {{kind: ctc}}
data: {{datasets: {{digits: {{manifest: {manifest}, eval_split: null}}}}}}
training: {{run_name: run, max_steps: 1000000, batch_seconds: 4, save_steps: null, save_minutes: 0.08, eval_steps: null,
           logging_steps: 1, dataloader_num_workers: 0, lr_scheduler_type: constant_with_warmup}}
mirror: {{targets: ["{target}"]}}
"""
SLOW = "rate", "40mbit", "burst", "64kbit", "latency", "400ms"
"""The cable: a checkpoint of 16 MB takes some three seconds."""


@dataclass(frozen=True)
class Cut:
    """What a cut did."""

    seconds: float
    step_seconds_before: float
    step_seconds_meanwhile: float
    steps_meanwhile: int
    safe_before: int
    safe_after: int
    torn: int

    @property
    def slowdown(self) -> float:
        return self.step_seconds_meanwhile / self.step_seconds_before - 1


def cut_in_mid_upload(folder: Path, seconds: float) -> Cut:
    with far_machine() as far:
        subprocess.run(["tc", "qdisc", "add", "dev", far.cable, "root", "tbf", *SLOW], check=True)
        with serving(folder / "sshd", address=far.address, port=2222, prefix=far.prefix) as server:
            mirror = folder / "mirror"
            mirror.mkdir()
            home = _home(folder, server.url(mirror))
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "AURICLE_SSH_CONFIG": str(server.client_config)}
            command = [sys.executable, "-m", "auricle", "train", "+experiments=digits"]
            trainer = subprocess.Popen(command, cwd=home, env=environment, stdout=subprocess.DEVNULL)
            try:
                return _cut(far, home / "outputs" / "run", mirror / "run", seconds, trainer)
            finally:
                trainer.kill()
                trainer.wait()
                subprocess.run(["pkill", "-9", "-f", str(home)], check=False)


def _home(folder: Path, target: str) -> Path:
    home = folder / "home"
    manifest = digits_manifest(folder / "digits").folder
    groups = home / "configs" / "hydra"
    for group in ("experiments", "data"):
        (groups / group).mkdir(parents=True)
    (groups / "data" / "default.yaml").write_text("{}\n")
    (groups / "experiments" / "digits.yaml").write_text(YAML.format(manifest=manifest, target=target))
    return home


def _cut(far: Far, run: Path, mirror: Path, seconds: float, trainer: subprocess.Popen) -> Cut:
    _until(lambda: len(steps.all_steps(mirror)) >= 1, 120, trainer)
    before = _newest(mirror)
    time.sleep(5.0)
    _until(lambda: has(mirror.parent, ".incoming-"), 60, trainer)
    began = time.time()
    far.cut()
    time.sleep(seconds)
    far.mend()
    mended = time.time()
    wanted = _newest(run)
    _until(lambda: _newest(mirror) >= wanted, 180, trainer)
    events = list(read(run / "events.jsonl"))
    torn = sum(bool(directory.problems(path)) for path in steps.all_steps(mirror))
    earlier, meanwhile = _step_seconds(events, 0.0, began), _step_seconds(events, began, mended)
    return Cut(seconds, statistics.median(earlier), statistics.median(meanwhile), len(meanwhile), before,
               _newest(mirror), torn)


def _newest(folder: Path) -> int:
    return max((steps.step_of(path.name) for path in steps.all_steps(folder)), default=0)


def _step_seconds(events: list[Event], start: float, stop: float) -> list[float]:
    times = [event.time for event in events if event.kind == "train" and start < event.time < stop]
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def _until(true: Callable[[], bool], seconds: float, trainer: subprocess.Popen) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert trainer.poll() is None, "training ended"
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cut = cut_in_mid_upload(Path(folder), options.seconds)
    text = json.dumps({**asdict(cut), "slowdown": cut.slowdown, "date": time.strftime("%Y-%m-%d")})
    sys.stdout.write(text + "\n")
    if options.log:
        with options.log.open("a") as log:
            log.write(text + "\n")


if __name__ == "__main__":
    main()
