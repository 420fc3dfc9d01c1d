"""Audio files of any length to text, in batches of segments or piece by piece while it is generated."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from auricle.core.errors import DataError, UsageError, nearest
from auricle.core.folder import find, names
from auricle.data.loader import Utterance
from auricle.inference.segments import Span, read_long, segment
from auricle.tasks import Task
from auricle.tasks.parts.assembly import Assembly
from auricle.tasks.parts.media import refuse_files_of_audio

BATCH_SIZE = 8
BATCHES_READ = 8
"""Segments of so many batches are held at a time and sorted by length, so that batches are padded little."""
MAX_SECONDS = 28.0
"""Of a segment, where the task does not say what its model takes."""

DEVICES = ("auto", "cuda", "mps", "cpu")


@dataclass(frozen=True, kw_only=True)
class Segment:
    """What was said between two moments of a file, in seconds."""

    start: float
    stop: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Transcript:
    path: Path
    text: str
    """Of all segments, a space between them."""
    seconds: float
    """Of the file, with what is silent."""
    segments: tuple[Segment, ...]


@dataclass
class _File:
    """A file on its way to a transcript."""

    path: Path
    seconds: float
    spans: tuple[Span, ...]
    sample_rate: int
    texts: dict[int, str] = field(default_factory=dict)

    def bounds(self, number: int) -> tuple[float, float]:
        return self.spans[number].start / self.sample_rate, self.spans[number].stop / self.sample_rate

    @property
    def complete(self) -> bool:
        return len(self.texts) == len(self.spans)

    def transcript(self) -> Transcript:
        bounds = map(self.bounds, range(len(self.spans)))
        segments = tuple(Segment(start=start, stop=stop, text=self.texts[number])
                         for number, (start, stop) in enumerate(bounds))
        text = " ".join(one.text for one in segments if one.text)
        return Transcript(path=self.path, text=text, seconds=self.seconds, segments=segments)


_Part = tuple[_File, int, Utterance]
"""A file, the number of one of its segments, and that segment."""


def pick_device(name: str) -> torch.device:
    """`auto` is cuda, else mps, else cpu. Raises UsageError for any other name, and for what is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name not in DEVICES:
        raise UsageError(f"--device: no device '{name}'; {nearest(name, DEVICES)}")
    if not there.get(name, True):
        raise UsageError(f"--device: '{name}' is not available here; use auto, or install a torch build for {name}")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return torch.device(name)


@torch.inference_mode()
def transcribe(
    assembly: Assembly, paths: Sequence[Path], *, decoder: str = "", device: torch.device | None = None,
    batch_size: int = BATCH_SIZE, progress: Callable[[float], None] | None = None
) -> Iterator[Transcript]:
    """One transcript a file, in their order, each as soon as it and those before it are complete.

    A file longer than the model takes is cut in pauses (`segments`). No text depends on which files are given together
    or on `batch_size` (segments a batch). `progress` is told the seconds of audio that are done. Raises DataError for
    the first file that cannot be read, after the transcripts before it, and UsageError for an unknown decoder.
    """
    task = assembly.task
    if decoder and decoder not in task.decoders:
        raise UsageError(f"--decoder: no decoder '{decoder}'; known: {', '.join(task.decoders)}")
    device = device or torch.device("cpu")
    model = assembly.model.to(device).eval()
    pending: deque[_File] = deque()
    done = 0.0
    for window in _windows(_parts(task, paths, pending), BATCHES_READ * batch_size):
        window.sort(key=lambda part: len(part[2].audio))
        for first in range(0, len(window), batch_size):
            batch = window[first : first + batch_size]
            hypotheses = task.predict(model, task.collate([part for *_, part in batch]).to(device), decoder)
            for (file, number, _), hypothesis in zip(batch, hypotheses, strict=True):
                file.texts[number] = hypothesis.text
                done += file.seconds / len(file.spans)
            if progress:
                progress(done)
            yield from _complete(pending)
    yield from _complete(pending)


def _parts(task: Task, paths: Iterable[Path], pending: deque[_File]) -> Iterator[_Part]:
    """Reads one file after the other, as far as its segments are wanted."""
    refuse_files_of_audio(task.frontend)
    rate = task.frontend.sample_rate
    for path in paths:
        audio = read_long(path, rate)
        spans = segment(audio, rate, getattr(task, "max_seconds", MAX_SECONDS))
        file = _File(path, len(audio) / rate, spans, rate)
        pending.append(file)
        for number, span in enumerate(spans):
            samples = audio[span.start : span.stop]
            yield file, number, Utterance(id=f"{path}#{number}", audio=samples, sample_rate=rate, text="",
                                          seconds=len(samples) / rate)


def _windows(parts: Iterator[_Part], size: int) -> Iterator[list[_Part]]:
    """Lists of up to `size`; what came before a file that cannot be read is handed on before that is raised."""
    window = []
    try:
        for part in parts:
            window.append(part)
            if len(window) == size:
                yield window
                window = []
    except DataError:
        yield window
        raise
    yield window


def _complete(pending: deque[_File]) -> Iterator[Transcript]:
    while pending and pending[0].complete:
        yield pending.popleft().transcript()


@torch.inference_mode()
def stream(assembly: Assembly, path: Path, *, device: torch.device | None = None) -> Iterator[Segment]:
    """Pieces of one file's text as they are generated; pieces of one segment share its bounds, and joined are its text.

    For tasks that have a method `stream(model, batch of one) -> Iterator[str]`, see `streams`. Raises UsageError for
    others, DataError for a file that cannot be read.
    """
    task = assembly.task
    if not streams(task):
        able = [name for name in names("tasks") if _streaming(name)]
        raise UsageError(f"the task '{assembly.task_config.kind}' gives its text at once and cannot stream it; "
                         f"tasks that can: {', '.join(able) or 'none'}. Transcribe without streaming")
    device = device or torch.device("cpu")
    model = assembly.model.to(device).eval()
    for file, number, part in _parts(task, [path], deque()):
        start, stop = file.bounds(number)
        for piece in task.stream(model, task.collate([part]).to(device)):
            yield Segment(start=start, stop=stop, text=piece)


def streams(task: Task) -> bool:
    return hasattr(task, "stream")


def _streaming(name: str) -> bool:
    """Whether a class of the task's file has `stream`."""
    module = find("tasks", name, "task")
    classes = [value for value in vars(module).values() if isinstance(value, type)]
    return any(hasattr(one, "stream") for one in classes if one.__module__ == module.__name__)
