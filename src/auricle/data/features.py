"""Files of pre-computed features, which stand in the place of audio.

    .mfc    CMU Sphinx: an int32 that counts the floats, then the float32s frame by frame, big-endian throughout
    .npy    a numpy array (F, M) of floats

Such a file is a signal of `frame_rate` samples a second with `width` channels: its length in seconds, the plan and
`output_lengths` are those of audio at that sample rate. The front end for it is models/parts/precomputed.py.

# F frames · M values a frame
"""

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from auricle.data.audio import AudioProblem

SUFFIXES = frozenset({".mfc", ".npy"})
MFC_WIDTH, FRAME_RATE = 13, 100.0
"""What Sphinx makes by default: 13 cepstra every 10 ms."""

REFERENCE = re.compile(r"(?P<path>.+)#width=(?P<width>\d+)&frame_rate=(?P<rate>[\d.]+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Layout:
    """What all files of one kind have in common."""

    width: int = MFC_WIDTH
    frame_rate: float = FRAME_RATE
    """Frames a second."""

    def __str__(self) -> str:
        return f"width={self.width}&frame_rate={self.frame_rate:g}"


@dataclass(frozen=True, slots=True)
class Features:
    """The features of one utterance as a manifest refers to them."""

    path: Path
    layout: Layout

    def read(self, start: float | None = None, stop: float | None = None) -> np.ndarray:
        """(F, M) float32: the whole, or its seconds `start` to `stop`. Raises AudioProblem."""
        features, rate = read_features(self.path, self.layout.width), self.layout.frame_rate
        last = len(features) if stop is None else min(round(stop * rate), len(features))
        return features[round((start or 0.0) * rate) : last]

    def __str__(self) -> str:
        return f"{self.path}#{self.layout}"

    @classmethod
    def parse(cls, reference: str) -> "Features | None":
        """None for a reference that is none to features."""
        found = REFERENCE.fullmatch(reference)
        return found and cls(Path(found["path"]), Layout(int(found["width"]), float(found["rate"])))


def read_features(path: Path, width: int = MFC_WIDTH) -> np.ndarray:
    """(F, M) float32 of a .mfc or .npy file. Raises AudioProblem: no file, cut, of another byte order or another width,
    empty, no floats."""
    problem = partial(AudioProblem, path, expected=f".mfc or .npy with {width} floats a frame")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise problem("missing_file", "no such file") from None
    if not content:
        raise problem("unreadable", "empty file")
    try:
        return _npy(path, width) if path.suffix.lower() == ".npy" else _mfc(content, width)
    except (ValueError, EOFError) as error:
        raise problem("unreadable", str(error).strip().partition("\n")[0]) from None


def _mfc(content: bytes, width: int) -> np.ndarray:
    """(F, M) float32. Raises ValueError. Only the count tells the byte order: there is no other mark."""
    held = (len(content) - 4) / 4
    counted, swapped = (int.from_bytes(content[:4], order, signed=True) for order in ("big", "little"))
    if counted != held:
        cut = "little-endian" if swapped == held else f"{held:g} floats, its header counts {counted}"
        raise ValueError(cut)
    if counted % width:
        raise ValueError(f"{counted} floats are no multiple of {width}")
    return np.frombuffer(content, ">f4", offset=4).astype(np.float32).reshape(-1, width)  # (F, M)


def _npy(path: Path, width: int) -> np.ndarray:
    """(F, M) float32. Raises ValueError, EOFError."""
    features = np.load(path, allow_pickle=False)
    if features.ndim != 2 or features.shape[1] != width or features.dtype.kind != "f":
        raise ValueError(f"{features.dtype} of shape {features.shape}")
    return features.astype(np.float32, copy=False)
