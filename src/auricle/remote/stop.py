"""Ending a run there, by the machine's own `auricle remote machine stop`."""

import json
from dataclasses import dataclass

from auricle.remote.connection import RemoteError, said
from auricle.remote.look import Run
from auricle.remote.place import Place

MARGIN_SECONDS = 60.0
"""For the answer, after the run has ended."""


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """What the machine answered."""

    code: int
    reason: str
    saved_step: int | None


def stop(place: Place, run: Run, seconds: float) -> Stopped:
    """Lets the run save and end, and waits for it. Raises RemoteError where it goes on after so many seconds."""
    done = place.auricle(["remote", "machine", "stop", run.name, "--wait", f"{seconds:g}"],
                         timeout=seconds + MARGIN_SECONDS)
    target = place.connection.target
    if done.code:
        told = said(done.stderr).removeprefix("error: ") or said(done.text) or "no reason was given"
        raise RemoteError(f"{target}: {told} (code {done.code}); auricle remote logs {target} shows what it does")
    try:
        answer = json.loads(done.text.splitlines()[-1])
        return Stopped(code=answer["code"], reason=answer["reason"], saved_step=answer["saved_step"])
    except (ValueError, IndexError, KeyError, TypeError):
        raise RemoteError(f"{target}: answered '{said(done.text)[:200]}' to the stop of {run.name}; is the "
                          "installation there of another version? auricle remote deploy brings this one") from None
