"""Exact reads of a video: the frames of the index's pts and no others, or an error.

Algorithm (curation spec, section 4; no wrong frame in 60): group the wanted pts by their governing keyframe, seek there,
decode until the pts comes; where it does not come as expected, decode the rest in one sequential pass. Where more than a
tenth of the frames is wanted, the sequential pass comes first.
"""

from collections.abc import Iterator

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from schemas.frames import FrameIndex
from schemas.recipe import MediaLimits
from schemas.verdict import CandidateError, Reason
from stages.media.header import Source, read_header
from stages.media.index import blame, open_video

SEQUENTIAL_ABOVE = 0.1  # share of the frames


def pictures(
    source: Source, limits: MediaLimits, index: FrameIndex, wanted: NDArray[np.int64], seek: bool | None = None
) -> Iterator[VideoFrame]:
    """The decoded frames at the positions `wanted` (strictly ascending), in that order, before rotation.

    seek: whether seeking comes first; None where at most a tenth of the frames is wanted.
    Raises CandidateError: E_TRUNCATED where a frame cannot be decoded or comes out damaged, E_OPEN where the picture changes
    its size within the file, E_IO, and what opening raises.
    """
    return (frame for frame in steps(source, limits, index, wanted, seek) if frame is not None)


def steps(
    source: Source, limits: MediaLimits, index: FrameIndex, wanted: NDArray[np.int64], seek: bool | None = None
) -> Iterator[VideoFrame | None]:
    """`pictures`, and None for every frame that had to be decoded on the way to one: no step takes longer than a frame."""
    targets = [int(pts) for pts in index.pts[wanted]]
    coded = (index.height, index.width) if index.rotation % 180 else (index.width, index.height)
    done = 0
    with blame(source):
        demuxer = read_header(source, limits).demuxer
        seek = len(targets) <= SEQUENTIAL_ABOVE * len(index) if seek is None else seek
        passes = [_by_seeking, _sequential] if seek else [_sequential]
        for read in passes:
            if done == len(targets):
                return
            with open_video(source, limits, demuxer) as (container, stream):
                for frame in read(container, stream, index, targets[done:]):
                    if frame is None:
                        yield None
                        continue
                    if (frame.width, frame.height) != coded:
                        sizes = f"{frame.width}x{frame.height}, the header says {coded[0]}x{coded[1]}"
                        raise CandidateError(Reason.E_OPEN, f"frame {wanted[done]} is {sizes}; re-encode the file to one size")
                    done += 1
                    yield frame


def _by_seeking(container: InputContainer, stream: VideoStream, index: FrameIndex, targets: list[int]) -> Iterator[VideoFrame | None]:
    """The targets, group by group; ends early, without an error, at the first that does not come as expected.

    None stands for a frame on the way, here and in `_sequential`.
    """
    governing = np.searchsorted(index.keyframes, targets, side="right") - 1
    for group in np.split(np.arange(len(targets)), np.flatnonzero(np.diff(governing)) + 1):
        if governing[group[0]] < 0:  # decoded from a keyframe that is not shown itself
            return
        keyframe = int(index.keyframes[governing[group[0]]])
        waiting = [targets[i] for i in group]
        try:
            container.seek(keyframe, stream=stream)
            found = 0
            for frame in _from_keyframe(container, stream, keyframe):
                if frame.pts > waiting[found] or frame.is_corrupt:
                    return
                if frame.pts < waiting[found]:
                    yield None
                    continue
                yield frame
                found += 1
                if found == len(waiting):
                    break
            else:
                return
        except av.error.InvalidDataError:
            return


def _from_keyframe(container: InputContainer, stream: VideoStream, keyframe: int) -> Iterator[VideoFrame]:
    """Frames from the keyframe on; none if it does not decode as one, whatever the container claims."""
    started = False
    for frame in container.decode(stream):
        if frame.pts is None or frame.pts < keyframe:
            continue
        if frame.pts == keyframe and not frame.key_frame:
            return
        if frame.pts > keyframe and not started:
            return
        started = True
        yield frame


def _sequential(container: InputContainer, stream: VideoStream, index: FrameIndex, targets: list[int]) -> Iterator[VideoFrame | None]:
    """The targets in one pass from the file's first packet. Raises CandidateError(E_TRUNCATED).

    Damage lasts until the next clean keyframe, since what is predicted from a damaged picture is damaged without being marked.
    Damage that a decoder does not notice itself (bits that still parse) cannot be seen here either.
    """
    found, first = 0, int(index.pts[0])
    fault, fault_pts = "", first
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError as error:
            if packet.pts is None or packet.pts >= first:  # before it, no frame of the index depends on the packet
                fault, fault_pts = f"the packet at pts {packet.pts} cannot be decoded: {error.strerror}", packet.pts or fault_pts
            continue
        for frame in frames:
            if frame.pts is None or frame.pts < first:
                continue
            if frame.is_corrupt:
                fault, fault_pts = f"the frame at pts {frame.pts} is damaged", frame.pts
            elif frame.key_frame and frame.pts > fault_pts:  # the keyframe before the damage may come out after it
                fault = ""
            if frame.pts < targets[found]:
                yield None
                continue
            if fault or frame.pts > targets[found]:
                raise CandidateError(Reason.E_TRUNCATED, fault or f"the frame at pts {targets[found]} does not decode")
            yield frame
            found += 1
            if found == len(targets):
                return
    raise CandidateError(Reason.E_TRUNCATED, fault or f"the frame at pts {targets[found]} does not decode")


def interpolation(source: tuple[int, int], target: tuple[int, int]) -> Interpolation:
    """How swscale resamples from one (width, height) to another; without scaling it still interpolates chroma."""
    if source == target:
        kernel = Interpolation.BILINEAR
    else:
        kernel = Interpolation.AREA if target[0] * target[1] < source[0] * source[1] else Interpolation.BICUBIC
    return kernel | Interpolation.ACCURATE_RND | Interpolation.BITEXACT


class Converter:
    """Decoded frames to arrays as shown: [H,W,3] RGB, or [H,W] luma stretched to 0..255; scaled and converted in one pass.

    size: (width, height) as shown, None keeps it. Shrinks by area, enlarges bicubically; rounds accurately and the same on
    every processor. A display rotation turns the result.
    """

    def __init__(self, index: FrameIndex, size: tuple[int, int] | None, gray: bool) -> None:
        width, height = size or (index.width, index.height)
        self.shape = (height, width) if gray else (height, width, 3)
        self._turns = -index.rotation // 90 % 4  # np.rot90 turns counter-clockwise
        self._width, self._height = (height, width) if self._turns % 2 else (width, height)
        self._format = "gray" if gray else "rgb24"
        self._interpolation = interpolation((index.width, index.height), (width, height))
        # Luma has no matrix, yet swscale takes gray for BT.601 and would convert BT.709 luma to it: up to 10 levels off, and
        # 1.4 instead of 0.2 ms for 720p to 256 lines. Told that both are BT.601 it is exact (0.5 level from the area mean), and
        # several times as fast as cv2.INTER_AREA on the luma plane, whose ratios are rarely whole numbers.
        self._matrix = Colorspace.ITU601 if gray else None
        self._reformatter = VideoReformatter()

    def array(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """A new array of `shape`, uint8."""
        converted = self._reformatter.reformat(
            frame,
            self._width,
            self._height,
            self._format,
            src_colorspace=self._matrix,
            dst_colorspace=self._matrix,
            interpolation=self._interpolation,
            dst_color_range=ColorRange.JPEG,
            threads=1,
        )
        pixels = np.rot90(converted.to_ndarray(), self._turns) if self._turns else converted.to_ndarray()
        return np.ascontiguousarray(pixels, np.uint8)
