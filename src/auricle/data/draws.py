"""Randomness as a pure function: every draw is a hash of (seed, epoch, occurrence, id), never a generator's state.

So a resumed run, another number of workers and another number of ranks meet the same augmentation.
"""

import numpy as np
import xxhash

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def key(*parts: object) -> int:
    """128 bits from any printable parts."""
    return xxhash.xxh3_128_intdigest("/".join(map(str, parts)).encode())


def permutation(size: int, *parts: object) -> np.ndarray:
    """A permutation of `size` rows that depends on the parts alone. (size,) int64

    Sorts the raw stream of a counter-based generator: numpy promises never to change that, and not its `permutation`.
    """
    return np.argsort(np.random.Philox(key=key(*parts)).random_raw(size), kind="stable")


def generator(*parts: object) -> np.random.Generator:
    """A generator for one utterance's draws."""
    return np.random.Generator(np.random.Philox(key=key(*parts)))


def id_hashes(ids: list[str]) -> np.ndarray:
    """(N,) uint64, one hash an id."""
    return np.fromiter((xxhash.xxh3_64_intdigest(name.encode()) for name in ids), np.uint64, len(ids))


def uniforms(hashes: np.ndarray, occurrences: np.ndarray, *parts: object) -> np.ndarray:
    """One number in [0, 1) an utterance, all at once: splitmix64's finaliser (Steele et al. 2014). (N,)"""
    salt = np.uint64(key(*parts) & 0xFFFFFFFFFFFFFFFF)
    mixed = hashes ^ (salt + _GOLDEN * (occurrences.astype(np.uint64) + np.uint64(1)))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53
