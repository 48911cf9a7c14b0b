"""What is known exactly about a scene: point tracks, line segments and skeletons, in space and in every view.

Pixels: centres at integer + 0.5. Visibility is decided at the exact position, by the nearest face that covers it there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.studio.figure import Figure, joint_names
from pipeline.studio.render import NEAR, View, look
from pipeline.studio.scene import Array, Faces, Scene
from schemas.camera import CameraTrack

Mask = NDArray[np.bool_]

SURFACE = 1e-4  # a point is on the surface that one sees if it lies at most this share of its depth behind it
FLESH = 0.25  # metres: how far a joint may lie under the figure's own surface and still count as visible
_SAMPLES = 9  # points along a line segment at which its visibility is tested


@dataclass(frozen=True, eq=False)
class PointTracks:
    """N points that stick to surfaces. points [T,N,3] world; pixels [V,T,N,2]; visible [V,T,N]; instance [N]."""

    points: Array
    pixels: Array
    visible: Mask
    instance: NDArray[np.int16]


@dataclass(frozen=True, eq=False)
class LineTracks:
    """L straight segments. ends [T,L,2,3] world; pixels [V,T,L,2,2], NaN where an end is behind the camera;
    visible [V,T,L]: the share of the segment that is in the image and not covered; instance [L].
    """

    ends: Array
    pixels: Array
    visible: Array
    instance: NDArray[np.int16]


@dataclass(frozen=True, eq=False)
class Skeletons:
    """P figures of 17 COCO joints. joints [T,P,17,3] world; pixels [V,T,P,17,2]; visible [V,T,P,17]; instance [P]."""

    names: tuple[str, ...]
    joints: Array
    pixels: Array
    visible: Mask
    instance: NDArray[np.int16]


def tracks(scene: Scene, cameras: Sequence[CameraTrack], times: Sequence[float], count: int = 256, seed: int = 0) -> PointTracks:
    """`count` points drawn by area, half of them on what has an instance of its own (where there is any)."""
    face, a, b = _draw_points(scene, count, seed)
    points = []
    for time in times:
        faces = scene.at(time)
        points.append(faces.origin[face] + a[:, None] * faces.u[face] + b[:, None] * faces.v[face])
    world = np.stack(points)
    pixels, visible, _ = _see(scene, cameras, times, world)
    return PointTracks(world, pixels, visible, scene.instance[scene.body[face]])


def lines(scene: Scene, cameras: Sequence[CameraTrack], times: Sequence[float]) -> LineTracks:
    """Edges of boxes and walls, and the lines drawn in pictures and on crates."""
    face, a, b = _segments(scene)
    ends = []
    for time in times:
        faces = scene.at(time)
        ends.append(faces.origin[face][:, None] + a[..., None] * faces.u[face][:, None] + b[..., None] * faces.v[face][:, None])
    world = np.stack(ends)
    count = world.shape[1]
    share = (np.arange(_SAMPLES) + 0.5)[:, None, None] / _SAMPLES
    along = (1 - share) * world[:, None, :, 0] + share * world[:, None, :, 1]
    _, seen, _ = _see(scene, cameras, times, along.reshape(len(world), -1, 3))
    pixels, _, depth = _see(scene, cameras, times, world.reshape(len(world), -1, 3))
    pixels[depth < NEAR] = np.nan
    shape = (len(cameras), len(world), count)
    visible = seen.reshape(len(cameras), len(world), _SAMPLES, count).mean(axis=2)
    return LineTracks(world, pixels.reshape(*shape, 2, 2), visible, scene.instance[scene.body[face]])


def skeleton(scene: Scene, cameras: Sequence[CameraTrack], times: Sequence[float]) -> Skeletons:
    """Joints of every figure. A joint counts as visible where its own figure is what one sees at most FLESH before it."""
    figures = [(actor, first) for actor, first in zip(scene.actors, _first_bodies(scene), strict=True) if isinstance(actor, Figure)]
    instance = np.array([scene.instance[first] for _, first in figures], np.int16)
    names = joint_names()
    joints = np.array([[actor.joints(time) for actor, _ in figures] for time in times]).reshape(len(times), len(figures), len(names), 3)
    shape = (len(cameras), len(times), len(figures), len(names))
    pixels, visible, _ = _see(scene, cameras, times, joints.reshape(len(times), -1, 3), owner=np.repeat(instance, len(names)))
    return Skeletons(names, joints, pixels.reshape(*shape, 2), visible.reshape(shape), instance)


def project(points: Array, c2w: Array, K: Array) -> tuple[Array, Array]:
    """Pixels [N,2] and planar depths [N] of world points [N,3]. Behind the camera, pixels mean nothing and depths are negative."""
    local = (points - c2w[:3, 3]) @ c2w[:3, :3]
    image = local @ K.T
    safe = np.where(np.abs(image[:, 2:]) < 1e-9, 1e-9, image[:, 2:])
    return image[:, :2] / safe, local[:, 2]


def first_hit(view: View, polygon: Array, xy: Array) -> tuple[Array, NDArray[np.int64]]:
    """Depth [N] and face [N] of the nearest face at image positions [N,2]; inf and -1 where there is none."""
    rays = np.concatenate([xy, np.ones((len(xy), 1))], axis=1)
    over_z = np.where((view.distance > 1e-9)[:, None, None], view.homography, 0.0) @ rays.T
    step = np.roll(polygon, -1, axis=1) - polygon
    inside = over_z[:, 2] > 0
    for corner in range(polygon.shape[1]):
        (pa, pb), (sa, sb) = polygon[:, corner].T, step[:, corner].T
        inside &= sa[:, None] * (over_z[:, 1] - pb[:, None] * over_z[:, 2]) - sb[:, None] * (over_z[:, 0] - pa[:, None] * over_z[:, 2]) >= 0
    inside &= over_z[:, 2] < 1 / NEAR
    nearness = np.where(inside, over_z[:, 2], 0.0)
    face = nearness.argmax(axis=0)
    best = nearness[face, np.arange(len(xy))]
    with np.errstate(divide="ignore"):
        return 1 / best, np.where(best > 0, face, -1)


def _see(
    scene: Scene, cameras: Sequence[CameraTrack], times: Sequence[float], world: Array, owner: NDArray[np.int16] | None = None
) -> tuple[Array, Mask, Array]:
    """Pixels [V,T,N,2], visible [V,T,N] and depth [V,T,N] of world points [T,N,3], seen at `times` by cameras of T poses.

    owner [N]: points inside a body, which count as visible through FLESH of that instance.
    """
    shape = (len(cameras), *world.shape[:2])
    pixels, visible, depth = np.zeros((*shape, 2)), np.zeros(shape, np.bool_), np.zeros(shape)
    of_face = scene.instance[scene.body]
    for t, time in enumerate(times):
        faces: Faces = scene.at(time)
        for v, camera in enumerate(cameras):
            xy, z = project(world[t], camera.c2w[t], camera.K[t])
            pixels[v, t], depth[v, t] = xy, z
            within = (z > NEAR) & (xy >= 0).all(axis=1) & (xy < (camera.width, camera.height)).all(axis=1)
            hit, face = first_hit(look(faces, camera.c2w[t], camera.K[t]), scene.faces.polygon, xy)
            if owner is None:
                visible[v, t] = within & (hit >= z * (1 - SURFACE))
            else:
                visible[v, t] = within & (face >= 0) & (of_face[face] == owner) & (np.abs(z - hit) <= FLESH)
    return pixels, visible, depth


def _draw_points(scene: Scene, count: int, seed: int) -> tuple[NDArray[np.int64], Array, Array]:
    """Faces [N] and where on them, a [N] and b [N]; only inside the polygons."""
    rng = np.random.default_rng([seed, 3])
    area = np.linalg.norm(np.cross(scene.faces.u, scene.faces.v), axis=1) * _polygon_area(scene.faces.polygon)
    own = scene.instance[scene.body] > 0
    groups = [own, ~own] if own.any() else [~own]
    chosen: list[tuple[int, float, float]] = []
    for k, group in enumerate(groups):
        wanted = (count * (k + 1)) // len(groups)
        weight = np.where(group, area, 0.0) / area[group].sum()
        while len(chosen) < wanted:
            face, (a, b) = int(rng.choice(len(area), p=weight)), rng.uniform(0.02, 0.98, 2)
            polygon = scene.faces.polygon[face]
            step = np.roll(polygon, -1, axis=0) - polygon
            if (step[:, 0] * (b - polygon[:, 1]) - step[:, 1] * (a - polygon[:, 0]) >= 0).all():
                chosen.append((face, float(a), float(b)))
    face_, a_, b_ = zip(*chosen, strict=True)
    return np.array(face_, np.int64), np.array(a_), np.array(b_)


def _polygon_area(polygon: Array) -> Array:
    following = np.roll(polygon, -1, axis=1)
    return np.asarray(np.abs((polygon[..., 0] * following[..., 1] - polygon[..., 1] * following[..., 0]).sum(axis=1)) / 2)


def _segments(scene: Scene) -> tuple[NDArray[np.int64], Array, Array]:
    """Faces [L] and the ends on them, a [L,2] and b [L,2]; an edge that two faces of one body share comes once."""
    found: list[tuple[int, tuple[float, float], tuple[float, float]]] = []
    taken: set[tuple[object, ...]] = set()
    for f in np.flatnonzero(scene.outlined):
        polygon = scene.faces.polygon[f]
        corners = [tuple(corner) for corner in polygon]
        edges = [(p, q) for p, q in zip(corners, corners[1:] + corners[:1], strict=True) if p != q]
        for p, q in [*edges, *scene.textures[scene.texture[f]].lines]:
            ends = [scene.faces.origin[f] + a * scene.faces.u[f] + b * scene.faces.v[f] for a, b in (p, q)]
            key = (int(scene.body[f]), *sorted(tuple(np.round(end, 6)) for end in ends))
            if key not in taken:
                taken.add(key)
                found.append((int(f), (p[0], q[0]), (p[1], q[1])))
    return np.array([f for f, _, _ in found], np.int64), np.array([a for _, a, _ in found]), np.array([b for _, _, b in found])


def _first_bodies(scene: Scene) -> list[int]:
    return [int(n) for n in np.cumsum([0] + [actor.bodies for actor in scene.actors[:-1]])]
