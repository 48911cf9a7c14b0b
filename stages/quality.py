"""Cheap quality of clips: what headers say, and what small gray frames show, before any model looks.

The paper names its filter for single-view clips only in outline (specs/syncammaster.md 2.7); every number here is ours.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from schemas.frames import FrameIndex
from schemas.typed import bounded
from schemas.verdict import Reason
from stages.media import Media
from stages.stage import Findings, Item, Scorer, Tier, limit

Luma = NDArray[np.uint8]

HEIGHT = 256  # pixels that frames are scaled to, so that scores of different resolutions compare

BLACK_LUMA = 26  # a tenth of the range: below it a pixel is black ...
BLACK_SHARE = 0.98  # ... and a frame whose pixels are black to this share is a black frame
BAR_LUMA = 26  # a bar at the border never gets brighter than this, in any frame ...
BAR_RANGE = 12  # ... nor does its luma vary by more: that is what codecs do to plain black
DARK_LUMA = 16
BRIGHT_LUMA = 250
# Two frames are the same picture if no block of 16 x 16 pixels differs by more than this in mean luma. Codec noise,
# key frames included, stays below; a small thing that moves does not.
FROZEN_BLOCK = 16
FROZEN_DIFFERENCE = 3


@dataclass(frozen=True)
class HeaderConfig:
    """Limits on what the headers say; all off unless set. For windows and groups they look at those, not the source."""

    min_width: float | None = limit("width", ">=", Reason.LOW_RESOLUTION)
    min_height: float | None = limit("height", ">=", Reason.LOW_RESOLUTION)
    min_fps: float | None = limit("fps", ">=", Reason.LOW_FPS)
    max_fps: float | None = limit("fps", "<=", Reason.HIGH_FPS)
    min_duration_s: float | None = limit("duration_s", ">=", Reason.TOO_SHORT)
    max_duration_s: float | None = limit("duration_s", "<=", Reason.TOO_LONG)
    min_frames: float | None = limit("n_frames", ">=", Reason.TOO_SHORT)
    min_views: float | None = limit("n_views", ">=", Reason.TOO_FEW_VIEWS)


class Header(Scorer):
    """Size, rate, length and number of views; of several views the smallest. A single frame has no rate and no duration."""

    name = "header"
    version = 1
    tier = Tier.HEADER
    needs = frozenset({"video"})
    Config = HeaderConfig
    config: HeaderConfig

    def score(self, item: Item, media: Media) -> Findings:
        chosen = [(item.scene.views[view].index, frames) for view, frames in item.selection()]
        timing = [duration_and_rate(index, None if item.child is None else frames) for index, frames in chosen]
        durations = [duration for duration, _ in timing if duration is not None]
        rates = [rate for _, rate in timing if rate is not None]
        return Findings(
            {
                "width": min(index.width for index, _ in chosen),
                "height": min(index.height for index, _ in chosen),
                "fps": min(rates, default=None),
                "duration_s": min(durations, default=None),
                "n_frames": min(len(frames) for _, frames in chosen),
                "n_views": len(chosen),
            }
        )


def duration_and_rate(index: FrameIndex, frames: NDArray[np.int64] | None) -> tuple[float | None, float | None]:
    """Seconds and frames a second of a whole view (frames is None) or of the frames chosen from it."""
    if frames is None:
        return index.duration_s, float(index.fps)
    if len(frames) < 2:
        return None, None
    span = float((int(index.pts[frames[-1]]) - int(index.pts[frames[0]])) * index.time_base)
    if span <= 0:
        return None, None
    interval = span / (len(frames) - 1)
    return span + interval, 1 / interval


@dataclass(frozen=True)
class QualityConfig:
    """sample_frames: at most so many frames, evenly spread, are looked at; `every: true` looks at all of them. Frozen
    runs shorter than the distance between two sampled frames show only with `every`.

    The limits' defaults turn away what is plainly broken: a tenth of the frames black, half of them frozen, bars over a
    tenth of the picture, hardly any edge, most pixels crushed or blown out.
    """

    sample_frames: int = bounded(24, low=1, high=100_000)
    every: bool = False
    max_black_fraction: float | None = limit("black_fraction", "<=", Reason.BLACK, 0.1)
    max_frozen_fraction: float | None = limit("frozen_fraction", "<=", Reason.FROZEN, 0.5)
    max_letterbox_fraction: float | None = limit("letterbox_fraction", "<=", Reason.LETTERBOX, 0.1)
    min_sharpness: float | None = limit("sharpness", ">=", Reason.BLURRED, 20.0)
    min_brightness: float | None = limit("brightness", ">=", Reason.UNDEREXPOSED)
    max_brightness: float | None = limit("brightness", "<=", Reason.OVEREXPOSED)
    max_dark_fraction: float | None = limit("dark_fraction", "<=", Reason.UNDEREXPOSED, 0.75)
    max_bright_fraction: float | None = limit("bright_fraction", "<=", Reason.OVEREXPOSED, 0.5)


class Quality(Scorer):
    """Black, frozen, letterboxed, blurred, badly exposed? Of several views the worst value counts."""

    name = "quality"
    version = 1
    tier = Tier.PIXELS
    needs = frozenset({"video"})
    Config = QualityConfig
    config: QualityConfig

    def score(self, item: Item, media: Media) -> Findings:
        found = []
        for position, frames in item.selection():
            view = item.scene.views[position]
            wanted = frames if self.config.every else spread_over(frames, self.config.sample_frames)
            size = (max(1, round(view.index.width * HEIGHT / view.index.height)), HEIGHT)
            found.append(media.map_frames(view.media, view.index, wanted, "stages.quality:measure", size=size, gray=True))
        return Findings(worst(found))


def spread_over(frames: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """At most `count` of the frames [n], evenly spread, both ends included."""
    if len(frames) <= count:
        return frames
    return frames[np.rint(np.linspace(0, len(frames) - 1, count)).astype(np.int64)]


def worst(found: list[dict[str, float | None]]) -> dict[str, float | None]:
    """Per score the worst value over the views: the least sharpness, the brightness furthest from the middle, the
    largest of all others. None only where no view has the score."""
    judged: dict[str, float | None] = {}
    for name in found[0]:
        values = [each[name] for each in found]
        known = [value for value in values if value is not None]
        if name == "sharpness":
            judged[name] = min(known, default=None)
        elif name == "brightness":
            judged[name] = max(known, key=lambda value: abs(value - 0.5), default=None)
        else:
            judged[name] = max(known, default=None)
    return judged


def measure(frames: Iterator[Luma]) -> dict[str, float | None]:
    """Scores of [H,W] luma frames (0..255), H = HEIGHT, in time order. Runs in the sandbox.

    frozen_fraction is None for a single frame. Without any frame all are None.
    """
    black, frozen, sharpness, mean, dark, bright = [], [], [], [], [], []
    previous = lightest = darkest = None
    for frame in frames:
        counts = cv2.calcHist([frame], [0], None, [256], [0, 256]).ravel().astype(np.float64)
        share = np.cumsum(counts) / frame.size
        black.append(share[BLACK_LUMA - 1] >= BLACK_SHARE)
        dark.append(share[DARK_LUMA - 1])
        bright.append(1 - share[BRIGHT_LUMA])
        mean.append(float(counts @ np.arange(256)) / frame.size / 255)
        laplacian = cv2.Laplacian(frame, cv2.CV_16S)  # its variance from two sums: five times as fast as meanStdDev
        sharpness.append(cv2.norm(laplacian) ** 2 / frame.size - (cv2.sumElems(laplacian)[0] / frame.size) ** 2)
        if previous is None or lightest is None or darkest is None:
            lightest, darkest = frame.copy(), frame.copy()
        else:
            frozen.append(same_picture(previous, frame))
            cv2.max(lightest, frame, dst=lightest)
            cv2.min(darkest, frame, dst=darkest)
        previous = frame
    return {
        "black_fraction": _mean(black),
        "frozen_fraction": _mean(frozen),
        "letterbox_fraction": None if lightest is None or darkest is None else letterbox(lightest, darkest),
        "sharpness": _median(sharpness),
        "brightness": _median(mean),
        "dark_fraction": _median(dark),
        "bright_fraction": _median(bright),
    }


def same_picture(first: Luma, second: Luma) -> bool:
    """Whether two frames [H,W] differ by codec noise at most."""
    # Whole blocks only: what is left over at the right and the bottom would make the resize seven times as slow.
    height, width = (side - side % FROZEN_BLOCK or side for side in first.shape)
    size = (max(1, width // FROZEN_BLOCK), max(1, height // FROZEN_BLOCK))
    blocks = cv2.resize(cv2.absdiff(first, second)[:height, :width], size, interpolation=cv2.INTER_AREA)
    return int(blocks.max()) <= FROZEN_DIFFERENCE


def letterbox(lightest: Luma, darkest: Luma) -> float:
    """Share of the picture under dark bars at its borders. lightest, darkest [H,W]: each pixel's largest and least luma.

    0 where everything is dark: then there is no picture to tell bars from, and `black_fraction` says so.
    """
    size = 1.0
    for axis in (1, 0):
        top, bottom = lightest.max(axis=axis), darkest.min(axis=axis)
        picture = np.flatnonzero((top > BAR_LUMA) | (top.astype(np.int16) - bottom > BAR_RANGE))
        if len(picture) == 0:
            return 0.0
        size *= (picture[-1] - picture[0] + 1) / len(top)
    return float(1.0 - size)


def _mean(values: list[bool]) -> float | None:
    return float(np.mean(values)) if values else None


def _median(values: list[float]) -> float | None:
    return float(np.median(values)) if values else None
