"""What models of one kind have in common: the arrays they give, and how they are asked.

Images are [H,W,3] uint8 RGB. Positions are (x, y) in pixels of the image that was given, x to the right, y down, and the centre of
the first pixel is (0.5, 0.5), as everywhere here; OpenCV and most networks count from (0, 0), which their adapters mend.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Points = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Mask:
    """One region. pixels [H,W] bool. score: what the model thinks of it, 0 to 1; 1 where a model has no opinion."""

    pixels: NDArray[np.bool_]
    score: float = 1.0


class Segmenter(Protocol):
    """Regions of an image, the largest first. They may overlap and need not cover it."""

    def masks(self, image: Image) -> list[Mask]: ...


@dataclass(frozen=True, eq=False)
class Tracks:
    """xy [T,N,2] float32, visible [T,N] bool; where a point is not visible its xy is the tracker's guess."""

    xy: Points
    visible: NDArray[np.bool_]


class Tracker(Protocol):
    """Follows points [N,2] of the first frame through all frames of one size, in memory that does not grow with their number."""

    def track(self, frames: Iterator[Image], points: Points) -> Tracks: ...


@dataclass(frozen=True, eq=False)
class LineMatches:
    """Segments of two images that show the same edge: first, second [N,2,2] (endpoint, xy), in endpoint order; scores [N], 0 to 1."""

    first: Points
    second: Points
    scores: NDArray[np.float32]


class LineMatcher(Protocol):
    """No lines, or no matches, give empty arrays."""

    def match(self, first: Image, second: Image) -> LineMatches: ...


@dataclass(frozen=True, eq=False)
class People:
    """The people of one image: keypoints [P,134,2], scores [P,134] (0: not found), in OpenPose's order of body, feet, face and hands
    (specs of DWPose, 3.3: 18 body, 6 feet, 68 face, 21 left hand, 21 right hand)."""

    keypoints: Points
    scores: NDArray[np.float32]


class PoseDetector(Protocol):
    """One result for each image; nobody is an empty one."""

    def people(self, images: Sequence[Image]) -> list[People]: ...
