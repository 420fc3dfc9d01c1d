"""Where audio of any length is cut, so that a model can take it and no word is cut.

Levels are measured in frames of 10 ms. A *pause* is a stretch of silent frames of at least 0.15 s: the closure of a
stop consonant, which lies within a word, is shorter. Silence is relative to the recording, as in minimum statistics
(Martin 2001): up to 10 dB above its quietest 0.15 s, but at least 20 dB below its loudest frame, so that a recording
without pauses has none. What is quieter than -70 dBFS is silent in any recording.

# T samples · N frames · P pauses
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from auricle.data.audio import decode, read_audio

SILENT_DB, LOWEST_DB = -70.0, -100.0
ABOVE_QUIETEST_DB, BELOW_LOUDEST_DB = 10.0, 20.0
PAUSE, MARGIN, LONG_SILENCE = 15, 25, 200
"""In frames. Of a silence at either end, or of a long one, only a margin is kept beside what is spoken."""

WHOLE_SECONDS = 600.0
"""Files up to here are decoded at once …"""
BLOCK = 1 << 20
"""… and longer ones in blocks of so many samples a channel, so that only what the model hears is held."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """A part of a recording, in samples."""

    start: int
    stop: int
    forced: bool = False
    """Whether no pause was in reach of its end, so that it was cut at the quietest point."""


def segment(audio: np.ndarray, sample_rate: int, max_seconds: float) -> tuple[Span, ...]:
    """(T,) samples → spans of at most `max_seconds`, ordered and disjoint, that hold all that is not silent.

    Audio that fits is one span, unchanged; audio in which nothing is louder than -70 dBFS has none. Otherwise each cut
    lies in the longest pause of the later half of what may follow the last cut, at its quietest point; failing that in
    a pause of the earlier half; failing that at the quietest point of the later half.
    """
    hop = max(1, sample_rate // 100)
    level = levels(audio, hop)
    if not (level > SILENT_DB).any():
        return ()
    if len(audio) / sample_rate <= max_seconds:
        return (Span(start=0, stop=len(audio)),)
    limit = int(max_seconds * sample_rate) // hop
    if limit < 1:
        raise ValueError(f"max_seconds is {max_seconds}; expected at least one frame of 10 ms")
    silent = level < silence(level)
    pauses = runs(silent, PAUSE)
    parts = [part for first, last in _spoken(pauses, len(level)).tolist()
             for part in _cut(level, silent, pauses, first, last, limit)]
    return tuple(Span(start=first * hop, stop=min(last * hop, len(audio)), forced=forced)
                 for first, last, forced in parts if not silent[first:last].all())


def levels(audio: np.ndarray, hop: int) -> np.ndarray:
    """(T,) → (N,) dBFS of each frame's deviation from its mean, so that an offset is silent; at least -100."""
    block = 6000 * hop
    return np.concatenate([np.zeros(0), *(_levels(audio[at : at + block], hop) for at in range(0, len(audio), block))])


def _levels(audio: np.ndarray, hop: int) -> np.ndarray:
    finite = np.nan_to_num(audio, posinf=0.0, neginf=0.0)
    frames = np.pad(finite, (0, -len(audio) % hop), mode="edge").reshape(-1, hop)  # (N, hop)
    return 20 * np.log10(np.maximum(frames.std(axis=1, dtype=np.float64), 10 ** (LOWEST_DB / 20)))  # (N,)


def silence(level: np.ndarray) -> float:
    """(N,) → the dBFS below which a frame of this recording is silent."""
    stretches = np.lib.stride_tricks.sliding_window_view(level, min(PAUSE, len(level)))  # (N-14, 15)
    quietest, loudest = stretches.max(axis=1).min(), level.max()
    return max(SILENT_DB, float(min(quietest + ABOVE_QUIETEST_DB, loudest - BELOW_LOUDEST_DB)))


def runs(mask: np.ndarray, at_least: int = 1) -> np.ndarray:
    """(N,) bool → (P, 2) first frame, and the one after the last, of each stretch that is true."""
    edges = np.flatnonzero(np.diff(np.pad(mask.astype(np.int8), 1))).reshape(-1, 2)
    return edges[edges[:, 1] - edges[:, 0] >= at_least]


def _spoken(pauses: np.ndarray, frames: int) -> np.ndarray:
    """(S, 2) what remains when silence at the ends and long silence is left out but for a margin."""
    kept = np.ones(frames, bool)
    for first, last in pauses:
        if first == 0 or last == frames or last - first >= LONG_SILENCE:
            kept[first + MARGIN * (first > 0) : max(0, last - MARGIN * (last < frames))] = False
    return runs(kept)


def _cut(level: np.ndarray, silent: np.ndarray, pauses: np.ndarray, start: int, stop: int, limit: int
         ) -> Iterator[tuple[int, int, bool]]:
    """Frames `start` to `stop` in parts of at most `limit`, and whether a part's end was forced."""
    while stop - start > limit:
        at = _in_a_pause(level, pauses, start, limit)
        forced = at is None
        if at is None:
            loud = start + np.flatnonzero(~silent[start:stop])
            first, last = (int(loud[0]), int(loud[-1]) + 1) if len(loud) else (stop, stop)
            if (first, last) != (start, stop):  # without its margins it may fit
                start, stop = first, last
                continue
            earliest = start + max(1, limit // 2)
            at = _quietest(level, earliest, min(start + limit, stop - limit // 4))
        yield start, at, forced
        start = at
    yield start, stop, False


def _in_a_pause(level: np.ndarray, pauses: np.ndarray, start: int, limit: int) -> int | None:
    """The frame to cut before, in another pause than that of `start`; None without one.

    Where the background is louder than elsewhere the recording's silence never comes: what is silent here counts too.
    """
    later = start + limit // 2
    window = level[later : start + limit]
    here = later + runs(window < silence(window), PAUSE)
    for found, earliest, least in ((pauses, later, PAUSE), (here, later, PAUSE), (pauses, start, 0)):
        first, last = np.maximum(found[:, 0], earliest), np.minimum(found[:, 1], start + limit)  # (P,)
        length = np.where(found[:, 0] > start, last - first, -1)
        if length.max(initial=-1) >= least:
            longest = length.argmax()
            return _quietest(level, int(first[longest]), int(last[longest]))
    return None


def _quietest(level: np.ndarray, first: int, last: int) -> int:
    """The frame of `first` to `last` around which 0.1 s are quietest; of several alike the one in the middle."""
    if last - first < 2:
        return first
    left, right = max(0, first - 5), min(len(level), last + 5)
    around = np.pad(level[left:right], (left - (first - 5), last + 5 - right), mode="edge")  # (last - first + 10,)
    smooth = np.convolve(around, np.full(11, 1 / 11), mode="valid")  # (last - first,)
    candidates = first + np.flatnonzero(smooth <= smooth.min() + 0.5)
    return int(candidates[np.abs(candidates - (first + last) / 2).argmin()])


def read_long(path: Path, sample_rate: int) -> np.ndarray:
    """(T,) as `read_audio`, without ever holding a long file at its own rate and channels.

    An hour at 16 kHz takes 230 MB. An mp3 is decoded at once: soundfile seeks after each block, and an mp3's frames
    cannot be decoded without those before them. Raises AudioProblem.
    """
    decode(path, 0.0, 0.0)  # raises for what cannot be opened
    try:
        with soundfile.SoundFile(path) as file:
            in_blocks = file.frames > WHOLE_SECONDS * file.samplerate and file.format not in ("MP3", "MPEG")
            audio = _read_blocks(file, sample_rate) if in_blocks else None
    except soundfile.LibsndfileError:
        audio = None
    return read_audio(path, sample_rate) if audio is None else audio  # which says what is wrong, if anything is


def seconds_of(path: Path) -> float:
    """What the file's header says; nothing for a file that cannot be read."""
    try:
        return soundfile.info(path).duration
    except soundfile.LibsndfileError:
        return 0.0


def _read_blocks(file: soundfile.SoundFile, sample_rate: int) -> np.ndarray | None:
    """None if there are fewer samples than the header says."""
    same = file.samplerate == sample_rate
    stream = None if same else soxr.ResampleStream(file.samplerate, sample_rate, 1, dtype="float32", quality="HQ")
    audio = np.empty(-(-file.frames * sample_rate // file.samplerate) + 1, np.float32)
    read = written = 0
    for block in file.blocks(BLOCK, dtype="float32", always_2d=True):  # (T, C)
        read += len(block)
        mono = block.mean(axis=1, dtype=np.float32)
        part = mono if stream is None else stream.resample_chunk(mono, last=read == file.frames)
        audio[written : written + len(part)] = part
        written += len(part)
    return audio[:written] if read == file.frames else None
