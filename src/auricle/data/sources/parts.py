"""What several sources share: the folders and files they are given, and rows that name their audio in a field."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from auricle.core.errors import DataError
from auricle.data.features import FRAME_RATE, MFC_WIDTH, SUFFIXES, Features, Layout
from auricle.data.sources import Candidate

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".opus", ".mp3"})
AUDIO_FIELDS = ("audio", "audio_path", "wav", "path")


def existing_folder(kind: str, folder: str, holds: str) -> Path:
    """The folder of a corpus. Raises DataError; `holds` says what is expected in it."""
    if not Path(folder).is_dir():
        raise DataError(f"{kind}: no folder '{folder}' (seen from {Path.cwd()}); expected {holds}. Correct 'folder'")
    return Path(folder)


def existing_files(kind: str, files: Mapping[str, str]) -> list[tuple[str, Path]]:
    """(split, file) of each entry. Raises DataError for the first that does not exist."""
    for split, file in files.items():
        if not Path(file).is_file():
            raise DataError(f"{kind}: no file '{file}' (seen from {Path.cwd()}) for split '{split}'. Correct 'files'")
    return [(split, Path(file)) for split, file in files.items()]


def lines_of(file: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, with their ends. Raises DataError where it is another encoding."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            yield from lines
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None


def candidate_of(fields: Mapping[str, Any], base: Path, split: str, where: str) -> Candidate:
    """The candidate that a row describes; relative audio paths start at `base`. Raises DataError.

    Without an `id` the row is named by its audio: the path as written, without suffix, and `@start` for a segment. A
    .mfc or .npy file in the place of audio holds features, `width` of them `frame_rate` times a second.
    """
    audio = next((str(fields[name]) for name in AUDIO_FIELDS if fields.get(name)), None)
    if audio is None or "text" not in fields:
        missing = "'text'" if audio else f"audio ({', '.join(AUDIO_FIELDS)})"
        raise DataError(f"{where}: no field for {missing}; found {', '.join(map(str, fields)) or 'nothing'}")
    start, stop = (_seconds(fields, name, where) for name in ("start", "stop"))
    name = Path(audio).with_suffix("").as_posix() + ("" if start is None else f"@{start:g}")
    return Candidate(id=str(fields.get("id") or name), text=str(fields["text"] or ""), start=start, stop=stop,
                     audio=_signal(base / audio, fields, where), speaker=str(fields.get("speaker") or ""),
                     language=str(fields.get("language") or ""), split=split,
                     extra={"prompt": str(fields["prompt"] or "")} if "prompt" in fields else {})


def _signal(path: Path, fields: Mapping[str, Any], where: str) -> Path | Features:
    if path.suffix.lower() not in SUFFIXES:
        return path
    width = _number(fields, "width", where, "values a frame") or float(MFC_WIDTH)
    frame_rate = _number(fields, "frame_rate", where, "frames a second") or FRAME_RATE
    if width <= 0 or not width.is_integer() or frame_rate <= 0:
        raise DataError(f"{where}: width is {width:g} and frame_rate {frame_rate:g}; expected a whole number of values "
                        "a frame, and frames a second")
    return Features(path, Layout(int(width), frame_rate))


def _seconds(fields: Mapping[str, Any], name: str, where: str) -> float | None:
    return _number(fields, name, where, "seconds")


def _number(fields: Mapping[str, Any], name: str, where: str, expected: str) -> float | None:
    value = fields.get(name)
    try:
        return None if value in (None, "") else float(value)
    except (TypeError, ValueError):
        raise DataError(f"{where}: {name} is {value!r}; expected {expected}") from None
