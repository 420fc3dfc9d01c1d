"""What an evaluation heard: its worst and best utterances, word by word, with their audio."""

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import soundfile
from rapidfuzz.distance import Levenshtein

from auricle.data.features import Features
from auricle.metrics import Counts


@dataclass(frozen=True, kw_only=True, slots=True)
class Utterance:
    """A line of an evaluation's hypotheses file. Both texts are normalised: what is seen here was counted."""

    id: str
    reference: str
    hypothesis: str
    counts: Counts
    source: str = ""
    seconds: float = 0.0
    audio: str = ""
    start: float = 0.0
    """Where it begins in that file, in seconds."""


def read_hypotheses(path: Path) -> list[Utterance]:
    """The utterances of `eval/….jsonl`; lines that are no such thing are passed over, a missing file has none."""
    if not path.is_file():
        return []
    return list(_utterances(path.read_text(encoding="utf-8", errors="replace").splitlines()))


def _utterances(lines: Sequence[str]) -> Iterator[Utterance]:
    for line in lines:
        try:
            row = json.loads(line)
            yield Utterance(id=str(row["id"]), reference=str(row["reference"]), hypothesis=str(row["hypothesis"]),
                            counts=_counts(row), source=str(row.get("source") or ""),
                            seconds=float(row.get("seconds") or 0.0), audio=str(row.get("audio") or ""),
                            start=float(row.get("start") or 0.0))
        except (ValueError, KeyError, TypeError):
            continue


def _counts(row: dict[str, Any]) -> Counts:
    return Counts(int(row["substitutions"]), int(row["deletions"]), int(row["insertions"]), int(row["words"]))


def worst_and_best(utterances: Sequence[Utterance], each: int) -> tuple[list[Utterance], list[Utterance]]:
    """At most `each` of both, none in both: by error rate, and where that is equal more words say more.

    Where nothing was right there is no best.
    """
    by_rate = sorted(utterances, key=lambda row: (-row.counts.rate, -row.counts.errors, row.id))
    worst = [row for row in by_rate[:each] if row.counts.errors]
    rest = [row for row in by_rate[len(worst):] if row.counts.rate < 1]
    return worst, sorted(rest, key=lambda row: (row.counts.rate, -row.counts.reference, row.id))[:each]


@dataclass(frozen=True, slots=True)
class Words:
    """A stretch of both texts that agrees, or a place where they differ; either side may be empty there."""

    same: bool
    reference: str
    hypothesis: str


def differences(reference: str, hypothesis: str) -> list[Words]:
    """The alignment with the fewest word errors, as the word error rate counts them."""
    meant, heard = reference.split(), hypothesis.split()
    return [Words(code.tag == "equal", " ".join(meant[code.src_start:code.src_end]),
                  " ".join(heard[code.dest_start:code.dest_end]))
            for code in Levenshtein.opcodes(meant, heard)]


class Clips:
    """Audio for a page that needs no other file: FLAC in `data:` addresses, up to a number of bytes in all."""

    def __init__(self, run_folder: Path, max_bytes: int) -> None:
        self._run_folder, self._left = run_folder, max_bytes

    def embed(self, row: Utterance) -> tuple[str, str]:
        """(address, why there is none); one of the two is empty."""
        if not row.audio:
            return "", "the evaluation names no audio file"
        if Features.parse(row.audio):
            return "", "it was heard as features, which nobody can play"
        path = next((path for path in (Path(row.audio), self._run_folder / row.audio) if path.is_file()), None)
        if path is None:
            return "", "the audio file is not there any more"
        try:
            encoded = _flac(path, row.start, row.seconds)
        except (soundfile.SoundFileError, OSError) as error:
            return "", f"the audio cannot be read ({error})"
        if len(encoded) > self._left:
            return "", "left out, to keep this page small"
        self._left -= len(encoded)
        return "data:audio/flac;base64," + encoded.decode("ascii"), ""


def _flac(path: Path, start: float, seconds: float) -> bytes:
    """A part of a file of any format, in one that every browser plays; base64. Without `seconds` all the rest of it."""
    with soundfile.SoundFile(path) as recording:
        rate = recording.samplerate
        recording.seek(min(round(start * rate), recording.frames))
        samples = recording.read(round(seconds * rate) or -1, dtype="float32", always_2d=True)
    written = BytesIO()
    soundfile.write(written, samples.clip(-1.0, 1.0), rate, format="FLAC", subtype="PCM_16")
    return base64.b64encode(written.getvalue())
