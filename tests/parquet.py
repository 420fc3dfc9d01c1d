"""Parquet files as the Hugging Face hub has them, small, with tones in their audio cells."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from tests.speech import tone

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def seconds_of(number: int) -> float:
    """Of the number-th recording: lengths differ, and are whole samples at 8 kHz."""
    return 0.2 + 0.05 * (number * 7 % 11)


def encoded(number: int, suffix: str = "WAV", rate: int = 8000) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, tone(seconds_of(number), rate, 120.0 + 40 * (number % 10)), rate, format=suffix)
    return stream.getvalue()


def text_of(number: int) -> str:
    return WORDS[number % 10]


def table(numbers: range, *, suffix: str = "WAV", rate: int = 8000) -> pa.Table:
    """One row a number: audio as {bytes, path}, text, key, speaker, duration."""
    audio = [{"bytes": encoded(number, suffix, rate), "path": f"{number}.{suffix.lower()}"} for number in numbers]
    return pa.table({"audio": audio, "text": [text_of(number) for number in numbers],
                     "key": [f"utterance-{number}" for number in numbers],
                     "speaker": [f"voice{number % 3}" for number in numbers],
                     "duration": [seconds_of(number) for number in numbers]})


def write_parts(folder: Path, *, files: int = 3, groups: int = 4, rows: int = 8, name: str = "train",
                first: int = 0, drop: tuple[str, ...] = (), **options) -> list[Path]:
    """`files` files of `groups` row groups of `rows` rows; row numbers run through them from `first` on."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for part in range(files):
        begin = first + part * groups * rows
        path = folder / f"{name}-{part:05d}-of-{files:05d}.parquet"
        rows_of_part = table(range(begin, begin + groups * rows), **options).drop_columns(list(drop))
        pq.write_table(rows_of_part, path, row_group_size=rows)
        paths.append(path)
    return paths
