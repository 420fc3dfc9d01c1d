"""Installs the environment of a project. Runs on the machine, in the project's folder, with the machine's own Python
and nothing but its standard library; `environment.py` sends it there and waits for it.

    python install.py '{"token": …, "python": …, "steps": [{"name", "pip", "inputs"}…], "check": {…}}'

It goes on when the connection is lost. One at a time: a second one waits, and finds the work done.

    .auricle/environment.json      what is installed: step → the inputs that it was installed from
    .auricle/install.log           what pip printed
    .auricle/install-TOKEN.json    how it ended
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(".auricle")
NOTED, LOG, LOCK = HERE / "environment.json", HERE / "install.log", HERE / "install.lock"
VENV = Path(".venv")
PYTHON = VENV / "bin" / "python"
TAIL = 3
OLD_SECONDS = 86_400.0
VERSION = """
import sys
from importlib.metadata import distribution
from pip import main
sys.stdout.write('%d.%d.%d' % sys.version_info[:3])
sys.exit(sys.version_info < (3, 11) or not distribution('pip').read_text('RECORD'))
"""
"""pip's RECORD is what is written last."""
CHECK = """
import json, sys, torch
sys.stdout.write(json.dumps({"torch": torch.__version__, "sees_gpu": torch.cuda.is_available()}))
"""


class Failed(Exception):
    """A step that did not succeed."""

    def __init__(self, step, said):
        super().__init__(said)
        self.step = step


def main():
    plan = json.loads(sys.argv[1])
    os.setsid()
    with LOCK.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            result = {"installed": install(plan)}
        except Failed as error:
            result = {"failed": error.step, "said": str(error)}
        except OSError as error:
            result = {"failed": "installation", "said": str(error)}
    for old in HERE.glob("install-*.json"):
        if old.stat().st_mtime < time.time() - OLD_SECONDS:
            old.unlink()
    write(HERE / f"install-{plan['token']}.json", result)


def install(plan):
    """→ what environment.json says then."""
    noted = read(NOTED)
    steps = [*plan["steps"], plan["check"]]
    version = version_of_environment()
    if version and VENV.is_symlink():  # another's environment: it is used as it is
        steps = steps[-1:]
    if version and all(is_noted(noted, step, version) for step in steps):
        return noted
    with LOG.open("w") as log:
        if not version:
            noted, version = {}, make_environment(plan["python"], log)
        for step in steps:
            if not is_noted(noted, step, version):
                forget(noted, step["name"])
                found = install_step(step, log) if "pip" in step else check(step, log)
                noted[step["name"]] = {**found, "inputs": step["inputs"], "python": version}
                write(NOTED, noted)
    return noted


def forget(noted, name):
    """Before the step is done again: broken off, it leaves neither what was there nor what was asked for."""
    if noted.pop(name, None) is not None:
        write(NOTED, noted)


def is_noted(noted, step, version):
    found = noted.get(step["name"]) or {}
    return found.get("inputs") == step["inputs"] and found.get("python") == version


def version_of_environment():
    """None where there is no environment, half of one, or one of a Python that is too old."""
    try:
        done = subprocess.run([PYTHON, "-c", VERSION], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def make_environment(python, log):
    if python is None:
        raise Failed("environment", "it is half-made, and no Python with the venv module is there to make it anew")
    if VENV.is_symlink():
        VENV.unlink()
    shutil.rmtree(VENV, ignore_errors=True)
    run([python, "-m", "venv", str(VENV)], "environment", log)
    version = version_of_environment()
    if not version:
        raise Failed("environment", f"the environment that {python} made does not run")
    return version


def install_step(step, log):
    options = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    run([str(PYTHON), "-m", "pip", "install", *options, *step["pip"]], step["name"], log)
    return {}


def check(step, log):
    """That what was installed can be imported, and sees the GPU that is there."""
    found = json.loads(run([str(PYTHON), "-c", CHECK], "torch", log))
    if step["inputs"]["gpu"] and not found["sees_gpu"]:
        raise Failed("gpu", f"torch {found['torch']} does not see the GPU")
    return {**found, "auricle": run([str(PYTHON), "-m", "auricle", "--version"], "auricle", log).strip()}


def run(command, step, log):
    """Standard output goes to the log and comes back. Raises Failed with the last lines."""
    log.write(f"{step}: {' '.join(command)}\n" if "-c" not in command else f"{step}: checking\n")
    log.flush()
    lines = []
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, errors="replace") as process:
        for line in process.stdout:
            log.write(line)
            log.flush()
            lines.append(line.rstrip("\n"))
    if process.returncode:
        told = [line for line in lines if line.startswith(("ERROR", "error"))] or [line for line in lines if line]
        raise Failed(step, " · ".join(told[-TAIL:]) or f"exit code {process.returncode}")
    return "\n".join(lines[-1:])


def read(path):
    try:
        found = json.loads(path.read_text())
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def write(path, value):
    aside = path.with_name(f".{path.name}-{os.getpid()}")
    aside.write_text(json.dumps(value) + "\n")
    aside.replace(path)


if __name__ == "__main__":
    main()
