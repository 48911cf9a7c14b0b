"""Deterministic mp4: the same frames and settings give the same bytes, on any machine with the same libraries.

One thread, fixed closed GOP, no B-frames (decode order is presentation order), index at the front, yuv420p, no encoder name
or date in the file. Even sizes only, as 4:2:0 chroma needs: see `encoded_size`.
"""

import io
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import cast

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from schemas.frames import FrameIndex
from schemas.recipe import Encode
from stages.media.reader import interpolation

_FINEST = 1_000_000  # ticks per second; the movie header's fields hold 32 bits
_COMMON_OPTIONS = {"flags": "+bitexact+cgop", "bf": "0", "sc_threshold": "0", "forced-idr": "1"}
_CODECS = {
    # cpu-independent: the same decisions whatever vector instructions the machine has.
    "h264": ("libx264", "x264-params", "threads=1:lookahead-threads=1:cpu-independent=1:bframes=0:scenecut=0:open-gop=0"),
    "h265": ("libx265", "x265-params", "pools=none:frame-threads=1:wpp=0:bframes=0:scenecut=0:open-gop=0:info=0:log-level=none:hash=0"),
}


def encoded_size(index: FrameIndex, encode: Encode) -> tuple[int, int]:
    """(width, height) of the encoded picture.

    Neither given: the source's. One given: the other keeps the aspect ratio, rounded to nearest. Then each is rounded down
    to even (at least 2), and the whole picture is scaled to that size, nothing is cut: `CameraTrack.scaled` goes with it.
    """
    width, height = encode.width, encode.height
    if width is None and height is None:
        width, height = index.width, index.height
    elif height is None and width is not None:
        height = round(Fraction(index.height * width, index.width))
    elif width is None and height is not None:
        width = round(Fraction(index.width * height, index.height))
    return max(2, (width or 0) // 2 * 2), max(2, (height or 0) // 2 * 2)


def output_times(index: FrameIndex, wanted: NDArray[np.int64], rate: Fraction | None) -> tuple[NDArray[np.int64], Fraction]:
    """(pts from 0, time base) of the frames: the source's own ticks where an mp4 can hold them, else microseconds."""
    if rate is not None:
        return np.arange(len(wanted), dtype=np.int64), 1 / Fraction(rate)
    ticks = index.pts[wanted] - index.pts[wanted[0]]
    if index.time_base.numerator == 1 and index.time_base.denominator <= _FINEST:
        return ticks, index.time_base
    scale = index.time_base * _FINEST
    return np.asarray([round(int(tick) * scale) for tick in ticks], np.int64), Fraction(1, _FINEST)


def write_mp4(frames: Iterable[VideoFrame], pts: NDArray[np.int64], time_base: Fraction, size: tuple[int, int], encode: Encode) -> bytes:
    """Encode pictures (upright, any size and pixel format; scaled and converted in one pass) at the given times."""
    buffer = io.BytesIO()
    options = {"fflags": "+bitexact", "movflags": "+faststart"}
    with av.open(buffer, "w", format="mp4", options=options, io_open=lambda url, flags, more: _SecondReader(buffer)) as container:
        stream, reformatter = _stream(container, pts, time_base, size, encode), VideoReformatter()
        durations = _durations(pts, time_base)
        cleaner = BitStreamFilterContext("filter_units=remove_types=6", in_stream=stream) if encode.codec == "h264" else None
        for count, (frame, time) in enumerate(zip(frames, pts, strict=True)):
            converted = reformatter.reformat(
                frame,
                *size,
                "yuv420p",
                interpolation=interpolation((frame.width, frame.height), size),
                dst_color_range=ColorRange.MPEG,
                threads=1,
            )
            if count == 0:
                _describe_colours(stream, frame)
            converted.pts, converted.time_base = int(time), time_base
            converted.pict_type = av.video.frame.PictureType.NONE  # else the source's choice would be forced on the encoder
            _mux(container, stream, cleaner, converted, durations)
        _mux(container, stream, cleaner, None, durations)
    return buffer.getvalue()


class _SecondReader:
    """Reads a buffer that is being written, from a position of its own: the muxer moves the data to put the index in front."""

    def __init__(self, buffer: io.BytesIO) -> None:
        self._buffer = buffer
        self._position = 0

    def read(self, size: int) -> bytes:
        written = self._buffer.tell()
        self._buffer.seek(self._position)
        data = self._buffer.read(size)
        self._position += len(data)
        self._buffer.seek(written)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._buffer.getbuffer().nbytes}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        """The buffer stays open: it belongs to the writer."""


def _stream(container: OutputContainer, pts: NDArray[np.int64], time_base: Fraction, size: tuple[int, int], encode: Encode) -> VideoStream:
    library, parameter, fixed = _CODECS[encode.codec]
    options = _COMMON_OPTIONS | {parameter: fixed, "crf": str(encode.crf), "preset": encode.preset, "keyint_min": str(encode.gop)}
    stream = cast(VideoStream, container.add_stream(library, rate=_average_rate(pts, time_base), options=options))
    stream.width, stream.height = size
    stream.pix_fmt = "yuv420p"
    stream.gop_size = encode.gop
    stream.time_base = stream.codec_context.time_base = time_base
    stream.codec_context.thread_count = 1
    return stream


def _describe_colours(stream: VideoStream, frame: VideoFrame) -> None:
    """Say which matrix the pixels have: the source's, or BT.601 where they came from RGB."""
    context = stream.codec_context
    context.color_range = ColorRange.MPEG
    context.colorspace = Colorspace.ITU601 if frame.format.is_rgb else frame.colorspace


def _average_rate(pts: NDArray[np.int64], time_base: Fraction) -> Fraction:
    """Frames per second; one a second for a single frame."""
    span = int(pts[-1] - pts[0]) * time_base
    return Fraction((len(pts) - 1) / span).limit_denominator(1001) if span else Fraction(1)


def _durations(pts: NDArray[np.int64], time_base: Fraction) -> Iterator[Fraction]:
    """Seconds that each frame is shown; the last as long as the one before it."""
    steps = [int(step) * time_base for step in np.diff(pts)]
    return iter([*steps, steps[-1] if steps else Fraction(1)])


def _mux(
    container: OutputContainer,
    stream: VideoStream,
    cleaner: BitStreamFilterContext | None,
    frame: VideoFrame | None,
    durations: Iterator[Fraction],
) -> None:
    packets = stream.encode(frame)
    if cleaner:
        packets = [clean for packet in [*packets, *([None] if frame is None else [])] for clean in cleaner.filter(packet)]
    for packet in packets:
        packet.duration = round(next(durations) / packet.time_base)
        container.mux(packet)
