"""The paired bootstrap: is a mean difference more than the luck of the clips that were drawn?"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_AT_ONCE = 1 << 22  # drawn cluster numbers held in memory at a time


@dataclass(frozen=True)
class Interval:
    """mean of the differences and its percentile interval [low, high] at `level`; over `clusters` clusters of `values` values."""

    mean: float
    low: float
    high: float
    level: float
    values: int
    clusters: int

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def paired_bootstrap(
    differences: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    resamples: int = 10_000,
    level: float = 0.95,
) -> Interval:
    """The mean of paired differences [n] with its percentile interval (Efron and Tibshirani 1993, chapter 13).

    clusters [n]: values that are not independent of each other, e.g. the seeds of one clip, carry the same label: whole clusters
    are drawn with replacement, each with all its values. None: every value is its own. Equal arguments give equal results.
    Raises ValueError for no values, values that are not finite, or labels that do not match them.
    """
    values = np.asarray(differences, np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"differences must be a list of at least one number, got shape {list(values.shape)}")
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(f"difference {bad} is {values[bad]}; only finite differences have a mean")
    if clusters is not None and len(clusters) != len(values):
        raise ValueError(f"{len(values)} differences need as many cluster labels, got {len(clusters)}")
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"resamples must be at least 1 and level between 0 and 1, got {resamples} and {level}")
    sums, counts = _per_cluster(values, clusters)
    means = _resampled(sums, counts, resamples, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high), level, len(values), len(sums))


def _per_cluster(values: NDArray[np.float64], clusters: Sequence[Hashable] | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and count of each cluster, in the order of first appearance."""
    if clusters is None:
        return values, np.ones_like(values)
    number: dict[Hashable, int] = {}
    index = np.array([number.setdefault(label, len(number)) for label in clusters])
    return np.bincount(index, values).astype(np.float64), np.bincount(index).astype(np.float64)


def _resampled(sums: NDArray[np.float64], counts: NDArray[np.float64], resamples: int, random: np.random.Generator) -> NDArray[np.float64]:
    """[resamples] means over as many clusters as there are, drawn with replacement."""
    n = len(sums)
    found = []
    step = max(1, _AT_ONCE // n)
    for start in range(0, resamples, step):
        drawn = random.integers(n, size=(min(step, resamples - start), n))
        found.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    return np.concatenate(found)
