"""Whether the files of a manifest are still those that were prepared, by the checksums that it keeps of them."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from auricle.core.errors import DataError
from auricle.data.manifest import Manifest, Row
from auricle.data.shards import CHECKSUM, checksum

THREADS = 8
"""Files that are read at once: hashing leaves the interpreter's lock."""
ROWS = 1024


@dataclass(frozen=True, slots=True)
class Damage:
    """A file that is not what it was."""

    id: str
    file: str
    what: str


def verify(manifest: Manifest) -> list[Damage]:
    """The files that are gone, changed or unreadable. Raises DataError for a manifest without checksums."""
    if CHECKSUM not in manifest.columns:
        kind = manifest.summary["source"]["kind"]
        raise DataError(f"{manifest.folder}: has no checksums to verify its files by, since the source '{kind}' keeps "
                        "none; expected one that does, as librispeech. Preparing it again decodes every file")
    expected, found = manifest.column(CHECKSUM), []
    with ThreadPoolExecutor(THREADS) as pool:
        for first in range(0, len(manifest), ROWS):
            rows = manifest.rows_at(np.arange(first, min(first + ROWS, len(manifest))))
            found += [damage for damage in pool.map(_damage, rows, expected[first:]) if damage]
    return found


def _damage(row: Row, before: str | None) -> Damage | None:
    try:
        now = checksum(row.audio)
    except OSError as error:
        return Damage(row.id, str(row.audio), f"unreadable ({error.strerror})")
    return None if now == before else Damage(row.id, str(row.audio), "changed" if now else "gone")
