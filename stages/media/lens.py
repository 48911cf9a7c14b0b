"""Pictures as a pinhole would have taken them: what a MediaRef with a `lens` is read through.

The pinhole has the lens's own K and size (ours: the scale at the optical axis stays, so do the cameras' numbers). What the lens
shows beyond the picture's edges is lost, and pixels that it does not show are black; `shares` says how much of either.
"""

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from schemas.camera import Lens

MAX_SIDE = 32766  # px: OpenCV's remap counts in 16 bits
_OUTSIDE = -1000.0  # px: a place in no picture
_STEPS = 1 << 14  # from the axis to the farthest corner
_COARSE = 256  # px, the longer side of the grid on which shares are counted

Maps = tuple[NDArray[np.int16], NDArray[np.uint16]]


def undistort(pixels: NDArray[np.uint8], lens: Lens) -> NDArray[np.uint8]:
    """[H,W,3] or [H,W] of the lens's size, seen through the pinhole; bilinear, black where the lens sees nothing."""
    if pixels.shape[:2] != (lens.height, lens.width):
        raise ValueError(f"the lens is of {lens.width}x{lens.height}, the picture has {pixels.shape[1]}x{pixels.shape[0]}")
    return np.asarray(cv2.remap(pixels, *_maps(lens), cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0), np.uint8)


@lru_cache(maxsize=4)  # a source's views come one after another; 50 MB each in 4K
def _maps(lens: Lens) -> Maps:
    """Where each pixel is taken from, to 1/32 px."""
    x, y = positions(lens)
    found = cv2.convertMaps(x, y, cv2.CV_16SC2)
    return np.asarray(found[0], np.int16), np.asarray(found[1], np.uint16)


def positions(lens: Lens) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """x, y [H,W]: where the lens shows what the pinhole sees at each pixel, counted from the first pixel's centre (OpenCV's way).

    Far outside the picture where the lens shows it nowhere: see `reach`.
    """
    fx, fy, cx, cy = lens.fx, lens.fy, lens.cx - 0.5, lens.cy - 0.5
    K, size = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]]), (lens.width, lens.height)
    coefficients, still = np.array(lens.distortion, np.float64), np.eye(3)
    initialize = cv2.fisheye.initUndistortRectifyMap if lens.model == "fisheye" else cv2.initUndistortRectifyMap
    found = initialize(K, coefficients, still, K, size, cv2.CV_32FC1)
    x, y = (np.asarray(each, np.float32) for each in found)
    across, down = (np.arange(lens.width, dtype=np.float32) - cx) / fx, (np.arange(lens.height, dtype=np.float32) - cy) / fy
    beyond = np.square(across)[None, :] + np.square(down)[:, None] > reach(lens) ** 2
    for each in (x, y):
        each[beyond | ~(np.abs(each) < MAX_SIDE)] = _OUTSIDE  # NaN included
    return x, y


def reach(lens: Lens) -> float:
    """The tangent of the angle off the axis up to which the lens shows every direction of the picture at a place of its own; infinity
    if all.

    Beyond it the polynomial turns back, and would show parts of the picture a second time. Tangential terms are left out: they are small.
    """
    k, fisheye = lens.distortion, lens.model == "fisheye"
    radial = k if fisheye else (*k[:2], *k[4:5])  # r (1 + k1 r^2 + k2 r^4 ...), r the angle of a fisheye, else its tangent
    corner = np.hypot(max(lens.cx, lens.width - lens.cx) / lens.fx, max(lens.cy, lens.height - lens.cy) / lens.fy)
    r = np.linspace(0.0, np.arctan(corner) if fisheye else corner, _STEPS)
    with np.errstate(all="ignore"):
        slope = np.polynomial.polynomial.polyval(np.square(r), [(2 * i + 1) * value for i, value in enumerate((1.0, *radial))])
    turned = np.flatnonzero(~(slope > 0))
    if not len(turned):
        return np.inf
    return float(np.tan(r[turned[0]]) if fisheye else r[turned[0]])


def shares(lens: Lens) -> tuple[float, float]:
    """(lost, black): the share of the lens's picture that the pinhole's leaves out, and the share of the pinhole's that is black."""
    factor = min(1.0, _COARSE / max(lens.width, lens.height))
    x, y = positions(lens.scaled(max(2, round(lens.width * factor)), max(2, round(lens.height * factor))))
    height, width = x.shape
    seen = (x > -0.5) & (x < width - 0.5) & (y > -0.5) & (y < height - 0.5)
    x, y = (np.where(x == _OUTSIDE, np.nan, each) for each in (x, y))  # to where the lens shows nothing is no slope
    (x_down, x_across), (y_down, y_across) = np.gradient(x), np.gradient(y)
    area = np.abs(x_across * y_down - x_down * y_across)  # of the lens's picture that each pixel shows
    return max(0.0, 1.0 - float(np.nansum(area[seen])) / (width * height)), 1.0 - float(seen.mean())
