"""Line segments by LSD (von Gioi et al., 2010), from OpenCV."""

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.perception.results import Image, Points

SCALE = 0.8  # LSD looks at the picture shrunk to this, against staircases: its own default
MIN_LENGTH = 15.0  # pixels: GlueStick's (specs/fcvg.md 2.1)
_LEAST_SIDE = 8  # pixels: below it LSD's own blur does not fit


def line_segments(image: Image, max_lines: int = 300, min_length: float = MIN_LENGTH) -> tuple[Points, NDArray[np.float32]]:
    """The `max_lines` strongest segments [N,2,2] of [H,W,3] RGB or [H,W] luma, strongest first, and their scores [N], 0 to 1.

    A segment's strength is GlueStick's: -log10 of its number of false alarms times the root of its length, here over the largest.
    Its endpoints (x, y) stand such that the brighter side lies to the same hand for all; centres of pixels at integer + 0.5.
    """
    gray = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if max_lines < 1 or min(gray.shape) < _LEAST_SIDE:
        return _nothing()
    detector = cv2.createLineSegmentDetector(cv2.LSD_REFINE_ADV, SCALE)
    found, _, _, alarms = detector.detect(np.ascontiguousarray(gray))
    if found is None or len(found) == 0:
        return _nothing()
    # The gradient that LSD sees lies between pixels, half a pixel of the shrunken picture further than it says.
    lines = np.asarray(found, np.float64).reshape(-1, 2, 2) + 0.5 / SCALE
    length = np.linalg.norm(lines[:, 1] - lines[:, 0], axis=1)
    strength = np.asarray(alarms, np.float64).reshape(-1) * np.sqrt(length)
    order = np.lexsort((*lines.reshape(-1, 4).T, -strength))  # equal strengths: by position
    order = order[(length[order] >= min_length) & (strength[order] > 0)][:max_lines]
    if len(order) == 0:
        return _nothing()
    return lines[order].astype(np.float32), (strength[order] / strength[order[0]]).astype(np.float32)


def _nothing() -> tuple[Points, NDArray[np.float32]]:
    return np.zeros((0, 2, 2), np.float32), np.zeros(0, np.float32)
