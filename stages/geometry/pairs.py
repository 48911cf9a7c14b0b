"""Angles between pairs of cameras, over all pairs and frames at once.

Sources: the design's "Cameras are written once"; specs/syncammaster.md 1.5 (the paper leaves "angle" undefined, so all
kinds are stored and the recipe names one).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.camera import CameraTrack
from schemas.manifest import ANGLE_BINS
from schemas.recipe import AngleKind

Array = NDArray[np.float64]
Positions = NDArray[np.int64]

# When the point nearest to all optical axes counts as the scene's centre. These numbers are ours.
CENTRE_MIN_CONDITION = 0.01  # smallest over largest eigenvalue of the normal matrix: axes spread over some 10 degrees
CENTRE_MAX_MISS = 0.25  # every axis passes within this share of its camera's distance from the centre (14 degrees)

PAIRS_AT_ONCE = 100_000  # pairs times frames worked on together: bounds memory to some 50 MB
DECIMALS = 6  # of the stored angles: below what float32 columns hold, above the noise of different CPUs


@dataclass(frozen=True, eq=False)
class PairAngles:
    """Angles in degrees of P pairs over T frames (T = 1 where no camera moves); `None` where undefined.

    a, b [P]: positions of the two cameras. rotation, axis, parallax [P,T]: in [0,180]. azimuth [P,T]: b - a in
    (-180,180]. elevation [P,T]: b - a in [-180,180]. baseline [P,T]: distance of the camera centres, source units.
    """

    a: Positions
    b: Positions
    rotation: Array
    axis: Array
    parallax: Array | None
    azimuth: Array | None
    elevation: Array | None
    baseline: Array

    def curriculum(self, kind: AngleKind) -> tuple[AngleKind, Array]:
        """The kind asked for and its median over frames [P]; the optical-axis angle where no parallax is defined."""
        values = {"parallax": self.parallax, "axis": self.axis, "rotation": self.rotation}[kind]
        if values is None:
            kind, values = "axis", self.axis
        return kind, spread(values)[:, 1]


def pair_angles(
    c2w: Array,
    a: Positions,
    b: Positions,
    *,
    centre: Array | None = None,
    up: Array | None = None,
    azimuth_sign: int = 1,
) -> PairAngles:
    """Angles between cameras a[i] and b[i] at every frame.

    c2w [V,T,4,4]: camera-to-world, OpenCV axes. a, b [P]: positions in 0..V-1. centre [3]: the point the cameras look
    at, None where unknown. up [3]: unit vector, None where unknown. azimuth_sign: -1 for a world that was mirrored.

    Azimuth and elevation are those of the direction from the centre to the camera; without a centre, of the reversed
    optical axis, which is the same for a camera that looks at the centre.
    """
    if (c2w == c2w[:, :1]).all():
        c2w = c2w[:, :1]  # nothing moves: one frame says it all
    step = max(1, PAIRS_AT_ONCE // c2w.shape[1])
    parts = [_angles(c2w, a[i : i + step], b[i : i + step], centre, up, azimuth_sign) for i in range(0, max(len(a), 1), step)]
    joined = [None if part[0] is None else np.degrees(np.concatenate(part)) for part in zip(*(part[:5] for part in parts), strict=True)]
    rotation, axis, parallax, azimuth, elevation = joined
    assert rotation is not None and axis is not None
    return PairAngles(a, b, rotation, axis, parallax, azimuth, elevation, np.concatenate([part[5] for part in parts]))


def _angles(
    c2w: Array, a: Positions, b: Positions, centre: Array | None, up: Array | None, azimuth_sign: int
) -> tuple[Array, Array, Array | None, Array | None, Array | None, Array]:
    """rotation, axis, parallax, azimuth, elevation (radians) and baseline of some pairs, each [P,T] or None."""
    R, position, z = c2w[..., :3, :3], c2w[..., :3, 3], c2w[..., :3, 2]
    rotation = rotation_angle(np.swapaxes(R[a], -1, -2) @ R[b])
    axis = angle_between(z[a], z[b])
    baseline = np.linalg.norm(position[a] - position[b], axis=-1)
    outward = -z if centre is None else position - centre
    parallax = None if centre is None else angle_between(outward[a], outward[b])
    if up is None:
        return rotation, axis, parallax, None, None, baseline
    height = outward @ up
    level = outward - height[..., None] * up
    azimuth = azimuth_sign * np.arctan2(_cross(level[a], level[b]) @ up, (level[a] * level[b]).sum(-1))
    azimuth[azimuth <= -np.pi] = np.pi
    elevation = np.arctan2(height, np.linalg.norm(level, axis=-1))
    return rotation, axis, parallax, azimuth, elevation[b] - elevation[a], baseline


def rotation_angle(R: Array) -> Array:
    """Geodesic angle [...] in radians, in [0,pi], of rotations [...,3,3]. Exact near 0 and near pi alike."""
    vector = np.stack([R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1]], axis=-1)
    return np.arctan2(np.linalg.norm(vector, axis=-1), np.trace(R, axis1=-2, axis2=-1) - 1)


def angle_between(u: Array, v: Array) -> Array:
    """Angle [...] in radians, in [0,pi], between vectors [...,3] of any length. Exact near 0 and near pi alike."""
    return np.arctan2(np.linalg.norm(_cross(u, v), axis=-1), (u * v).sum(-1))


def _cross(u: Array, v: Array) -> Array:
    # np.cross moves axes about and takes three times as long for many small vectors
    x, y, z = u[..., 0], u[..., 1], u[..., 2]
    i, j, k = v[..., 0], v[..., 1], v[..., 2]
    return np.stack([y * k - z * j, z * i - x * k, x * j - y * i], axis=-1)


def scene_centre(c2w: Array) -> Array | None:
    """The point [3] that all cameras [V,T,4,4] look at, by least squares over their optical axes, or None.

    None where the axes are too near to parallel, where the point lies behind a camera, or where an axis misses it by
    more than CENTRE_MAX_MISS of the camera's distance: then the cameras do not look at one point.
    """
    position, z = c2w[..., :3, 3].reshape(-1, 3), c2w[..., :3, 2].reshape(-1, 3)
    origin = position.mean(axis=0)  # keeps the numbers small where the world's origin is far away
    z = z / np.linalg.norm(z, axis=-1, keepdims=True)
    across = np.eye(3) - z[:, :, None] * z[:, None, :]  # projects onto the plane across the axis
    normal = across.sum(axis=0)
    eigenvalues = np.linalg.eigvalsh(normal)
    if eigenvalues[0] < CENTRE_MIN_CONDITION * eigenvalues[2]:
        return None
    centre = np.linalg.solve(normal, np.einsum("nij,nj->i", across, position - origin)) + origin
    outward = centre - position
    along = (outward * z).sum(-1)
    miss = np.linalg.norm(outward - along[:, None] * z, axis=-1)
    if (along <= 0).any() or (miss > CENTRE_MAX_MISS * np.linalg.norm(outward, axis=-1)).any():
        return None
    return np.asarray(centre, np.float64)


def known_centre(tracks: Sequence[CameraTrack], c2w: Array) -> tuple[Array | None, str]:
    """The scene's centre and where it comes from: what the source says, else `scene_centre`, else None."""
    for track in tracks:
        if track.centre is not None:
            given = np.asarray(track.centre, np.float64)
            if (np.linalg.norm(c2w[..., :3, 3] - given, axis=-1) > 0).all():
                return given, "given by the source"
    found = scene_centre(c2w)
    return found, "no common point on the optical axes" if found is None else "estimated from the optical axes"


def world_up(tracks: Sequence[CameraTrack]) -> tuple[Array | None, int]:
    """The up vector [3] (None where no source knows it) and the sense of azimuth."""
    for track in tracks:
        if track.up is not None:
            return np.asarray(track.up, np.float64), track.azimuth_sign
    return None, 1


def fields_of_view(track: CameraTrack) -> Array:
    """[T] degrees: the larger of the horizontal and the vertical field of view, through the principal point."""
    fx, fy, cx, cy = track.K[:, 0, 0], track.K[:, 1, 1], track.K[:, 0, 2], track.K[:, 1, 2]
    horizontal = np.arctan2(cx, fx) + np.arctan2(track.width - cx, fx)
    vertical = np.arctan2(cy, fy) + np.arctan2(track.height - cy, fy)
    return np.degrees(np.maximum(horizontal, vertical))


def spread(values: Array) -> Array:
    """[P,3] least, median and largest of [P,T]. Of two middle values the lower one: an angle that really occurs."""
    ordered = np.sort(values, axis=1)
    return ordered[:, [0, (values.shape[1] - 1) // 2, -1]]


def angle_bins(angles: Iterable[float]) -> list[str]:
    """Every bin of `schemas.manifest.ANGLE_BINS` that holds at least one of the angles (degrees; ends included)."""
    values = np.asarray(list(angles), np.float64)
    return [name for name, (low, high) in ANGLE_BINS.items() if ((values >= low) & (values <= high)).any()]


def pair_rows(angles: PairAngles, names: Sequence[str], overlap: Array | None = None) -> list[dict[str, Any]]:
    """One `schemas.manifest.PAIR` as a dict for every pair. names [V]; overlap [P], None where not computed."""
    kinds = ("rotation", "axis", "parallax", "azimuth", "elevation")
    columns: dict[str, list[Any]] = {"a": [names[i] for i in angles.a], "b": [names[i] for i in angles.b]}
    for kind in kinds:
        values: Array | None = getattr(angles, kind)
        rows = [None] * len(angles.a) if values is None else [_spread_row(row) for row in _rounded(spread(values)).tolist()]
        columns[f"{kind}_deg"] = rows
    columns["overlap"] = [None] * len(angles.a) if overlap is None else _rounded(overlap).tolist()
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _spread_row(row: list[float]) -> dict[str, float]:
    return {"min": row[0], "median": row[1], "max": row[2]}


def _rounded(values: Array) -> Array:
    return np.round(values, DECIMALS) + 0.0  # + 0.0: no negative zero
