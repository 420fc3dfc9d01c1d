"""TensorBoard: event files under RUN/tensorboard/NAME. See them with `tensorboard --logdir outputs`.

Written by tensorboard's own writer, which needs neither torch nor tensorflow.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from auricle.core.errors import MissingExtra


class TensorBoardTracker:
    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        # protobuf makes these classes when the module is imported
        self._event, self._summary = event_pb2.Event, summary_pb2.Summary  # pyright: ignore
        self._writer = EventFileWriter(str(folder), flush_secs=10)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        scalars = [self._summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=self._summary(value=scalars)))

    def close(self) -> None:
        self._writer.close()


def open(run_folder: Path, name: str, config: Mapping[str, Any]) -> TensorBoardTracker:
    folder = run_folder / "tensorboard" / name
    try:
        tracker = TensorBoardTracker(folder)
    except ModuleNotFoundError:
        raise MissingExtra("the tracker tensorboard", "tensorboard") from None
    folder.joinpath("config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return tracker
