"""Groups of poses along one camera's path: which there are, and which of them to take.

All pairs of poses within the frame interval are measured at once; a group is the two ends of such a pair with the
other members spread evenly between them, so its numbers are look-ups.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.camera import CameraTrack
from schemas.manifest import ANGLE_BINS
from schemas.recipe import AngleKind
from stages.geometry.overlap import two_way_overlap
from stages.geometry.pairs import fields_of_view, known_centre, pair_angles

Array = NDArray[np.float64]
Positions = NDArray[np.int64]

SCOUT_GRID = (12, 7)  # rays when all pairs are compared; what is taken is measured again on the full grid
SCOUT_MARGIN = 0.05  # the coarse grid may err by this much
MAX_ATTEMPTS = 20  # groups per angle bin that scout well and then fail on the full grid, before the bin is given up
ANGLE_SLACK = 1.0  # degrees: groups this near to the angle drawn are as good as each other
MIN_APART = 0.1  # of the frame interval: two groups differ at one end at least by this


@dataclass(frozen=True, eq=False)
class Groups:
    """M groups of V poses. members [M,V]: positions in the path, increasing. All others [M], the largest (overlap: the
    least) over the group's pairs; overlap as scouted. `kind` is the angle really used, `centre` where it looks."""

    members: Positions
    angle: Array
    overlap: Array
    baseline: Array
    interval: Positions
    fov: Array
    kind: AngleKind
    centre: Array | None
    centre_note: str

    def __len__(self) -> int:
        return len(self.members)


def pairs_within(frames: Positions, interval: int) -> tuple[Positions, Positions]:
    """All (i, j), i < j, with frames[j] - frames[i] <= interval. frames [N]: increasing."""
    first = np.arange(len(frames))
    count = np.searchsorted(frames, frames + interval, side="right") - first - 1
    i = np.repeat(first, count)
    j = i + 1 + np.arange(len(i)) - np.repeat(np.cumsum(count) - count, count)
    return i, j


def all_groups(track: CameraTrack, frames: Positions, views: int, max_interval: int, wanted: AngleKind, near: float, far: float) -> Groups:
    """Every group of `views` poses of the path whose ends are at most `max_interval` frames apart.

    track: N poses; frames [N]: their frame numbers in the source video, increasing.
    """
    n = len(track)
    i, j = pairs_within(frames, max_interval)
    c2w, size = track.c2w, (track.width, track.height)
    centre, centre_note = known_centre([track], c2w[None])
    angles = pair_angles(c2w[:, None], i, j, centre=centre)
    kind, angle = angles.curriculum(wanted)
    overlap = two_way_overlap(c2w[i], track.K[i], size, c2w[j], track.K[j], size, near=near, far=far, grid=SCOUT_GRID)
    tables = []
    for values in (angle, overlap, angles.baseline[:, 0]):
        table = np.zeros((n, n))
        table[i, j] = values
        tables.append(table)
    members = spread_members(i, j, views)
    a, b = (members[:, side] for side in np.triu_indices(views, 1))
    return Groups(
        members,
        tables[0][a, b].max(axis=1),
        tables[1][a, b].min(axis=1),
        tables[2][a, b].max(axis=1),
        frames[members[:, -1]] - frames[members[:, 0]],
        fields_of_view(track)[members].max(axis=1),
        kind,
        centre,
        centre_note,
    )


def spread_members(i: Positions, j: Positions, views: int) -> Positions:
    """[M,views] positions from i to j, evenly spread; pairs with too few poses between them are left out."""
    enough = j - i >= views - 1
    i, j = i[enough, None], j[enough, None]
    steps = views - 1
    return i + (2 * (j - i) * np.arange(views) + steps) // (2 * steps)  # rounded to nearest


@dataclass(frozen=True)
class Wanted:
    """What a group must fulfil; None where it need not."""

    groups: int
    min_overlap: float | None
    min_baseline: float | None
    max_fov: float | None


@dataclass(frozen=True)
class Choice:
    """taken: groups to keep, in the order drawn. missed: for every angle bin that was searched and has none, the best
    group there and how many groups lie in the bin; a bin whose turn never came is not missed."""

    taken: list[int]
    missed: dict[str, tuple[int, int]]


def choose(groups: Groups, wanted: Wanted, rng: np.random.Generator, measure: Callable[[int], float], frames: Positions) -> Choice:
    """Draw groups, the angle bins in turn, until there are enough or no more.

    Within a bin an angle is drawn evenly over what the bin's groups reach, then one of the groups near it, so that the
    many pairs with small angles do not crowd out the few with large ones. measure: a group's overlap on the full grid.
    Groups are MIN_APART, but a bin that has no other group may take one that is nearer.
    """
    free = np.ones(len(groups), bool)
    if wanted.min_baseline is not None:
        free &= groups.baseline >= wanted.min_baseline
    if wanted.max_fov is not None:
        free &= groups.fov <= wanted.max_fov
    if wanted.min_overlap is not None:
        free &= groups.overlap >= wanted.min_overlap - SCOUT_MARGIN
    in_bin = {name: (groups.angle >= low) & (groups.angle <= high) for name, (low, high) in ANGLE_BINS.items()}
    ends = frames[groups.members[:, [0, -1]]]
    apart = MIN_APART * max(int(groups.interval.max()), 1)
    distinct = np.ones(len(groups), bool)
    taken: list[int] = []
    open_bins = list(ANGLE_BINS)
    while open_bins and len(taken) < wanted.groups:
        for name in list(open_bins):
            if len(taken) == wanted.groups:
                break
            pick = _draw(groups, in_bin[name] & distinct, free, wanted.min_overlap, rng, measure)
            if pick is None and not in_bin[name][taken].any():
                pick = _draw(groups, in_bin[name] & ~distinct, free, wanted.min_overlap, rng, measure)
            if pick is None:
                open_bins.remove(name)
                continue
            taken.append(pick)
            distinct &= np.abs(ends - ends[pick]).max(axis=1) >= apart
            free[pick] = False
    searched = [name for name in ANGLE_BINS if name not in open_bins]
    missed = [name for name in searched if not in_bin[name][taken].any()]
    return Choice(taken, {name: (_best(groups, in_bin[name], *ANGLE_BINS[name]), int(in_bin[name].sum())) for name in missed})


def _draw(
    groups: Groups,
    in_bin: NDArray[np.bool_],
    free: NDArray[np.bool_],
    min_overlap: float | None,
    rng: np.random.Generator,
    measure: Callable[[int], float],
) -> int | None:
    """One free group of the bin, or None. Groups that fail on the full grid are struck out of `free`."""
    for _ in range(MAX_ATTEMPTS):
        candidates = np.flatnonzero(in_bin & free)
        if len(candidates) == 0:
            return None
        angle = groups.angle[candidates]
        off = np.abs(angle - (angle.min() + rng.random() * (angle.max() - angle.min())))
        near = candidates[off <= off.min() + ANGLE_SLACK]
        pick = int(near[int(rng.random() * len(near))])
        if min_overlap is None or measure(pick) >= min_overlap:
            return pick
        free[pick] = False
    return None


def _best(groups: Groups, in_bin: NDArray[np.bool_], low: float, high: float) -> int:
    """The group of the bin with the most overlap; if the bin is empty, the group whose angle comes nearest to it."""
    if in_bin.any():
        return int(np.where(in_bin, groups.overlap, -1.0).argmax())
    return int(np.maximum(low - groups.angle, groups.angle - high).argmin())
