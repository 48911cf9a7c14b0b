"""Cameras, written once: OpenCV axes (x right, y down, z forward), camera-to-world, pixels for K.

Every source converts on the way in; nothing downstream knows another convention.

Left-handed worlds (Unreal) come over by the basis change y := -y of the world. Relative poses do not change by it.
Azimuth keeps the source's sense: `azimuth_sign` is -1 for a world that was mirrored.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from schemas.verdict import CandidateError, Reason

Scale = Literal["metres", "arbitrary"]
LensModel = Literal["opencv", "fisheye"]
Array = NDArray[np.float64]

# Published files are rounded to about six digits; anything worse is not a rotation.
ROTATION_TOLERANCE = 1e-3

# Ours: beyond any camera, and small enough that what is computed of them stays finite.
MAX_SIDE = 65536  # pixels
LARGEST = 1e9  # of a position's coordinates, of K's entries and of distortion coefficients; a focal length is at least 1 / LARGEST


@dataclass(frozen=True, slots=True)
class Lens:
    """What distorts the pictures of a view: K as fx, fy, cx, cy in pixels of width x height (centres at integer + 0.5), and coefficients.

    opencv: k1, k2, p1, p2[, k3] in OpenCV's order. fisheye: k1, k2, k3, k4 of OpenCV's fisheye model, which COLMAP and nerfstudio call
    OPENCV_FISHEYE.
    """

    model: LensModel
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...]
    width: int
    height: int

    def scaled(self, width: int, height: int) -> "Lens":
        """The lens of the same pictures resized to width x height."""
        across, down = width / self.width, height / self.height
        return Lens(self.model, self.fx * across, self.fy * down, self.cx * across, self.cy * down, self.distortion, width, height)


@dataclass(frozen=True, eq=False)
class CameraTrack:
    """The camera of one view over T frames.

    c2w [T,4,4]: camera-to-world, OpenCV axes, right-handed world. K [T,3,3]: pixels of a width x height image, pixel
    centres at integer + 0.5 (the image spans [0,width] x [0,height]).
    distortion: OpenCV order (k1, k2, p1, p2[, k3]), or empty for a pinhole; k1..k4 where the model is "fisheye", which is there only
    until an ingest undistorts the view or refuses it.
    up [3]: unit vector against gravity in the world, where the source knows it.
    centre [3]: the point the cameras look at, where the source knows it.
    """

    c2w: Array
    K: Array
    width: int
    height: int
    scale: Scale
    distortion: tuple[float, ...] = ()
    up: tuple[float, float, float] | None = None
    azimuth_sign: int = 1
    centre: tuple[float, float, float] | None = None
    model: LensModel = "opencv"

    def __post_init__(self) -> None:
        c2w, K = np.asarray(self.c2w, np.float64), np.asarray(self.K, np.float64)
        if c2w.ndim != 3 or c2w.shape[1:] != (4, 4):
            raise CandidateError(Reason.E_CAMERA, f"c2w must be [T,4,4], got {list(c2w.shape)}")
        if K.shape != (len(c2w), 3, 3):
            raise CandidateError(Reason.E_CAMERA, f"K must be [{len(c2w)},3,3] to go with c2w, got {list(K.shape)}")
        check_poses(c2w)
        check_intrinsics(K, self.width, self.height)
        if not all(abs(each) <= LARGEST for each in self.distortion):  # NaN is not either
            coefficients = " ".join(f"{each:g}" for each in self.distortion)
            raise CandidateError(Reason.E_CAMERA, f"the coefficients are {coefficients}; expected finite numbers up to {LARGEST:g}")
        object.__setattr__(self, "c2w", c2w)
        object.__setattr__(self, "K", K)

    def __len__(self) -> int:
        return len(self.c2w)

    def at(self, frames: Sequence[int] | NDArray[np.int64]) -> "CameraTrack":
        """The track of the chosen entries only."""
        chosen = np.asarray(frames, np.int64)
        return self._with(c2w=self.c2w[chosen], K=self.K[chosen])

    def scaled(self, width: int, height: int) -> "CameraTrack":
        """The track of the same images resized to width x height."""
        factor = np.diag([width / self.width, height / self.height, 1.0])
        return self._with(K=factor @ self.K, width=width, height=height)

    def cropped(self, left: float, top: float, width: int, height: int) -> "CameraTrack":
        """The track of the same images cut to the rectangle that starts at (left, top), in pixels."""
        K = self.K.copy()
        K[:, 0, 2] -= left
        K[:, 1, 2] -= top
        return self._with(K=K, width=width, height=height)

    def _with(self, **changes: object) -> "CameraTrack":
        """A copy with valid changes: poses that were checked once are not checked for every view of every step again."""
        made = copy(self)
        for name, value in changes.items():
            object.__setattr__(made, name, value)
        check_intrinsics(made.K, made.width, made.height)
        return made


def check_poses(c2w: Array) -> None:
    """Raise CandidateError(E_CAMERA) unless every [4,4] is rigid: a proper rotation, [0,0,0,1] below, no coordinate beyond LARGEST."""
    if len(c2w) == 0:
        raise CandidateError(Reason.E_CAMERA, "no camera poses; at least one is needed")
    bad = ~np.isfinite(c2w).all(axis=(1, 2))
    if bad.any():
        raise CandidateError(Reason.E_CAMERA, f"pose {int(bad.argmax())} holds NaN or infinity")
    R = np.clip(c2w[:, :3, :3], -2.0, 2.0)  # no rotation has such entries; their squares would not stay finite
    error = np.abs(R @ R.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2))
    determinant = np.linalg.det(R)
    bad = (error > ROTATION_TOLERANCE) | (np.abs(determinant - 1) > 3 * ROTATION_TOLERANCE)
    if bad.any():
        worst = int(bad.argmax())
        raise CandidateError(
            Reason.E_CAMERA,
            f"pose {worst} is not a rotation: |R R^T - I| is {error[worst]:.3g} (at most {ROTATION_TOLERANCE}), "
            f"det {determinant[worst]:.6g} (must be 1)",
        )
    if np.abs(c2w[:, 3] - [0, 0, 0, 1]).max() > 1e-9:
        raise CandidateError(Reason.E_CAMERA, "the last row of a pose must be 0 0 0 1")
    far = np.abs(c2w[:, :3, 3]).max(axis=1)
    if far.max() > LARGEST:
        raise CandidateError(Reason.E_CAMERA, f"pose {int(far.argmax())} lies {far.max():g} away; a coordinate is at most {LARGEST:g}")


def check_intrinsics(K: Array, width: int, height: int) -> None:
    """Raise CandidateError(E_CAMERA) unless K's focal lengths are positive, its entries at most LARGEST, and the sides 1 to MAX_SIDE."""
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise CandidateError(Reason.E_CAMERA, f"image sides must be positive, at most {MAX_SIDE}; got {width!s:.12}x{height!s:.12}")
    if not np.isfinite(K).all():
        raise CandidateError(Reason.E_CAMERA, "intrinsics hold NaN or infinity")
    focal = K[:, [0, 1], [0, 1]]
    if (focal <= 1 / LARGEST).any():
        raise CandidateError(Reason.E_CAMERA, f"focal lengths must be positive, got fx {focal[:, 0].min():g}, fy {focal[:, 1].min():g}")
    if (np.abs(K) > LARGEST).any():
        raise CandidateError(Reason.E_CAMERA, f"intrinsics hold {np.abs(K).max():g}; at most {LARGEST:g} pixels are allowed")


def intrinsics(fx: float, fy: float, cx: float, cy: float, frames: int = 1) -> Array:
    """[frames,3,3] pixel intrinsics, the same for every frame."""
    return np.tile(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float64), (frames, 1, 1))


def from_w2c(w2c: ArrayLike) -> Array:
    """World-to-camera [...,3,4] or [...,4,4] to camera-to-world [...,4,4]. RealEstate10K, COLMAP."""
    matrix = _homogeneous(np.asarray(w2c, np.float64))
    with np.errstate(all="ignore"):
        try:
            return np.asarray(np.linalg.inv(matrix), np.float64)
        except np.linalg.LinAlgError:
            return np.full_like(matrix, np.nan)  # check_poses turns it into E_CAMERA with the frame's number


def from_opengl(c2w: ArrayLike) -> Array:
    """Camera-to-world with OpenGL/Blender camera axes (y up, z backward) to OpenCV axes. DL3DV, nerfstudio."""
    return _homogeneous(np.asarray(c2w, np.float64)) @ np.diag([1.0, -1.0, -1.0, 1.0])


def from_unreal(matrix: ArrayLike, units_per_metre: float = 100.0) -> Array:
    """Unreal camera matrices [...,4,4] (row vectors; rows forward, right, up, position; left-handed) to ours, metres.

    Source: SynCamVideo camera files, spec section 2.2 and 1.4. The world is mirrored in y so that it is right-handed.
    """
    A = np.swapaxes(np.asarray(matrix, np.float64), -1, -2)  # columns: forward, right, up, position
    forward, right, up, position = (A[..., :, i] for i in range(4))
    c2w = np.stack([right, -up, forward, position], axis=-1)
    c2w[..., :3, 3] /= units_per_metre
    return np.diag([1.0, -1.0, 1.0, 1.0]) @ c2w


def to_unreal(c2w: ArrayLike, units_per_metre: float = 100.0) -> Array:
    """The inverse of `from_unreal`."""
    C = np.diag([1.0, -1.0, 1.0, 1.0]) @ np.asarray(c2w, np.float64)
    C[..., :3, 3] *= units_per_metre
    A = np.stack([C[..., :, 2], C[..., :, 0], -C[..., :, 1], C[..., :, 3]], axis=-1)
    return np.swapaxes(A, -1, -2)


def relative_to(c2w: ArrayLike, reference: ArrayLike) -> Array:
    """Camera-to-world of `c2w` [...,4,4] in the frame of the `reference` camera [...,4,4]: inv(reference) @ c2w."""
    return np.linalg.inv(np.asarray(reference, np.float64)) @ np.asarray(c2w, np.float64)


def look_at(position: ArrayLike, target: ArrayLike, up: ArrayLike = (0.0, 0.0, 1.0)) -> Array:
    """[4,4] camera-to-world at `position` looking at `target` with the world's `up` upward in the image."""
    eye, target, up = (np.asarray(v, np.float64) for v in (position, target, up))
    z = (target - eye) / np.linalg.norm(target - eye)
    x = np.cross(z, up)
    x /= np.linalg.norm(x)
    c2w = np.eye(4)
    c2w[:3, 0], c2w[:3, 1], c2w[:3, 2], c2w[:3, 3] = x, np.cross(z, x), z, eye
    return c2w


def _homogeneous(matrix: Array) -> Array:
    if matrix.shape[-2:] == (4, 4):
        return matrix
    bottom = np.broadcast_to(np.array([0.0, 0.0, 0.0, 1.0]), (*matrix.shape[:-2], 1, 4))
    return np.concatenate([matrix, bottom], axis=-2)
