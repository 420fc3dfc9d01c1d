"""From an empty machine to a finished run over SSH, direct and through a jump host."""

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time

import pytest

from auricle.store import directory, steps
from tests.hosts import give_environment, host, needs_hosts
from tests.journeys.remote import Laptop, There, until
from tests.paths import ROOT

pytestmark = [*needs_hosts, pytest.mark.slow, pytest.mark.long, pytest.mark.root, pytest.mark.timeout(900)]
SMALL = ("data.datasets.commands.source.utterances=60", "data.datasets.commands.source.dev_utterances=8",
         "data.datasets.commands.source.test_utterances=8", "training.max_steps=100000", "training.save_steps=10",
         "training.logging_steps=1", "training.eval_steps=null")


def checkout(folder, key) -> Laptop:
    """This repository as its users have it: cloned, with nothing installed."""
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", ROOT, folder / "auricle"], check=True)
    listed = subprocess.run(["git", "ls-files", "-com", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True,
                            check=True).stdout
    for name in dict.fromkeys(listed.splitlines()):  # what is not committed yet is tested too
        if (ROOT / name).is_file():
            (folder / "auricle" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / "auricle" / name)
    return Laptop(folder / "auricle", {"AURICLE_SSH_CONFIG": str(key.server.client_config)})


@pytest.mark.parametrize("jumps", [False, True], ids=["direct and all installed", "through a jump host"])
def test_from_an_empty_machine_to_a_pulled_model(tmp_path, jumps):
    with host(tmp_path / "vps") as vps, host(tmp_path / "pod", key_of=vps) as pod:
        here = checkout(tmp_path / "laptop", vps)
        there = There(pod.project("auricle"))
        way = ["--jump", vps.address] if jumps else []
        shown = here.remote("doctor", *pod.words, *way, "--price", "0.4")
        assert re.search(r"ssh .*ok", shown)
        if jumps:
            give_environment(there.folder)
        skip = ["--skip-deps"] if jumps else ["--torch", "torch==2.13.0", "--extra", "synth"]
        said = here.remote("deploy", *pod.words, *way, "--folder", str(there.folder), "--price", "0.4", *skip,
                           seconds=800)
        for line in ("Testing SSH connection...", "SSH connection successful!", "Project synced successfully!",
                     "Deployment finished!"):
            assert line in said
        (here.folder / "configs" / "hydra" / "experiments" / "mine.yaml").write_text("# mine\n")
        assert re.search(r"synced successfully! \(1 of [\d,]+ files", here.remote("deploy", *pod.words, *way, *skip))
        said = here.remote("start", *pod.words, *way, "--experiment", "quickstart", "training.run_name=run", *SMALL)
        assert f"{pod.address}: started run in tmux auricle-run-" in said
        assert "0.4 an hour" in said, "the price was remembered"
        refused = here.remote("start", *pod.words, *way, "--experiment", "quickstart", "training.run_name=run", *SMALL,
                              code=8)
        assert "run" in refused
        assert "already" in refused
        until(lambda: there.step() >= 25, "step 25", seconds=200)
        assert re.search(r"run +training +\d+", here.remote("status", *pod.words, *way))
        assert re.search(r"Step \d+/100000 \| Loss: ", here.remote("logs", *pod.words, *way, "--lines", "50"))
        assert "Step " in look(here, ["remote", "attach", *pod.words, *way])
        here.remote("pull", *pod.words, *way)
        pulled = here.folder / "outputs" / "run"
        newest = steps.all_steps(pulled)[-1]
        assert not directory.problems(newest)
        here.type("report", "outputs/run")
        assert "ended" in here.remote("stop", *pod.words, *way)
        assert there.exit.code == 75
        here.remote("pull", *pod.words, *way)
        assert steps.all_steps(pulled)[-1].name == steps.all_steps(there.run)[-1].name
        assert "run" in here.type("runs")


def look(here: Laptop, words: list[str]) -> str:
    """A terminal with the command in it, until Ctrl-B D has left tmux → what was to be seen there."""
    terminal, inner = pty.openpty()
    with os.fdopen(terminal, "r+b", buffering=0) as screen, subprocess.Popen(
            [sys.executable, "-m", "auricle", *words], cwd=here.folder, stdin=inner, stdout=inner, stderr=inner,
            env={**os.environ, **here.environment, "TERM": "xterm"}, start_new_session=True) as process:
        seen, typed, deadline = b"", 0.0, time.monotonic() + 120
        while process.poll() is None:
            if time.monotonic() > deadline:
                os.killpg(process.pid, signal.SIGKILL)
                raise AssertionError(f"{words}: Ctrl-B D did not end it; there was to be seen:\n"
                                     + seen[-3000:].decode(errors="replace"))
            if select.select([screen], [], [], 0.2)[0]:
                seen += screen.read(65536)
            if b"Step " in seen and time.monotonic() - typed > 5:  # again: nobody knows when tmux takes keys
                screen.write(b"\x02d")
                typed = time.monotonic()
        os.close(inner)
    return seen.decode(errors="replace")
