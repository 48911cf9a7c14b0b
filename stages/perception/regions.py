"""Regions without a model: graph-based segmentation of the image into patches of like colour (Felzenszwalb and Huttenlocher, 2004),
as scikit-image has it. It knows no objects: a person comes as a shirt, a face, a pair of trousers. What moves is found all the same.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.typed import RecipeError
from stages.perception.results import Image, Mask

SIDE = 256  # longer images are scaled to this before they are cut up, so that `scale` means the same for all of them


class RegionSegmenter:
    """The default Segmenter. It needs no weights; the same image gives the same regions.

    scale: larger makes larger regions. sigma: pixels of blur beforehand. least: smallest region, as a share of the image.
    most: largest number of regions; the smallest are left out. Raises RecipeError where scikit-image is missing.
    """

    def __init__(self, *, scale: float = 80.0, sigma: float = 0.8, least: float = 0.002, most: int = 64) -> None:
        try:
            from skimage.segmentation import felzenszwalb
        except ImportError:
            raise RecipeError("regions need scikit-image; install it with: uv pip install -e '.[perception]'") from None
        self._felzenszwalb: Any = felzenszwalb
        self.scale, self.sigma, self.least, self.most = scale, sigma, least, most

    def masks(self, image: Image) -> list[Mask]:
        """The largest first; of equal ones the first in reading order. They do not overlap, and cover the image but for what is too
        small or too many. Nothing for an image of less than 8 pixels in height or width."""
        import cv2

        height, width = image.shape[:2]
        if min(height, width) < 8:
            return []
        shrink = min(1.0, SIDE / max(height, width))
        size = (max(8, round(width * shrink)), max(8, round(height * shrink)))
        small = image if shrink == 1 else np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        labels = self._labels(small)
        areas = np.bincount(labels.ravel())
        order = np.argsort(-areas, kind="stable")
        chosen = order[areas[order] >= self.least * labels.size][: self.most]
        parts = (np.asarray(labels == label, np.uint8) for label in chosen)
        found = [np.asarray(cv2.resize(each, (width, height), interpolation=cv2.INTER_NEAREST), np.bool_) for each in parts]
        found.sort(key=lambda each: (-int(each.sum()), int(each.argmax())))  # scaling up may swap regions that are nearly as large
        return [Mask(each) for each in found]

    def _labels(self, image: Image) -> NDArray[np.int64]:
        """[H,W] region numbers, from 0 in reading order."""
        fewest = max(1, round(self.least * image.shape[0] * image.shape[1]))
        raw = self._felzenszwalb(image, self.scale, self.sigma, fewest, channel_axis=2)
        _, first, inverse = np.unique(raw, return_index=True, return_inverse=True)
        return np.asarray(np.argsort(np.argsort(first))[inverse.reshape(raw.shape)], np.int64)
