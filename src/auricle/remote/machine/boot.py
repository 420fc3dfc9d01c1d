"""After a restart of the machine: its runs go on, and its guard watches again.

What runs our line is whatever the machine has: Vast.ai's /root/onstart.sh (run whenever an instance starts), the
/post_start.sh of RunPod's images (their start.sh runs it where it exists), else cron's @reboot.
"""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

VAST, RUNPOD = Path("/root/onstart.sh"), Path("/post_start.sh")
RUNPOD_START = Path("/start.sh")
"""Of RunPod's images; runs `RUNPOD`."""
MARK = "# auricle: goes on with runs after a restart of this machine"


def line(project: Path) -> str:
    """Shell; returns at once."""
    words = [sys.executable, "-m", "auricle", "remote", "machine", "boot"]
    return (f"(cd {shlex.quote(str(project.resolve()))} && setsid {shlex.join(words)} "
            f"</dev/null >>.auricle/boot.log 2>&1 &) {MARK}")


def install(project: Path, *, vast: Path = VAST, runpod: Path = RUNPOD, runpod_start: Path = RUNPOD_START,
            crontab: str = "crontab") -> str | None:
    """Makes the machine run `boot` when it starts; once for each project. → by which means; None where it has none."""
    wanted = line(project)
    if vast.is_file():
        return str(vast) if _append(vast, wanted) else None
    if "post_start" in _text(runpod_start):
        return str(runpod) if _append(runpod, wanted) else None
    return "cron" if shutil.which(crontab) and _runs_cron() and _cron(wanted, crontab) else None


def _append(script: Path, wanted: str) -> bool:
    """A script may end in a command that does not return (sleep infinity): our line goes to its top."""
    text = _text(script)
    if wanted in text:
        return True
    first, rest = text.split("\n", 1) if text.startswith("#!") and "\n" in text else ("#!/bin/bash", text)
    try:
        script.write_text(f"{first}\n{wanted}\n{rest}", encoding="utf-8")
        script.chmod(script.stat().st_mode | 0o700)
    except OSError:
        return False
    return True


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def _runs_cron() -> bool:
    """A crontab that nobody reads is no hook: containers often have the one and not the other."""
    import psutil

    return any(process.info["name"] in ("cron", "crond") for process in psutil.process_iter(["name"]))


def _cron(wanted: str, crontab: str) -> bool:
    entry = "@reboot " + wanted.replace("%", r"\%").removesuffix(f" {MARK}")
    try:
        listed = subprocess.run([crontab, "-l"], capture_output=True, text=True, check=False)
        table = listed.stdout if listed.returncode == 0 else ""
        if entry in table.splitlines():
            return True
        written = subprocess.run([crontab, "-"], input=f"{table.rstrip()}\n{MARK}\n{entry}\n".lstrip(), text=True,
                                 capture_output=True, check=False)
    except OSError:
        return False
    return written.returncode == 0
