"""How much of one image's view another image sees, exactly and without stepping along rays.

Definition (pixelSplat's evaluation index, specs/syncammaster.md 2.6): the fraction of A's pixel rays that cross B's
image, and the reverse; overlap is the smaller one. A point o + s d on a ray, seen from B, lies inside B's image while
four linear functions of s are not negative, so the s that do form one interval, known in closed form.

Whole rays are generous: a ray starts in A's centre, so a B that sees A's centre is crossed by every ray of A, and two
cameras that face each other overlap fully. With known depth, or with near and far, they do not.

Lens distortion is left out: with it a ray is a curve, and the interval's ends would move by a few pixels.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

GRID = (32, 18)  # rays across and down
RAYS_AT_ONCE = 30_000  # the working set stays in the cache; more is slower

# Two centres nearer than this share of their distance from the origin coincide up to rounding.
COINCIDENT = 1e-9


def two_way_overlap(
    c2w_a: Array,
    K_a: Array,
    size_a: tuple[int, int],
    c2w_b: Array,
    K_b: Array,
    size_b: tuple[int, int],
    *,
    near: float = 0.0,
    far: float = np.inf,
    grid: tuple[int, int] = GRID,
) -> Array:
    """[P] the smaller of both one-way overlaps of the pairs, in [0,1]. Arguments as in `one_way_overlap`."""
    forth = one_way_overlap(c2w_a, K_a, size_a, c2w_b, K_b, size_b, near=near, far=far, grid=grid)
    back = one_way_overlap(c2w_b, K_b, size_b, c2w_a, K_a, size_a, near=near, far=far, grid=grid)
    return np.minimum(forth, back)


def one_way_overlap(
    c2w_a: Array,
    K_a: Array,
    size_a: tuple[int, int],
    c2w_b: Array,
    K_b: Array,
    size_b: tuple[int, int],
    *,
    near: float = 0.0,
    far: float = np.inf,
    depth: Array | None = None,
    grid: tuple[int, int] = GRID,
) -> Array:
    """[P] fraction of A's rays that cross B's image, for P pairs.

    c2w [P,4,4], K [P,3,3] in pixels of an image of size (width, height). near, far: depths (z in A) between which a ray
    is followed; from A's centre to infinity by default. depth [P,h,w]: z in A at an evenly spaced h x w grid of A's
    image; it sets the grid, and a ray is then that one point (not followed through it, and not tested for occlusion by
    B). Infinity is a point infinitely far; a depth that is NaN or not positive is unknown: that ray is followed from
    near to far.
    """
    if depth is not None:
        grid = (depth.shape[2], depth.shape[1])
    uv = pixel_grid(grid, size_a)
    fractions = np.empty(len(c2w_a))
    step = max(1, RAYS_AT_ONCE // len(uv))
    for i in range(0, len(c2w_a), step):
        part = slice(i, i + step)
        low, high = np.array(near), np.array(far)
        if depth is not None:
            known = depth[part].reshape(-1, len(uv))
            known = np.where(known > 0, known, np.nan)
            low, high = np.where(np.isnan(known), near, known), np.where(np.isnan(known), far, known)
        start, ray = rays_in_b(uv, c2w_a[part], K_a[part], c2w_b[part])
        fractions[part] = crosses_image(start, ray, K_b[part], size_b, low, high).mean(axis=1)
    return fractions


def pixel_grid(grid: tuple[int, int], size: tuple[int, int]) -> Array:
    """[G,2] pixel positions: the centres of grid = (across, down) equal cells of an image of size (width, height)."""
    u = (np.arange(grid[0]) + 0.5) * (size[0] / grid[0])
    v = (np.arange(grid[1]) + 0.5) * (size[1] / grid[1])
    return np.stack(np.meshgrid(u, v), axis=-1).reshape(-1, 2)


def rays_in_b(uv: Array, c2w_a: Array, K_a: Array, c2w_b: Array) -> tuple[Array, Array]:
    """A's rays in B's camera: start [P,3] and, per unit of A's depth, ray [P,G,3] for the pixels uv [G,2]."""
    rotation = np.swapaxes(c2w_b[:, :3, :3], 1, 2)
    position_a, position_b = c2w_a[:, :3, 3], c2w_b[:, :3, 3]
    between = position_a - position_b
    noise = COINCIDENT * (np.linalg.norm(position_a, axis=1) + np.linalg.norm(position_b, axis=1))
    between = np.where((np.linalg.norm(between, axis=1) <= noise)[:, None], 0.0, between)
    start = (rotation @ between[..., None])[..., 0]
    homogeneous = np.concatenate([uv, np.ones((len(uv), 1))], axis=1)
    ray = homogeneous @ np.swapaxes(rotation @ c2w_a[:, :3, :3] @ np.linalg.inv(K_a), 1, 2)
    return start, ray


def crosses_image(start: Array, ray: Array, K: Array, size: tuple[int, int], near: Array, far: Array) -> NDArray[np.bool_]:
    """[P,G] whether start + s ray, for some s in [near, far], lies in front of the camera and inside its image.

    start [P,3], ray [P,G,3] in the camera's axes; K [P,3,3]; near, far broadcast to [P,G].
    """
    low, high = np.broadcast_to(near, ray.shape[:2]), np.broadcast_to(far, ray.shape[:2])
    inside = np.ones(ray.shape[:2], bool)
    with np.errstate(divide="ignore", invalid="ignore"):
        for side in image_sides(K, size):
            constant = (side * start).sum(-1)[:, None]
            slope = (ray @ side[:, :, None])[..., 0]
            # constant + slope * s >= 0. Without a slope it holds everywhere or nowhere.
            root = -constant / slope
            low = np.where(slope > 0, np.maximum(low, root), low)
            high = np.where(slope < 0, np.minimum(high, root), high)
            inside &= (slope != 0) | (constant >= 0)
    inside &= low <= high
    # The four sides meet in the camera's centre, which is in no image: somewhere on [low, high] z must be positive.
    return inside & (_depth_at(low, start, ray) | _depth_at(high, start, ray))


def image_sides(K: Array, size: tuple[int, int]) -> list[Array]:
    """Four [P,3]: the scalar product with a point in the camera's axes is not negative on the image's side."""
    x, y, z = K[:, 0], K[:, 1], K[:, 2]
    return [x, size[0] * z - x, y, size[1] * z - y]


def _depth_at(s: Array, start: Array, ray: Array) -> NDArray[np.bool_]:
    """[P,G] whether z is positive at s [P,G]; s may be infinite."""
    z, slope = start[:, None, 2], ray[..., 2]
    finite = z + np.where(np.isfinite(s), s, 0.0) * slope > 0
    return np.where(np.isfinite(s), finite, (slope > 0) | ((slope == 0) & (z > 0)))
