"""What the camera encoder is told: every camera relative to view 0 of the same frame, as 12 numbers or as rays.

Poses are ours (OpenCV axes, camera-to-world). E_i = inv(C_0) C_i is camera i in camera 0's frame; its top 3x4, row-major, is the
camera vector of both SynCamMaster releases. Relative poses do not depend on the world's frame or handedness.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.bases.base import BaseSpec
from pipeline.methods.syncammaster.config import Translation, ViewConfig
from schemas.camera import intrinsics, relative_to

Array = NDArray[np.float64]
Array32 = NDArray[np.float32]

# Below this distance cameras count as one place (rounding of published poses): a scene without extent is not blown up.
_COINCIDE = 1e-6


def camera_vectors(c2w: Array, frames: Sequence[int], *, translation: Translation, metric: bool) -> Array32:
    """Cameras [V,F,4,4] at the chosen frames to [V,f,12] float32: r11 r12 r13 t1 r21 ... t3, relative to view 0 of the frame.

    translation: the unit of t. "two_metres" divides metres by 2 (the releases: Unreal centimetres / 200), "metres" leaves them,
    "normalised" divides by the largest distance of any camera from view 0 at the first chosen frame (1 where all coincide).
    metric: the poses are in metres. Where they are not (structure from motion), "two_metres" and "metres" leave t as it is:
    its scale is arbitrary, and the releases do not scale such data either. Raises ValueError for a wrong shape.
    """
    return _relative(c2w, frames, translation, metric)[:, :, :3].reshape(len(c2w), len(frames), 12).astype(np.float32)


def camera_rays(
    c2w: Array,
    K: Array,
    size: tuple[int, int],
    grid: tuple[int, int],
    frames: Sequence[int],
    *,
    translation: Translation,
    metric: bool,
) -> Array32:
    """Pluecker rays [V,f,h*w,6] float32 through the centres of the h x w tokens, row by row, in view 0's frame.

    c2w [V,F,4,4] and K [V,F,3,3] for a picture of size (H, W) that the grid (h, w) covers. A ray is its unit direction d, then its
    moment o x d, o the camera's centre in the unit that `translation` names (see `camera_vectors`).
    """
    E = _relative(c2w, frames, translation, metric)
    chosen = np.asarray(K, np.float64)[:, list(frames)]
    x = (np.arange(grid[1]) + 0.5) * (size[1] / grid[1])
    y = (np.arange(grid[0]) + 0.5) * (size[0] / grid[0])
    pixels = np.stack([*np.meshgrid(x, y), np.ones(grid)], axis=-1).reshape(-1, 3)
    d = np.einsum("vfij,vfjk,pk->vfpi", E[..., :3, :3], np.linalg.inv(chosen), pixels)
    d /= np.linalg.norm(d, axis=-1, keepdims=True)
    moment = np.cross(E[:, :, None, :3, 3], d)
    return np.concatenate([d, moment], axis=-1).astype(np.float32)


def camera_tensor(
    c2w: Array | None,
    K: Array | None,
    metric: Sequence[bool],
    spec: BaseSpec,
    config: ViewConfig,
    size: tuple[int, int],
    *,
    shape: tuple[int, int] | None = None,
) -> Tensor:
    """The cameras of a batch as `SynCamModel` takes them: float32 [B,V,f,12], or rays [B,V,f,h*w,6]; latent frame i sees frame
    `spec.temporal * i`.

    c2w [B,V,F,4,4], K [B,V,F,3,3] in pixels of `size` = (H, W); metric [B]. Samples without cameras: c2w is None and `shape`
    says (V, F); every view then is view 0's camera, with a nominal focal length of max(H, W) pixels where rays are asked.
    Raises ValueError for a number of frames or a size that the base cannot take, and for rays without K.
    """
    if c2w is None:
        c2w, K = _nominal(len(metric), shape, size)
    frames = [spec.temporal * i for i in range(spec.latent_frames(c2w.shape[2]))]
    if config.camera == "extrinsics":
        return _stacked([camera_vectors(poses, frames, translation=config.translation, metric=m) for poses, m in _pairs(c2w, metric)])
    if K is None:
        raise ValueError("camera='plucker' needs the intrinsics K of every camera; give them, or train with camera='extrinsics'")
    height, width = spec.latent_size(*size)
    grid = (height // spec.patch[1], width // spec.patch[2])
    rays = [
        camera_rays(poses, k, size, grid, frames, translation=config.translation, metric=m)
        for (poses, m), k in zip(_pairs(c2w, metric), K, strict=True)
    ]
    return _stacked(rays)


def _relative(c2w: Array, frames: Sequence[int], translation: Translation, metric: bool) -> Array:
    """[V,f,4,4]: E_i = inv(C_0) C_i at the chosen frames, t in the unit asked for; exactly the identity for view 0."""
    c2w = np.asarray(c2w, np.float64)
    if c2w.ndim != 4 or c2w.shape[2:] != (4, 4):
        raise ValueError(f"cameras must be [views,frames,4,4], got {list(c2w.shape)}")
    if not len(frames) or min(frames) < 0 or max(frames) >= c2w.shape[1]:
        raise ValueError(f"frames {list(frames)} asked of cameras of {c2w.shape[1]} frames; allowed: 0 to {c2w.shape[1] - 1}")
    chosen = c2w[:, list(frames)]
    E = relative_to(chosen, chosen[:1])
    E[0] = np.eye(4)
    if translation == "normalised":
        extent = np.linalg.norm(E[:, 0, :3, 3], axis=-1).max()
        E[..., :3, 3] /= extent if extent > _COINCIDE else 1.0
    elif translation == "two_metres" and metric:
        E[..., :3, 3] /= 2
    return E


def _nominal(samples: int, shape: tuple[int, int] | None, size: tuple[int, int]) -> tuple[Array, Array]:
    """Cameras of samples that have none: [B,V,F,4,4] identities and [B,V,F,3,3] of a common field of view (53 degrees)."""
    if shape is None:
        raise ValueError("without cameras, shape=(views, frames) must be given")
    views, frames = shape
    K = intrinsics(max(size), max(size), size[1] / 2, size[0] / 2)
    return np.tile(np.eye(4), (samples, views, frames, 1, 1)), np.tile(K, (samples, views, frames, 1, 1))


def _pairs(c2w: Array, metric: Sequence[bool]) -> list[tuple[Array, bool]]:
    if len(c2w) != len(metric):
        raise ValueError(f"{len(c2w)} samples of cameras, but {len(metric)} entries in `metric`")
    return list(zip(c2w, metric, strict=True))


def _stacked(arrays: list[Array32]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))
