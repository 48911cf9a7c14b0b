"""Depth that is known: files of the user's own, the studio's ground truth, and Kubric-4D's.

npz: `depth` [T,H,W] metres along the optical axis, and where known `K` [3,3] or [T,3,3] in pixels of those maps (centres at integer +
0.5). The studio's truth is such a file with one more axis in front, and `views` with the names along it. NaN and what is not above 0
count as unknown, inf as nothing there. Frames are read one by one, so a file may be larger than memory.

The files are as little trusted as footage: `known_maps` is made for `Media.run`. What headers promise is compared with the caps before
anything of that size is read, and nothing is ever unpickled.
"""

import errno
import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from schemas.recipe import MediaLimits
from schemas.typed import from_json
from schemas.verdict import CandidateError, Reason
from stages.media.header import check_caps
from stages.perception.depth import Array, DepthMaps, joined, scaled
from stages.storage.paths import storage_error

Layout = Literal["npz", "kubric4d"]

MOST_ASPECT_DIFFERENCE = 0.02  # between the maps of a file and the frames: rounding, but no crop
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_MOST_BYTES = 64 << 20  # of K and of a camera file; 200 000 frames' K take 14
_MOST_NAMES_BYTES = 1 << 20
_TIFF_TAGS = {256: "width", 257: "height", 258: "bits", 277: "channels", 339: "format"}
_TIFF_ENTRIES = 512  # of the first directory; Kubric's has a dozen
# What zipfile, its decompressors and numpy's header parser say of bytes that are no such thing.
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    tokenize.TokenError,
    struct.error,
    EOFError,
    IndexError,
    KeyError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


def known_maps(
    layout: Layout,
    paths: Sequence[str],
    frames: Sequence[int],
    length: int,
    view: str,
    size: tuple[int, int],
    height: int,
    limits: MediaLimits,
) -> dict[str, NDArray[Any]]:
    """`depth` [n,h,w] float16 and where known `K` [n,3,3] of some frames of a view, at that height. Made for `Media.run`.

    paths: the npz; or Kubric-4D's camera file and the TIFF of each frame. length: frames that the view has. size: its (width, height).
    Raises CandidateError: E_OPEN for what is no such file or another picture, E_TOO_BIG, E_FRAMECOUNT, E_CAMERA, E_IO.
    """
    if layout == "kubric4d":
        found = read_kubric4d(Path(paths[0]), [Path(path) for path in paths[1:]], limits)
    else:
        found = read_npz(Path(paths[0]), frames, length, view, limits)
    maps = []
    for each in found:
        _check_shape(each, view, size)
        maps.append(scaled(each, height))
    every = joined(maps)
    with np.errstate(over="ignore"):  # beyond what float16 holds, 65 km, there is nothing
        arrays: dict[str, NDArray[Any]] = {"depth": every.metres.astype(np.float16)}
    return arrays if every.K is None else {**arrays, "K": every.K}


def read_npz(
    path: Path, frames: Sequence[int], length: int, view: str | None = None, limits: MediaLimits | None = None
) -> Iterator[DepthMaps]:
    """One map after another of some of a view's frames (ascending). length: how many frames the view has, as many as the file must
    hold; view: its name, for files with several. Raises CandidateError: E_OPEN for a file that is none of these, E_TOO_BIG, E_FRAMECOUNT,
    E_CAMERA, E_IO."""
    limits = limits or MediaLimits()
    try:
        with zipfile.ZipFile(path) as archive:
            members = set(archive.namelist())
            names = _names(archive) if "views.npy" in members else None
            number = 0 if names is None else _position(names, view, path)
            K = _whole(archive, "K.npy", "fiu", _MOST_BYTES) if "K.npy" in members else None
            with archive.open("depth.npy") as file:
                shape, dtype = _map_header(file, None if names is None else len(names), limits)
                count, size = shape[-3], math.prod(shape[-2:]) * dtype.itemsize
                held, said = archive.getinfo("depth.npy").file_size - file.tell(), math.prod(shape) * dtype.itemsize
                if held != said:
                    raise ValueError(f"`depth` {list(shape)} takes {said} bytes, the file holds {held}")
                if count != length:
                    what = f"{path} has depth for {count} frames, the view has {length}; one for each is needed"
                    raise CandidateError(Reason.E_FRAMECOUNT, what)
                every_K = None if K is None else _intrinsics(K if names is None else K[number], count, path)
                at = 0
                for frame in frames:
                    _skip(file, (number * count + frame - at) * size)
                    at = number * count + frame + 1
                    metres = np.frombuffer(_exactly(file, size), dtype).reshape(1, *shape[-2:]).astype(np.float32)
                    yield DepthMaps(_tidy(metres), None if every_K is None else every_K[frame : frame + 1])
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):
            raise storage_error(error, str(path)) from None
        raise _no_depth_file(path, error) from None  # what bz2 says of bytes that are none, and a seek to before the file's beginning
    except _BROKEN as error:
        raise _no_depth_file(path, error) from None


def _no_depth_file(path: Path, error: Exception) -> CandidateError:
    said = str(error).strip() or type(error).__name__
    return CandidateError(Reason.E_OPEN, f"{path} is no depth file: {said[:200]}; it must be an npz with `depth` [T,H,W] in metres")


def read_kubric4d(camera: Path, maps: Sequence[Path], limits: MediaLimits | None = None) -> Iterator[DepthMaps]:
    """One map after another of one view of Kubric-4D. camera: `scn00000/scn00000_p0_v4.json`; maps: `frames_p0_v4/depth_00000.tiff`, ...

    The files hold the distance to the camera's centre; here it is along the optical axis (specs/recapture.md 4.2).
    Raises CandidateError: E_OPEN, E_TOO_BIG, E_CAMERA, E_IO.
    """
    limits = limits or MediaLimits()
    try:
        document = from_json(_read(camera, _MOST_BYTES).decode("utf-8"))
        width, height = (int(side) for side in document["scene"]["resolution"])
        with np.errstate(all="ignore"):  # what is not finite is told below
            K = np.diag([width, height, 1.0]) @ np.abs(np.asarray(document["camera"]["K"], np.float64))
    except _BROKEN as error:
        raise CandidateError(Reason.E_CAMERA, f"{camera} is no Kubric-4D camera file: {str(error)[:200] or type(error).__name__}") from None
    if min(width, height) < 1:
        raise CandidateError(Reason.E_CAMERA, f"{camera}: its resolution is {width}x{height}; it must be at least 1x1")
    check_caps(limits, width=width, height=height)
    [K] = _intrinsics(K, 1, camera)
    for path in maps:
        distance = _read_tiff(path, width, height)
        yield DepthMaps(_tidy(planar(distance, K)[None]), K[None])


def _read_tiff(path: Path, width: int, height: int) -> NDArray[np.float32]:
    """[height,width]. Its header must say so, in float32, before anything is decoded. Raises CandidateError(E_OPEN, E_IO)."""
    wanted = {"width": width, "height": height, "bits": 32, "channels": 1, "format": 3}
    data = _read(path, 8 * width * height + (1 << 20))  # twice the pixels: compression of noise may make it grow
    try:
        said = {"channels": 1, **_tiff_header(data)}
        if said == wanted:
            distance = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            if distance is not None and distance.shape == (height, width) and distance.dtype == np.float32:
                return distance.astype(np.float32, copy=False)
        what = "cannot be decoded" if said == wanted else f"says {', '.join(f'{name} {value}' for name, value in said.items())}"
    except (ValueError, struct.error) as error:
        what = f"is no TIFF ({error})"
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise
        what = "cannot be decoded"
    raise CandidateError(Reason.E_OPEN, f"{path} {what}; it must be a TIFF of float32 [{height},{width}] in metres")


def _tiff_header(data: bytes) -> dict[str, int]:
    """What the first directory of a classic TIFF says of its picture. Raises ValueError, struct.error."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        raise ValueError(f"it starts with {data[:4]!r}")
    (at,) = struct.unpack_from(f"{order}I", data, 4)
    (entries,) = struct.unpack_from(f"{order}H", data, at)
    if entries > _TIFF_ENTRIES:
        raise ValueError(f"its directory has {entries} entries")
    found = {}
    for start in range(at + 2, at + 2 + 12 * entries, 12):
        tag, kind, count = struct.unpack_from(f"{order}HHI", data, start)
        if tag in _TIFF_TAGS and count == 1 and kind in (3, 4):
            [found[_TIFF_TAGS[tag]]] = struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", data, start + 8)
    return found


def _read(path: Path, most: int) -> bytes:
    """The file. Raises CandidateError(E_OPEN) where it has more bytes than that, E_IO."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise storage_error(error, str(path)) from None
    if len(data) > most:
        raise CandidateError(Reason.E_OPEN, f"{path} is larger than {most} bytes, the most that such a file can need")
    return data


def planar(distance: NDArray[np.float32], K: Array) -> NDArray[np.float32]:
    """Depth along the optical axis [H,W] from distances to the camera's centre [H,W]; K [3,3]."""
    height, width = distance.shape
    with np.errstate(all="ignore"):  # a distance may be any float32, infinity included, and a focal length any positive float64
        x = (np.arange(width) + 0.5 - K[0, 2]) / K[0, 0]
        y = (np.arange(height) + 0.5 - K[1, 2]) / K[1, 1]
        return np.asarray(distance / np.sqrt(1 + x**2 + y[:, None] ** 2), np.float32)


def _check_shape(maps: DepthMaps, view: str, size: tuple[int, int]) -> None:
    height, width = maps.metres.shape[1:]
    if abs(width / height / (size[0] / size[1]) - 1) > MOST_ASPECT_DIFFERENCE:
        raise CandidateError(
            Reason.E_OPEN,
            f"depth maps of view {view!r} are {width}x{height}, its frames {size[0]}x{size[1]}; they must show one picture, at any scale",
        )


def _names(archive: zipfile.ZipFile) -> list[str]:
    names = _whole(archive, "views.npy", "U", _MOST_NAMES_BYTES)
    if names.ndim != 1:
        raise ValueError(f"`views` is {list(names.shape)}; it must be one name for each view")
    return [str(name) for name in names]


def _position(names: list[str], view: str | None, path: Path) -> int:
    if view not in names:
        raise CandidateError(Reason.E_OPEN, f"{path} has depth of the views {', '.join(names)}; none is {view!r}")
    return names.index(view)


def _map_header(file: IO[bytes], views: int | None, limits: MediaLimits) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of `depth`, which has one more axis in front where the file has several views. Raises CandidateError(E_TOO_BIG)."""
    shape, dtype = _header(file)
    if dtype.kind != "f" or 0 in shape or len(shape) != (3 if views is None else 4) or (views is not None and shape[0] != views):
        raise ValueError(f"`depth` is {dtype} {list(shape)}" + ("" if views is None else f", `views` has {views} names"))
    check_caps(limits, width=shape[-1], height=shape[-2], frames=shape[-3])
    return shape, dtype


def _intrinsics(K: NDArray[Any], count: int, path: Path) -> Array:
    """[count,3,3], checked."""
    K = np.asarray(K, np.float64)
    if K.shape not in ((3, 3), (count, 3, 3)):
        raise CandidateError(Reason.E_CAMERA, f"{path}: K is {list(K.shape)}; it must be [3,3] or [{count},3,3]")
    if not np.isfinite(K).all() or (K[..., 0, 0] <= 0).any() or (K[..., 1, 1] <= 0).any():
        raise CandidateError(Reason.E_CAMERA, f"{path}: K must be finite with positive focal lengths")
    return np.broadcast_to(K, (count, 3, 3))


def _whole(archive: zipfile.ZipFile, name: str, kinds: str, most: int) -> NDArray[Any]:
    """An array of one of the kinds (as numpy letters them) and at most so many bytes."""
    with archive.open(name) as file:
        shape, dtype = _header(file)
        size = math.prod(shape) * dtype.itemsize
        if dtype.kind not in kinds or not 0 < size <= most:
            raise ValueError(f"`{name.removesuffix('.npy')}` is {dtype} {list(shape)}")
        return np.frombuffer(_exactly(file, size), dtype).reshape(shape)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"an array is written in version {version} of the npy format")
    shape, fortran, dtype = _HEADERS[version](file)
    if fortran and len(shape) > 1:
        raise ValueError("an array is stored column by column; write np.ascontiguousarray(...)")
    if min(shape, default=0) < 0:
        raise ValueError(f"an array is {list(shape)}")
    return tuple(shape), dtype


def _skip(file: IO[bytes], size: int) -> None:
    while size > 0:
        size -= len(_exactly(file, min(size, 1 << 22)))


def _exactly(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise EOFError("it ends before its arrays do")
    return data


def _tidy(metres: NDArray[np.float32]) -> NDArray[np.float32]:
    """What is not above 0, and NaN, to 0: unknown."""
    return np.where(metres > 0, metres, np.float32(0))
