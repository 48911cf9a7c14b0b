"""The renderer: analytic planes, a z-buffer in numpy, and one OpenCV remap that paints the frame from a mip atlas.

A face's plane maps to the image by a homography, so 1/z and the texture coordinates over z are affine in the pixel.
Depth is therefore exact at pixel centres, and a face that reaches behind the camera needs no clipping: the near plane
is a bound on 1/z.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.studio.scene import SKY, Array, Faces, Scene
from pipeline.studio.textures import LEVELS

NEAR = 0.02  # metres
SUPERSAMPLING = 2
BLUR = 0.5  # share of the long axis of a pixel's footprint in the mip level: between sharp (0) and alias-free (1)
LIT = 1.08  # brightness of what faces the light
SHADOW = 0.60
SKY_DOWN = np.radians(-30.0)  # the elevation of the sky texture's last row
_EDGE = 1e-7  # faces overlap by this much of themselves, so that rounding opens no crack between neighbours


@dataclass(frozen=True, eq=False)
class Frame:
    """rgb [H,W,3]; depth [H,W] planar z in metres at pixel centres, inf where the sky is; instance [H,W], SKY or an id."""

    rgb: NDArray[np.uint8]
    depth: NDArray[np.float32]
    instance: NDArray[np.int16]


@dataclass(frozen=True, eq=False)
class View:
    """The faces as one camera sees them. homography [F,3,3]: pixel to (a, b, 1)/z of the face. normal [F,3], distance [F]:
    outward unit normal in camera axes and the camera's distance in front of the plane. corners [F,C,3]: camera axes.
    """

    homography: Array
    normal: Array
    distance: Array
    corners: Array


def look(faces: Faces, c2w: Array, K: Array) -> View:
    """Bring world faces into a camera: c2w [4,4], K [3,3]."""
    turn, centre = c2w[:3, :3], c2w[:3, 3]
    origin, u, v = (faces.origin - centre) @ turn, faces.u @ turn, faces.v @ turn
    normal = np.cross(v, u)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    distance = -np.einsum("fi,fi->f", normal, origin)
    # Edge-on planes have no inverse and no pixels; they are culled, so what stands in for them does not matter.
    basis = np.stack([u, v, origin], axis=-1)
    basis[distance <= 1e-9] = np.eye(3)
    return View(np.linalg.inv(basis) @ np.linalg.inv(K), normal, distance, (faces.corners() - centre) @ turn)


def rasterize(view: View, polygon: Array, K: Array, size: tuple[int, int]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Nearest face [H,W] (-1: none) and 1/z [H,W] at pixel centres. size: (width, height); K in its pixels."""
    width, height = size
    nearest, inverse_z = np.full((height, width), -1, np.int32), np.zeros((height, width), np.float32)
    boxes = _bounds(view, K, size)
    crossings, low, high = _crossings(view, polygon)
    columns, rows = np.arange(width) + 0.5, np.arange(height) + 0.5
    for f in np.flatnonzero((view.distance > 1e-9) & (boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])):
        x0, y0, x1, y1 = boxes[f]
        across, down, (zx, zy, z1) = columns[x0:x1], rows[y0:y1], view.homography[f, 2]
        bounds = crossings[f, :, :1] * down + crossings[f, :, 1:]
        first = bounds[: low[f]].max(axis=0, initial=x0)
        last = bounds[low[f] : high[f]].min(axis=0, initial=x1)
        candidate = ((zy * down + z1)[:, None] + zx * across).astype(np.float32)
        patch = inverse_z[y0:y1, x0:x1]
        wins = (across >= first[:, None]) & (across <= last[:, None]) & (candidate > patch) & (candidate < 1 / NEAR)
        np.copyto(patch, candidate, where=wins)
        np.copyto(nearest[y0:y1, x0:x1], np.int32(f), where=wins)
    return nearest, inverse_z


def _crossings(view: View, polygon: Array) -> tuple[Array, NDArray[np.int64], NDArray[np.int64]]:
    """Where the edges cross a pixel row: x = c0*y + c1 with c [F,C,2]. In front of the camera a convex face covers one
    interval of every row: edges [:low] bound it from the left, edges [low:high] from the right.
    """
    step = np.roll(polygon, -1, axis=1) - polygon
    # Inside is where e.(a, b, 1) >= 0, for corners that run clockwise in (a, b); the last corner's repeats bound nothing.
    lines = np.stack([-step[..., 1], step[..., 0], polygon[..., 0] * step[..., 1] - polygon[..., 1] * step[..., 0] + _EDGE], axis=-1)
    real = np.abs(step).sum(axis=-1) > 0
    rows = lines @ view.homography
    # A level edge crosses no row; a hair of slope makes it bound whole rows.
    hair = 1e-12 * np.abs(rows).sum(axis=-1) + 1e-300
    slope = np.where(np.abs(rows[..., 0]) < hair, hair, rows[..., 0])
    kind = np.where(real, np.where(slope > 0, 0, 1), 2)
    order = np.argsort(kind, axis=1, kind="stable")
    crossings = np.take_along_axis(-rows[..., 1:] / slope[..., None], order[..., None], axis=1)
    low = (kind == 0).sum(axis=1)
    return crossings, low, low + (kind == 1).sum(axis=1)


def _bounds(view: View, K: Array, size: tuple[int, int]) -> NDArray[np.int64]:
    """[F,4] pixel rectangles x0 y0 x1 y1 around each face's part in front of the near plane, cut to the image."""
    corners = view.corners
    following = np.roll(corners, -1, axis=1)
    z0, z1 = corners[..., 2], following[..., 2]
    crosses = (z0 < NEAR) != (z1 < NEAR)
    share = np.where(crosses, (NEAR - z0) / np.where(crosses, z1 - z0, 1.0), 0.0)
    cut = corners + share[..., None] * (following - corners)
    points = np.concatenate([corners, cut], axis=1)
    valid = np.concatenate([z0 >= NEAR, crosses], axis=1)
    image = points @ K.T
    xy = image[..., :2] / np.where(valid, image[..., 2], 1.0)[..., None]
    limit = np.array(size, np.float64)
    low = np.where(valid[..., None], xy, np.inf).min(axis=1)
    high = np.where(valid[..., None], xy, -np.inf).max(axis=1)
    box = np.concatenate([np.floor(np.clip(low - 0.5, 0, limit)), np.ceil(np.clip(high + 0.5, 0, limit))], axis=1)
    return box.astype(np.int64)


def render(scene: Scene, time: float, c2w: Array, K: Array, size: tuple[int, int]) -> Frame:
    """One frame of `scene` at `time` seconds. c2w [4,4] OpenCV axes, K [3,3] pixels of size = (width, height)."""
    view = look(scene.at(time), c2w, K)
    nearest, inverse_z = rasterize(view, scene.faces.polygon, K, size)
    with np.errstate(divide="ignore"):
        depth = np.where(nearest >= 0, 1 / inverse_z, np.inf).astype(np.float32)
    ids = np.append(scene.instance[scene.body], np.int16(SKY))
    return Frame(paint(scene, time, c2w, K, size), depth, ids[nearest])


def paint(scene: Scene, time: float, c2w: Array, K: Array, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The colours only, [H,W,3] RGB: what footage needs."""
    s = SUPERSAMPLING
    fine = (size[0] * s, size[1] * s)
    K = np.diag([s, s, 1.0]) @ K
    faces = scene.at(time)
    view = look(faces, c2w, K)
    nearest, inverse_z = rasterize(view, scene.faces.polygon, K, fine)
    sky = nearest < 0
    x_map, y_map = _texture_maps(scene, view, nearest, inverse_z, sky, c2w, K)
    rgb = cv2.remap(scene.atlas.image, x_map, y_map, cv2.INTER_LINEAR)
    shade = _shades(scene, faces)
    nearest[sky] = len(shade) - 2
    shadow = _shadow(scene, faces, c2w, K, fine)
    nearest[shadow & (nearest == scene.floor)] = len(shade) - 1
    rgb = cv2.multiply(rgb, np.take(shade, nearest, axis=0), scale=1 / 200)
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def _texture_maps(
    scene: Scene, view: View, nearest: NDArray[np.int32], inverse_z: NDArray[np.float32], sky: NDArray[np.bool_], c2w: Array, K: Array
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where in the atlas each pixel reads: x and y maps [H,W]."""
    height, width = nearest.shape
    x, y = np.arange(width, dtype=np.float32) + 0.5, (np.arange(height, dtype=np.float32) + 0.5)[:, None]
    z = np.asarray(1 / np.maximum(inverse_z, np.float32(1e-6)), np.float32)
    own = np.take(_texture_rows(scene, view), nearest, axis=0, mode="clip")
    a = (own[..., 0] * x + own[..., 1] * y + own[..., 2]) * z
    b = (own[..., 3] * x + own[..., 4] * y + own[..., 5]) * z
    a -= np.floor(a)
    b -= np.floor(b)
    slot = np.take(scene.texture * LEVELS, nearest, mode="clip") + _levels(scene, view, nearest, z, K)
    if scene.sky is not None and sky.any():
        a[sky], b[sky] = _sky_coordinates(sky, c2w, K)
        slot[sky] = scene.sky * LEVELS
    cell = np.take(scene.atlas.cells, slot, axis=0)
    return np.asarray(a * cell[..., 2] + cell[..., 0], np.float32), np.asarray(b * cell[..., 3] + cell[..., 1], np.float32)


def _texture_rows(scene: Scene, view: View) -> NDArray[np.float32]:
    """[F,6]: pixel rows of the texture coordinates over z. A stretched texture stays off its own border, where it would wrap."""
    rows = view.homography[:, :2] * scene.repeat[..., None]
    stretched = (scene.repeat == 1).all(axis=1)
    rows[stretched] = rows[stretched] * (1 - 2e-4) + 1e-4 * view.homography[stretched, 2:]
    return np.asarray(rows.reshape(-1, 6), np.float32)


def _levels(scene: Scene, view: View, nearest: NDArray[np.int32], z: NDArray[np.float32], K: Array) -> NDArray[np.int32]:
    """Mip level per pixel, dithered over the samples of an output pixel, which averages them: that blends neighbouring levels.

    The pixel's footprint on the texture has the area |det H| z^3 and is stretched by 1/cos of the angle of incidence.
    """
    height, width = nearest.shape
    texels = scene.atlas.size[scene.texture] * scene.repeat
    area = np.abs(np.linalg.det(view.homography)) * texels.prod(axis=1)
    constant = 0.5 * np.log2(np.maximum(area, 1e-30)) - 0.5 * BLUR * np.log2(np.maximum(view.distance, 1e-9))
    x, y = (np.arange(width) + 0.5 - K[0, 2]) / K[0, 0], (np.arange(height) + 0.5 - K[1, 2]) / K[1, 1]
    ray = (0.25 * BLUR * np.log2(1 + x**2 + y[:, None] ** 2)).astype(np.float32)
    dither = np.tile(np.array([[0.0, 0.5], [0.75, 0.25]], np.float32), (height // 2, width // 2))
    level = np.take(constant.astype(np.float32), nearest, mode="clip")
    level += np.float32(1.5 + 0.5 * BLUR) * np.log2(z) + (ray + dither)
    return np.clip(level, 0, LEVELS - 1, out=level).astype(np.int32)


def _sky_coordinates(sky: NDArray[np.bool_], c2w: Array, K: Array) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rows, columns = np.nonzero(sky)
    rays = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))], axis=1) @ (c2w[:3, :3] @ np.linalg.inv(K)).T
    elevation = np.arctan2(rays[:, 2], np.hypot(rays[:, 0], rays[:, 1]))
    across = np.arctan2(-rays[:, 1], rays[:, 0]) / (2 * np.pi) + 0.5
    return across.astype(np.float32), ((np.pi / 2 - elevation) / (np.pi / 2 - SKY_DOWN)).astype(np.float32)


def _shades(scene: Scene, faces: Faces) -> NDArray[np.uint8]:
    """[F+2,3] brightness times 200, slightly warm in the light and cool away from it; then the sky's, then the floor's in shadow."""
    lit = np.maximum(-faces.normals() @ scene.light, 0.0)[:, None]
    shade = scene.ambient * np.array([0.97, 1.0, 1.05]) + (LIT - scene.ambient) * lit * np.array([1.04, 1.0, 0.94])
    rows = np.concatenate([shade, np.ones((1, 3)), shade[scene.floor : scene.floor + 1] * SHADOW * np.array([0.97, 1.0, 1.06])])
    return np.asarray(np.clip(np.rint(rows * 200), 0, 255), np.uint8)


def _shadow(scene: Scene, faces: Faces, c2w: Array, K: Array, size: tuple[int, int]) -> NDArray[np.bool_]:
    """[H,W] where the floor (z = 0) lies in the shadow of what stands on it."""
    caster = (scene.instance[scene.body] > 0) | scene.casts
    caster &= faces.normals() @ scene.light < 0
    corners = faces.corners()[caster]
    if len(corners) == 0:
        return np.zeros((size[1], size[0]), np.bool_)
    height = np.maximum(corners[..., 2:], 0)
    fallen = corners + scene.light * (-height / scene.light[2])
    local = (fallen - c2w[:3, 3]) @ c2w[:3, :3]
    mask = np.zeros((size[1], size[0]), np.uint8)
    ahead = (local[..., 2] > NEAR).all(axis=1)
    partly = ~ahead & (local[..., 2] > NEAR).any(axis=1)
    for group in [local[ahead], *(clip_near(polygon)[None] for polygon in local[partly])]:
        for polygon in _fixed_point(group, K, size):
            cv2.fillConvexPoly(mask, polygon, 1, cv2.LINE_8, 4)
    return mask > 0


def clip_near(polygon: Array) -> Array:
    """The part of a polygon [n,3] in camera axes that lies beyond the near plane."""
    kept = []
    for start, end in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if start[2] >= NEAR:
            kept.append(start)
        if (start[2] < NEAR) != (end[2] < NEAR):
            kept.append(start + (NEAR - start[2]) / (end[2] - start[2]) * (end - start))
    return np.asarray(kept)


def _fixed_point(polygons: Array, K: Array, size: tuple[int, int]) -> NDArray[np.int32]:
    """[n,C,2] camera axes to image coordinates in sixteenths of a pixel, without the polygons that miss the image."""
    image = polygons @ K.T
    xy = image[..., :2] / image[..., 2:] - 0.5
    meets = ((xy.max(axis=1) > 0) & (xy.min(axis=1) < size)).all(axis=1)
    return np.asarray(np.rint(np.clip(xy[meets], -8000, 8000) * 16), np.int32)
