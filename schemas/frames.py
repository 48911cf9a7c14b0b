"""Frames and their times, and a candidate once its headers and cameras have been read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from schemas.camera import CameraTrack
from schemas.candidate import Candidate, MediaRef


@dataclass(frozen=True, eq=False)
class FrameIndex:
    """Every frame of one view that a player would show, in presentation order.

    pts, keyframes: int64 in units of `time_base` seconds; discarded packets are left out. For image sequences the
    time base is 1 ns and every frame is a keyframe.
    """

    pts: NDArray[np.int64]  # [N], strictly increasing
    keyframes: NDArray[np.int64]  # [K] pts of the keyframes, increasing
    time_base: Fraction
    width: int  # pixels as shown: display rotation of 90 degrees is applied
    height: int
    fps: Fraction  # average rate
    codec: str  # "h264", "vp9", "jpeg", ...
    rotation: int = 0  # degrees, already applied by the reader

    def __len__(self) -> int:
        return len(self.pts)

    @cached_property
    def pts_ns(self) -> NDArray[np.int64]:
        """[N] nanoseconds, rounded to nearest from the exact rational time."""
        ticks, denominator = self.pts * self.time_base.numerator, self.time_base.denominator
        # Whole seconds apart from the rest: the product of a long stream's ticks with 1e9 would not fit 64 bits.
        seconds, rest = np.divmod(ticks, denominator)
        return np.asarray(seconds * 1_000_000_000 + (rest * 1_000_000_000 + denominator // 2) // denominator, np.int64)

    @property
    def duration_s(self) -> float:
        """Time from the first frame to the end of the last, taking the last to be shown for one average interval."""
        if len(self.pts) == 0:
            return 0.0
        return float((int(self.pts[-1]) - int(self.pts[0])) * self.time_base) + (1 / float(self.fps) if self.fps else 0.0)


@dataclass(frozen=True, eq=False)
class SceneView:
    """One view with its frame index and, where the source has them, cameras.

    `camera_frames[i]` is the frame (position in `index`) that `cameras` entry i belongs to; sources with a camera for
    every frame have arange(N).
    """

    view_id: str
    media: MediaRef
    index: FrameIndex
    cameras: CameraTrack | None = None
    camera_frames: NDArray[np.int64] | None = None


@dataclass(frozen=True, eq=False)
class Scene:
    """A candidate whose headers have been read and whose cameras have been converted. Holds no pixels."""

    candidate: Candidate
    views: tuple[SceneView, ...]
    notes: Mapping[str, str] = field(default_factory=dict)  # decisions worth auditing, e.g. the crop-or-scale rule
