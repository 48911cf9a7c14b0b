"""RealEstate10K `.torch` chunks: a list of scenes, each {key, url, timestamps [N], cameras [N,18], images: N JPEG tensors}.

Both functions run inside the media sandbox (`Media.run`): a chunk is an untrusted file. It is opened with weights_only=True
and mapped, so that no picture is read.
"""

import importlib.util
import pickle
from pathlib import Path
from typing import Any

from schemas.verdict import CandidateError, Reason
from stages.media.memory import loading_library

INSTALL_HINT = "reading RealEstate10K .torch chunks needs torch: install parallax-curation[perception], or give trajectories and videos"


def torch_is_installed() -> bool:
    return importlib.util.find_spec("torch") is not None


def list_scenes(path: str) -> list[tuple[str, str]]:
    """(key, url) of every scene in the chunk, in its order. Raises CandidateError(E_OPEN) for what is no chunk."""
    return [(_text(scene, "key", i), _text(scene, "url", i)) for i, scene in enumerate(_scenes(path))]


def read_cameras(path: str, item: int) -> dict[str, Any]:
    """{"timestamps": int64 [N], "cameras": float64 [N,18], "images": number of pictures} of one scene. Raises E_OPEN, E_CAMERA."""
    scenes = _scenes(path)
    if not 0 <= item < len(scenes):
        raise CandidateError(Reason.E_CAMERA, f"{Path(path).name} has {len(scenes)} scenes, no {item}; it changed since it was listed")
    scene = scenes[item]
    try:
        times, cameras, images = scene["timestamps"], scene["cameras"], scene["images"]
        found = {"timestamps": times.numpy().astype("<i8"), "cameras": cameras.numpy().astype("<f8"), "images": len(images)}
    except (KeyError, AttributeError, TypeError, RuntimeError) as error:
        raise CandidateError(
            Reason.E_CAMERA, f"{Path(path).name}, scene {item}: timestamps, cameras or images missing or no tensor: {error}"
        ) from None
    if found["cameras"].ndim != 2 or found["cameras"].shape[1] != 18 or found["timestamps"].shape != found["cameras"].shape[:1]:
        raise CandidateError(
            Reason.E_CAMERA,
            f"{Path(path).name}, scene {item}: cameras must be [N,18] and timestamps [N], "
            f"got {list(found['cameras'].shape)} and {list(found['timestamps'].shape)}",
        )
    return found


def _scenes(path: str) -> list[Any]:
    with loading_library():
        import torch

    try:
        chunk = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CandidateError(
            Reason.E_OPEN, f"{Path(path).name} is no .torch chunk that loads with weights_only=True: {first:.200}"
        ) from None
    if not isinstance(chunk, list):
        raise CandidateError(Reason.E_OPEN, f"{Path(path).name} holds a {type(chunk).__name__}; a chunk is a list of scenes")
    return chunk


def _text(scene: Any, name: str, position: int) -> str:
    value = scene.get(name) if isinstance(scene, dict) else None
    return value if isinstance(value, str) and value else ("" if name == "url" else f"item{position}")
