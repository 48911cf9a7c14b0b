"""Our own rig calibration, `cameras.json`, version 1.

    {
      "version": 1,
      "units": "metres",                       // or "millimetres", "centimetres", "arbitrary"
      "up": [0, 0, 1],                         // optional: against gravity, in the world
      "centre": [0, 0, 1.2],                   // optional: the point that the cameras look at, in the same units
      "cameras": {
        "cam01": {
          "video": "cam01.mp4",                // optional: the video's file name; else the camera's name is the video's stem
          "width": 1920, "height": 1080,       // of the images that K speaks of
          "fx": 1400.0, "fy": 1400.0, "cx": 960.0, "cy": 540.0,    // pixels; or "K": [[fx, 0, cx], [0, fy, cy], [0, 0, 1]],
                                               // or a list of K, one for each pose (a lens that zooms)
          "distortion": [k1, k2, p1, p2, k3],  // optional: OpenCV's model, 4 or 5 numbers
          "model": "opencv",                   // optional; "fisheye": distortion is k1, k2, k3, k4 of OpenCV's fisheye model
          "c2w": [[...], [...], [...], [0, 0, 0, 1]]   // or "w2c": 4x4 or 3x4; or a list of them, one for each frame
        }
      }
    }

OpenCV axes (x right, y down, z forward), right-handed world. Pixel centres are at integer + 0.5: the image spans
[0, width] x [0, height]. JSON itself has no comments.
"""

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from schemas.camera import LARGEST, Array, CameraTrack, Scale, from_w2c, intrinsics
from schemas.typed import nearest
from schemas.verdict import CandidateError, Reason

METRES_PER_UNIT: dict[str, tuple[float, Scale]] = {
    "metres": (1.0, "metres"),
    "centimetres": (0.01, "metres"),
    "millimetres": (0.001, "metres"),
    "arbitrary": (1.0, "arbitrary"),
}
_TOP = ("version", "units", "up", "centre", "cameras")
_CAMERA = ("video", "width", "height", "fx", "fy", "cx", "cy", "K", "distortion", "model", "c2w", "w2c")


def parse_rig(document: Any) -> dict[str, CameraTrack]:
    """Tracks by view name: one pose for a static camera, else one a frame. Raises CandidateError(E_CAMERA)."""
    top = _known(document, _TOP, "cameras.json")
    if top.get("version") != 1:
        raise _wrong("version", top.get("version"), "1")
    units = top.get("units")
    if not isinstance(units, str) or units not in METRES_PER_UNIT:
        raise _wrong("units", units, ", ".join(METRES_PER_UNIT))
    factor, scale = METRES_PER_UNIT[units]
    up = None if top.get("up") is None else _vector(top["up"], "up")
    if up is not None:
        length = float(np.linalg.norm(up))
        if length == 0:
            raise _wrong("up", top["up"], "a direction")
        up = up / length
    centre = None if top.get("centre") is None else _vector(top["centre"], "centre") * factor
    cameras = top.get("cameras")
    if not isinstance(cameras, Mapping) or not cameras:
        raise _wrong("cameras", cameras, "a mapping of camera names to cameras")
    tracks: dict[str, CameraTrack] = {}
    for name, value in cameras.items():
        camera = _known(value, _CAMERA, f"cameras.{name}")
        video = camera.get("video")
        view = PurePosixPath(str(video)).stem if video is not None else str(name)
        if view in tracks:
            raise CandidateError(Reason.E_CAMERA, f"cameras.json: two cameras name the video {view!r}")
        tracks[view] = _track(camera, f"cameras.{name}", factor, scale, up, centre)
    return tracks


def _track(camera: Mapping[str, Any], where: str, factor: float, scale: Scale, up: Array | None, centre: Array | None) -> CameraTrack:
    if ("c2w" in camera) == ("w2c" in camera):
        raise CandidateError(Reason.E_CAMERA, f"cameras.json: {where} needs exactly one of c2w and w2c")
    key = "c2w" if "c2w" in camera else "w2c"
    poses = _numbers(camera[key], f"{where}.{key}")
    poses = poses[None] if poses.ndim == 2 else poses
    if poses.ndim != 3 or poses.shape[1:] not in ((4, 4), (3, 4)):
        raise CandidateError(
            Reason.E_CAMERA, f"cameras.json: {where}.{key} must be 4x4 or 3x4, or a list of them, got the shape {list(poses.shape)}"
        )
    if poses.shape[1] == 3:
        poses = np.concatenate([poses, np.broadcast_to([0.0, 0.0, 0.0, 1.0], (len(poses), 1, 4))], axis=1)
    c2w = from_w2c(poses) if key == "w2c" else poses.copy()
    c2w[:, :3, 3] *= factor
    distortion = tuple(float(x) for x in _numbers(camera.get("distortion") or [], f"{where}.distortion").ravel())
    if len(distortion) not in (0, 4, 5):
        raise _wrong(f"{where}.distortion", camera["distortion"], "4 or 5 numbers: k1, k2, p1, p2[, k3]")
    model = camera.get("model", "opencv")
    if model not in ("opencv", "fisheye"):
        raise _wrong(f"{where}.model", model, "opencv or fisheye")
    if model == "fisheye" and len(distortion) != 4:
        raise _wrong(f"{where}.distortion", camera.get("distortion"), "the 4 numbers k1, k2, k3, k4 of a fisheye")
    width, height = (_size(camera.get(side), f"{where}.{side}") for side in ("width", "height"))
    K = _intrinsics(camera, where)
    if K.ndim == 2:
        K = np.repeat(K[None], len(c2w), axis=0)
    elif len(K) != len(c2w):
        raise CandidateError(
            Reason.E_CAMERA, f"cameras.json: {where} has {len(K)} K for {len(c2w)} poses; give one for each, or one for all"
        )
    return CameraTrack(c2w, K, width, height, scale, distortion, _triple(up), centre=_triple(centre), model=model)


def _intrinsics(camera: Mapping[str, Any], where: str) -> Array:
    """[3,3], or [T,3,3] where the file has a list of K."""
    if "K" in camera:
        K = _numbers(camera["K"], f"{where}.K")
        if K.shape[-2:] != (3, 3) or K.ndim > 3 or not K.size or np.abs(K[..., 2, :] - [0, 0, 1]).max() > 1e-9 or K[..., 1, 0].any():
            raise _wrong(f"{where}.K", camera["K"], "[[fx, 0, cx], [0, fy, cy], [0, 0, 1]], or a list of them")
        return K
    names = ("fx", "fy", "cx", "cy")
    missing = [name for name in names if name not in camera]
    if missing:
        raise CandidateError(Reason.E_CAMERA, f"cameras.json: {where} lacks {', '.join(missing)}; give fx, fy, cx, cy or K")
    fx, fy, cx, cy = (float(_numbers([camera[name]], f"{where}.{name}")[0]) for name in names)
    return intrinsics(fx, fy, cx, cy)[0]


def _known(value: Any, allowed: Iterable[str], where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(where, value, "a mapping")
    for key in value:
        if key not in allowed:
            raise CandidateError(Reason.E_CAMERA, f"cameras.json: {where} has the unknown key {key!r}{nearest(key, allowed)}")
    return value


def _numbers(value: Any, where: str) -> Array:
    try:
        return np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise _wrong(where, value, "numbers, every row equally long") from None


def _vector(value: Any, where: str) -> Array:
    vector = _numbers(value, where)
    if vector.shape != (3,) or not (np.abs(vector) <= LARGEST).all():  # NaN is not either
        raise _wrong(where, value, f"three numbers up to {LARGEST:g}")
    return vector


def _triple(vector: Array | None) -> tuple[float, float, float] | None:
    return None if vector is None else (float(vector[0]), float(vector[1]), float(vector[2]))


def _size(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise _wrong(where, value, "a positive integer, in pixels")
    return value


def _wrong(where: str, value: Any, allowed: str) -> CandidateError:
    return CandidateError(Reason.E_CAMERA, f"cameras.json: {where} is {value!r:.80}; expected {allowed}")
