"""Random numbers that are a pure function of a key and a counter: the same on every machine, rank and NumPy version.

SplitMix64 (Steele, Lea, Flood 2014) of key + counter; NumPy's own generators may change their streams between versions, and
would have to be walked from the start to reach a step.
"""

from hashlib import sha256

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def key_of(*parts: str | int) -> int:
    """A 64-bit key of what the numbers are for."""
    return int.from_bytes(sha256("/".join(map(str, parts)).encode()).digest()[:8], "little")


def bits(key: int, counters: ArrayLike) -> NDArray[np.uint64]:
    """Uniform 64-bit values at the given counters (non-negative, any shape)."""
    with np.errstate(over="ignore"):
        z = np.uint64(key) + (np.asarray(counters).astype(np.uint64) + np.uint64(1)) * _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def uniform(key: int, counters: ArrayLike) -> NDArray[np.float64]:
    """Values in [0, 1) at the given counters."""
    return (bits(key, counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def below(key: int, n: int) -> int:
    """One integer in 0..n-1. The bias of the remainder is below n / 2^64."""
    return int(bits(key, 0)) % n


def permutation(key: int, n: int) -> NDArray[np.int64]:
    """A permutation of 0..n-1."""
    return np.argsort(bits(key, np.arange(n)), kind="stable")
