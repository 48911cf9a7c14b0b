"""Pictures of one member, decoded in memory: the frames that are asked for and no others, at the size that training takes.

In this process, not in the sandbox that curation uses: what a shard holds went through that one, and is in our own archive.
A member that is damaged nevertheless is a ReadError, never a crash of ours.

Size: scaled to cover H x W (shrunk by area, enlarged bicubically), then the centre is cut out; `fit_intrinsics` goes with it.
"""

from collections.abc import Sequence

import av.error
import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.loader.fetch import ReadError
from schemas.camera import Array
from schemas.frames import FrameIndex
from schemas.recipe import MediaLimits
from schemas.verdict import CandidateError
from stages.media.index import build_index
from stages.media.reader import Converter, pictures
from stages.media.stills import decode_picture, picture_header, resize

_LIMITS = MediaLimits()
# A damaged header may ask for any amount of memory, so a lack of it is the member's fault here.
_DAMAGE = (CandidateError, av.error.FFmpegError, cv2.error, ValueError, MemoryError)
_PICTURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


def fit(width: int, height: int, size: tuple[int, int]) -> tuple[tuple[int, int], int, int]:
    """How a width x height picture becomes one of `size` (H, W): ((scaled width, scaled height), left, top) of the cut."""
    H, W = size
    scaled = (max(W, round(width * H / height)), max(H, round(height * W / width)))  # one of the two is exactly W or H
    return scaled, (scaled[0] - W) // 2, (scaled[1] - H) // 2


def fit_intrinsics(K: Array, width: int, height: int, size: tuple[int, int]) -> Array:
    """[...,3,3] in pixels of a width x height picture to pixels of the picture that `fit` makes of it."""
    scaled, left, top = fit(width, height, size)
    fitted = np.diag([scaled[0] / width, scaled[1] / height, 1.0]) @ K
    fitted[..., 0, 2] -= left  # pixel centres lie at integer + 0.5, so a cut moves the origin by whole pixels
    fitted[..., 1, 2] -= top
    return fitted


def decode(data: bytes, frames: Sequence[int], size: tuple[int, int], name: str = "the member") -> NDArray[np.uint8]:
    """[F,H,W,3] uint8 RGB. frames: positions, ascending, repeats allowed. Raises ReadError; see `Footage`."""
    return Footage(data, name).read(frames, size)


class Footage:
    """One member: a video, or a picture (jpeg, png), which has one frame.

    width, height: pixels as shown. name: what messages call it. Raises ReadError for what is neither, is cut off or damaged.
    """

    def __init__(self, data: bytes, name: str = "the member") -> None:
        self.name = name
        self._data = data
        try:
            if data.startswith(_PICTURES):
                self._index = None
                _, self.width, self.height = picture_header(data, name)
            else:
                self._index = build_index(data, _LIMITS)
                self.width, self.height = self._index.width, self._index.height
        except _DAMAGE as error:
            raise ReadError(f"{name}: {error}") from error

    def __len__(self) -> int:
        return 1 if self._index is None else len(self._index)

    def read(self, frames: Sequence[int], size: tuple[int, int], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """[F,H,W,3] uint8 RGB at `size` (H, W), written into `out` where one is given. Raises ReadError."""
        unique, places = np.unique(np.asarray(frames, np.int64), return_inverse=True)
        outside = unique[(unique < 0) | (unique >= len(self))]
        if len(outside):
            raise ReadError(f"{self.name}: frame {outside[0]} is needed, it holds {len(self)}, numbered from 0")
        if out is None:
            out = np.empty((len(places), *size, 3), np.uint8)
        scaled, left, top = fit(self.width, self.height, size)
        try:
            if self._index is None:
                pixels = resize(decode_picture(self._data, self.name, _LIMITS), scaled, gray=False)
                out[:] = pixels[top : top + size[0], left : left + size[1]]
                return out
            converter = Converter(self._index, scaled, gray=False)
            for i, frame in enumerate(pictures(self._data, _LIMITS, self._index, unique, _seeking_pays(self._index, unique))):
                out[places == i] = converter.array(frame)[top : top + size[0], left : left + size[1]]
        except _DAMAGE as error:
            raise ReadError(f"{self.name}: {error}") from error
        return out


def _seeking_pays(index: FrameIndex, wanted: NDArray[np.int64]) -> bool:
    """Whether decoding each group from its keyframe takes at most half of what one pass from the file's beginning takes."""
    groups = np.searchsorted(index.keyframes, index.pts[wanted], side="right") - 1
    begins = np.searchsorted(index.pts, index.keyframes)
    last_of_group = np.flatnonzero(np.diff(groups, append=len(index.keyframes)))
    decoded = int((wanted[last_of_group] + 1 - begins[groups[last_of_group]]).sum())
    return 2 * decoded <= int(wanted[-1]) + 1
