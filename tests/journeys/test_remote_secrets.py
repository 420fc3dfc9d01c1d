"""A secret is handed to a run and is then nowhere to be read: not on a disk, not in a log, a process list or tmux."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts import Host, give_environment, host, needs_hosts
from tests.journeys.remote import There, laptop, until
from tests.paths import contents_below

pytestmark = [*needs_hosts, pytest.mark.slow, pytest.mark.long, pytest.mark.root, pytest.mark.timeout(600)]
TOKEN = "hf_Sesame7b1e0c94"
NAMES = ("HF_TOKEN", "WANDB_API_KEY")


def traces(folders: list[Path], printed: list[str], machine: Host) -> Iterator[str]:
    """Where the token is to be read."""
    for folder in folders:
        yield from (path for path, content in contents_below(folder) if TOKEN.encode() in content)
    for text in printed:
        if TOKEN in text:
            yield f"printed: {text[:200]}"
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if TOKEN.encode() in words and int(process.name) != os.getpid():
            yield f"process list: {words[:200]!r}"
    yield from tmux_traces(machine)


def tmux_traces(machine: Host) -> Iterator[str]:
    for socket in Path(f"/tmp/tmux-{os.getuid()}").glob("auricle-*"):
        for words in (["capture-pane", "-p", "-S", "-"], ["show-environment", "-g"], ["show-environment"],
                      ["show-buffer"], ["list-panes", "-a", "-F", "#{pane_start_command}"]):
            shown = subprocess.run(["tmux", "-S", socket, *words], capture_output=True, text=True, check=False)
            if TOKEN in shown.stdout:
                yield f"tmux {words}"


def test_a_secret_reaches_the_trainer_and_is_found_nowhere(tmp_path):
    with host(tmp_path / "pod") as pod:
        there = There(pod.project("speech"))
        here = laptop(tmp_path, pod, **dict.fromkeys(NAMES, TOKEN))
        give_environment(there.folder)
        folders = [here.folder, pod.home, *(path for path in (Path.home() / ".auricle",) if path.exists())]
        printed = [here.remote("doctor", *pod.words),
                   here.remote("deploy", *pod.words, "--folder", str(there.folder), "--skip-deps"),
                   here.remote("start", *pod.words, "--experiment", "digits")]
        assert all(name in printed[-1] for name in NAMES), "it says which ones it handed over"
        until(lambda: there.step() >= 20, "step 20")
        assert holds_token(pod, there.runner.trainer), "the trainer got it"
        printed += [here.remote("status", *pod.words, "--json"), here.remote("logs", *pod.words, "--lines", "1000"),
                    here.remote("list", *pod.words), here.remote("exec", *pod.words, "--", "env")]
        printed += [here.remote("start", *pod.words, "--experiment", "digits", code=8)]
        assert list(traces(folders, printed, pod)) == []
        printed += [here.remote("stop", *pod.words), here.remote("pull", *pod.words)]
        assert list(traces(folders, printed, pod)) == []


def holds_token(pod: Host, group: int) -> bool:
    """Whether a process of one of the machine's process groups has it in its memory."""
    for process in pod.processes(group):
        with contextlib.suppress(OSError):
            if f"HF_TOKEN={TOKEN}".encode() in Path(f"/proc/{process}/environ").read_bytes():
                return True
    return False


@pytest.mark.parametrize("verb", [("watch", "--once"), ("start", "--experiment", "digits")], ids=["watch", "start"])
def test_after_a_power_cut_the_run_goes_on_without_secrets_and_gets_them_back(tmp_path, verb):
    with host(tmp_path / "pod") as pod:
        there = There(pod.project("speech"))
        here = laptop(tmp_path, pod, HF_TOKEN=TOKEN)
        give_environment(there.folder)
        here.remote("deploy", *pod.words, "--folder", str(there.folder), "--skip-deps")
        here.remote("start", *pod.words, "--experiment", "digits")
        until(lambda: there.step() >= 40, "step 40")
        pod.kill()
        reached = there.step()
        pod.server.restart()
        here.remote("exec", *pod.words, "--", ".venv/bin/python", "-m", "auricle", "remote", "machine", "boot")
        until(lambda: there.events("resume"), "it goes on by itself")
        until(lambda: there.step() > reached, "and learns")
        assert there.runner.secrets == []
        assert not holds_token(pod, there.runner.trainer)
        assert any("HF_TOKEN" in alarm for alarm in there.state.alarms), "and says what it lacks"
        here.remote(verb[0], *pod.words, *verb[1:])
        until(lambda: there.runner.secrets == ["HF_TOKEN"] and there.runner.trainer
              and holds_token(pod, there.runner.trainer), "it is handed back")
        now = there.step()
        until(lambda: there.step() > now + 5, "and the run goes on")
        assert list(traces([here.folder, pod.home], [], pod)) == []
        here.remote("stop", *pod.words)
