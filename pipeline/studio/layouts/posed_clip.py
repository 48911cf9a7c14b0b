"""A RealEstate10K clip before it is stored, whether its walk is our own or a published trajectory's."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from pipeline.studio.scene import Array, Scene
from schemas.camera import CameraTrack


@dataclass(frozen=True, eq=False)
class Clip:
    """A stretch of a video and its trajectory file.

    camera: metres in the scene's world, one pose for every source frame. first: the number of its first frame in the video.
    listed: positions in `camera` that the trajectory file has a line for. cameras [N,18]: those lines without their times.
    text: the trajectory file.
    """

    name: str
    video: str
    split: str
    scene: Scene
    camera: CameraTrack
    first: int
    rate: Fraction
    listed: NDArray[np.int64]
    times_us: NDArray[np.int64]
    cameras: Array
    text: str

    @property
    def times(self) -> NDArray[np.float64]:
        return np.array([float(k / self.rate) for k in range(len(self.camera))])
