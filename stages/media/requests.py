"""What the decoding child does for `Media`: one function per method, on absolute paths."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from schemas.frames import FrameIndex
from schemas.recipe import Encode, MediaLimits
from schemas.verdict import CandidateError, Reason
from stages.media import chunks, stills
from stages.media.child import function_named
from stages.media.index import build_index
from stages.media.lens import undistort
from stages.media.paths import Located
from stages.media.reader import Converter, pictures, steps
from stages.media.writer import encoded_size, output_times, write_mp4
from stages.storage.paths import storage_error


def index(media: Located, limits: MediaLimits) -> dict[str, Any]:
    """The fields of the FrameIndex."""
    if media.kind == "video":
        return vars_of(build_index(media.single(), limits))
    if media.kind == "images":
        heads = ((_read(path, stills.HEAD_BYTES), path) for path in media.paths.values())
        return vars_of(stills.sequence_index(heads, media.pts_ns, limits))
    path = media.single()
    times = chunks.scene_times_ns(path, media.item)
    heads = ((chunks.scene_picture(path, media.item, i), f"picture {i}") for i in range(chunks.scene_pictures(path, media.item)))
    return vars_of(stills.sequence_index(heads, times, limits))


def indices(located: list[Located], limits: MediaLimits) -> list[dict[str, Any]]:
    """The fields of several views' FrameIndex. Raises for the first bad one, whose file the message begins with."""
    found = []
    for media in located:
        try:
            found.append(index(media, limits))
        except CandidateError as error:
            raise CandidateError(error.reason, f"{media.name}: {error.message}") from error
    return found


def vars_of(found: FrameIndex) -> dict[str, Any]:
    """What `FrameIndex(**...)` makes it from."""
    return {name: getattr(found, name) for name in FrameIndex.__dataclass_fields__}


def frames(
    media: Located, limits: MediaLimits, index: FrameIndex, wanted: NDArray[np.int64], size: tuple[int, int] | None
) -> NDArray[np.uint8]:
    """[n,H,W,3] RGB in the order of `wanted`."""
    unique, places = np.unique(wanted, return_inverse=True)
    width, height = size or (index.width, index.height)
    out = np.empty((len(wanted), height, width, 3), np.uint8)
    for i, pixels in enumerate(_arrays(media, limits, index, unique, size, gray=False)):
        out[places == i] = pixels
    return out


@dataclass
class _Pass:
    """A pass over a view that is still under way, so that the next chunk goes on where the last one ended."""

    number: int  # the stream's
    left: int  # frames
    frames: Iterator[list[NDArray[np.uint8]] | None]


_under_way: _Pass | None = None
Wanted = tuple[Located, MediaLimits, FrameIndex, NDArray[np.int64], list[tuple[int, int] | None]]


def chunk(number: int, count: int, seconds: float, anew: Wanted | None) -> list[NDArray[np.uint8]] | None:
    """The next frames of a stream at each of its sizes: for each one [n,H,W,3] RGB.

    At most `count`, and once `seconds` have passed no further frame is decoded, so that it may be none: [] where all went into
    frames on the way. None where the stream's pass is not under way: it is to be begun anew, with what is wanted from here on.
    Chunk after chunk, with nothing asked for in between, a view is decoded once, whatever the length of its groups of pictures.
    """
    global _under_way
    if anew is not None:
        drop()
        _under_way = _Pass(number, len(anew[3]), _at_sizes(*anew))
    going, _under_way = _under_way, None  # what fails half-way is not gone on with
    if going is None or going.number != number:
        return None
    ends_at, found = time.monotonic() + seconds, []
    for frame in going.frames:
        if frame is not None:
            found.append(frame)
        if len(found) == min(count, going.left) or time.monotonic() >= ends_at:
            break
    going.left -= len(found)
    if going.left:
        _under_way = going
    return [np.stack(same_size) for same_size in zip(*found, strict=True)]


def drop() -> None:
    """End the pass that is under way, if any: its file, its decoder and their memory."""
    global _under_way
    _under_way = None


def _at_sizes(
    media: Located,
    limits: MediaLimits,
    index: FrameIndex,
    wanted: NDArray[np.int64],
    sizes: list[tuple[int, int] | None],
) -> Iterator[list[NDArray[np.uint8]] | None]:
    """Frames at each of the sizes, and None for what had to be decoded on the way."""
    if media.kind == "video" and media.lens is None:
        converters = [Converter(index, size, False) for size in sizes]
        for picture in steps(media.single(), limits, index, wanted):
            yield None if picture is None else [converter.array(picture) for converter in converters]
        return
    for pixels in _whole(media, limits, index, wanted, gray=False):
        yield None if pixels is None else [stills.resize(pixels, size, False) for size in sizes]


def map_frames(
    media: Located,
    limits: MediaLimits,
    index: FrameIndex,
    wanted: NDArray[np.int64] | None,
    function: str,
    size: tuple[int, int] | None,
    gray: bool,
    settings: dict[str, Any],
) -> Any:
    """function(iterator of frames, **settings)."""
    chosen = np.arange(len(index)) if wanted is None else wanted
    unique, counts = np.unique(chosen, return_counts=True)
    arrays = _arrays(media, limits, index, unique, size, gray)
    repeated = (pixels if i == 0 else pixels.copy() for pixels, count in zip(arrays, counts, strict=True) for i in range(count))
    return function_named(function)(repeated, **settings)


def encode(
    media: Located,
    limits: MediaLimits,
    index: FrameIndex,
    wanted: NDArray[np.int64] | None,
    encode: Encode,
    rate: Fraction | None,
) -> bytes:
    """The chosen frames as mp4."""
    chosen = np.arange(len(index)) if wanted is None else wanted
    pts, time_base = output_times(index, chosen, rate)
    if media.kind == "video" and index.rotation == 0 and media.lens is None:
        source: Iterator[VideoFrame] = pictures(media.single(), limits, index, chosen)
    else:
        arrays = _arrays(media, limits, index, chosen, None, gray=False)
        source = (VideoFrame.from_ndarray(pixels, format="rgb24") for pixels in arrays)
    return write_mp4(source, pts, time_base, encoded_size(index, encode), encode)


def image(media: Located, limits: MediaLimits, index: FrameIndex, frame: int, format: str, quality: int) -> bytes:
    """One frame as "jpg" or "png"; verbatim where the source is that already."""
    if media.kind != "video" and media.lens is None:
        data, name = _still(media, frame)
        pixels = stills.decode_picture(data, name, limits)  # also shows that the bytes are whole before they are copied
        if stills.picture_header(data, name)[0] == {"jpg": "jpeg"}.get(format, format):
            return data
        return stills.encode_picture(pixels, format, quality)
    [pixels] = _arrays(media, limits, index, np.asarray([frame]), None, gray=False)
    return stills.encode_picture(pixels, format, quality)


def _arrays(
    media: Located,
    limits: MediaLimits,
    index: FrameIndex,
    wanted: NDArray[np.int64],
    size: tuple[int, int] | None,
    gray: bool,
) -> Iterator[NDArray[np.uint8]]:
    """The frames at strictly ascending positions."""
    if media.kind == "video" and media.lens is None:
        converter = Converter(index, size, gray)
        for picture in pictures(media.single(), limits, index, wanted):
            yield converter.array(picture)
        return
    for pixels in _whole(media, limits, index, wanted, gray):
        if pixels is not None:
            yield stills.resize(pixels, size, gray and pixels.ndim == 3)


def _whole(
    media: Located, limits: MediaLimits, index: FrameIndex, wanted: NDArray[np.int64], gray: bool
) -> Iterator[NDArray[np.uint8] | None]:
    """The same at the source's size, undistorted: [H,W,3], of a video [H,W] where gray. None for what is decoded on the way."""
    lens = media.lens
    if media.kind == "video":
        converter = Converter(index, None, gray)
        for picture in steps(media.single(), limits, index, wanted):
            pixels = None if picture is None else converter.array(picture)
            yield pixels if pixels is None or lens is None else undistort(pixels, lens)
        return
    for position in wanted:
        data, name = _still(media, int(position))
        pixels = stills.decode_picture(data, name, limits)
        if pixels.shape[:2] != (index.height, index.width):
            now = f"{pixels.shape[1]}x{pixels.shape[0]}"
            raise CandidateError(Reason.E_OPEN, f"{name} is {now}, the index says {index.width}x{index.height}")
        yield pixels if lens is None else undistort(pixels, lens)


def _still(media: Located, frame: int) -> tuple[bytes, str]:
    if media.kind == "torch_chunk":
        return chunks.scene_picture(media.single(), media.item, frame), f"picture {frame}"
    return _read(media.paths[frame]), media.paths[frame]


def _read(path: str, size: int = -1) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(size)
    except OSError as error:
        raise storage_error(error, path) from error
