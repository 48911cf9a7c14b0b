"""The verified frame index of a video file: one demux, no decoding (curation spec, section 4)."""

import errno
import io
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import NoReturn

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from schemas.frames import FrameIndex
from schemas.recipe import MediaLimits
from schemas.verdict import CandidateError, Reason
from stages.media.header import Header, Source, check_caps, read_header
from stages.storage.paths import storage_error

_REREAD = 1 << 30  # bytes of a suspect file that are read again to tell storage trouble from a bad file
_BLOCK = 8 << 20


def build_index(source: Source, limits: MediaLimits) -> FrameIndex:
    """Index every frame that a player would show. Header caps come first, then what is counted while demuxing.

    Left out: packets that the container discards (edit lists, trims), VP8's invisible frames, and what precedes the first
    keyframe, which nothing can decode. Raises CandidateError: E_OPEN, E_NO_VIDEO, E_TRUNCATED, E_TOO_BIG, E_PTS, E_IO.
    """
    with blame(source):
        header = read_header(source, limits)
        with open_video(source, limits, header.demuxer, to_decode=False) as (container, stream):
            check_caps(limits, streams=len(container.streams), frames=stream.frames, duration_s=_promised_s(container, stream))
            context = stream.codec_context
            pts, keyframes = _demux(container, stream, limits, header.edited_s)
            rotation = _rotation(container, stream, header)
            width, height = (context.height, context.width) if rotation % 180 else (context.width, context.height)
            check_caps(limits, width=width, height=height)
            return FrameIndex(
                pts=pts,
                keyframes=keyframes,
                time_base=stream.time_base or Fraction(1, 1),
                width=width,
                height=height,
                fps=_average_rate(stream, pts),
                codec=context.name,
                rotation=rotation,
            )


@contextmanager
def blame(source: Source) -> Iterator[None]:
    """Turn what goes wrong while `source` is read into CandidateError.

    Demuxers report failing storage as the end of the file, so a file that seems broken is read once more as plain bytes:
    if that fails it was storage (E_IO).
    """
    name = source if isinstance(source, str) else "a file in memory"
    try:
        yield
    except (CandidateError, av.error.FFmpegError) as error:  # before OSError, which some of FFmpeg's are too
        broken = error if isinstance(error, CandidateError) else _reason_of(error, name)
        if isinstance(source, str) and broken.reason in (Reason.E_OPEN, Reason.E_TRUNCATED):
            _read_again(source)
        raise broken from error
    except OSError as error:
        raise storage_error(error, name) from error


@contextmanager
def open_video(source: Source, limits: MediaLimits, demuxer: str, to_decode: bool = True) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its video stream, single-threaded, with the caps handed to every decoder.

    The stream is the first that is no cover picture. Raises E_NO_VIDEO without one, E_TOO_BIG for too many pixels.
    to_decode: FFmpeg decodes the first frames when it opens a file, to learn how they are reordered. A decoder needs
    that; an index, which only reads packets, is forty times as fast without (1.1 against 45 ms for a file of 1 MB).
    """
    options = {"protocol_whitelist": "file", "max_pixels": str(limits.max_pixels)}
    if not to_decode:
        options["skip_frame"] = "all"
    with av.open(_file(source), "r", format=demuxer, options=options, metadata_errors="replace") as container:
        streams = [stream for stream in container.streams.video if not stream.disposition & av.stream.Disposition.attached_pic]
        if not streams:
            found = ", ".join(stream.type for stream in container.streams) or "nothing"
            raise CandidateError(Reason.E_NO_VIDEO, f"the file holds no video stream, only: {found}")
        stream = streams[0]
        context = stream.codec_context
        if context is None:
            raise CandidateError(Reason.E_OPEN, "the file's video has a codec that FFmpeg does not know; re-encode it")
        check_caps(limits, width=context.width, height=context.height)
        if context.width * context.height == 0:
            _explain_no_size(source, limits, demuxer)
        context.thread_count = 1
        context.options = {"max_pixels": str(limits.max_pixels)}
        yield container, stream


def _file(source: Source) -> str | io.BytesIO:
    return source if isinstance(source, str) else io.BytesIO(source)


def _explain_no_size(source: Source, limits: MediaLimits, demuxer: str) -> NoReturn:
    """No size came out of opening: either the decoder refused it for the cap on pixels, or there is none.

    Looks once more without that cap; decoders then read picture headers but decode no picture.
    """
    with av.open(
        _file(source), "r", format=demuxer, options={"protocol_whitelist": "file", "skip_frame": "all"}, metadata_errors="replace"
    ) as container:
        for stream in container.streams.video:
            if stream.codec_context is None:
                continue
            check_caps(limits, width=stream.codec_context.width, height=stream.codec_context.height)
    raise CandidateError(Reason.E_OPEN, "the size of the picture cannot be told from the file; re-encode it")


def _promised_s(container: InputContainer, stream: VideoStream) -> float:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / av.time_base


def _demux(container: InputContainer, stream: VideoStream, limits: MediaLimits, edited_s: float) -> tuple[np.ndarray, np.ndarray]:
    """(pts, pts of keyframes) of the shown frames, both increasing."""
    shown: list[tuple[int, bool]] = []
    first_key: int | None = None
    packets, vp8 = 0, stream.codec_context.name == "vp8"
    earliest, latest = 0, 0
    for packet in _packets(container, stream):
        packets += 1
        check_caps(limits, frames=packets)
        if packet.is_corrupt:
            raise CandidateError(Reason.E_TRUNCATED, f"packet {packets - 1} is cut off or damaged")
        if vp8 and not bytes(packet)[0] & 0x10:  # show_frame is 0: a reference picture with a time of its own
            continue
        if packet.pts is None:
            raise CandidateError(Reason.E_PTS, f"packet {packets - 1} has no timestamp; remux the file into mp4 or mkv")
        if packets == 1:
            earliest = latest = packet.pts
        earliest, latest = min(earliest, packet.pts), max(latest, packet.pts)
        check_caps(limits, duration_s=float((latest - earliest) * (stream.time_base or 0)))
        if first_key is None and packet.is_keyframe:
            first_key = packet.pts
        if not packet.is_discard:
            shown.append((packet.pts, packet.is_keyframe))
    _check_bytes(container, stream)
    shown = sorted(each for each in shown if first_key is not None and each[0] >= first_key)
    if not shown:
        reason = Reason.E_TRUNCATED if stream.frames > packets else Reason.E_NO_VIDEO
        raise CandidateError(reason, f"no frame can be shown: the header promises {stream.frames}, {packets} packets came")
    pts = np.asarray([each[0] for each in shown], np.int64)
    repeated = np.flatnonzero(np.diff(pts) == 0)
    if len(repeated):
        raise CandidateError(Reason.E_PTS, f"frames {repeated[0]} and {repeated[0] + 1} share the timestamp {pts[repeated[0]]}")
    spare = 1.5 / float(stream.average_rate or 1)
    _check_count(stream, packets, float((pts[-1] - pts[0]) * (stream.time_base or 0)) + spare, edited_s)
    return pts, np.asarray([each[0] for each in shown if each[1]], np.int64)


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.error.InvalidDataError as error:
            raise CandidateError(Reason.E_TRUNCATED, f"the file breaks off or is damaged between packets: {error.strerror}") from error
        if packet.size:  # the last one is empty: it flushes decoders
            yield packet


def _check_bytes(container: InputContainer, stream: VideoStream) -> None:
    """Every sample that the header lists must lie within the file."""
    end = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
    if end > container.size:
        raise CandidateError(Reason.E_TRUNCATED, f"the file has {container.size} bytes; its header lists frames up to byte {end}")


def _check_count(stream: VideoStream, packets: int, shown_s: float, edited_s: float) -> None:
    """The frames that the header promises must have come; an edit list may hide some, and then promises a duration.

    shown_s: up to the end of the last frame, with half a frame interval to spare.
    """
    if packets < stream.frames and not 0 < edited_s <= shown_s:
        raise CandidateError(Reason.E_TRUNCATED, f"the header promises {stream.frames} frames, the file holds {packets}")


def _rotation(container: InputContainer, stream: VideoStream, header: Header) -> int:
    """Degrees clockwise. Only Matroska needs a decoded frame for it."""
    if header.rotation is not None:
        return header.rotation
    container.seek(0)
    for frame in container.decode(stream):
        return round(-frame.rotation / 90) % 4 * 90
    raise CandidateError(Reason.E_TRUNCATED, "not one frame can be decoded")


def _average_rate(stream: VideoStream, pts: np.ndarray) -> Fraction:
    """From the frames that are there; the container's own figure where that agrees to within a tick, as ticks are rounded."""
    if len(pts) > 1 and stream.time_base:
        span = int(pts[-1] - pts[0]) * stream.time_base
        said = Fraction(stream.average_rate or 0)
        if said and abs((len(pts) - 1) / said - span) <= stream.time_base:
            return said
        return Fraction((len(pts) - 1) / span).limit_denominator(1001)
    return Fraction(stream.average_rate or 0)


def _reason_of(error: av.error.FFmpegError, name: str) -> CandidateError:
    if error.errno == errno.ENOMEM:
        raise MemoryError(str(error)) from error
    if error.errno in (errno.EIO, errno.EAGAIN):  # demuxers say so of broken files; whether storage failed, reading it again tells
        return CandidateError(Reason.E_TRUNCATED, "the container breaks off")
    if isinstance(error, OSError):
        return storage_error(error, name)
    if error.errno in (errno.ESTALE, errno.ETIMEDOUT, errno.ENOENT):
        return CandidateError(Reason.E_IO, f"storage failed: {error.strerror}")
    return CandidateError(Reason.E_OPEN, f"the container cannot be read: {error.strerror}")


def _read_again(path: str) -> None:
    """Raise OSError's CandidateError if the bytes of `path` do not come."""
    try:
        with open(path, "rb") as file:
            left = _REREAD
            while left > 0 and (block := file.read(_BLOCK)):
                left -= len(block)
    except OSError as error:
        raise storage_error(error, path) from error
