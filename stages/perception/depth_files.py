"""Depth that is known: files of the user's own, the studio's ground truth, and Kubric-4D's.

npz: `depth` [T,H,W] metres along the optical axis, and where known `K` [3,3] or [T,3,3] in pixels of those maps (centres at integer +
0.5). The studio's truth is such a file with one more axis in front, and `views` with the names along it. NaN and what is not above 0
count as unknown, inf as nothing there. Frames are read one by one, so a file may be larger than memory.
"""

import json
import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from schemas.verdict import CandidateError, Reason
from stages.perception.depth import Array, DepthMaps

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_MOST_BYTES = 1 << 30  # of an array that is read whole, and of one map


def read_npz(path: Path, frames: Sequence[int], length: int, view: str | None = None) -> Iterator[DepthMaps]:
    """One map after another of some of a view's frames (ascending). length: how many frames the view has, as many as the file must
    hold; view: its name, for files with several. Raises CandidateError: E_OPEN for a file that is none of these, E_FRAMECOUNT,
    E_CAMERA."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [str(name) for name in _whole(archive, "views.npy")] if "views.npy" in archive.namelist() else None
            number = 0 if names is None else _position(names, view, path)
            K = _whole(archive, "K.npy") if "K.npy" in archive.namelist() else None
            with archive.open("depth.npy") as file:
                shape, dtype = _map_header(file, None if names is None else len(names))
                count, size = shape[-3], math.prod(shape[-2:]) * dtype.itemsize
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
    except (OSError, zipfile.BadZipFile, zlib.error, ValueError, KeyError, IndexError, EOFError) as error:
        raise CandidateError(Reason.E_OPEN, f"{path} is no depth file: {error}; it must be an npz with `depth` [T,H,W] in metres") from None


def read_kubric4d(folder: Path, frames: Sequence[int]) -> Iterator[DepthMaps]:
    """One map after another of some frames of one view of Kubric-4D. folder: `scn00000/frames_p0_v4`, beside which lies the json with
    its camera.

    The files hold the distance to the camera's centre; here it is along the optical axis (specs/recapture.md 4.2).
    Raises CandidateError: E_OPEN, E_CAMERA.
    """
    about = folder.parent / f"{folder.parent.name}_{folder.name.removeprefix('frames_')}.json"
    try:
        document = json.loads(about.read_text("utf-8"))
        width, height = (int(side) for side in document["scene"]["resolution"])
        K = np.diag([width, height, 1.0]) @ np.abs(np.asarray(document["camera"]["K"], np.float64))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CandidateError(Reason.E_CAMERA, f"{about} is no Kubric-4D camera file: {error}") from None
    [K] = _intrinsics(K, 1, about)
    for frame in frames:
        path = folder / f"depth_{frame:05d}.tiff"
        distance = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
        if distance is None or distance.shape != (height, width) or distance.dtype != np.float32:
            found = "cannot be read" if distance is None else f"is {distance.dtype} {list(distance.shape)}"
            raise CandidateError(Reason.E_OPEN, f"{path} {found}; it must be float32 [{height},{width}] in metres")
        yield DepthMaps(_tidy(planar(distance.astype(np.float32), K)[None]), K[None])


def planar(distance: NDArray[np.float32], K: Array) -> NDArray[np.float32]:
    """Depth along the optical axis [H,W] from distances to the camera's centre [H,W]; K [3,3]."""
    height, width = distance.shape
    x = (np.arange(width) + 0.5 - K[0, 2]) / K[0, 0]
    y = (np.arange(height) + 0.5 - K[1, 2]) / K[1, 1]
    return np.asarray(distance / np.sqrt(1 + x**2 + y[:, None] ** 2), np.float32)


def _position(names: list[str], view: str | None, path: Path) -> int:
    if view not in names:
        raise CandidateError(Reason.E_OPEN, f"{path} has depth of the views {', '.join(names)}; none is {view!r}")
    return names.index(view)


def _map_header(file: IO[bytes], views: int | None) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of `depth`, which has one more axis in front where the file has several views."""
    shape, dtype = _header(file)
    if dtype.kind != "f" or 0 in shape or len(shape) != (3 if views is None else 4) or (views is not None and shape[0] != views):
        raise ValueError(f"`depth` is {dtype} {list(shape)}" + ("" if views is None else f", `views` has {views} names"))
    if math.prod(shape[-2:]) * dtype.itemsize > _MOST_BYTES:
        raise ValueError(f"one map of {list(shape[-2:])} is too large")
    return shape, dtype


def _intrinsics(K: NDArray[Any], count: int, path: Path) -> Array:
    """[count,3,3], checked."""
    K = np.asarray(K, np.float64)
    if K.shape not in ((3, 3), (count, 3, 3)):
        raise CandidateError(Reason.E_CAMERA, f"{path}: K is {list(K.shape)}; it must be [3,3] or [{count},3,3]")
    if not np.isfinite(K).all() or (K[..., 0, 0] <= 0).any() or (K[..., 1, 1] <= 0).any():
        raise CandidateError(Reason.E_CAMERA, f"{path}: K must be finite with positive focal lengths")
    return np.broadcast_to(K, (count, 3, 3))


def _whole(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with archive.open(name) as file:
        shape, dtype = _header(file)
        if dtype.hasobject or math.prod(shape) * dtype.itemsize > _MOST_BYTES:
            raise ValueError(f"`{name.removesuffix('.npy')}` is {dtype} {list(shape)}")
        return np.frombuffer(_exactly(file, math.prod(shape) * dtype.itemsize), dtype).reshape(shape)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"an array is written in version {version} of the npy format")
    shape, fortran, dtype = _HEADERS[version](file)
    if fortran and len(shape) > 1:
        raise ValueError("an array is stored column by column; write np.ascontiguousarray(...)")
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
