"""Camera and foreground motion from point tracks: SynCamMaster's filter for single-view clips made explicit.

The paper says what it looks at (masks of the first frame, their motion under a point tracker; specs/syncammaster.md 2.7), not how it
decides. The statistics here are ours. Pure numpy; positions are pixels, lengths in the results are shares of the image's diagonal.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

# A point agrees with a model of the camera's motion up to this share of the diagonal, or so many pixels where that is more.
TOLERANCE = 0.004
TOLERANCE_PX = 0.75
LEAST_POINTS = 6  # fewer visible points say nothing about the camera
LEAST_SUPPORT = 0.15  # nor does a model that less than this share of the picture agrees with
# A camera at rest wins over any other model that has up to this many times its support: a large thing that moves is not the camera,
# while points do not stay where they are before a moving camera. But for those that it keeps in the middle, as when it goes round
# something: so this share of what lies near the border must be at rest too.
REST_BONUS = 2.0
REST_SUPPORT = 0.25  # of the whole picture, at least
REST_AT_BORDER = 0.3
BORDER = 0.2  # of width or height
SAMPLES, EPIPOLAR_SAMPLES = 300, 120  # hypotheses tried for each frame
# Where one homography explains less than this share of the picture, depth may be why: then the epipolar geometry is asked as well ...
# Not above: one thing that moves straight on before a plane is explained by an epipolar geometry too, and would not count as moving.
PLANAR_SUPPORT = 0.55
PARALLAX_GAIN = 0.08  # ... and believed if it explains more by at least this share
LEAST_OF_MASK = 3  # visible points that a mask's motion in a frame takes, and ...
LEAST_SHARE_OF_MASK = 0.3  # ... their share of the mask's points
LASTING = 0.9  # a mask's motion is this quantile over the frames: what a few bad frames show does not count


@dataclass(frozen=True, eq=False)
class CameraMotion:
    """moved [T]: root mean square of how far the camera moves the picture since the first frame, in diagonals; NaN where unknown.
    support [T]: share of the picture that agrees. points [T]: how many points agree, 0 where the camera is unknown. against [T,N]:
    pixels from where the camera alone would have put a point; NaN where the point is not visible or the camera unknown.
    """

    moved: Array
    support: Array
    points: NDArray[np.int64]
    against: Array


@dataclass(frozen=True, eq=False)
class MaskMotion:
    """Of M masks, lengths in diagonals. motion [M]: against the camera; displacement [M]: as seen, median over points, largest over
    frames; both NaN where too few points are visible. visible [M]: share of point positions. points [M]: how many were followed.
    """

    motion: Array
    displacement: Array
    visible: Array
    points: NDArray[np.int64]


def spread(labels: NDArray[np.integer], response: Array, counts: dict[int, int]) -> tuple[Array, NDArray[np.int64], Array]:
    """Points to follow: xy [N,2] pixel centres, label [N], weight [N] (pixels that a point stands for), label by label ascending.

    labels [H,W]; response [H,W]: how well a pixel can be followed; counts: points wanted of each label, at most. A label is cut into
    cells of equal size, and the best pixel of each taken, off the label's edge where there is room: the window around a point at the
    edge would look at both sides.
    """
    inner = _inner(labels, 2)
    found: list[tuple[Array, int, float]] = []
    for label, count in sorted(counts.items()):
        own = labels == label
        area = int(own.sum())
        if (own & inner).sum() >= max(LEAST_OF_MASK, 0.1 * area):
            own &= inner
        y, x = np.nonzero(own)
        if len(x) == 0 or count < 1:
            continue
        cell = max(2.0, np.sqrt(area / count))
        number = (y // cell).astype(np.int64) * labels.shape[1] + (x // cell).astype(np.int64)
        order = np.lexsort((np.arange(len(x)), -response[y, x], number))
        best = order[np.unique(number[order], return_index=True)[1]]
        best = best[np.argsort(-response[y[best], x[best]], kind="stable")][:count]
        found += [(np.array([x[k] + 0.5, y[k] + 0.5]), label, area / len(best)) for k in best]
    xy = np.array([each[0] for each in found], np.float64).reshape(-1, 2)
    return xy, np.array([each[1] for each in found], np.int64), np.array([each[2] for each in found], np.float64)


def _inner(labels: NDArray[np.integer], reach: int) -> Mask:
    """[H,W]: whether all neighbours at that distance have the same label."""
    padded = np.pad(labels, reach, mode="edge")
    height, width = labels.shape
    same = np.ones(labels.shape, np.bool_)
    for down in (0, reach, 2 * reach):
        for across in (0, reach, 2 * reach):
            same &= padded[down : down + height, across : across + width] == labels
    return same


def camera_motion(xy: Array, visible: Mask, weight: Array, diagonal: float, seed: int = 0) -> CameraMotion:
    """The camera's motion since the first frame from tracks xy [T,N,2], visible [T,N]. weight [N]: what part of the picture a point
    stands for, 0 where it can tell nothing about the camera. The seed fixes the hypotheses; any gives the same up to noise."""
    frames, count = visible.shape
    moved, support, against = np.full(frames, np.nan), np.zeros(frames), np.full((frames, count), np.nan)
    points = np.zeros(frames, np.int64)
    tolerance = max(TOLERANCE * diagonal, TOLERANCE_PX)
    rng = np.random.default_rng(seed)
    previous: Array | None = None
    border = _near_border(xy[0]) if frames and count else np.zeros(count, np.bool_)
    for t in range(frames):
        both = np.flatnonzero(visible[0] & visible[t])
        telling = both[weight[both] > 0]
        if len(telling) < LEAST_POINTS:
            continue
        start, end = xy[0, telling], xy[t, telling]
        share = weight[telling] / weight[telling].sum()
        if t == 0:
            model, agree, still = np.eye(3), np.ones(len(telling), np.bool_), True
        else:
            model, agree, still = _global_model(start, end, share, border[telling], tolerance, diagonal, previous, rng)
        support[t] = share[agree].sum()
        if support[t] < LEAST_SUPPORT:
            continue
        previous, points[t] = model, agree.sum()
        shift = apply(model, start[agree]) - start[agree]
        moved[t] = np.sqrt((share[agree] * (shift**2).sum(axis=1)).sum() / support[t]) / diagonal
        against[t, both] = np.linalg.norm(apply(model, xy[0, both]) - xy[t, both], axis=1)
        if not still and support[t] < PLANAR_SUPPORT:
            epipolar = _epipolar(start, end, share, tolerance, rng)
            if epipolar is not None and epipolar[1] >= support[t] + PARALLAX_GAIN:
                against[t, both] = np.minimum(against[t, both], sampson(epipolar[0], xy[0, both], xy[t, both]))
    return CameraMotion(moved, support, points, against)


def mask_motion(xy: Array, visible: Mask, label: NDArray[np.int64], masks: int, against: Array, diagonal: float) -> MaskMotion:
    """What each of the masks 1..masks does; label [N] says to which a point belongs (0: to none)."""
    frames = len(visible)
    motion, displacement, share = np.full(masks, np.nan), np.full(masks, np.nan), np.zeros(masks)
    points = np.bincount(label, minlength=masks + 1)[1 : masks + 1].astype(np.int64)
    for k in range(masks):
        own = np.flatnonzero(label == k + 1)
        if len(own) == 0 or frames == 0:
            continue
        share[k] = visible[:, own].mean()
        away = np.linalg.norm(xy[:, own] - xy[:1, own], axis=2)
        least = max(LEAST_OF_MASK, int(np.ceil(LEAST_SHARE_OF_MASK * len(own))))
        seen, freed = [], []
        for t in range(1, frames):
            there = visible[t, own] & visible[0, own]
            if there.sum() < least:
                continue
            seen.append(float(np.median(away[t, there])))
            if not np.isnan(against[t, own[there]]).all():
                freed.append(float(np.nanmedian(against[t, own[there]])))
        if seen:
            displacement[k] = max(seen) / diagonal
        if freed:
            motion[k] = np.quantile(freed, LASTING) / diagonal
    return MaskMotion(motion, displacement, share, points)


def summary(camera: CameraMotion, masks: MaskMotion, visible: Mask) -> dict[str, float | None]:
    """The clip's scores; motion is None where it could not be computed. tracked_points is a median over the frames after the first, so
    that a few dark ones do not count, and a camera that is unknown in most frames rests on no point. tracked_masks: whose motion against
    the camera is known."""
    known = camera.moved[1:][~np.isnan(camera.moved[1:])]
    freed = masks.motion[~np.isnan(masks.motion)]
    return {
        "camera_motion": float(known.max()) if len(known) else None,
        "foreground_motion": float(freed.max()) if len(freed) else None,
        "tracked_points": float(np.median(camera.points[1:])) if len(camera.points) > 1 else 0.0,
        "tracked_masks": float(len(freed)),
        "n_masks": float((masks.points > 0).sum()),
        "visible_fraction": float(visible.mean()) if visible.size else None,
    }


def apply(model: Array, points: Array) -> Array:
    """Points [...,2] under a homography [3,3]."""
    moved = points @ model[:, :2].T + model[:, 2]
    depth = moved[..., 2:]
    return np.asarray(moved[..., :2] / np.where(np.abs(depth) < 1e-9, 1e-9, depth))


def sampson(fundamental: Array, start: Array, end: Array) -> Array:
    """[...,N]: first-order distance in pixels of pairs [N,2] from the epipolar geometry [...,3,3], end' F start = 0."""
    one = np.concatenate([start, np.ones((len(start), 1))], axis=1)
    two = np.concatenate([end, np.ones((len(end), 1))], axis=1)
    lines, back = one @ np.swapaxes(fundamental, -1, -2), two @ fundamental
    slope = lines[..., 0] ** 2 + lines[..., 1] ** 2 + back[..., 0] ** 2 + back[..., 1] ** 2
    return np.asarray(np.abs((lines * two).sum(axis=-1)) / np.sqrt(np.maximum(slope, 1e-18)))


def _near_border(points: Array) -> Mask:
    """[N]: which of the points lie in the outer part of where there are points."""
    low, high = points.min(axis=0), points.max(axis=0)
    return np.asarray((np.minimum(points - low, high - points) < BORDER * (high - low)).any(axis=1), np.bool_)


def _global_model(
    start: Array,
    end: Array,
    share: Array,
    border: Mask,
    tolerance: float,
    diagonal: float,
    previous: Array | None,
    rng: np.random.Generator,
) -> tuple[Array, Mask, bool]:
    """The homography [3,3] that most of the picture follows, who agrees [n], and whether that is a camera at rest."""
    a, b = _similarities(start, end, share, rng)
    residual = np.abs(a[:, None] * _complex(start) + b[:, None] - _complex(end))
    worth = (share * np.maximum(1 - (residual / tolerance) ** 2, 0)).sum(axis=1)
    best = int(worth.argmax())
    model = np.array([[a[best].real, -a[best].imag, b[best].real], [a[best].imag, a[best].real, b[best].imag], [0, 0, 1]])
    candidates = [model] if previous is None else [model, previous]
    refined = [_refined(each, start, end, share, tolerance, diagonal) for each in candidates]
    model, value = max(refined, key=lambda each: each[1])
    rest, at_rest = _refined(np.eye(3), start, end, share, tolerance, diagonal)
    resting = _close(rest, start, end, tolerance)
    still = at_rest * REST_BONUS >= value and share @ resting >= REST_SUPPORT
    still &= share[border] @ resting[border] >= REST_AT_BORDER * share[border].sum()
    if still:
        model = rest
    return model, _close(model, start, end, tolerance), bool(still)


def _close(model: Array, start: Array, end: Array, tolerance: float) -> Mask:
    return np.asarray(np.linalg.norm(apply(model, start) - end, axis=1) <= tolerance, np.bool_)


def _similarities(
    start: Array, end: Array, share: Array, rng: np.random.Generator
) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
    """Rotation, scale and shift, end = a * start + b in the complex plane, through SAMPLES pairs of points; [S] each."""
    one, two = rng.choice(len(start), (2, SAMPLES), p=share)
    p, q = _complex(start), _complex(end)
    base = p[two] - p[one]
    apart = np.abs(base) > 1e-6
    a = np.where(apart, (q[two] - q[one]) / np.where(apart, base, 1), 1)
    a = np.where((np.abs(a) > 0.25) & (np.abs(a) < 4), a, 1)
    return a, q[one] - a * p[one]


def _complex(points: Array) -> NDArray[np.complex128]:
    return np.asarray(points[:, 0] + 1j * points[:, 1])


def _refined(model: Array, start: Array, end: Array, share: Array, tolerance: float, diagonal: float) -> tuple[Array, float]:
    """The model fitted to those who agree with it, again and again; and what it is worth: agreement weighed by closeness, 0 to 1."""
    best, value = model, _worth(model, start, end, share, tolerance)
    for slack in (2.0, 1.5, 1.0, 1.0):
        agree = _close(best, start, end, slack * tolerance)
        if agree.sum() < LEAST_POINTS:
            break
        fitted = _fit(start[agree], end[agree], share[agree], diagonal)
        if fitted is None:
            break
        worth = _worth(fitted, start, end, share, tolerance)
        if worth > value:
            best, value = fitted, worth
    return best, value


def _worth(model: Array, start: Array, end: Array, share: Array, tolerance: float) -> float:
    distance = np.linalg.norm(apply(model, start) - end, axis=1)
    return float((share * np.maximum(1 - (distance / tolerance) ** 2, 0)).sum())


def _fit(start: Array, end: Array, share: Array, diagonal: float) -> Array | None:
    """Weighted least squares homography by the normalised direct linear transform; None where the points do not determine it."""
    middle = (share[:, None] * start).sum(axis=0) / share.sum()
    p, q = 2 * (start - middle) / diagonal, 2 * (end - middle) / diagonal
    one, zero = np.ones(len(p)), np.zeros(len(p))
    x, y = p.T
    u, v = q.T
    rows = np.concatenate(
        [
            np.stack([x, y, one, zero, zero, zero, -u * x, -u * y, -u], axis=1) * np.sqrt(share)[:, None],
            np.stack([zero, zero, zero, x, y, one, -v * x, -v * y, -v], axis=1) * np.sqrt(share)[:, None],
        ]
    )
    values, vectors = np.linalg.eigh(rows.T @ rows)
    if values[1] < 1e-9 * values[-1]:
        return None
    normal = np.array([[2 / diagonal, 0, -2 * middle[0] / diagonal], [0, 2 / diagonal, -2 * middle[1] / diagonal], [0, 0, 1]])
    model = np.linalg.inv(normal) @ vectors[:, 0].reshape(3, 3) @ normal
    return None if abs(model[2, 2]) < 1e-12 else np.asarray(model / model[2, 2])


def _epipolar(start: Array, end: Array, share: Array, tolerance: float, rng: np.random.Generator) -> tuple[Array, float] | None:
    """The fundamental matrix [3,3] that most of the picture agrees with, and that share; None for fewer than 12 points."""
    if len(start) < 12:
        return None
    rows, normal = _epipolar_rows(start, end)
    chosen = np.argsort(rng.random((EPIPOLAR_SAMPLES, len(start))), axis=1)[:, :8]
    samples = rows[chosen]
    _, vectors = np.linalg.eigh(np.swapaxes(samples, 1, 2) @ samples)
    found = normal[1].T @ vectors[..., 0].reshape(-1, 3, 3) @ normal[0]
    worth = (share * np.maximum(1 - (sampson(found, start, end) / tolerance) ** 2, 0)).sum(axis=1)
    best, value = found[worth.argmax()], worth.max()
    for _ in range(3):
        agree = sampson(best, start, end) <= tolerance
        if agree.sum() < 12:
            break
        own = rows[agree] * np.sqrt(share[agree])[:, None]
        fitted = normal[1].T @ np.linalg.eigh(own.T @ own)[1][:, 0].reshape(3, 3) @ normal[0]
        gain = (share * np.maximum(1 - (sampson(fitted, start, end) / tolerance) ** 2, 0)).sum()
        if gain <= value:
            break
        best, value = fitted, gain
    return best, float(share[sampson(best, start, end) <= tolerance].sum())


def _epipolar_rows(start: Array, end: Array) -> tuple[Array, tuple[Array, Array]]:
    """Rows [n,9] of the eight-point equations in normalised coordinates, and the two normalisations [3,3]."""
    normals = []
    for points in (start, end):
        middle, size = points.mean(axis=0), max(float(points.std()), 1e-9)
        normals.append(np.array([[1 / size, 0, -middle[0] / size], [0, 1 / size, -middle[1] / size], [0, 0, 1]]))
    p, q = apply(normals[0], start), apply(normals[1], end)
    one = np.concatenate([p, np.ones((len(p), 1))], axis=1)
    two = np.concatenate([q, np.ones((len(q), 1))], axis=1)
    return (two[:, :, None] * one[:, None, :]).reshape(-1, 9), (normals[0], normals[1])
