"""The cameras of V views over F frames, of pictures of one size."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from schemas.camera import Array, CameraTrack


class ViewpointsError(ValueError):
    """Cameras that cannot be used as asked. The message says which, what was found and what to change."""


@dataclass(frozen=True, eq=False)
class Viewpoints:
    """c2w [V,F,4,4]: camera-to-world, OpenCV axes; view 0 is the one that the others are told relative to.

    K [V,F,3,3]: pixels of pictures of `size` = (width, height), pixel centres at integer + 0.5. names [V]: unique.
    metric: translations are metres; False where the scale is arbitrary (structure from motion).
    """

    names: tuple[str, ...]
    c2w: Array
    K: Array
    size: tuple[int, int]
    metric: bool

    def __post_init__(self) -> None:
        views, frames = self.c2w.shape[:2] if self.c2w.ndim == 4 else (0, 0)
        if not views or not frames or self.c2w.shape != (views, frames, 4, 4) or self.K.shape != (views, frames, 3, 3):
            raise ViewpointsError(f"c2w must be [V,F,4,4] and K [V,F,3,3], got {list(self.c2w.shape)} and {list(self.K.shape)}")
        if len(self.names) != views or len(set(self.names)) != views:
            raise ViewpointsError(f"{views} views need as many different names, got {', '.join(self.names)}")

    @property
    def views(self) -> int:
        return len(self.names)

    @property
    def frames(self) -> int:
        return self.c2w.shape[1]


def over_frames(name: str, track: CameraTrack, frames: int) -> CameraTrack:
    """The track over that many frames: a camera that stays as it is is repeated. Raises ViewpointsError for another number
    of poses of one that moves."""
    if (track.c2w == track.c2w[0]).all() and (track.K[0] == track.K).all():
        return track.at(np.zeros(frames, np.int64))
    if len(track) != frames:
        raise ViewpointsError(
            f"the camera {name!r} moves and has {len(track)} poses, but {frames} frames are to be generated; "
            f"give --frames {len(track)}, or a file with {frames} poses of it"
        )
    return track


def covered(track: CameraTrack, size: tuple[int, int]) -> CameraTrack:
    """The track of the same pictures resized to cover (width, height) and cut at the centre, as video is for this size."""
    width, height = size
    factor = max(width / track.width, height / track.height)
    offset = (track.width * factor - width) / 2, (track.height * factor - height) / 2
    K = np.diag([factor, factor, 1.0]) @ track.K
    K[:, 0, 2] -= offset[0]
    K[:, 1, 2] -= offset[1]
    return CameraTrack(track.c2w, K, width, height, track.scale)


def stacked(tracks: Sequence[tuple[str, CameraTrack]], size: tuple[int, int], frames: int) -> Viewpoints:
    """Named tracks as viewpoints of pictures of `size` over `frames` frames. Lens distortion is dropped: what is generated
    is a pinhole's picture. Raises ViewpointsError."""
    ready = [over_frames(name, covered(track, size), frames) for name, track in tracks]
    scales = {track.scale for _, track in tracks}
    return Viewpoints(
        tuple(name for name, _ in tracks),
        np.stack([track.c2w for track in ready]),
        np.stack([track.K for track in ready]),
        size,
        scales == {"metres"},
    )
