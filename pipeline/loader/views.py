"""Which views and frames of a sample one slot gets, and which samples can give any. Pure functions of the manifest and a key."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.loader.batch import KINDS, Kind
from pipeline.loader.catalog import UNKNOWN, Catalog
from pipeline.loader.seeded import below, key_of, permutation
from pipeline.loader.settings import LoaderSettings, Phase


def span(frames: int, stride: int) -> int:
    """Frames of the media that a clip of `frames` frames, every stride-th, reaches over."""
    return (frames - 1) * stride + 1


def phase_at(settings: LoaderSettings, step: int) -> int | None:
    """Position in the curriculum of the phase that holds at the step; None without a curriculum."""
    return max((i for i, phase in enumerate(settings.curriculum) if phase.start <= step), default=None)


def partners(angle: NDArray[np.float32], phase: Phase | None) -> NDArray[np.bool_]:
    """[V,V]: may view b stand beside view 0 = a? angle [V,V] degrees, NaN unknown. phase None: every other view may.

    A pair of unknown angle lies in no phase (ours: what cannot be checked is not taken).
    """
    allowed = np.ones(angle.shape, bool) if phase is None else (angle >= phase.low) & (angle <= phase.high)
    np.fill_diagonal(allowed, False)
    return allowed


def choose_views(allowed: NDArray[np.bool_], views: int, first: Literal["random", "first"], key: int) -> tuple[int, ...]:
    """`views` different views, view 0 first: uniform over those with enough partners (or the sample's first view), then partners
    uniform without replacement. allowed [V,V] as of `partners`. Raises ValueError where no view has views - 1 partners.
    """
    enough = np.flatnonzero(allowed.sum(axis=1) >= views - 1)
    if first == "first":
        enough = enough[enough == 0]
    if len(enough) == 0:
        raise ValueError(f"no choice of {views} views among {len(allowed)} lies within the angles")
    view = int(enough[below(key_of(key, "first"), len(enough))])
    others = np.flatnonzero(allowed[view])
    chosen = others[permutation(key_of(key, "others"), len(others))[: views - 1]]
    return (view, *map(int, chosen))


def choose_frames(n_frames: int, frames: int, stride: int, key: int) -> tuple[int, ...]:
    """`frames` positions, every stride-th, from a uniform start. Raises ValueError where the media is shorter."""
    last = n_frames - span(frames, stride)
    if last < 0:
        raise ValueError(f"{frames} frames, every {stride}., reach over {span(frames, stride)} frames; there are {n_frames}")
    start = below(key, last + 1)
    return tuple(range(start, start + span(frames, stride), stride))


def enough_frames(catalog: Catalog, settings: LoaderSettings, kind: Kind) -> NDArray[np.bool_]:
    """[N] whether the sample has the frames that the kind asks for. Encoded clips hold the frames that were taken, no stride."""
    if kind == "multiview_images":
        return catalog.frames == 1
    stride = 1 if settings.payload == "latents" else settings.frame_stride
    return (catalog.frames != UNKNOWN) & (catalog.frames >= span(settings.frames, stride))


def enough_views(catalog: Catalog, settings: LoaderSettings, kind: Kind, phase: Phase | None) -> NDArray[np.bool_]:
    """[N] whether the sample has a view 0 with enough partners. Only multi-view video has phases."""
    views = settings.views_of(kind)
    if kind != "multiview_video" or phase is None or views == 1:
        return catalog.n_views >= views
    return most_partners(catalog, phase, settings.first_view) >= views - 1


def most_partners(catalog: Catalog, phase: Phase, first: Literal["random", "first"]) -> NDArray[np.int64]:
    """[N] the largest number of partners that a view 0 has in the phase: `partners` of all samples at once."""
    pairs = catalog.pairs
    inside = (pairs.angle >= phase.low) & (pairs.angle <= phase.high) & (pairs.a != pairs.b)
    owner = np.repeat(np.arange(len(catalog)), np.diff(pairs.start))[inside]
    base = np.concatenate([[0], np.cumsum(catalog.n_views, dtype=np.int64)])
    ends = np.concatenate([base[owner] + pairs.a[inside], base[owner] + pairs.b[inside]])
    count = np.bincount(ends, minlength=int(base[-1]))
    if first == "first":
        return np.where(catalog.n_views > 0, np.append(count, 0)[base[:-1]], 0)
    most = np.zeros(len(catalog), np.int64)
    np.maximum.at(most, np.repeat(np.arange(len(catalog)), catalog.n_views), count)
    return most


def eligible(catalog: Catalog, settings: LoaderSettings, kind: Kind, phase: Phase | None) -> NDArray[np.int64]:
    """Positions in the catalog, ascending, of the samples of this kind that can fill a slot."""
    of_kind = catalog.kinds == KINDS.index(kind)
    return np.flatnonzero(of_kind & enough_frames(catalog, settings, kind) & enough_views(catalog, settings, kind, phase))
