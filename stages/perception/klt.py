"""Point tracks without a model: pyramidal Lucas-Kanade (Lucas and Kanade 1981; Bouguet 2000) from OpenCV, checked forward and backward.

Against drift a point is compared with its own look in the first frame wherever that still fits; a lost point goes along with its
neighbours and comes back when its first look is found again. Only the first and the latest frame are kept.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.perception.results import Image, Points, Tracks

Gray = NDArray[np.uint8]
Mask = NDArray[np.bool_]

NEIGHBOURS = 8  # tracked points whose median step a lost point takes
_CRITERIA = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 0.01)


@dataclass(frozen=True)
class KltTracker:
    """The default Tracker. It needs no weights; the same frames give the same tracks. All lengths are pixels.

    window: side of the patch that is followed. levels: times the image is halved. there_and_back: how far a point may come out
    from where it started, when it is followed to the next frame and back. slack: how far the first look may correct it.
    alike: least correlation with the first look for a correction or a return.
    """

    window: int = 11
    levels: int = 4
    there_and_back: float = 0.7
    slack: float = 2.5
    alike: float = 0.75

    def track(self, frames: Iterator[Image], points: Points) -> Tracks:
        """xy [T,N,2], visible [T,N] of points [N,2] in the first frame; T is the number of frames, which may be 0."""
        start = np.asarray(points, np.float32).reshape(-1, 2)
        at, seen = start - np.float32(0.5), np.ones(len(start), np.bool_)
        first = before = None
        xy, visible = [], []
        for frame in frames:
            now = np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8)
            if first is None or before is None:
                first = now
                seen = _inside(at, now)
            elif len(start):
                at, seen = self._step(first, before, now, start - np.float32(0.5), at, seen)
            before = now
            xy.append(at + np.float32(0.5))
            visible.append(seen)
        shape = (len(xy), len(start))
        return Tracks(np.asarray(xy, np.float32).reshape(*shape, 2), np.asarray(visible, np.bool_).reshape(shape))

    def _step(self, first: Gray, before: Gray, now: Gray, start: Points, at: Points, seen: Mask) -> tuple[Points, Mask]:
        """Positions [N,2], whole numbers at pixel centres, and visibility [N] one frame on."""
        moved, found = self._there_and_back(before, now, at, at, self.levels)
        found &= seen
        guess = np.where(found[:, None], moved, at + _steps_of_neighbours(at, moved, found)).astype(np.float32)
        # The first look, near where the point is believed to be: it takes the drift out, and brings lost points back.
        fixed, fits = self._there_and_back(first, now, start, guess, 1)
        fits &= np.linalg.norm(fixed - guess, axis=1) <= np.where(found, self.slack, 2 * self.slack)
        likeness = _correlation(first, start, now, fixed, self.window)
        fits &= likeness >= self.alike
        fits &= ~found | (likeness >= _correlation(first, start, now, guess, self.window))
        return np.where(fits[:, None], fixed, guess).astype(np.float32), (found | fits) & _inside(
            np.where(fits[:, None], fixed, guess), now
        )

    def _there_and_back(self, source: Gray, target: Gray, at: Points, guess: Points, levels: int) -> tuple[Points, Mask]:
        """Where points [N,2] of `source` are in `target`, and whether the way back ends where it began."""
        there, ok = self._flow(source, target, at, guess, levels)
        # The way back must not start at its end: it sets out as far from there as the way there had to go.
        back, ok_back = self._flow(target, source, there, at + (there - guess), levels)
        return there, ok & ok_back & (np.linalg.norm(back - at, axis=1) <= self.there_and_back)

    def _flow(self, source: Gray, target: Gray, at: Points, guess: Points, levels: int) -> tuple[Points, Mask]:
        window = (self.window, self.window)
        flags = cv2.OPTFLOW_USE_INITIAL_FLOW
        there, status, _ = cv2.calcOpticalFlowPyrLK(
            source,
            target,
            at[:, None],
            guess[:, None].copy(),
            winSize=window,
            maxLevel=levels,
            criteria=_CRITERIA,
            flags=flags,
            minEigThreshold=1e-5,
        )
        there = np.asarray(there, np.float32).reshape(-1, 2)
        ok = (np.asarray(status).reshape(-1) > 0) & np.isfinite(there).all(axis=1)
        return np.where(ok[:, None], there, guess).astype(np.float32), ok


def _inside(at: Points, frame: Gray) -> Mask:
    height, width = frame.shape
    return np.asarray(((at >= -0.5) & (at < (width - 0.5, height - 0.5))).all(axis=1), np.bool_)


def _steps_of_neighbours(at: Points, moved: Points, found: Mask) -> Points:
    """[N,2]: for each point the median step of the nearest points that were found; no step where none was."""
    known = np.flatnonzero(found)
    if len(known) == 0:
        return np.zeros_like(at)
    step = (moved - at)[known]
    lost = np.flatnonzero(~found)
    steps = np.zeros_like(at)
    if len(lost):
        distance = ((at[lost, None] - at[None, known]) ** 2).sum(axis=2)
        nearest = np.argsort(distance, axis=1, kind="stable")[:, :NEIGHBOURS]
        steps[lost] = np.median(step[nearest], axis=1)
    return steps


def _correlation(first: Gray, start: Points, now: Gray, at: Points, window: int) -> NDArray[np.float32]:
    """[N]: normalised correlation of the patches around start in `first` and around `at` in `now`; 0 where either is flat."""
    one, two = _patches(first, start, window), _patches(now, at, window)
    one -= one.mean(axis=1, keepdims=True)
    two -= two.mean(axis=1, keepdims=True)
    size = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    return np.asarray((one * two).sum(axis=1) / np.maximum(size, 1e-3), np.float32)


def _patches(image: Gray, at: Points, window: int) -> NDArray[np.float32]:
    """[N,window²] grey levels around positions [N,2], read between pixels."""
    reach = np.arange(window, dtype=np.float32) - np.float32((window - 1) / 2)
    x = np.broadcast_to((at[:, 0, None] + reach)[:, None, :], (len(at), window, window)).reshape(len(at), -1)
    y = np.broadcast_to((at[:, 1, None] + reach)[:, :, None], (len(at), window, window)).reshape(len(at), -1)
    bound = np.float32(30000)  # remap's limit on coordinates
    read = cv2.remap(image, np.clip(x, -bound, bound), np.clip(y, -bound, bound), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(read, np.float32)
