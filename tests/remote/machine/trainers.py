"""A trainer of milliseconds: real locks, events and checkpoints, and no model. `python -m auricle train` finds it first
where `environment(folder)` is set; every other verb is Auricle's own.

    words: steps=N  pause=SECONDS a step  save=N steps  end=CODE at=STEP  hang=STEP  stubborn=1 (ignores SIGTERM)
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from auricle.remote.machine.job import Budget, Job, folder_of
from auricle.store import steps

SCRIPT = '''
import json, os, signal, sys, time
from pathlib import Path

HERE = str(Path(__file__).resolve().parents[1])
sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != Path(HERE)]
for name in [name for name in sys.modules if name.split(".")[0] == "auricle"]:
    del sys.modules[name]
if sys.argv[1] != "train":
    import runpy
    runpy.run_module("auricle", run_name="__main__", alter_sys=True)
    sys.exit()

from auricle.core.events import EventLog
from auricle.store import directory, steps
from auricle.store.mirror_pusher import start_pusher
from auricle.store.run_lock import lock

told = dict(word.partition("=")[::2] for word in sys.argv[2:] if "=" in word)
asked = []

def ask(number, frame):
    asked.append(number)
    if told.get("stubborn") != "1":
        signal.signal(number, signal.SIG_DFL)

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, ask)
print("words:", *sys.argv[2:], flush=True)
folder = Path(os.environ["FAKE_RUN"])
folder.mkdir(parents=True, exist_ok=True)
with lock(folder):
    if not (folder / "run.json").exists():
        (folder / "run.json").write_text(json.dumps({"created": time.time()}))
    (folder / "config.yaml").write_text(json.dumps({"mirror": {"targets": os.environ["FAKE_MIRROR"].split()}}))
    if os.environ["FAKE_MIRROR"]:
        start_pusher(folder)
    events = EventLog(folder / "events.jsonl", run=folder.name)
    events.write("run", device="none")
    found = steps.all_steps(folder)
    step = steps.step_of(found[-1].name) if found else 0
    events.write("resume" if found else "derived", step=step)

    def save():
        if not steps.path_of(folder, step).exists():
            directory.publish(steps.path_of(folder, step), lambda f: (f / "model").write_bytes(b"m" * 1000) and None)
            events.write("save", step=step)

    total = int(told.get("steps", 5000))
    while step < total and (told.get("stubborn") == "1" or not asked):
        step += 1
        events.write("train", step=step, stage_step=step, total_steps=total, loss=1.0 / step, eta_seconds=60.0)
        print(f"step {step}", flush=True)
        if step % int(told.get("save", 5)) == 0:
            save()
        if told.get("hang") == str(step):
            while True:
                time.sleep(60)
        if told.get("at") == str(step):
            events.write("end", step=step, reason="hung", message=f"ended at step {step}")
            os._exit(int(told["end"]))
        time.sleep(float(told.get("pause", 0.05)))
    save()
    events.write("end", step=step, reason="interrupted" if asked else "finished")
sys.exit(75 if asked else 0)
'''


def environment(folder: Path, run_folder: Path, mirror: Path | None = None) -> dict[str, str]:
    """Variables of a job whose trainer is the one above."""
    package = folder / "fake" / "auricle"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(SCRIPT)
    return {"PYTHONPATH": str(package.parent), "FAKE_RUN": str(run_folder), "FAKE_MIRROR": str(mirror or "")}


def job(project: Path, *words: str, run: str = "run", mirror: Path | None = None, budget: Budget | None = None,
        **fields: Any) -> Job:
    return Job(run=run, run_folder=f"outputs/{run}", train=list(words), budget=asdict(budget or Budget()),
               environment=environment(project, project / "outputs" / run, mirror), has_mirror=bool(mirror), **fields)


def written(project: Path, made: Job) -> Path:
    """The folder of a job that was launched."""
    folder = folder_of(project, made.run)
    folder.mkdir(parents=True, exist_ok=True)
    made.write(folder / "job.json")
    return folder


def told(made: Job, **secrets: str) -> bytes:
    """For the standard input of `launch`."""
    return json.dumps({"job": asdict(made), "secrets": secrets}).encode()


def wait_for(condition: Callable[[], Any], seconds: float = 100.0) -> Any:
    """What the condition gives, as soon as it gives something."""
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, "it did not come true"
        time.sleep(0.05)
    return found


def newest_step(run_folder: Path) -> int:
    found = steps.all_steps(run_folder)
    return steps.step_of(found[-1].name) if found else 0
