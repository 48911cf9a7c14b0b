"""An independent ray caster: triangles, rays from the pixel centres, no homography and no z-buffer."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.studio.scene import Scene

Array = NDArray[np.float64]


def cast_rays(scene: Scene, time: float, c2w: Array, K: Array, xy: Array) -> tuple[Array, NDArray[np.int64]]:
    """Planar depth [N] (inf: nothing) and instance [N] (-1) along the rays through image positions [N,2]. Moller-Trumbore."""
    poses = scene.poses(time)
    local = np.concatenate([(xy - K[:2, 2]) / (K[0, 0], K[1, 1]), np.ones((len(xy), 1))], axis=1)
    rays, eye = local @ c2w[:3, :3].T, c2w[:3, 3]
    best, found = np.full(len(xy), np.inf), np.full(len(xy), -1, np.int64)
    corners = scene.faces.corners()
    for f, polygon in enumerate(corners):
        pose = poses[scene.body[f]]
        world = polygon @ pose[:3, :3].T + pose[:3, 3]
        for k in range(1, len(world) - 1):
            a, e1, e2 = world[0], world[k] - world[0], world[k + 1] - world[0]
            facing = np.cross(e1, e2)
            if np.linalg.norm(facing) < 1e-12:
                continue
            # Corners run clockwise seen from the front, so the outward normal is e2 x e1; backs are not drawn.
            h = np.cross(rays, e2)
            det = h @ e1
            with np.errstate(divide="ignore", invalid="ignore"):
                u = (h @ (eye - a)) / det
                q = np.cross(eye - a, e1)
                v = (rays @ q) / det
                z = (e2 @ q) / det
            hit = (rays @ facing > 0) & (u >= 0) & (v >= 0) & (u + v <= 1) & (z > 0.02) & (z < best)
            best[hit], found[hit] = z[hit], scene.instance[scene.body[f]]
    return best, found


@pytest.fixture(scope="session")
def ray_caster() -> Callable[..., tuple[Array, NDArray[np.int64]]]:
    return cast_rays


def pixel_centres(width: int, height: int) -> Array:
    """[H*W,2], row by row."""
    y, x = np.mgrid[0:height, 0:width] + 0.5
    return np.stack([x.ravel(), y.ravel()], axis=1)


@pytest.fixture(scope="session")
def centres() -> Callable[[int, int], Array]:
    return pixel_centres
