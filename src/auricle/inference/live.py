"""Audio that is still being spoken to text, as it comes.

For tasks that have `listener(model, chunk_seconds)`: it is fed samples and says what it heard.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from auricle.core.errors import UsageError
from auricle.core.folder import find, names
from auricle.inference.segments import read_long
from auricle.tasks.parts.assembly import Assembly

BLOCK_SECONDS = 0.1
CHUNK_SECONDS = 0.64
SAMPLE = np.dtype("<i2")


def listens(task: Any) -> bool:
    return hasattr(task, "listener")


def live(assembly: Assembly, blocks: Iterable[np.ndarray], *, chunk_seconds: float = CHUNK_SECONDS,
         device: torch.device | None = None) -> Iterator[Any]:
    """Blocks of (T,) float32 samples at the front end's rate → `Heard`, partial and final, as soon as it is known.

    Raises UsageError for a task that cannot listen or a chunk that is none, ModelError for such a model.
    """
    task = assembly.task
    if not listens(task):
        able = [name for name in names("tasks") if hasattr(find("tasks", name, "task"), "Listener")]
        raise UsageError(f"the task '{assembly.task_config.kind}' cannot listen to a stream; tasks that can: "
                         f"{', '.join(able) or 'none'}. Transcribe a file")
    model = assembly.model.to(device or torch.device("cpu")).eval()
    try:
        listener = task.listener(model, chunk_seconds)
    except ValueError as error:
        raise UsageError(f"--chunk-seconds: {error}") from None
    for block in blocks:
        yield from listener.feed(block)
    yield from listener.finish()


def blocks_of_file(path: Path, sample_rate: int) -> Iterator[np.ndarray]:
    """An audio file as if it were being spoken. Raises AudioProblem."""
    audio, size = read_long(path, sample_rate), round(BLOCK_SECONDS * sample_rate)
    yield from (audio[first : first + size] for first in range(0, len(audio), size))


def blocks_of_pipe(pipe: BinaryIO, sample_rate: int) -> Iterator[np.ndarray]:
    """Mono samples as 16-bit little-endian integers at the front end's rate, as they come; half a sample at the end is
    left out."""
    size, rest = round(BLOCK_SECONDS * sample_rate) * SAMPLE.itemsize, b""
    read = getattr(pipe, "read1", pipe.read)
    while data := read(size):
        data = rest + data
        whole = len(data) - len(data) % SAMPLE.itemsize
        rest = data[whole:]
        yield np.frombuffer(data[:whole], SAMPLE).astype(np.float32) / 32768
