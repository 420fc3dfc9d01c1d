"""Starts the processes that outlive a login: the guard, and the runner in a tmux server of its own."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from auricle.core.errors import RunFolderError
from auricle.remote.machine import handover
from auricle.remote.machine.job import GUARD_LOG, STATE, Job, session_of
from auricle.remote.machine.processes import runner_of

SESSION = "train"
"""The one session of a run's tmux server."""
ALIVE_SECONDS = 30.0
"""A process of ours that gave no sign of life for so long after it was started is not going to."""
TMUX_ENDS_SECONDS = 5.0
TMUX_OPTIONS = ("set-option", "-g", "history-limit", "50000", ";", "set-option", "-g", "mouse", "on", ";",
                "set-option", "-g", "remain-on-exit", "off")


def start_guard(project: Path, folder: Path, secrets: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Its secrets go through a pipe: it needs them for the process that mirrors. Raises OSError."""
    with (folder / GUARD_LOG).open("ab") as log:
        process = subprocess.Popen(_command("guard", folder.name), cwd=project, stdin=subprocess.PIPE, stdout=log,
                                   stderr=log, start_new_session=True, env=_environment(secrets))
    assert process.stdin is not None
    with process.stdin as pipe:
        pipe.write(json.dumps(dict(secrets)).encode())
    return process


def wait_for_guard(folder: Path, process: "subprocess.Popen[bytes]") -> None:
    """Until its first heartbeat, after state.json was removed. Raises RunFolderError."""
    if not comes_true((folder / STATE).exists, lambda: process.poll() is None):
        raise RunFolderError(f"run '{folder.name}': its guard did not start, so nothing was started; the reason is at "
                             f"the end of {folder / GUARD_LOG}")


def start_boot(project: Path, folder: Path) -> None:
    """What the boot hook runs, from this process and with its variables. Raises OSError."""
    with (folder / GUARD_LOG).open("ab") as log:
        subprocess.Popen(_command("boot"), cwd=project, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                         start_new_session=True)


def start_runner(project: Path, folder: Path, job: Job, secrets: Mapping[str, str]) -> str | None:
    """→ the name of its tmux server; None where it runs without tmux. Raises RunFolderError where it does not run."""
    session = session_of(project, job.run) if shutil.which("tmux") else None
    process: subprocess.Popen[bytes] | None = None

    def start(address: str) -> None:
        nonlocal session, process
        command = _command("run", folder.name, address)
        if session and not _in_tmux(session, command, project, _environment(secrets)):
            session = None
        if not session:
            process = subprocess.Popen(command, cwd=project, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL, start_new_session=True, env=_environment(secrets))

    try:
        handover.give(secrets, start, ALIVE_SECONDS)
    except handover.NotTaken:
        raise _dead(folder, session, process) from None
    if not comes_true(lambda: runner_of(folder) is not None):
        raise _dead(folder, session, process)
    return session


def _dead(folder: Path, session: str | None, process: "subprocess.Popen[bytes] | None") -> RunFolderError:
    """Ends what was started: a runner that comes late would train though everybody was told that it does not."""
    if session:
        subprocess.run(["tmux", "-L", session, "kill-server"], check=False, capture_output=True)
    if process:
        process.terminate()
    return RunFolderError(f"run '{folder.name}': its runner did not start within {ALIVE_SECONDS:.0f} s; is the "
                          "machine's memory or disk full? The same command again tries again")


def _in_tmux(session: str, command: list[str], project: Path, environment: Mapping[str, str]) -> bool:
    """Whether tmux took it. A server that an earlier run of this name left is ended: its runner is dead."""
    def tmux(*words: str) -> bool:
        done = subprocess.run(["tmux", "-L", session, "-f", os.devnull, *words], check=False, cwd=project,
                              env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
        return done.returncode == 0

    tmux("kill-server")
    comes_true(lambda: not tmux("list-sessions"), seconds=TMUX_ENDS_SECONDS)
    new = ["new-session", "-d", "-s", SESSION, "-x", "200", "-y", "50", *command]
    return tmux("start-server", ";", *TMUX_OPTIONS, ";", *new)


def _command(verb: str, *words: str) -> list[str]:
    return [sys.executable, "-m", "auricle", "remote", "machine", verb, *words]


def _environment(secrets: Mapping[str, str]) -> dict[str, str]:
    """Of this process, without what a tmux server would show to whoever asks it."""
    return {name: value for name, value in os.environ.items() if name not in secrets and not name.startswith("TMUX")}


def comes_true(condition: Callable[[], bool], possible: Callable[[], bool] = lambda: True,
               seconds: float = ALIVE_SECONDS) -> bool:
    """Waits for a condition while it is possible. → whether it came true"""
    until = time.monotonic() + seconds
    while not condition():
        if not possible() or time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True
