"""Pictures through lenses that distort: the studio's pinhole rendering bent by OpenCV's own models, and dots at known places."""

import cv2
import numpy as np

from pipeline.studio.render import paint
from pipeline.studio.worlds import plaza
from schemas.camera import Array, Lens, look_at

SIZE = (320, 180)
BARREL = Lens("opencv", 210.0, 208.0, 163.0, 88.0, (-0.18, 0.03, 0.002, -0.001, 0.004), *SIZE)
PINCUSHION = Lens("opencv", 230.0, 230.0, 157.0, 93.0, (0.12, 0.02, 0.0, 0.0), *SIZE)
FISHEYE = Lens("fisheye", 150.0, 150.0, 161.0, 89.0, (-0.03, 0.01, -0.004, 0.001), *SIZE)
LENSES = {"barrel": BARREL, "pincushion": PINCUSHION, "fisheye": FISHEYE}

_FINER = 2  # times a side: rendered finer, then averaged


def matrix(lens: Lens) -> Array:
    """K, pixel centres at integer + 0.5."""
    return np.array([[lens.fx, 0, lens.cx], [0, lens.fy, lens.cy], [0, 0, 1.0]])


def bent(rays: Array, lens: Lens) -> Array:
    """[N,2] pixels at which the lens shows the directions [N,3], by OpenCV."""
    still, rays = np.zeros(3), np.ascontiguousarray(rays[:, None])
    project = cv2.fisheye.projectPoints if lens.model == "fisheye" else None
    if project is not None:
        return project(rays, still, still, matrix(lens), np.array(lens.distortion))[0][:, 0]
    return cv2.projectPoints(rays, still, still, matrix(lens), np.array(lens.distortion))[0][:, 0]


def directions(pixels: Array, lens: Lens) -> Array:
    """[N,2] on the plane at distance 1: where the pixels [N,2] look, by OpenCV."""
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-12)
    pixels, K, coefficients = np.ascontiguousarray(pixels[:, None]), matrix(lens), np.array(lens.distortion)
    if lens.model == "fisheye":
        return cv2.fisheye.undistortPoints(pixels, K, coefficients, criteria=criteria)[:, 0]
    return cv2.undistortPoints(pixels, K, coefficients, criteria=criteria)[:, 0]


def centres(width: int, height: int) -> Array:
    """[height * width, 2] pixel centres, row by row."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], axis=1).astype(np.float64)


def dots(pixels: Array, size: tuple[int, int], sigma: float = 1.3) -> np.ndarray:
    """[H,W,3] round white dots on gray, centred at the pixels [N,2]."""
    across, down = (np.arange(length) + 0.5 for length in size)
    light = np.zeros((size[1], size[0]))
    for x, y in pixels:
        light += np.exp(-np.square(down - y) / 2 / sigma**2)[:, None] * np.exp(-np.square(across - x) / 2 / sigma**2)[None, :]
    return np.repeat(np.uint8(np.clip(30 + 200 * light, 0, 255))[..., None], 3, axis=2)


def found_dots(picture: np.ndarray, expected: Array, reach: int = 6) -> Array:
    """[N,2] centres of light around the expected places."""
    luma = picture.astype(float)
    luma = luma.mean(axis=2) if luma.ndim == 3 else luma
    found = []
    for x, y in expected:
        left, top = round(x - 0.5) - reach, round(y - 0.5) - reach
        patch = np.clip(luma[top : top + 2 * reach + 1, left : left + 2 * reach + 1] - 45, 0, None)
        rows, columns = np.mgrid[0 : patch.shape[0], 0 : patch.shape[1]]
        found.append(((patch * columns).sum() / patch.sum() + left + 0.5, (patch * rows).sum() / patch.sum() + top + 0.5))
    return np.array(found)


class Filmed:
    """A plaza of the studio as a pinhole sees it and as the lens shows it, from camera-to-world `c2w` at time t."""

    def __init__(self, lens: Lens, t: float = 0.0, c2w: Array | None = None, seed: int = 5) -> None:
        world = plaza(seed, movers=2)
        pose = look_at((0.0, -4.0, 1.6), (0.0, 0.0, 1.0)) if c2w is None else c2w
        wide, high = 2 * lens.width, 2 * lens.height  # what lies around the pinhole's picture too
        moved = np.array([[1.0, 0, lens.width / 2], [0, 1, lens.height / 2], [0, 0, 1]])
        K = np.diag([_FINER, _FINER, 1.0]) @ moved @ matrix(lens)
        drawn = paint(world, t, pose, K, (_FINER * wide, _FINER * high))
        left, top, width, height = (_FINER * each for each in (lens.width // 2, lens.height // 2, lens.width, lens.height))
        self.pinhole = _averaged(drawn[top : top + height, left : left + width], lens)
        seen = directions(centres(width, height) / _FINER, lens) @ K[:2, :2].T + K[:2, 2] - 0.5
        places = np.float32(seen.reshape(height, width, 2))
        self.lens = _averaged(cv2.remap(drawn, places[..., 0], places[..., 1], cv2.INTER_CUBIC), lens)


def _averaged(fine: np.ndarray, lens: Lens) -> np.ndarray:
    return cv2.resize(fine, (lens.width, lens.height), interpolation=cv2.INTER_AREA)


def shifts(found: np.ndarray, expected: np.ndarray, tile: int = 48) -> list[float]:
    """By how many pixels tiles of a picture lie off those of another, where there is something to see, by phase correlation."""
    one, other = (np.float32(cv2.cvtColor(each, cv2.COLOR_RGB2GRAY)) for each in (found, expected))
    window, off = cv2.createHanningWindow((tile, tile), cv2.CV_32F), []
    for top in range(0, one.shape[0] - tile + 1, tile // 2):
        for left in range(0, one.shape[1] - tile + 1, tile // 2):
            a, b = (each[top : top + tile, left : left + tile] for each in (one, other))
            if (a == 0).mean() < 0.01 and b.std() > 15:
                off.append(float(np.hypot(*cv2.phaseCorrelate(a, b, window)[0])))
    return off
