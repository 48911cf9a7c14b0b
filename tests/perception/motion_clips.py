"""Studio clips with a known answer: does the camera move, does the subject? For the motion filter's tests and benchmark.

A seed's bits choose: moving camera or tripod, moving subject or still, dull or textured. Moving cameras are shake, pan, zoom, orbit and
dolly in turn. A third of the clips are filmed with a long lens, so that the subject fills the picture.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.studio.render import paint
from pipeline.studio.scene import Array, Scene
from pipeline.studio.trajectories import CENTRE, hold, on_sphere
from pipeline.studio.trajectories import handheld as shaken
from pipeline.studio.truth import PointTracks, tracks
from pipeline.studio.worlds import plaza
from schemas.camera import CameraTrack, intrinsics

SIZE = (160, 120)
FRAMES = 16
RATE = 10.0  # frames a second of the downsampled clip
NOISE = 3.0  # standard deviation of the sensor's noise, grey levels
DULL = 0.3  # contrast that is left of a dull clip
CAMERAS = ("shake", "pan", "zoom", "orbit", "dolly")

Image = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class StudioClip:
    """One clip. camera: "fixed" or one of CAMERAS. c2w [T,4,4], K [T,3,3] in pixels of `size`."""

    seed: int
    camera: str
    subject_moves: bool
    dull: bool
    c2w: Array
    K: Array
    size: tuple[int, int] = SIZE

    @property
    def camera_moves(self) -> bool:
        return self.camera != "fixed"

    @property
    def times(self) -> Array:
        return np.arange(len(self.c2w)) / RATE

    @cached_property
    def scene(self) -> Scene:
        return plaza(self.seed, "moving" if self.subject_moves else "still", movers=1 + self.seed % 2)

    def frames(self) -> Iterator[Image]:
        """[H,W,3] RGB, one after another, with noise."""
        rng = np.random.default_rng([self.seed, 11])
        for time, pose, K in zip(self.times, self.c2w, self.K, strict=True):
            picture = paint(self.scene, float(time), pose, K, self.size).astype(np.float64)
            if self.dull:
                picture = 110 + DULL * (picture - 110)
            yield np.clip(np.rint(picture + rng.normal(0, NOISE, picture.shape)), 0, 255).astype(np.uint8)

    def truth(self, count: int = 256) -> PointTracks:
        """Points that stick to surfaces, as the clip's one camera sees them."""
        track = CameraTrack(self.c2w, self.K, *self.size, "metric")
        return tracks(self.scene, [track], self.times.tolist(), count, self.seed)


def studio_clip(seed: int, *, size: tuple[int, int] = SIZE, frames: int = FRAMES) -> StudioClip:
    """The clip of that seed; 80 seeds in a row hold every combination twice, moving cameras of each kind."""
    camera = CAMERAS[seed // 8 % len(CAMERAS)] if seed & 1 else "fixed"
    rng = np.random.default_rng([seed, 10])
    lens = rng.uniform(1.6, 2.6) if rng.random() < 1 / 3 else rng.uniform(0.8, 1.2)  # focal length in widths
    path, zoom = _path(camera, rng, frames)
    focal = lens * zoom * size[0]
    K = np.concatenate([intrinsics(f, f, size[0] / 2, size[1] / 2) for f in focal])
    return StudioClip(seed, camera, bool(seed & 2), bool(seed & 4), path, K, size)


def _path(camera: str, rng: np.random.Generator, frames: int) -> tuple[Array, Array]:
    """Poses [T,4,4] and multipliers of the focal length [T]. Every moving camera shakes a little or not at all, beside what it does."""
    distance, elevation, azimuth = rng.uniform(3.6, 5.5), rng.uniform(5, 28), rng.uniform(0, 360)
    path, zoom = hold(on_sphere(distance, elevation, azimuth), frames), np.ones(frames)
    share = np.linspace(0, 1, frames)
    sign = rng.choice((-1.0, 1.0))
    if camera == "pan":
        yaw = np.radians(sign * rng.uniform(1, 10)) * share
        cos, sin, zero, one = np.cos(yaw), np.sin(yaw), np.zeros(frames), np.ones(frames)
        path[:, :3, :3] = path[:, :3, :3] @ np.stack([cos, zero, sin, zero, one, zero, -sin, zero, cos], axis=1).reshape(-1, 3, 3)
    elif camera == "zoom":
        zoom = np.geomspace(1.0, rng.uniform(1.04, 1.5) ** sign, frames)
    elif camera == "orbit":
        path = on_sphere(distance, elevation, azimuth + sign * rng.uniform(2, 25) * share)
    elif camera == "dolly":
        path = on_sphere(distance - sign * rng.uniform(0.15, 1.2) * share, elevation, azimuth, CENTRE)
    if camera == "shake" or (camera != "fixed" and rng.random() < 0.5):
        path = shaken(rng, path, RATE, rng.uniform(0.4, 1.6), 0.02)
    return path, zoom
