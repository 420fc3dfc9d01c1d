"""What the files of `.auricle/runs` on a machine say, read there by one shell command (see `remote/machine/job`).

    @clock 1790000000.123          the machine's own clock: heartbeats are judged by it
    @boot  7c9a…
    @run   voxformer_tiny          then its files, each one line of JSON, where they are there
    @job   {…}    @runner {…}    @exit {…}    @state {…}
"""

import shlex
from dataclasses import dataclass, field
from typing import Any

from auricle.core.errors import nearest
from auricle.remote.connection import RemoteError
from auricle.remote.machine import job as files
from auricle.remote.machine.job import RUNS, STALE_SECONDS, Exit, Job, Record, Runner, State
from auricle.remote.place import Place

KINDS: dict[str, type[Record]] = {"job": Job, "runner": Runner, "exit": Exit, "state": State}
SCRIPT = f"""
echo "@clock $(date +%s.%N)"
IFS= read -r boot < /proc/sys/kernel/random/boot_id && echo "@boot $boot"
for run in {RUNS}/*/; do
  run=${{run%/}}
  [ -f "$run/{files.JOB}" ] || continue
  printf '@run %s\\n' "${{run##*/}}"
  for file in {files.JOB} {files.RUNNER} {files.EXIT} {files.STATE}; do
    [ -f "$run/$file" ] || continue
    line=; IFS= read -r line < "$run/$file"
    printf '@%s %s\\n' "${{file%.json}}" "$line"
  done
done
"""
LOOK_SECONDS = 20.0


@dataclass(kw_only=True)
class Run:
    """A run on a machine; what is not there, or cannot be read, is None."""

    key: str
    job: Job
    runner: Runner | None = None
    exit: Exit | None = None
    state: State | None = None

    @property
    def name(self) -> str:
        return self.job.run

    @property
    def folder(self) -> str:
        """Of its files, relative to the project's folder there."""
        return f"{RUNS}/{self.key}"

    @property
    def log(self) -> str:
        return f"{self.folder}/{files.CONSOLE}"

    @property
    def session(self) -> str | None:
        """Its tmux server; None without tmux, and for one that has ended."""
        return self.runner.session if self.runner and self.exit is None else None


@dataclass(kw_only=True)
class Look:
    """A machine at one moment."""

    clock: float = 0.0
    """Unix time there."""
    boot_id: str = ""
    runs: list[Run] = field(default_factory=list)

    def heartbeat_age(self, run: Run) -> float:
        """Seconds; of a run that has no heartbeat yet, since it was started."""
        return self.clock - (run.state.time if run.state else run.job.created)

    def is_guarded(self, run: Run) -> bool:
        return self.heartbeat_age(run) <= STALE_SECONDS

    def phase(self, run: Run) -> str:
        """In a few words: ended, training, stopping …; `guard is dead` where nobody keeps the budget."""
        if run.exit:
            saving = run.state is not None and run.state.phase == "saving elsewhere" and self.is_guarded(run)
            code = f" with code {run.exit.code}" if run.exit.code else ""
            return f"ended{code}{', saving elsewhere' if saving else ''}"
        if not self.is_guarded(run):
            rebooted = run.runner is not None and self.boot_id not in ("", run.runner.boot_id)
            return "guard is dead (the machine was restarted)" if rebooted else "guard is dead"
        return run.state.phase if run.state else "starting"


def look(place: Place, seconds: float = LOOK_SECONDS) -> tuple[Look, str]:
    """→ how the machine's runs stand, and the text that says so. Raises RemoteError."""
    done = place.run(f"exec sh -c {shlex.quote(SCRIPT)}", timeout=seconds)
    found = parse(done.text)
    if not found.clock:
        raise RemoteError(f"{place.connection.target}: did not say how its runs stand (code {done.code}: "
                          f"{done.stderr.strip()[:200] or 'no answer'}); auricle remote doctor tells what is wrong")
    return found, done.text


def parse(text: str) -> Look:
    """Lines that a login script printed, and files that were cut off, are passed over."""
    found, run = Look(), None
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "@clock":
            found.clock = _seconds(rest)
        elif kind == "@boot":
            found.boot_id = rest
        elif kind == "@run":
            run = rest
        elif run is not None and kind[1:] in KINDS and kind[:1] == "@":
            _take(found, run, kind[1:], rest)
    return found


def _take(found: Look, key: str, kind: str, text: str) -> None:
    """`job` comes first; a run whose job cannot be read is none."""
    record: Any
    try:
        record = KINDS[kind].from_json(text)
    except (ValueError, TypeError, AttributeError):
        return
    if kind == "job":
        found.runs.append(Run(key=key, job=record))
    elif found.runs and found.runs[-1].key == key:
        setattr(found.runs[-1], kind, record)


def _seconds(text: str) -> float:
    """Some `date` commands know no fractions and print the letter."""
    try:
        return float(text.partition(".")[0]) + float(f"0.{text.partition('.')[2].strip('%N') or 0}")
    except ValueError:
        return 0.0


def chosen(place: Place, found: Look, name: str | None, *, ended: bool = True) -> Run:
    """The run of that name; without one the only run that goes on there, else (with `ended`) the newest there was.

    Raises RemoteError in a sentence that names the runs there are.
    """
    target = place.connection.target
    if not found.runs:
        raise RemoteError(f"{target}: no run was started there; auricle remote start {target} --experiment NAME")
    if name is not None:
        by_name = {run.name: run for run in found.runs}
        if name not in by_name:
            raise RemoteError(f"{target}: no run '{name}' there; {nearest(name, by_name)}")
        return by_name[name]
    going = [run for run in found.runs if run.exit is None]
    if len(going) > 1:
        raise RemoteError(f"{target}: {len(going)} runs go on there; name one with --run: "
                          f"{', '.join(sorted(run.name for run in going))}")
    newest = max(found.runs, key=lambda run: run.job.created)
    if not going and not ended:
        raise RemoteError(f"{target}: no run goes on there; {newest.name} {found.phase(newest)}"
                          f"{f' ({newest.exit.reason})' if newest.exit and newest.exit.reason else ''}")
    return going[0] if going else newest
