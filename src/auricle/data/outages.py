"""A server that does not answer for a while: told across processes, because a trainer that waits cannot tell it.

Whoever waits keeps a notice in the cache folder. It goes when the wait is over, and counts for nothing when its process
is gone. The trainer's log shows it, and its watchdog takes the wait for what it is.
"""

import contextlib
import json
import os
import threading
import time
from pathlib import Path

from auricle.data.disk_cache import cache_folder


def tell(where: str, error: str, since: float) -> None:
    """Keeps the notice of this thread: `where` has not answered since the Unix time `since`."""
    notice = _mine()
    with contextlib.suppress(OSError):  # nobody's work depends on a notice
        notice.parent.mkdir(parents=True, exist_ok=True)
        aside = notice.with_suffix(".new")
        aside.write_text(json.dumps({"where": where, "error": error, "since": since}), encoding="utf-8")
        aside.replace(notice)


def settle() -> None:
    """This thread waits no longer."""
    with contextlib.suppress(OSError):
        _mine().unlink()


def current() -> str | None:
    """What processes of this host wait for, as a sentence; None where none waits."""
    notices = [found for path in _folder().glob("*.json") if (found := _read(path))]
    if not notices:
        return None
    first = min(notices, key=lambda notice: notice["since"])
    since = time.strftime("%H:%M:%S", time.localtime(first["since"]))
    return f"waiting for {first['where']} since {since} ({first['error']}); it is tried again until it answers"


def _folder() -> Path:
    return cache_folder() / "waiting"


def _mine() -> Path:
    return _folder() / f"{os.getpid()}-{threading.get_ident()}.json"


def _read(path: Path) -> dict | None:
    try:
        os.kill(int(path.stem.partition("-")[0]), 0)
        return json.loads(path.read_text(encoding="utf-8"))
    except ProcessLookupError:
        path.unlink(missing_ok=True)
    except (OSError, ValueError):
        pass
    return None
