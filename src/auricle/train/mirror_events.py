"""What the mirrors hold, as `mirror` events: the pusher is another process and keeps a record a target."""

import json
from pathlib import Path

from auricle.core.events import EventLog
from auricle.store import steps


class MirrorEvents:
    """Writes an event whenever a target's newest verified step or its trouble changes."""

    def __init__(self, folder: Path, log: EventLog) -> None:
        self._folder, self._log = folder, log
        self._known: dict[str, tuple[int | None, bool]] = {}

    def look(self) -> None:
        for path in sorted((self._folder / "mirrors").glob("*.json")):
            try:
                record = json.loads(path.read_bytes())
                names = sorted(filter(steps.NAME.fullmatch, record["verified"]), key=steps.step_of)
            except (OSError, ValueError, KeyError, TypeError):
                continue  # being replaced, or no record of a mirror of checkpoints
            safe = steps.step_of(names[-1]) if names else None
            error = record.get("error")
            if self._known.get(path.name) != (safe, bool(error)):
                self._known[path.name] = (safe, bool(error))
                self._log.write(
                    "mirror",
                    step=safe or 0,
                    target=record.get("target"),
                    safe_step=safe,
                    waiting=len(record.get("pending", ())),
                    error=error,
                )
