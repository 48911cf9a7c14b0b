"""Camera paths: static hemispheres and arcs, dolly, orbit, handheld, zoom and walk-throughs. c2w as everywhere: OpenCV axes, metres."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.studio.scene import Array
from pipeline.studio.textures import Rng
from pipeline.studio.worlds import RoomSize
from schemas.camera import look_at

CENTRE = (0.0, 0.0, 0.95)  # where multi-camera scenes look: a person's middle


def on_sphere(distance: ArrayLike, elevation_deg: ArrayLike, azimuth_deg: ArrayLike, centre: ArrayLike = CENTRE) -> Array:
    """[...,4,4] cameras that look at the centre from (distance, elevation, azimuth)."""
    distance, elevation, azimuth = np.broadcast_arrays(distance, np.radians(elevation_deg), np.radians(azimuth_deg))
    flat = np.cos(elevation) * distance
    offset = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation) * distance], axis=-1)
    target = np.asarray(centre, np.float64)
    poses = [look_at(target + each, target) for each in offset.reshape(-1, 3)]
    return np.stack(poses).reshape(*offset.shape[:-1], 4, 4)


def hemisphere(rng: Rng, cameras: int) -> Array:
    """[cameras,4,4] as SynCamVideo v1 places them: 3.5 to 9 m away, 0 to 45 degrees up, all around."""
    return on_sphere(rng.uniform(3.5, 9.0, cameras), rng.uniform(2.0, 45.0, cameras), rng.uniform(0.0, 360.0, cameras))


def arc(rng: Rng, cameras: int) -> Array:
    """[cameras,4,4] like SynCamVideo v2's example: a fan in azimuth, then steps in elevation, then steps in distance."""
    fan, tilt = max(round(cameras * 0.5), 1), round(cameras * 0.3)
    start, step = rng.uniform(0, 360), 75.0 / max(fan - 1, 1)
    rows = [(4.0, 12.0, start + step * k) for k in range(fan)]
    rows += [(4.2, 12.0 + 10.0 * (k + 1), start + 0.5 * step) for k in range(tilt)]
    rows += [(5.0 + k, 12.0, start + 0.5 * step) for k in range(cameras - len(rows))]
    return on_sphere(*np.array(rows).T)


def scattered(rng: Rng, cameras: int) -> Array:
    """[cameras,4,4] all around at head height and above, spread evenly: how a capture stage hangs its cameras."""
    azimuth = rng.uniform(0, 360) + np.arange(cameras) * 360.0 / cameras + rng.uniform(-8, 8, cameras)
    return on_sphere(rng.uniform(3.6, 5.2, cameras), rng.uniform(8, 32, cameras), azimuth)


def hold(pose: Array, frames: int) -> Array:
    """[frames,4,4] of a camera on a tripod."""
    return np.repeat(pose[None], frames, axis=0)


def orbit(rng: Rng, frames: int, degrees: float = 50.0) -> Array:
    """[frames,4,4] around the centre at constant distance."""
    start, sign = rng.uniform(0, 360), rng.choice((-1, 1))
    return on_sphere(rng.uniform(3.8, 5.0), rng.uniform(8, 25), start + sign * np.linspace(0, degrees, frames))


def dolly(rng: Rng, frames: int, near: float = 3.6, far: float = 6.5) -> Array:
    """[frames,4,4] towards the centre along a straight line."""
    return on_sphere(np.linspace(far, near, frames), rng.uniform(8, 20), rng.uniform(0, 360))


def handheld(rng: Rng, path: Array, rate: float, degrees: float = 0.8, metres: float = 0.015) -> Array:
    """`path` [T,4,4] with a smooth shake of that size on top; rate: frames a second."""
    time = np.arange(len(path)) / rate
    frequency, phase = rng.uniform(0.5, 3.0, (6, 3)), rng.uniform(0, 2 * np.pi, (6, 3))
    sway = np.sin(2 * np.pi * frequency[..., None] * time + phase[..., None]).mean(axis=1)
    shaken = path.copy()
    for k in range(len(path)):
        shaken[k, :3, :3] = path[k, :3, :3] @ cv2.Rodrigues(np.radians(degrees) * sway[:3, k])[0]
        shaken[k, :3, 3] += metres * sway[3:, k]
    return shaken


def zoom(frames: int, factor: float = 1.6) -> Array:
    """[frames] multipliers of the focal length, from 1 to `factor`."""
    return np.geomspace(1.0, factor, frames)


def walk(rng: Rng, frames: int, rate: float, size: RoomSize) -> Array:
    """[frames,4,4] a slow walk through a room that looks ahead and pans: the overlap of two frames falls as they lie further apart."""
    seconds = frames / rate
    reach = np.array([min(0.55 * seconds, (size.x[1] - size.x[0]) * 0.55), min(0.2 * seconds, (size.y[1] - size.y[0]) * 0.3)])
    middle = np.array([sum(size.x) / 2, sum(size.y) / 2])
    sign = rng.choice((-1.0, 1.0), 2)
    s = np.linspace(-0.5, 0.5, frames)
    at = middle + np.stack([sign[0] * reach[0] * s, sign[1] * reach[1] * np.sin(np.pi * s)], axis=1)
    ahead = np.arctan2(0.0, sign[0])
    yaw = ahead + rng.choice((-1, 1)) * np.radians(min(20.0 * seconds, 110.0)) * s + 0.1 * np.sin(2 * np.pi * s * 2)
    pitch = np.radians(-4.0 + 3.0 * np.sin(2 * np.pi * s + rng.uniform(0, 6)))
    height = 1.45 + 0.05 * np.sin(2 * np.pi * s)
    eye = np.column_stack([at, height])
    gaze = np.column_stack([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])
    return np.stack([look_at(e, e + g) for e, g in zip(eye, gaze, strict=True)])


def interpolate(times: Sequence[float] | NDArray[np.float64], c2w: Array, wanted: Sequence[float] | NDArray[np.float64]) -> Array:
    """[len(wanted),4,4] poses between those of `times` (increasing): positions linearly, rotations along the shortest arc.

    Times outside hold the first or last pose.
    """
    times, wanted = np.asarray(times, np.float64), np.asarray(wanted, np.float64)
    if len(times) == 1:
        return hold(c2w[0], len(wanted))
    before = np.clip(np.searchsorted(times, wanted, side="right") - 1, 0, len(times) - 2)
    share = np.clip((wanted - times[before]) / (times[before + 1] - times[before]), 0.0, 1.0)
    found = np.tile(np.eye(4), (len(wanted), 1, 1))
    for k, (b, s) in enumerate(zip(before, share, strict=True)):
        start, end = c2w[b], c2w[b + 1]
        axis = cv2.Rodrigues(start[:3, :3].T @ end[:3, :3])[0]
        found[k, :3, :3] = start[:3, :3] @ cv2.Rodrigues(s * axis)[0]
        found[k, :3, 3] = (1 - s) * start[:3, 3] + s * end[:3, 3]
    return found
