"""RealEstate10K as `.torch` chunks, the layout that pixelSplat made common (spec syncammaster.md, section 2.4).

A chunk is a list of scenes: {"key": str, "url": str, "timestamps": int [N] microseconds, "cameras": float [N,18],
"images": list of N uint8 tensors holding JPEG bytes}. Loaded with weights_only=True and mapped, not read.
"""

import errno
import os
import pickle
import struct
import tarfile
import zipfile
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.verdict import CandidateError, Reason
from stages.media.memory import loading_library
from stages.storage.paths import storage_error

# How torch.load says that an archive is broken; and what its restricted unpickler, or the legacy format's reader, stumbles over.
STUMBLES = (
    *(RuntimeError, ValueError, EOFError, KeyError, IndexError, AttributeError, TypeError, AssertionError, OverflowError, struct.error),
    *(RecursionError, zipfile.BadZipFile, tarfile.TarError),
)


def chunk_scenes(path: str) -> list[dict[str, Any]]:
    """What a chunk holds, without its pictures: per scene "key" and "url" (str), "timestamps" [N] int64 microseconds,
    "cameras" [N,18] float64, "n_images" int. Made for `Media.run`. Raises CandidateError(E_OPEN, E_TRUNCATED, E_IO).
    """
    return [scene_header(path, item) for item in range(len(_load(path)))]


def scene_header(path: str, item: int) -> dict[str, Any]:
    """One entry of `chunk_scenes`."""
    scene = _scene(path, item)
    return {
        "key": str(scene["key"]),
        "url": str(scene.get("url", "")),
        "timestamps": _numpy(scene["timestamps"], np.int64),
        "cameras": _numpy(scene["cameras"], np.float64),
        "n_images": len(scene["images"]),
    }


def scene_times_ns(path: str, item: int) -> list[int]:
    """The scene's picture times in nanoseconds."""
    return [int(time) * 1000 for time in _numpy(_scene(path, item)["timestamps"], np.int64)]


def scene_pictures(path: str, item: int) -> int:
    """How many pictures the scene holds."""
    return len(_scene(path, item)["images"])


def scene_picture(path: str, item: int, frame: int) -> bytes:
    """The JPEG bytes of one picture, as stored."""
    return _numpy(_scene(path, item)["images"][frame], np.uint8).tobytes()


def _scene(path: str, item: int) -> dict[str, Any]:
    scenes = _load(path)
    if not 0 <= item < len(scenes):
        raise CandidateError(Reason.E_OPEN, f"scene {item} was asked for; the chunk holds {len(scenes)}")
    scene = scenes[item]
    missing = [name for name in ("key", "timestamps", "cameras", "images") if not isinstance(scene, dict) or name not in scene]
    if missing:
        raise CandidateError(Reason.E_OPEN, f"scene {item} of the chunk lacks {', '.join(missing)}; expected a RealEstate10K scene")
    return scene


def _load(path: str) -> list[Any]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise storage_error(error, path) from error
    return _load_once(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1)  # scenes of a chunk are asked for one after the other
def _load_once(path: str, size: int, mtime_ns: int) -> list[Any]:
    try:
        with loading_library():
            import torch
    except ImportError:
        raise CandidateError(
            Reason.E_OPEN, "reading .torch chunks needs torch, which is not installed; pip install 'parallax-curation[perception]'"
        ) from None
    with open(path, "rb") as file:
        zipped = file.read(2) == b"PK"
    try:
        scenes = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except OSError as error:
        if error.errno == errno.EINVAL:  # torch looked for the archive's directory before the start of the file
            raise CandidateError(Reason.E_TRUNCATED, "the chunk is broken: it holds no whole zip archive") from error
        raise storage_error(error, path) from error
    except pickle.UnpicklingError as error:
        raise CandidateError(Reason.E_OPEN, f"the chunk cannot be loaded with weights_only=True: {str(error)[:300]}") from error
    except STUMBLES as error:
        reason = Reason.E_TRUNCATED if zipped else Reason.E_OPEN
        raise CandidateError(reason, f"the chunk is broken: {str(error)[:300]}") from error
    if not isinstance(scenes, list):
        raise CandidateError(Reason.E_OPEN, f"the chunk holds a {type(scenes).__name__}; expected a list of scenes")
    return scenes


def _numpy(value: Any, dtype: Any) -> NDArray[Any]:
    return np.asarray(value.numpy() if hasattr(value, "numpy") else value, dtype)
