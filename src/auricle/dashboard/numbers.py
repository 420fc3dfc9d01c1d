"""Numbers of events, and how people read them."""

import math
from collections.abc import Mapping
from typing import Any

NOT_FINITE = ("nan", "inf", "-inf")
UNKNOWN = "–"


def number(value: Any) -> float | None:
    """A number of an event's values, None for anything else. The log writes NaN and infinity as strings."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float) or value in NOT_FINITE:
        return float(value)
    return None


def numbers(values: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """All numbers of an event by path: {"loss": 2, "terms": {"ctc": 2}} → {"train/loss": 2, "train/terms/ctc": 2}."""
    found: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= numbers(value, f"{prefix}/{key}")
        elif (plain := number(value)) is not None:
            found[f"{prefix}/{key}"] = plain
    return found


def percent(fraction: Any, digits: int = 1) -> str:
    plain = number(fraction)
    return UNKNOWN if plain is None else f"{100 * plain:.{digits}f} %"


def decimal(value: Any, digits: int = 2, unit: str = "") -> str:
    """12345.678 → "12,345.68 unit"."""
    plain = number(value)
    return UNKNOWN if plain is None else f"{plain:,.{digits}f} {unit}".rstrip()


def count(value: Any) -> str:
    plain = number(value)
    return UNKNOWN if plain is None or not math.isfinite(plain) else f"{plain:,.0f}"


def parameters(value: Any) -> str:
    """1634816 → "1.63 M"."""
    plain = number(value)
    if plain is None:
        return UNKNOWN
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if plain >= size:
            return f"{plain / size:.3g} {letter}"
    return f"{plain:.0f}"


def duration(seconds: Any) -> str:
    """42 → "42 s", 135 → "2 min 15 s", 7380 → "2 h 3 min"."""
    plain = number(seconds)
    if plain is None or not math.isfinite(plain):
        return UNKNOWN
    whole = round(plain)
    if whole < 60:
        return f"{plain:.1f} s" if plain < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
