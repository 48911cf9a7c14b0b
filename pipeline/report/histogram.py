"""Histograms whose bins never straddle the limit: what lies beyond it stands wholly on the other side of its line."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.stage import Limit

BINS = 30
FEWEST = 12  # bins drawn, so that a single value does not become a wall


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of the rows that have the score, per bin and by what became of them.

    edges [B+1] increasing, in the score's unit. kept, beyond, other [B]: rows kept; rows outside a limit of this score;
    rows dropped for something else. beyond_limit: per limit, how many rows lie outside it.
    """

    score: str
    edges: NDArray[np.float64]
    kept: NDArray[np.int64]
    beyond: NDArray[np.int64]
    other: NDArray[np.int64]
    limits: tuple[Limit, ...]
    beyond_limit: tuple[int, ...]
    logarithmic: bool
    single: bool  # every bin holds one whole number: the lower edge, or the upper one when closed_right
    closed_right: bool  # bins are (a,b], else [a,b)
    total: int
    median: float

    @property
    def tallest(self) -> int:
        return int((self.kept + self.beyond + self.other).max(initial=0))


def make_histogram(score: str, values: NDArray[np.float64], kept: NDArray[np.bool_], limits: Sequence[Limit]) -> Histogram | None:
    """Bin `values` [N] (NaN: not computed, left out). None when no value is finite."""
    known = np.isfinite(values)
    values, kept = values[known], kept[known]
    if len(values) == 0:
        return None
    outside = [_outside(values, limit) for limit in limits]
    beyond = np.any(outside, axis=0) if outside else np.zeros(len(values), bool)
    anchor = limits[0].value if limits else float(values.min())
    span = np.array([*values, *(limit.value for limit in limits)])
    logarithmic = bool(span.min() > 0 and span.max() > 30 * np.median(values))
    whole = not logarithmic and bool((values == np.round(values)).all() and anchor == round(anchor))
    closed_right = bool(limits and limits[0].op == "<=")
    edges, position = _bins(values, span, anchor, logarithmic, whole, closed_right)
    count = len(edges) - 1

    def counted(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.bincount(position[mask], minlength=count).astype(np.int64)

    return Histogram(
        score=score,
        edges=edges,
        kept=counted(kept & ~beyond),
        beyond=counted(beyond),
        other=counted(~kept & ~beyond),
        limits=tuple(limits),
        beyond_limit=tuple(int(mask.sum()) for mask in outside),
        logarithmic=logarithmic,
        single=whole and bool(edges[1] - edges[0] == 1),
        closed_right=closed_right,
        total=len(values),
        median=float(np.median(values)),
    )


def _outside(values: NDArray[np.float64], limit: Limit) -> NDArray[np.bool_]:
    return values < limit.value if limit.op == ">=" else values > limit.value


def _bins(
    values: NDArray[np.float64], span: NDArray[np.float64], anchor: float, logarithmic: bool, whole: bool, closed_right: bool
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Edges with `anchor` among them, and the bin of each value. Bins are (a,b] when closed_right, else [a,b)."""
    if logarithmic:
        values, span, anchor = np.log10(values), np.log10(span), float(np.log10(anchor))
    low, high = float(span.min()), float(span.max())
    width = (high - low) / BINS
    if whole:
        width = float(max(1, np.ceil(width)))
    elif width <= abs(high) * 1e-9:
        width = max(abs(high) * 0.02, 1e-3)  # all values are one: give them a bin that can be seen
    steps = (values - anchor) / width
    raw = np.ceil(steps) - 1 if closed_right else np.floor(steps)
    reach = (span - anchor) / width
    # A bin of air on either side, so that a limit beyond all values still stands inside the picture.
    first = int(min(raw.min(), np.floor(reach.min()) - 1))
    last = int(max(raw.max(), np.ceil(reach.max())))
    missing = max(0, FEWEST - (last - first + 1))
    first, last = first - missing // 2, last + (missing + 1) // 2
    if not logarithmic and low >= 0:  # nothing to show below zero but what (a,0] takes
        first = min(int(raw.min()), max(first, int(np.floor(-anchor / width))))
    edges = np.asarray(anchor + width * np.arange(first, last + 2), np.float64)
    if logarithmic:
        edges = np.power(10.0, edges, dtype=np.float64)
    return edges, (raw - first).astype(np.int64)
