"""Scenes: rigid bodies made of flat textured faces. Right-handed world, z up, metres, seconds."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.studio.textures import Atlas, Texture, build_atlas

Array = NDArray[np.float64]

MAX_CORNERS = 8
SKY = -1  # in instance masks
BACKGROUND = 0


class Actor(Protocol):
    """What moves: a group of rigid bodies and their poses over time."""

    @property
    def bodies(self) -> int: ...

    def poses(self, time: float) -> Array:
        """[bodies,4,4] body-to-world at `time` seconds."""
        ...


@dataclass(frozen=True)
class Still:
    """One body that never moves."""

    bodies: int = 1

    def poses(self, time: float) -> Array:
        return np.eye(4)[None]


@dataclass(frozen=True)
class Slider:
    """One body that swings along a line and turns on the spot."""

    centre: tuple[float, float]
    direction: tuple[float, float]  # metres from the centre to either end
    period: float = 4.0
    phase: float = 0.0
    turn: float = 0.0  # radians a second, about z
    bodies: int = 1

    def poses(self, time: float) -> Array:
        pose = turned(self.turn * time + self.phase)
        swing = np.sin(2 * np.pi * time / self.period + self.phase)
        pose[:2, 3] = np.array(self.centre) + swing * np.array(self.direction)
        return pose[None]


@dataclass(frozen=True, eq=False)
class Faces:
    """F flat convex polygons in a common frame.

    A face spans origin + a*u + b*v with (a, b) inside its polygon, itself inside [0,1]^2. u points right and v down in
    its texture as seen from the front, so the outward normal is v x u. Polygons have MAX_CORNERS rows; the last corner repeats.
    """

    origin: Array  # [F,3]
    u: Array  # [F,3]
    v: Array  # [F,3]
    polygon: Array  # [F,MAX_CORNERS,2]

    def corners(self) -> Array:
        """[F,MAX_CORNERS,3]."""
        return np.asarray(self.origin[:, None] + self.polygon[..., :1] * self.u[:, None] + self.polygon[..., 1:] * self.v[:, None])

    def normals(self) -> Array:
        """[F,3] unit outward."""
        normal = np.cross(self.v, self.u)
        return np.asarray(normal / np.linalg.norm(normal, axis=1, keepdims=True))


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything that can be seen, and how it moves.

    faces are in the frames of their bodies. body, texture [F]; repeat [F,2]: how often the texture repeats across.
    instance [bodies]: the id in instance masks; instances[id] names it, 0 is the background.
    light [3]: unit direction in which the light travels; ambient: brightness away from it. sky: texture number, or None for a closed room.
    """

    name: str
    faces: Faces
    body: NDArray[np.int64]
    texture: NDArray[np.int64]
    repeat: Array
    actors: tuple[Actor, ...]
    instance: NDArray[np.int16]
    instances: tuple[str, ...]
    textures: tuple[Texture, ...]
    light: Array
    ambient: float
    sky: int | None
    outlined: NDArray[np.bool_]  # [F] faces whose edges and drawn lines count as line segments
    casts: NDArray[np.bool_]  # [F] faces of the background that throw shadows; bodies of other instances always do
    floor: int  # the face that takes shadows; it lies in z = 0
    caption: str

    @cached_property
    def atlas(self) -> Atlas:
        return build_atlas(self.textures)

    def poses(self, time: float) -> Array:
        """[bodies,4,4] body-to-world."""
        return np.concatenate([actor.poses(time) for actor in self.actors])

    def at(self, time: float) -> Faces:
        """The faces in the world at `time` seconds."""
        pose = self.poses(time)[self.body]
        local = np.stack([self.faces.origin, self.faces.u, self.faces.v], axis=-1)
        moved = pose[:, :3, :3] @ local
        return Faces(moved[..., 0] + pose[:, :3, 3], moved[..., 1], moved[..., 2], self.faces.polygon)


def turned(angle: float, axis: int = 2, at: ArrayLike = (0.0, 0.0, 0.0)) -> Array:
    """[4,4] rotation by `angle` radians about a coordinate axis, then a move to `at`."""
    pose = np.eye(4)
    i, j = ((1, 2), (2, 0), (0, 1))[axis]
    pose[i, i] = pose[j, j] = np.cos(angle)
    pose[j, i] = np.sin(angle)
    pose[i, j] = -np.sin(angle)
    pose[:3, 3] = at
    return pose


class Builder:
    """Collects bodies and faces, then freezes them into a Scene."""

    def __init__(self, name: str, light: ArrayLike, ambient: float = 0.62) -> None:
        self.name = name
        self.ambient = ambient
        self.light = np.asarray(light, np.float64) / np.linalg.norm(light)
        self.textures: list[Texture] = []
        self.actors: list[Actor] = []
        self.instance: list[int] = []
        self.instances = ["background"]
        self.sky: int | None = None
        self.floor = 0
        self.caption = name
        self._faces: list[tuple[Array, Array, Array, Array]] = []
        self._body: list[int] = []
        self._texture: list[int] = []
        self._repeat: list[tuple[float, float]] = []
        self._outlined: list[bool] = []
        self._casts: list[bool] = []

    def add_texture(self, texture: Texture) -> int:
        self.textures.append(texture)
        return len(self.textures) - 1

    def add_actor(self, actor: Actor, instance: str | None = None) -> int:
        """The number of the actor's first body. Without an instance's name it belongs to the background."""
        first = len(self.instance)
        if instance is not None:
            self.instances.append(instance)
        self.actors.append(actor)
        self.instance += [BACKGROUND if instance is None else len(self.instances) - 1] * actor.bodies
        return first

    def add_face(
        self, body: int, points: ArrayLike, texture: int, tile: float | None = None, outlined: bool = True, casts: bool = False
    ) -> int:
        """A convex polygon [n,3], clockwise as seen from its front, starting top left.

        tile: metres that the texture covers before it repeats; None stretches it over the face. outlined, casts: see Scene.
        """
        points = np.asarray(points, np.float64)
        e_u = points[1] - points[0]
        e_u /= np.linalg.norm(e_u)
        outward = np.cross(points[-1] - points[0], e_u)
        e_v = np.cross(e_u, outward / np.linalg.norm(outward))
        local = np.stack([(points - points[0]) @ e_u, (points - points[0]) @ e_v], axis=1)
        low, span = local.min(axis=0), np.ptp(local, axis=0)
        polygon = (local - low) / span
        polygon = np.concatenate([polygon, np.tile(polygon[-1:], (MAX_CORNERS - len(polygon), 1))])
        self._faces.append((points[0] + low[0] * e_u + low[1] * e_v, e_u * span[0], e_v * span[1], polygon))
        self._body.append(body)
        self._texture.append(texture)
        self._repeat.append((1.0, 1.0) if tile is None else (float(span[0] / tile), float(span[1] / tile)))
        self._outlined.append(outlined)
        self._casts.append(casts)
        return len(self._faces) - 1

    def add_box(self, body: int, low: ArrayLike, high: ArrayLike, sides: Sequence[int] | int, tile: float | None = None) -> None:
        """An axis-aligned box in the body's frame. sides: one texture, or those of front(-y) right(+x) back(+y) left(-x) top bottom."""
        (x0, y0, z0), (x1, y1, z1) = np.asarray(low, np.float64), np.asarray(high, np.float64)
        chosen = [sides] * 6 if isinstance(sides, int) else list(sides)
        around = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
        for k in range(4):
            (ax, ay), (bx, by) = around[k], around[(k + 1) % 4]
            self.add_face(body, [(ax, ay, z1), (bx, by, z1), (bx, by, z0), (ax, ay, z0)], chosen[k], tile, True, True)
        self.add_face(body, [(x0, y1, z1), (x1, y1, z1), (x1, y0, z1), (x0, y0, z1)], chosen[4], tile, True, True)
        self.add_face(body, [(x0, y0, z0), (x1, y0, z0), (x1, y1, z0), (x0, y1, z0)], chosen[5], tile, True, True)

    def add_lathe(
        self, body: int, rings: Sequence[tuple[float, float]], aspect: float, sides: int, texture: int, tile: float = 0.3
    ) -> None:
        """A faceted solid about the body's z axis: rings of (z, radius in x), from top to bottom; y radius is aspect times that.

        One facet faces +x. One aspect for all rings keeps every facet flat.
        """
        angle = 2 * np.pi * (np.arange(sides) + 0.5) / sides
        outline = np.stack([np.cos(angle), aspect * np.sin(angle)], axis=1)
        circles = [np.concatenate([radius * outline, np.full((sides, 1), z)], axis=1) for z, radius in rings]
        for upper, lower in pairwise(circles):
            for k in range(sides):
                j = (k + 1) % sides
                self.add_face(body, [upper[k], upper[j], lower[j], lower[k]], texture, tile, False)
        self.add_face(body, circles[0][::-1], texture, tile, False)
        self.add_face(body, circles[-1], texture, tile, False)

    def build(self) -> Scene:
        origin, u, v, polygon = (np.stack(each) for each in zip(*self._faces, strict=True))
        return Scene(
            name=self.name,
            faces=Faces(origin, u, v, polygon),
            body=np.asarray(self._body, np.int64),
            texture=np.asarray(self._texture, np.int64),
            repeat=np.asarray(self._repeat, np.float64),
            actors=tuple(self.actors),
            instance=np.asarray(self.instance, np.int16),
            instances=tuple(self.instances),
            textures=tuple(self.textures),
            light=self.light,
            ambient=self.ambient,
            sky=self.sky,
            outlined=np.asarray(self._outlined, np.bool_),
            casts=np.asarray(self._casts, np.bool_),
            floor=self.floor,
            caption=self.caption,
        )
