"""What models saw, drawn over the frames they saw it in: masks and tracks, matched lines, skeletons."""

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.perception.openpose import COLORS, FOUND, HAND_EDGES, LEFT_HAND, LIMBS, RIGHT_HAND

Image = NDArray[np.uint8]
Arrays = Mapping[str, NDArray[Any]]

# The score that a sheet is about -> the member that shows why.
MEMBER_OF = {
    **dict.fromkeys(("camera_motion", "foreground_motion", "tracked_points", "tracked_masks", "n_masks", "visible_fraction"), "motion"),
    "n_lines": "lines",
    **dict.fromkeys(("n_people", "pose_score"), "poses"),
}
# What a member's own sheet is called, and the score that is known where the member is.
TITLES = {
    "motion": ("camera_motion", "Masks of the first frame; tracks up to the last, blue where they are still, red where they move."),
    "lines": ("n_lines", "Line segments of the first and the last frame; a match has one colour."),
    "poses": ("n_people", "Skeletons in the first, a middle and the last frame."),
}
_SHIFT = 4  # OpenCV draws at sixteenths of a pixel


@dataclass(frozen=True)
class Scaled:
    """A picture, and how positions in source pixels become positions in it."""

    pixels: Image
    scale: float

    def at(self, xy: NDArray[Any]) -> NDArray[np.int32]:
        """[...,2] for OpenCV, whose first pixel has its centre at (0, 0)."""
        return np.rint((np.asarray(xy, np.float64) * self.scale - 0.5) * (1 << _SHIFT)).astype(np.int32)


def frames_of(member: str, arrays: Arrays, count: int) -> list[int]:
    """Positions among the sample's `count` frames that the drawing is made over."""
    if member == "poses":
        known = [int(frame) for frame in arrays["frame"] if 0 <= frame < count]
        return list(dict.fromkeys(known[i] for i in (0, len(known) // 2, -1))) if known else []
    return list(dict.fromkeys([0, count - 1]))


def draw(member: str, arrays: Arrays, pictures: Sequence[Image], frames: Sequence[int]) -> list[Image]:
    """pictures [h,w,3] RGB of the frames, all of one size, whatever the size of the source that positions speak of."""
    source_width = int(arrays["size"][0])
    scaled = [Scaled(np.ascontiguousarray(picture).copy(), picture.shape[1] / source_width) for picture in pictures]
    if member == "motion":
        _masks(scaled[0], arrays)
        _tracks(scaled[-1], arrays)
    elif member == "lines":
        _segments(scaled[0], arrays["first"])
        _segments(scaled[-1], arrays["second"])
    elif member == "poses":
        where = {int(frame): i for i, frame in enumerate(arrays["frame"])}
        for picture, frame in zip(scaled, frames, strict=True):
            for points, scores in zip(arrays["keypoints"][where[frame]], arrays["scores"][where[frame]], strict=True):
                _skeleton(picture, points, scores)
    return [picture.pixels for picture in scaled]


def _masks(picture: Scaled, arrays: Arrays) -> None:
    """Each region in a colour of its own, half through."""
    height, width = picture.pixels.shape[:2]
    labels = cv2.resize(arrays["labels"], (width, height), interpolation=cv2.INTER_NEAREST)
    count = int(labels.max(initial=0))
    palette = np.array([(0, 0, 0), *_hues(count)], np.uint8)
    tinted = cv2.addWeighted(picture.pixels, 0.5, palette[labels], 0.5, 0)
    np.copyto(picture.pixels, tinted, where=(labels > 0)[..., None])


def _tracks(picture: Scaled, arrays: Arrays) -> None:
    """From the first frame to the last, as far as visible: blue where a point stays, red where it goes a twentieth of the width."""
    xy, visible = arrays["tracks"].astype(np.float64), arrays["visible"]
    for point in range(xy.shape[1]):
        seen = xy[visible[:, point], point]
        if len(seen) == 0 or not np.isfinite(seen).all():
            continue
        far = float(np.linalg.norm(seen - seen[0], axis=1).max()) * picture.scale / picture.pixels.shape[1]
        colour = _rgb(0.66 * (1 - min(1.0, far * 20)))
        path = picture.at(seen)
        cv2.polylines(picture.pixels, [path], False, colour, 1, cv2.LINE_AA, _SHIFT)
        cv2.circle(picture.pixels, path[-1].tolist(), 2 << _SHIFT, colour, -1, cv2.LINE_AA, _SHIFT)


def _segments(picture: Scaled, segments: NDArray[Any]) -> None:
    for (start, end), colour in zip(picture.at(segments).reshape(-1, 2, 2), _hues(len(segments)), strict=True):
        cv2.line(picture.pixels, start.tolist(), end.tolist(), colour, 2, cv2.LINE_AA, _SHIFT)


def _skeleton(picture: Scaled, points: NDArray[Any], scores: NDArray[Any]) -> None:
    """Limbs and hands between points that were found."""
    at = picture.at(np.nan_to_num(points))
    hands = [(hand.start + a, hand.start + b) for hand in (LEFT_HAND, RIGHT_HAND) for a, b in HAND_EDGES]
    edges = [*zip(LIMBS, COLORS, strict=False), *((edge, (90, 160, 255)) for edge in hands)]
    for (a, b), colour in edges:
        if min(scores[a], scores[b]) > FOUND:
            cv2.line(picture.pixels, at[a].tolist(), at[b].tolist(), colour, 2, cv2.LINE_AA, _SHIFT)


def _hues(count: int) -> list[tuple[int, int, int]]:
    """Colours far from each other for neighbours: steps of the golden ratio round the circle."""
    return [_rgb(i * 0.618034 % 1.0) for i in range(count)]


def _rgb(hue: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
