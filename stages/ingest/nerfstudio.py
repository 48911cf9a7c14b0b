"""nerfstudio's `transforms.json`, as DL3DV-10K publishes it: one camera for all frames, and a pose for each.

    {"w": 3840, "h": 2160, "fl_x": ..., "fl_y": ..., "cx": ..., "cy": ..., "k1": ..., "k2": ..., "p1": ..., "p2": ...,
     "camera_model": "OPENCV", "applied_transform": [...],
     "frames": [{"file_path": "images/frame_00001.png", "transform_matrix": [4x4], "colmap_im_id": 1}, ...]}

Camera-to-world with OpenGL camera axes (y up, z backward), pixels of the full-size picture, COLMAP's pixel positions
(centres at integer + 0.5, as ours). The world stays as the file has it: `applied_transform` is a rotation that nerfstudio
has already put into every pose, and it cancels in relative ones (spec syncammaster.md 2.5). Which way is up does not follow
from it, because it was not the same in all versions.
"""

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import Any

import numpy as np

from schemas.camera import Array, CameraTrack, LensModel, from_opengl, intrinsics
from schemas.verdict import CandidateError, Reason

# Poses of failed reconstructions lie thousands of units away (DL3DV issue 34); DepthSplat drops such scenes too.
MAX_TRANSLATION = 1e3
# Ours: what no lens and no reconstruction of one gives.
MAX_SIDE = 65536  # pixels
FOCAL_RANGE = (0.05, 50.0)  # of the picture's longer side
MAX_DISTORTION = 10.0  # any coefficient

_LENS = ("fl_x", "fl_y", "cx", "cy")
_PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE")
_FISHEYE = "OPENCV_FISHEYE"
_MODELS = ("OPENCV", _FISHEYE, *_PINHOLES)


@dataclass(frozen=True, eq=False)
class PosedPictures:
    """names [N]: file names without their folder, in the file's order; track: their N cameras, of the full-size pictures."""

    names: tuple[str, ...]
    track: CameraTrack


def parse_transforms(document: Any) -> PosedPictures:
    """Raises CandidateError: E_CAMERA for what is missing, of another type, out of range or no rotation; E_UNSAFE_PATH for a
    `file_path` that is absolute or goes up; E_FRAMECOUNT where two frames name one picture.
    """
    if not isinstance(document, Mapping):
        raise _wrong("the document", document, "an object")
    width, height = (_side(document, name) for name in ("w", "h"))
    K, distortion, model = _lens(document, width, height)
    frames = document.get("frames")
    if not isinstance(frames, list) or not frames:
        raise _wrong("frames", frames, "a list with at least one frame")
    names: dict[str, int] = {}
    poses = np.empty((len(frames), 4, 4))
    for i, frame in enumerate(frames):
        if not isinstance(frame, Mapping):
            raise _wrong(f"frames[{i}]", frame, "an object")
        own = [name for name in (*_LENS, "w", "h") if name in frame]
        if own:
            message = f"transforms.json: frames[{i}] has {', '.join(own)} of its own; DL3DV has one camera for all frames"
            raise CandidateError(Reason.E_CAMERA, message)
        name = _picture(frame.get("file_path"), f"frames[{i}].file_path")
        first = names.setdefault(name, i)
        if first != i:
            raise CandidateError(Reason.E_FRAMECOUNT, f"transforms.json: frames[{first}] and frames[{i}] are both of {name!r}")
        poses[i] = _matrix(frame.get("transform_matrix"), f"frames[{i}].transform_matrix")
    far = np.abs(poses[:, :3, 3]).max(axis=1) > MAX_TRANSLATION
    if far.any():
        i = int(far.argmax())
        where = " ".join(f"{x:.6g}" for x in poses[i, :3, 3])
        raise CandidateError(
            Reason.E_CAMERA,
            f"transforms.json: {int(far.sum())} of {len(poses)} cameras lie more than {MAX_TRANSLATION:g} away, frames[{i}] at {where}: "
            "a failed reconstruction",
        )
    with np.errstate(all="ignore"):  # what overflows is no rotation, and is refused as that
        track = CameraTrack(from_opengl(poses), np.tile(K, (len(poses), 1, 1)), width, height, "arbitrary", distortion, model=model)
    return PosedPictures(tuple(names), track)


def _lens(document: Mapping[str, Any], width: int, height: int) -> tuple[Array, tuple[float, ...], LensModel]:
    """K [3,3], the distortion in OpenCV's order, empty where there is none, and its model."""
    model = document.get("camera_model", "OPENCV")
    if model not in _MODELS:
        raise _wrong("camera_model", model, f"one of {', '.join(_MODELS)}; undistort the pictures of other lenses first")
    fx, fy, cx, cy = (_number(document.get(name), name) for name in _LENS)
    low, high = (share * max(width, height) for share in FOCAL_RANGE)
    for name, value, least, most in (("fl_x", fx, low, high), ("fl_y", fy, low, high), ("cx", cx, 0, width), ("cy", cy, 0, height)):
        if not least <= value <= most:
            raise _wrong(name, value, f"{least:g} to {most:g} for {width}x{height}")
    k1, k2, p1, p2, k3, k4 = (_number(document.get(name, 0.0), name) for name in ("k1", "k2", "p1", "p2", "k3", "k4"))
    if not all(abs(each) <= MAX_DISTORTION for each in (k1, k2, p1, p2, k3)):
        raise _wrong("k1, k2, p1, p2, k3", [k1, k2, p1, p2, k3], f"coefficients of at most {MAX_DISTORTION:g}")
    if model == _FISHEYE:
        if p1 or p2 or not abs(k4) <= MAX_DISTORTION:
            raise _wrong("p1, p2, k4", [p1, p2, k4], f"0, 0 and at most {MAX_DISTORTION:g} for {_FISHEYE}")
        return intrinsics(fx, fy, cx, cy)[0], (k1, k2, k3, k4), "fisheye"
    if k4:
        raise _wrong("k4", k4, "0: OpenCV's model ends with k3; undistort the pictures first")
    coefficients = (k1, k2, p1, p2, k3) if k3 else (k1, k2, p1, p2)
    if any(coefficients) and model in _PINHOLES:
        raise _wrong("camera_model", model, "OPENCV, as there is a distortion")
    return intrinsics(fx, fy, cx, cy)[0], coefficients if any(coefficients) else (), "opencv"


def _picture(path: Any, where: str) -> str:
    """The file's name without its folder. Raises CandidateError: E_CAMERA, E_UNSAFE_PATH."""
    if not isinstance(path, str):
        raise _wrong(where, path, "a text like 'images/frame_00001.png'")
    pure = PureWindowsPath(path)  # takes either slash, so nothing that any system would follow slips through
    if pure.anchor or ".." in pure.parts or "\0" in path:
        raise CandidateError(Reason.E_UNSAFE_PATH, f"transforms.json: {where} is {path!r:.120}; it must be of the form images/NAME")
    if len(pure.parts) != 2 or pure.parts[0].partition("_")[0] != "images":
        raise _wrong(where, path, "a text like 'images/frame_00001.png'")
    return pure.name


def _matrix(value: Any, where: str) -> Array:
    rows = value if isinstance(value, list) else []
    if len(rows) != 4 or not all(isinstance(row, list) and len(row) == 4 for row in rows):
        raise _wrong(where, value, "4 rows of 4 numbers")
    return np.array([[_number(part, where) for part in row] for row in rows])


def _side(document: Mapping[str, Any], name: str) -> int:
    value = _number(document.get(name), name)
    if not (1 <= value <= MAX_SIDE and value == int(value)):
        raise _wrong(name, value, f"a whole number of pixels, 1 to {MAX_SIDE}")
    return int(value)


def _number(value: Any, where: str) -> float:
    """NaN and infinity are numbers here: JSON as Python writes it has them, and who asks says more of where they stand."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(where, value, "a number")
    try:
        return float(value)
    except OverflowError:
        raise CandidateError(Reason.E_CAMERA, f"transforms.json: {where} holds an integer beyond floating point") from None


def _wrong(where: str, value: Any, allowed: str) -> CandidateError:
    said = "missing" if value is None else reprlib.repr(value)  # which ends, however deep and long the value
    return CandidateError(Reason.E_CAMERA, f"transforms.json: {where} is {said}; expected {allowed}")
