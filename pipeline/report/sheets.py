"""Which samples to look at: those nearest each limit, kept and rejected side by side, and some of every other reason."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.report.data import SourceData
from pipeline.report.overlays import MEMBER_OF, TITLES
from schemas.verdict import ERRORS, SKIPS, Reason
from stages.stage import Limit

MOST_PER_SIDE = 4  # two sides: at most 8 on a sheet


@dataclass(frozen=True, slots=True)
class Entry:
    """One sample on a sheet. `score` and the `limit` it is nearest to are None where the reason is no limit's.

    member: what a stage found that is drawn over its picture; "" for the plain picture.
    """

    sample_id: str
    score: float | None = None
    limit: Limit | None = None
    member: str = ""


@dataclass(frozen=True, slots=True)
class Sheet:
    """The samples around one score's limits, or examples of one reason. Nearest first; counts are of all, not of the shown."""

    title: str
    limits: tuple[Limit, ...]
    kept: tuple[Entry, ...]
    rejected: tuple[Entry, ...]
    n_kept: int
    n_rejected: int


def per_side(sheets: int) -> int:
    """How many samples a side may show, so that a report of many sheets stays small."""
    return MOST_PER_SIDE if sheets <= 24 else 3 if sheets <= 48 else 2


def limited_scores(source: SourceData) -> dict[str, tuple[Limit, ...]]:
    """The scores that the source has limits and data for: those that reject something first, then in recipe order."""
    grouped: dict[str, tuple[Limit, ...]] = {}
    for limit in source.limits:
        # Two stages may set the same limit, e.g. min_views; it is one line to draw.
        if limit.score in source.scores and not any(_same(limit, other) for other in grouped.get(limit.score, ())):
            grouped[limit.score] = (*grouped.get(limit.score, ()), limit)
    return dict(sorted(grouped.items(), key=lambda item: not _outside(source, item[1]).any()))


def _same(a: Limit, b: Limit) -> bool:
    return (a.score, a.op, a.value, a.reason) == (b.score, b.op, b.value, b.reason)


def other_reasons(source: SourceData) -> list[str]:
    """Rejections that no limit with data decides, e.g. `boundary`: most frequent first. Errors and skips have their own place."""
    decided = {str(limit.reason) for limits in limited_scores(source).values() for limit in limits}
    known = {str(reason): reason for reason in Reason}
    return [name for name in source.reason_counts() if name not in decided and name in known and known[name] not in ERRORS | SKIPS]


def limit_sheet(source: SourceData, score: str, limits: Sequence[Limit], count: int) -> Sheet:
    """The `count` nearest to any of the limits on either side."""
    values = source.scores[score]
    distances = np.stack([np.abs(values - limit.value) for limit in limits])
    known = np.isfinite(values)
    outside = _outside(source, limits)
    nearest = np.argmin(np.where(np.isfinite(distances), distances, np.inf), axis=0)
    distance = np.where(known, distances.min(axis=0), np.inf)

    def side(mask: NDArray[np.bool_]) -> tuple[Entry, ...]:
        rows = np.flatnonzero(mask)
        order = sorted(rows, key=lambda i: (distance[i], source.sample_ids[i]))[:count]
        member = MEMBER_OF.get(score, "")
        return tuple(Entry(source.sample_ids[i], float(values[i]), limits[int(nearest[i])], member) for i in order)

    kept = source.kept & known & ~outside
    return Sheet(score, tuple(limits), side(kept), side(outside), int(kept.sum()), int(outside.sum()))


def reason_sheet(source: SourceData, reason: str, count: int) -> Sheet:
    """Examples of a reason, spread evenly over the table so that they do not all come from one parent."""
    rows = source.with_reason(reason)
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))] if len(rows) else rows
    return Sheet(reason, (), (), tuple(Entry(source.sample_ids[i]) for i in chosen), 0, len(rows))


def member_sheets(source: SourceData, count: int) -> list[Sheet]:
    """Of each member: samples that have it, spread over the source, kept ones first."""
    sheets = []
    for member, (score, _) in TITLES.items():
        if score not in source.scores:
            continue
        rows = np.flatnonzero(np.isfinite(source.scores[score]))
        rows = rows[np.argsort(~source.kept[rows], kind="stable")]
        chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))]
        entries = tuple(Entry(source.sample_ids[i], member=member) for i in chosen)
        sheets.append(Sheet(member, (), entries, (), len(rows), 0))
    return sheets


def _outside(source: SourceData, limits: Sequence[Limit]) -> NDArray[np.bool_]:
    """Rows whose score lies outside one of the limits; NaN (not computed) does not."""
    out = np.zeros(len(source), bool)
    for limit in limits:
        values = source.scores[limit.score]
        out |= values < limit.value if limit.op == ">=" else values > limit.value
    return out
