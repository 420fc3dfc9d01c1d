"""Shards become the files of a manifest and the summary of what is in them."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from auricle.data.judge import Rejection, count_by_reason
from auricle.data.manifest import ARROW, PARQUET, REJECTIONS, SUMMARY, audio_seconds
from auricle.data.shards import kept_of, rejections_of

QUANTILES = {"shortest": 0.0, "5 %": 0.05, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95, "longest": 1.0}
READ_BLOCK = 1 << 22
BATCH_ROWS = 1 << 16


def merge(shards: Sequence[Path], folder: Path, summary: dict[str, Any]) -> None:
    """Writes the files of a manifest to `folder`, in the order of the shards, and syncs them to disk."""
    rejections = [rejection for shard in shards for rejection in rejections_of(shard)]
    _write_tables(shards, folder)
    pq.write_table(pa.Table.from_pylist([{"id": r.id, "reason": r.reason, "detail": r.detail} for r in rejections],
                                        pa.schema([(name, pa.string()) for name in ("id", "reason", "detail")])),
                   folder / REJECTIONS)
    table = pa.ipc.open_file(pa.memory_map(str(folder / ARROW))).read_all()
    whole = {**_described(table), **_counted(rejections), **summary, "fingerprint": _digest(folder / PARQUET),
             "bytes": {name: (folder / name).stat().st_size for name in (PARQUET, ARROW, REJECTIONS)}}
    (folder / SUMMARY).write_text(json.dumps(whole, ensure_ascii=False, indent=1), encoding="utf-8")
    for path in (PARQUET, ARROW, REJECTIONS, SUMMARY, "."):
        sync(folder / path)


def _write_tables(shards: Sequence[Path], folder: Path) -> None:
    schema = kept_of(shards[0]).schema
    with (pq.ParquetWriter(folder / PARQUET, schema, compression="zstd") as parquet,
          pa.ipc.new_file(str(folder / ARROW), schema) as arrow):
        for rows in _in_batches(map(kept_of, shards)):
            parquet.write_table(rows)
            arrow.write_table(rows)


def _in_batches(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Joins small tables: a file of many small batches is slow to open."""
    waiting, rows = [], 0
    for table in tables:
        waiting.append(table)
        rows += table.num_rows
        if rows >= BATCH_ROWS:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting, rows = [], 0
    if rows:
        yield pa.concat_tables(waiting).combine_chunks()


def _described(table: pa.Table) -> dict[str, Any]:
    seconds = pc.struct_field(table["lengths"], "seconds").combine_chunks()
    lengths = np.quantile(seconds.to_numpy(), list(QUANTILES.values()))
    spoken = audio_seconds(table)
    return {"utterances": table.num_rows, "hours": pc.sum(spoken).as_py() / 3600,
            "splits": _splits(table.select(["split", "speaker"]).append_column("seconds", spoken)),
            "seconds": {name: round(float(value), 3) for name, value in zip(QUANTILES, lengths, strict=True)},
            "languages": _counts(table["language"]), "speakers": pc.count_distinct(table["speaker"]).as_py(),
            "alphabet": "".join(sorted(set().union(*map(_characters, table["text"].chunks))))}


def _characters(texts: pa.StringArray) -> set[str]:
    return set("".join(texts.to_pylist()))


def _splits(table: pa.Table) -> dict[str, dict[str, float]]:
    groups = table.group_by("split").aggregate(
        [("seconds", "count"), ("seconds", "sum"), ("speaker", "count_distinct")]).sort_by("split")
    return {row["split"]: {"utterances": row["seconds_count"], "hours": row["seconds_sum"] / 3600,
                           "speakers": row["speaker_count_distinct"]} for row in groups.to_pylist()}


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    counts = {row["values"]: row["counts"] for row in pc.value_counts(column).to_pylist()}
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _counted(rejections: Sequence[Rejection]) -> dict[str, dict[str, int]]:
    return {"filtered": count_by_reason(r for r in rejections if r.filtered),
            "rejected": count_by_reason(r for r in rejections if not r.filtered)}


def _digest(path: Path) -> str:
    hasher = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(READ_BLOCK):
            hasher.update(block)
    return hasher.hexdigest()


def sync(path: Path) -> None:
    """Waits until a file or folder is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
