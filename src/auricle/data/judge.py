"""Rows are judged in one function, which returns a reason. Nothing else in Auricle leaves a row out.

Preparation calls it with what decoding found; a run calls it again with the limits and callables of its task. A row
is *filtered* when it lies outside bounds that the config asks for, and *rejected* when it is damaged or cannot be
learned from. Both are counted and listed; only the second counts towards `max_rejected`.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from auricle.core.errors import DataError

FILTERS = frozenset({"too_short", "too_long"})
REASONS = FILTERS | {
    "missing_file",
    "unreadable",
    "zero_length",
    "not_finite",
    "empty_transcript",
    "unknown_characters",
    "ctc_infeasible",
}

CHARACTERS_A_SECOND = 15.0
"""Of English read aloud, about."""

Reason = Literal[
    "too_short",
    "too_long",
    "missing_file",
    "unreadable",
    "zero_length",
    "not_finite",
    "empty_transcript",
    "unknown_characters",
    "ctc_infeasible",
]


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a row is not used. `detail` is the number or the words behind the reason."""

    reason: Reason
    id: str
    detail: str = ""

    @property
    def filtered(self) -> bool:
        return self.reason in FILTERS


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What is known of a row when it is judged. `samples` is None where audio was not looked at again."""

    id: str
    text: str
    seconds: float
    samples: int | None = None
    finite: bool = True
    frames: int | None = None
    """That the CTC loss sees, from `Checks.frames`."""
    problem: tuple[Reason, str] | None = None
    """What opening or decoding the audio ran into."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checks:
    """Limits of the config and callables of the task. The defaults let everything pass that is not damaged."""

    min_seconds: float = 0.0
    max_seconds: float = float("inf")
    empty_transcript: Literal["reject", "keep"] = "reject"
    unknown_characters: Callable[[str], str] | None = None
    """text → the characters (or pieces) of it that the tokenizer does not have."""
    frames: Callable[[np.ndarray], np.ndarray] | None = None
    """(N,) seconds → (N,) frames that the CTC loss sees; asked once for all rows, because a call is slow."""
    frames_needed: Callable[[str], int] | None = None
    """text → labels + repeats (Graves et al. 2006, §3: a blank stands between equal labels)."""


def spoken_seconds(text: str) -> float:
    """What the length of a row without audio is taken for: the time that speaking it would take."""
    return len(text) / CHARACTERS_A_SECOND


def judge(row: Facts, checks: Checks) -> Rejection | None:
    """None for a row that can be used, else the first reason against it."""
    if row.problem:
        return Rejection(row.problem[0], row.id, row.problem[1])
    if row.samples == 0 or row.seconds <= 0:
        return Rejection("zero_length", row.id, "0 samples")
    if not row.finite:
        return Rejection("not_finite", row.id, "NaN or infinite samples")
    if row.seconds < checks.min_seconds:
        return Rejection("too_short", row.id, f"{row.seconds:.3f} s < {checks.min_seconds:g} s")
    if row.seconds > checks.max_seconds:
        return Rejection("too_long", row.id, f"{row.seconds:.3f} s > {checks.max_seconds:g} s")
    return _judge_text(row, checks)


def _judge_text(row: Facts, checks: Checks) -> Rejection | None:
    if not row.text.strip():
        return Rejection("empty_transcript", row.id) if checks.empty_transcript == "reject" else None
    if checks.unknown_characters and (unknown := checks.unknown_characters(row.text)):
        return Rejection("unknown_characters", row.id, unknown)
    if row.frames is not None and checks.frames_needed:
        needed = checks.frames_needed(row.text)
        if row.frames < needed:
            return Rejection("ctc_infeasible", row.id, f"{row.frames} frames < {needed} labels and repeats")
    return None


def count_by_reason(rejections: Iterable[Rejection]) -> dict[str, int]:
    """{reason: rows}, most frequent first."""
    return dict(Counter(rejection.reason for rejection in rejections).most_common())


def refuse_if_too_many(rejections: Iterable[Rejection], rows: int, max_rejected: float, where: str) -> None:
    """Raises DataError when the rejected (not the filtered) rows exceed `max_rejected`, or none is left."""
    rejections = list(rejections)
    rejected = [rejection for rejection in rejections if not rejection.filtered]
    listed = "; ".join(f"{r.id}: {r.reason} {r.detail}".rstrip() for r in rejected[:3])
    if rows and len(rejected) > max_rejected * rows:
        raise DataError(
            f"{where}: {len(rejected)} of {rows} rows rejected ({count_by_reason(rejected)}), more than "
            f"max_rejected {max_rejected:.1%}; first: {listed}. Mend the data or raise data.max_rejected"
        )
    if rows == len(rejections):
        raise DataError(
            f"{where}: no row left of {rows} ({count_by_reason(rejections) or 'the data set is empty'}); "
            f"expected at least one usable utterance{'; first: ' + listed if listed else ''}"
        )
