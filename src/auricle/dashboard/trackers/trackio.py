"""trackio: an SQLite file under RUN/trackio, without a server. See it with `TRACKIO_DIR=RUN/trackio trackio show`.

Where TRACKIO_DIR, TRACKIO_SPACE_ID or TRACKIO_SERVER_URL are set, they decide where it goes.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from auricle.core.errors import MissingExtra


class TrackioTracker:
    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


def open(run_folder: Path, name: str, config: Mapping[str, Any]) -> TrackioTracker:
    os.environ.setdefault("TRACKIO_DIR", str(run_folder.resolve() / "trackio"))  # read at import
    try:
        import trackio
    except ModuleNotFoundError:
        raise MissingExtra("the tracker trackio", "trackio") from None
    # The run's own `system` events tell the machine's state.
    run = trackio.init(project="auricle", group=run_folder.resolve().name, name=name, config=dict(config), embed=False,
                       auto_log_gpu=False, auto_log_cpu=False)
    return TrackioTracker(run)
