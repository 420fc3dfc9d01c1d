"""What a frozen encoder made of each row, kept in files that every worker maps.

    frames.json                         width and type
    part-0.bin …                        frames, those that one rank made one behind the other
    parts.npy, starts.npy, lengths.npy  (N,) which file a row's frames are in, from which frame on, and how many

# N rows · E frames of a row · D width
"""

import json
import os
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DESCRIPTION = "frames.json"
UNREADABLE = -1
"""The length of a row without frames."""


class Frames:
    """`self[row]` is (E, D), as it was computed, or None for a row that could not be read. A process that is sent one
    maps the files anew."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        described = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        self.width, self.dtype = described["width"], getattr(torch, described["dtype"])
        self.starts, self.lengths = np.load(folder / "starts.npy"), np.load(folder / "lengths.npy")
        self.parts = np.load(folder / "parts.npy")

    def __reduce__(self) -> tuple:
        return Frames, (self.folder,)

    def __getitem__(self, row: int) -> Tensor | None:
        if self.lengths[row] == UNREADABLE:
            return None
        start, stop = self.width * int(self.starts[row]), self.width * int(self.starts[row] + self.lengths[row])
        return self._files[int(self.parts[row])][start:stop].view(-1, self.width)  # (E, D)

    @cached_property
    def _files(self) -> list[Tensor]:
        """Each part as one flat tensor that is read from disk where it is looked at."""
        paths = [self.folder / f"part-{number}.bin" for number in range(int(self.parts.max(initial=0)) + 1)]
        counts = [path.stat().st_size // self.dtype.itemsize for path in paths]
        return [torch.from_file(str(path), shared=False, size=count, dtype=self.dtype) if count
                else torch.zeros(0, dtype=self.dtype) for path, count in zip(paths, counts, strict=True)]


class FramesWriter:
    """One rank's part: rows in any order."""

    def __init__(self, folder: Path, part: int) -> None:
        self._file = (folder / f"part-{part}.bin").open("wb")
        self.rows: list[int] = []
        self.lengths: list[int] = []

    def add(self, row: int, frames: Tensor) -> None:
        """(E, D)"""
        self._file.write(frames.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        self.rows.append(row)
        self.lengths.append(len(frames))

    def skip(self, row: int) -> None:
        """It could not be read."""
        self.rows.append(row)
        self.lengths.append(UNREADABLE)

    def close(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def describe(folder: Path, parts: list[tuple[list[int], list[int]]], rows: int, width: int, dtype: torch.dtype) -> None:
    """Writes what `Frames` needs; `parts` are each rank's rows and their lengths, in the order of its file."""
    starts, lengths, homes = np.zeros(rows, np.int64), np.zeros(rows, np.int64), np.zeros(rows, np.int32)
    for number, (their, sizes) in enumerate(parts):
        order = np.asarray(their, np.int64)
        lengths[order] = sizes
        starts[order] = np.cumsum([0, *(max(size, 0) for size in sizes)])[:-1]
        homes[order] = number
    for name, values in (("starts", starts), ("lengths", lengths), ("parts", homes)):
        np.save(folder / f"{name}.npy", values, allow_pickle=False)
    kind = str(dtype).removeprefix("torch.")
    (folder / DESCRIPTION).write_text(json.dumps({"width": width, "dtype": kind}), encoding="utf-8")
