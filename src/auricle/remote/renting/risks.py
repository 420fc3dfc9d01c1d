"""What would be lost with a machine: runs that go on there, and checkpoints that are nowhere else, by their hashes.

    @alive KEY                          the runner of a run lives
    @folder outputs/RUN
    @newest step-000000500 1f0c…        its newest checkpoint, and the identity that its CHECKSUMS.json has
    @mirror {"verified": {…}}           what its mirrors were verified to hold
"""

import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from auricle.core.errors import CheckpointError
from auricle.remote.connection import Unreachable
from auricle.remote.look import Look, Run, look
from auricle.remote.machine.job import RUNNER, RUNS
from auricle.remote.place import Place
from auricle.remote.status import remembered
from auricle.store import directory, steps

SCRIPT = f"""
for run in {RUNS}/*/; do
  run=${{run%/}}
  pid=$(sed -n 's/.*"pid": *\\([0-9][0-9]*\\).*/\\1/p' "$run/{RUNNER}" 2>/dev/null)
  [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null && printf '@alive %s\\n' "${{run##*/}}"
done
for folder in outputs/*/; do
  folder=${{folder%/}}
  newest=
  for step in "$folder"/checkpoints/{steps.PREFIX}*; do
    [ -f "$step/{directory.CHECKSUMS}" ] && newest=$step
  done
  [ -n "$newest" ] || continue
  identity=$(sed -n 's/^ *"self": *"\\([0-9a-f]*\\)".*/\\1/p' "$newest/{directory.CHECKSUMS}" | tail -n 1)
  printf '@folder %s\\n@newest %s %s\\n' "$folder" "${{newest##*/}}" "$identity"
  for record in "$folder"/mirrors/*.json; do
    [ -f "$record" ] && printf '@mirror %s\\n' "$(tr -d '\\n' < "$record")"
  done
done
exit 0
"""
SECONDS = 30.0


@dataclass(kw_only=True)
class Stored:
    """The newest checkpoint of a run folder there."""

    folder: str
    name: str = ""
    identity: str = ""
    verified: dict[str, str] = field(default_factory=dict)
    """On mirrors: name → identity."""

    @property
    def run(self) -> str:
        return self.folder.partition("/")[2]

    @property
    def is_mirrored(self) -> bool:
        return bool(self.identity) and self.verified.get(self.name) == self.identity


def risks(place: Place, *, keeps_disk: bool) -> list[str]:
    """A sentence for each thing that ending the machine would lose; none: all is safe. `keeps_disk`: what lies in the
    project's folder stays.

    A machine that does not answer is judged by what it last said. Raises RemoteError where it cannot be judged.
    """
    try:
        found, _ = look(place)
        done = place.run(f"exec sh -c {shlex.quote(SCRIPT)}", timeout=SECONDS)
    except Unreachable as error:
        return _by_memory(place, error)
    alive, stored = parse(done.text)
    going = [run for run in found.runs if run.exit is None and (found.is_guarded(run) or run.key in alive)]
    lost = [] if keeps_disk else [one for one in stored if not one.is_mirrored and not _is_here(place, one)]
    return [*(_training(place, run) for run in going), *(_alone(place, one.run, one.name) for one in lost)]


def parse(text: str) -> tuple[set[str], list[Stored]]:
    """→ keys of runs whose runner lives, and the newest checkpoints."""
    alive: set[str] = set()
    stored: list[Stored] = []
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "@alive":
            alive.add(rest)
        elif kind == "@folder":
            stored.append(Stored(folder=rest))
        elif kind == "@newest" and stored:
            stored[-1].name, _, stored[-1].identity = rest.partition(" ")
        elif kind == "@mirror" and stored:
            stored[-1].verified |= _verified(rest)
    return alive, stored


def _verified(text: str) -> dict[str, str]:
    """An unreadable record vouches for nothing, nor does one of a mirror on the machine's own disk."""
    try:
        found: Any = json.loads(text)
        return {} if found.get("own_disk") else dict(found.get("verified") or {})
    except (ValueError, TypeError, AttributeError):
        return {}


def _is_here(place: Place, stored: Stored) -> bool:
    """Whether that very checkpoint lies on this side, and verifies."""
    path = place.project.root / stored.folder / "checkpoints" / stored.name
    try:
        return directory.self_hash(path) == stored.identity and not steps.problems(path)
    except (CheckpointError, ValueError, OSError):
        return False


def _by_memory(place: Place, error: Unreachable) -> list[str]:
    """Raises Unreachable where it never said anything."""
    found, age = remembered(place)
    if found is None:
        raise error
    when = f"it does not answer, and {_ago(age)} ago"
    return [f"{run.name}: {when} {why}" for run in found.runs if (why := _why_unsafe(place, found, run))]


def _why_unsafe(place: Place, found: Look, run: Run) -> str | None:
    state = run.state
    if run.exit is None:
        return f"it was {found.phase(run)}"
    if state is None or state.saved_step is None:
        return None
    is_safe = state.safe_step is not None and state.safe_step >= state.saved_step
    if is_safe or _newest_here(place.project.root / run.job.run_folder) >= state.saved_step:
        return None
    return f"its step {state.saved_step} was nowhere else"


def _newest_here(run_folder: Path) -> int:
    """-1 where none verifies."""
    try:
        good = [path for path in steps.all_steps(run_folder) if not steps.problems(path)]
    except (OSError, ValueError):
        return -1
    return steps.step_of(good[-1].name) if good else -1


def _training(place: Place, run: Run) -> str:
    return (f"{run.name}: still runs; end it first: auricle remote stop {place.connection.target.typed} --run "
            f"{shlex.quote(run.name)}")


def _alone(place: Place, run: str, name: str) -> str:
    there = place.connection.target.typed
    return (f"{run}: step {steps.step_of(name)} is verified nowhere else; bring it here: auricle remote pull {there} "
            f"--run {shlex.quote(run)}, or to its mirror: auricle remote exec {there} -- auricle mirror push "
            f"{shlex.quote(f'outputs/{run}')}")


def _ago(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds / 60:.0f} min"
