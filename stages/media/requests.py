"""What the decoding child does for `Media`: one function per method, on absolute paths."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from schemas.candidate import MediaRef
from schemas.frames import FrameIndex
from schemas.recipe import Encode, MediaLimits
from schemas.verdict import CandidateError, Reason
from stages.media import chunks, stills
from stages.media.child import function_named
from stages.media.index import build_index
from stages.media.paths import storage_error
from stages.media.reader import Converter, pictures
from stages.media.writer import encoded_size, output_times, write_mp4


def index(ref: MediaRef, paths: list[str], limits: MediaLimits) -> dict[str, Any]:
    """The fields of the FrameIndex."""
    if ref.kind == "video":
        return vars_of(build_index(_single(paths), limits))
    if ref.kind == "images":
        return vars_of(stills.sequence_index(((_read(path, stills.HEAD_BYTES), path) for path in paths), ref.pts_ns, limits))
    path = _single(paths)
    times = chunks.scene_times_ns(path, ref.item)
    heads = ((chunks.scene_picture(path, ref.item, i), f"picture {i}") for i in range(chunks.scene_pictures(path, ref.item)))
    return vars_of(stills.sequence_index(heads, times, limits))


def indices(located: list[tuple[MediaRef, list[str]]], limits: MediaLimits) -> list[dict[str, Any]]:
    """The fields of several views' FrameIndex. Raises for the first bad one, whose file the message begins with."""
    found = []
    for ref, paths in located:
        try:
            found.append(index(ref, paths, limits))
        except CandidateError as error:
            raise CandidateError(error.reason, f"{ref.files[0].path}: {error.message}") from error
    return found


def vars_of(found: FrameIndex) -> dict[str, Any]:
    """What `FrameIndex(**...)` makes it from."""
    return {name: getattr(found, name) for name in FrameIndex.__dataclass_fields__}


def frames(
    ref: MediaRef, paths: list[str], limits: MediaLimits, index: FrameIndex, wanted: NDArray[np.int64], size: tuple[int, int] | None
) -> NDArray[np.uint8]:
    """[n,H,W,3] RGB in the order of `wanted`."""
    unique, places = np.unique(wanted, return_inverse=True)
    width, height = size or (index.width, index.height)
    out = np.empty((len(wanted), height, width, 3), np.uint8)
    for i, pixels in enumerate(_arrays(ref, paths, limits, index, unique, size, gray=False)):
        out[places == i] = pixels
    return out


@dataclass
class _Open:
    """A pass over a view that is still under way, so that the next chunk goes on where the last one ended."""

    key: tuple[Any, ...]
    at: int
    frames: Iterator[list[NDArray[np.uint8]]]


_open: _Open | None = None


def chunk(
    ref: MediaRef,
    paths: list[str],
    limits: MediaLimits,
    index: FrameIndex,
    wanted: NDArray[np.int64],
    sizes: list[tuple[int, int] | None],
    start: int,
    stop: int,
) -> list[NDArray[np.uint8]]:
    """Frames wanted[start:stop] (strictly ascending) at each of the sizes: for each one [n,H,W,3] RGB.

    Asked for from the first on, chunk after chunk, a view is decoded once, whatever the length of its groups of pictures.
    """
    global _open
    key = (ref, tuple(paths), wanted.tobytes(), tuple(sizes))
    if _open is None or _open.key != key or _open.at != start:
        _open = _Open(key, start, _at_sizes(ref, paths, limits, index, wanted[start:], sizes))
    going, _open = _open, None  # what fails half-way is not gone on with
    found = [next(going.frames) for _ in range(stop - start)]
    if stop < len(wanted):
        going.at, _open = stop, going
    return [np.stack(pictures) for pictures in zip(*found, strict=True)]


def _at_sizes(
    ref: MediaRef,
    paths: list[str],
    limits: MediaLimits,
    index: FrameIndex,
    wanted: NDArray[np.int64],
    sizes: list[tuple[int, int] | None],
) -> Iterator[list[NDArray[np.uint8]]]:
    if ref.kind == "video":
        converters = [Converter(index, size, False) for size in sizes]
        for picture in pictures(_single(paths), limits, index, wanted):
            yield [converter.array(picture) for converter in converters]
        return
    for pixels in _arrays(ref, paths, limits, index, wanted, None, gray=False):
        yield [stills.resize(pixels, size, False) for size in sizes]


def map_frames(
    ref: MediaRef,
    paths: list[str],
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
    arrays = _arrays(ref, paths, limits, index, unique, size, gray)
    repeated = (pixels if i == 0 else pixels.copy() for pixels, count in zip(arrays, counts, strict=True) for i in range(count))
    return function_named(function)(repeated, **settings)


def encode(
    ref: MediaRef,
    paths: list[str],
    limits: MediaLimits,
    index: FrameIndex,
    wanted: NDArray[np.int64] | None,
    encode: Encode,
    rate: Fraction | None,
) -> bytes:
    """The chosen frames as mp4."""
    chosen = np.arange(len(index)) if wanted is None else wanted
    pts, time_base = output_times(index, chosen, rate)
    if ref.kind == "video" and index.rotation == 0:
        source: Iterator[VideoFrame] = pictures(_single(paths), limits, index, chosen)
    else:
        arrays = _arrays(ref, paths, limits, index, chosen, None, gray=False)
        source = (VideoFrame.from_ndarray(pixels, format="rgb24") for pixels in arrays)
    return write_mp4(source, pts, time_base, encoded_size(index, encode), encode)


def image(ref: MediaRef, paths: list[str], limits: MediaLimits, index: FrameIndex, frame: int, format: str, quality: int) -> bytes:
    """One frame as "jpg" or "png"; verbatim where the source is that already."""
    if ref.kind != "video":
        data, name = _still(ref, paths, frame)
        pixels = stills.decode_picture(data, name, limits)  # also shows that the bytes are whole before they are copied
        if stills.picture_header(data, name)[0] == {"jpg": "jpeg"}.get(format, format):
            return data
        return stills.encode_picture(pixels, format, quality)
    [pixels] = _arrays(ref, paths, limits, index, np.asarray([frame]), None, gray=False)
    return stills.encode_picture(pixels, format, quality)


def _arrays(
    ref: MediaRef,
    paths: list[str],
    limits: MediaLimits,
    index: FrameIndex,
    wanted: NDArray[np.int64],
    size: tuple[int, int] | None,
    gray: bool,
) -> Iterator[NDArray[np.uint8]]:
    """The frames at strictly ascending positions."""
    if ref.kind == "video":
        converter = Converter(index, size, gray)
        for picture in pictures(_single(paths), limits, index, wanted):
            yield converter.array(picture)
        return
    for position in wanted:
        data, name = _still(ref, paths, int(position))
        pixels = stills.decode_picture(data, name, limits)
        if pixels.shape[:2] != (index.height, index.width):
            now = f"{pixels.shape[1]}x{pixels.shape[0]}"
            raise CandidateError(Reason.E_OPEN, f"{name} is {now}, the index says {index.width}x{index.height}")
        yield stills.resize(pixels, size, gray)


def _still(ref: MediaRef, paths: list[str], frame: int) -> tuple[bytes, str]:
    if ref.kind == "torch_chunk":
        return chunks.scene_picture(_single(paths), ref.item, frame), f"picture {frame}"
    return _read(paths[frame]), paths[frame]


def _single(paths: list[str]) -> str:
    if len(paths) != 1:
        raise ValueError(f"this kind of media is one file, got {len(paths)}")
    return paths[0]


def _read(path: str, size: int = -1) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(size)
    except OSError as error:
        raise storage_error(error, path) from error
