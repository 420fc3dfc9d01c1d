"""Audio files to text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from auricle.core.errors import UsageError, nearest
from auricle.data.audio import read_audio
from auricle.data.loader import Utterance
from auricle.tasks.parts.assembly import Assembly

BATCH_UTTERANCES = 8


@dataclass(frozen=True, kw_only=True)
class Transcript:
    path: Path
    text: str
    seconds: float


DEVICES = ("auto", "cuda", "mps", "cpu")


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
    assembly: Assembly, paths: Sequence[Path], *, decoder: str = "", device: torch.device | None = None
) -> Iterator[Transcript]:
    """One transcript a file, in their order; the text does not depend on which files are given together.

    Raises DataError for the first file that cannot be read, UsageError for an unknown decoder.
    """
    task = assembly.task
    if decoder and decoder not in task.decoders:
        raise UsageError(f"--decoder: no decoder '{decoder}'; known: {', '.join(task.decoders)}")
    device = device or torch.device("cpu")
    model = assembly.model.to(device).eval()
    rate = task.frontend.sample_rate
    for start in range(0, len(paths), BATCH_UTTERANCES):
        chosen = paths[start : start + BATCH_UTTERANCES]
        audio = [read_audio(path, rate) for path in chosen]
        utterances = [
            Utterance(id=str(path), audio=samples, sample_rate=rate, text="", seconds=len(samples) / rate)
            for path, samples in zip(chosen, audio, strict=True)
        ]
        hypotheses = task.predict(model, task.collate(utterances).to(device), decoder)
        for path, utterance, hypothesis in zip(chosen, utterances, hypotheses, strict=True):
            yield Transcript(path=path, text=hypothesis.text, seconds=utterance.seconds)
