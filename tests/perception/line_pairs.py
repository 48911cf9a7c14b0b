"""Pairs of pictures whose true map is known exactly, and what precision and recall of line matches mean on them.

A match is right where both ends of the second segment lie within 3 px of the warped first one's line, at right angles to it, and the
two overlap along it by at least half of the shorter. Segments of the two pictures correspond where each is right for the other in both
directions and each is the one that the other overlaps most. Precision: the share of right ones among the matches. Recall: the share of
corresponding segments of the first picture for which there is a right match.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.studio.render import paint, render
from pipeline.studio.scene import Scene
from pipeline.studio.trajectories import dolly, handheld, hold, orbit, walk
from pipeline.studio.truth import project
from pipeline.studio.worlds import RoomSize, plaza, room
from schemas.camera import intrinsics
from stages.perception.results import Image, LineMatches

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Map = Callable[[Array], tuple[Array, Mask]]  # positions [N,2] of one picture to [N,2] of the other, and which of them nothing covers there

TOLERANCE = 3.0  # pixels
OVERLAP = 0.5  # of the shorter segment
SAMPLES = 15  # points along a segment that are mapped
SEEN = 0.6  # share of them that nothing covers in the other picture, inside of it or beyond its border, else the segment is hidden there

Kind = Literal["walk", "orbit", "handheld", "dolly"]
KINDS: tuple[Kind, ...] = ("walk", "orbit", "handheld", "dolly")


@dataclass(frozen=True, eq=False)
class Pair:
    """first, second [H,W,3] uint8; forward maps the first's positions to the second's, backward the other way."""

    name: str
    first: Image
    second: Image
    forward: Map
    backward: Map


@dataclass(frozen=True)
class Measured:
    """Counts, so that pairs can be added up."""

    matches: int = 0
    right: int = 0
    corresponding: int = 0
    found: int = 0

    def __add__(self, other: "Measured") -> "Measured":
        return Measured(*(getattr(self, each) + getattr(other, each) for each in self.__dataclass_fields__))

    @property
    def precision(self) -> float:
        return self.right / max(1, self.matches)

    @property
    def recall(self) -> float:
        return self.found / max(1, self.corresponding)


def homography_pair(picture: Image, seed: int, size: tuple[int, int] = (1024, 576)) -> Pair:
    """Two views of a flat picture: cut from it along two quadrilaterals, the second one jerked, turned, and lit otherwise, with noise."""
    rng = np.random.default_rng([seed, 11])
    width, height = size
    own = np.array([picture.shape[1], picture.shape[0]], np.float64)
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float64)
    scale = 0.62 * min(own / size)
    middle = own / 2

    def cut(jerk: float, turn_deg: float, zoom: float) -> tuple[Image, Array]:
        turn = np.radians(rng.uniform(-turn_deg, turn_deg))
        spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        shift = rng.uniform(-jerk, jerk, 2) * size
        bent = (corners - np.array(size) / 2 + shift + rng.uniform(-jerk, jerk, (4, 2)) * size) @ spin.T
        quad = middle + scale * zoom * bent
        H = cv2.getPerspectiveTransform(quad.astype(np.float32), corners.astype(np.float32)).astype(np.float64)
        half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])  # pixel centres: OpenCV's first lies at (0, 0)
        fine = np.diag([2.0, 2.0, 1.0])  # painted at twice the size, so that nothing aliases
        warp = np.linalg.inv(half) @ fine @ H @ half
        large = cv2.warpPerspective(picture, warp, (2 * width, 2 * height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        return np.asarray(cv2.resize(large, size, interpolation=cv2.INTER_AREA), np.uint8), H

    first, H1 = cut(0.0, 0.0, 1.0)
    second, H2 = cut(0.09, 15.0, float(rng.uniform(0.8, 1.2)))
    lit = second * rng.uniform(0.75, 1.2) + rng.uniform(-10, 10) + rng.normal(0, 3, second.shape)
    H = H2 @ np.linalg.inv(H1)
    return Pair(f"homography-{seed}", first, np.clip(np.rint(lit), 0, 255).astype(np.uint8), _by(H), _by(np.linalg.inv(H)))


def _by(H: Array) -> Map:
    def mapped(points: Array) -> tuple[Array, Mask]:
        image = np.concatenate([points, np.ones((len(points), 1))], axis=1) @ H.T
        xy = image[:, :2] / np.where(np.abs(image[:, 2:]) < 1e-9, 1e-9, image[:, 2:])
        return xy, image[:, 2] > 1e-9

    return mapped


def studio_path(kind: Kind, seed: int, frames: int = 25, rate: float = 25.0) -> tuple[Scene, Array]:
    """A scene whose things stand still and the poses [frames,4,4] of a camera on its way."""
    rng = np.random.default_rng([seed, 12])
    if kind == "walk":
        return room(seed), walk(rng, frames, rate, RoomSize())
    scene = plaza(seed, "still")
    if kind == "orbit":
        return scene, orbit(rng, frames, 15.0)
    if kind == "dolly":
        return scene, dolly(rng, frames, 4.2, 5.8)
    return scene, handheld(rng, hold(orbit(rng, 2)[0], frames), rate, 4.0, 0.15)


def studio_pair(kind: Kind, seed: int, size: tuple[int, int] = (1024, 576)) -> Pair:
    """The first and the last frame of a second of footage, with exact depth."""
    scene, poses = studio_path(kind, seed)
    K = _lens(size)
    a, b = (render(scene, 0.0, pose, K, size) for pose in (poses[0], poses[-1]))
    forward = _through(a.depth, poses[0], b.depth, poses[-1], K)
    return Pair(f"{kind}-{seed}", a.rgb, b.rgb, forward, _through(b.depth, poses[-1], a.depth, poses[0], K))


def studio_clip(kind: Kind, seed: int, size: tuple[int, int] = (1024, 576)) -> Iterator[Image]:
    """All of its frames."""
    scene, poses = studio_path(kind, seed)
    return (paint(scene, 0.0, pose, _lens(size), size) for pose in poses)


def _lens(size: tuple[int, int], fov_deg: float = 65.0) -> Array:
    focal = size[0] / 2 / np.tan(np.radians(fov_deg) / 2)
    return intrinsics(focal, focal, size[0] / 2, size[1] / 2, 1)[0]


def _through(depth: NDArray[np.float32], c2w: Array, other_depth: NDArray[np.float32], other_c2w: Array, K: Array) -> Map:
    """By depth. An edge belongs to the nearer of the surfaces that meet there, so the least depth around a position counts."""
    kernel = np.ones((5, 5), np.uint8)
    near = cv2.erode(depth, kernel)
    nearest, farthest = cv2.erode(other_depth, kernel), cv2.dilate(other_depth, kernel)
    height, width = depth.shape

    def at(values: NDArray[np.float32], points: Array) -> Array:
        x, y = np.floor(np.clip(points, -1.0, 1e6)).astype(np.int64).T
        return values[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)].astype(np.float64)

    def mapped(points: Array) -> tuple[Array, Mask]:
        z = at(near, points)
        known = np.isfinite(z)
        rays = np.concatenate([points, np.ones((len(points), 1))], axis=1) @ np.linalg.inv(K).T
        world = (rays * np.where(known, z, 1.0)[:, None]) @ c2w[:3, :3].T + c2w[:3, 3]
        xy, there = project(world, other_c2w, K)
        outside = (xy < 0).any(axis=1) | (xy >= (width, height)).any(axis=1)
        bare = (there >= 0.98 * at(nearest, xy)) & (there <= 1.02 * at(farthest, xy))
        return xy, known & (there > 0.02) & (bare | outside)

    return mapped


def measure(pair: Pair, matches: LineMatches, first: NDArray[np.float32], second: NDArray[np.float32]) -> Measured:
    """first, second [N,2,2]: all segments that were to be matched, of which those in `matches` are rows, as they were found or turned."""
    forward, backward = _warp(first, pair.forward), _warp(second, pair.backward)
    there = _right(forward, second)
    back = _right(backward, first).T
    both = np.where((there > 0) & (back > 0), there + back, 0.0)
    mutual = (both > 0) & (both == both.max(axis=1, keepdims=True)) & (both == both.max(axis=0, keepdims=True))
    corresponding = np.flatnonzero(mutual.any(axis=1))
    matched_warp = _warp(matches.first, pair.forward)
    right = np.array([_right(matched_warp[k : k + 1], matches.second[k : k + 1])[0, 0] > 0 for k in range(len(matches.first))], np.bool_)
    found = {_key(line) for line in matches.first[right]}
    return Measured(len(right), int(right.sum()), len(corresponding), sum(_key(first[i]) in found for i in corresponding))


def _key(line: NDArray[np.float32]) -> tuple[tuple[float, ...], ...]:
    return tuple(sorted(tuple(map(float, end)) for end in line))


def _warp(lines: NDArray[np.float32], mapping: Map) -> Array:
    """[N,2,2] segments where they lie in the other picture, NaN where hidden: the line that fits the mapped points best."""
    warped = np.full((len(lines), 2, 2), np.nan)
    share = (np.arange(SAMPLES) + 0.5)[:, None] / SAMPLES
    for k, (p, q) in enumerate(lines.astype(np.float64)):
        xy, seen = mapping((1 - share) * p + share * q)
        if seen.mean() < SEEN:
            continue
        xy = xy[seen]
        centre = np.median(xy, axis=0)
        for _ in range(3):  # a few of the points may lie on another surface
            _, _, axes = np.linalg.svd(xy - centre, full_matrices=False)
            off = np.abs((xy - centre) @ np.array([-axes[0, 1], axes[0, 0]]))
            xy = xy[off <= max(1.0, 2.5 * float(np.median(off)))]
            centre = xy.mean(axis=0)
        along = (xy - centre) @ axes[0]
        ends = np.array([along.min(), along.max()])
        ends += np.array([-0.5, 0.5]) * (ends[1] - ends[0]) / max(1, len(xy) - 1)  # samples stand half a step inside the ends
        warped[k] = centre + ends[:, None] * axes[0]
    return warped


def _right(warped: Array, lines: NDArray[np.float32]) -> Array:
    """[N,M] overlap in pixels of warped segments [N,2,2] with segments [M,2,2] that match them, 0 where they do not."""
    if len(warped) == 0 or len(lines) == 0:
        return np.zeros((len(warped), len(lines)))
    start, step = warped[:, 0], warped[:, 1] - warped[:, 0]
    length = np.linalg.norm(step, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        direction = step / length[:, None]
        off = lines[None].astype(np.float64) - start[:, None, None]
        along = (off * direction[:, None, None]).sum(axis=-1)
        across = np.abs(off[..., 0] * direction[:, None, None, 1] - off[..., 1] * direction[:, None, None, 0])
        overlap = np.minimum(along.max(axis=-1), length[:, None]) - np.maximum(along.min(axis=-1), 0.0)
        shorter = np.minimum(np.linalg.norm(lines[:, 1] - lines[:, 0], axis=-1)[None], length[:, None])
        right = (across.max(axis=-1) <= TOLERANCE) & (overlap >= OVERLAP * shorter)
    return np.where(right, overlap, 0.0)
