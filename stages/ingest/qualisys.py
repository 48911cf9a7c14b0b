"""Qualisys Track Manager's calibration file (`*.qca.txt`, XML).

What its numbers mean, checked on a published recording (tests/ingest/test_rig_real.py):

- transform: position x y z in millimetres; row i of r11..r33 is the camera's i-th axis in the world, with OpenGL axes
  (x right, y up, z backward). So c2w = [r^T | position] diag(1,-1,-1,1).
- intrinsic: focal lengths and centre in 1/64 pixel of the sensor, pixel centres at integers; distortion is dimensionless,
  OpenCV's model.
- fov_video: the part of the sensor that the video shows, first and last pixel.
- The world has z upward unless the user changed it.
"""

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass

import numpy as np

from schemas.camera import Array, from_opengl, intrinsics
from schemas.verdict import CandidateError, Reason

SUBPIXELS = 64.0


@dataclass(frozen=True, eq=False)
class QualisysCamera:
    name: str  # the serial number, or what stands in its place
    films: bool  # False for a marker camera, which has no video
    width: int
    height: int
    K: Array  # [3,3] pixels, centres at integer + 0.5
    distortion: tuple[float, ...]  # (k1, k2, p1, p2, k3)
    c2w: Array  # [4,4] metres, OpenCV axes


def parse_calibration(text: str) -> list[QualisysCamera]:
    """Every active camera of the file, in its order. Raises CandidateError(E_CAMERA) where something is missing or odd."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise CandidateError(Reason.E_CAMERA, "the calibration file declares XML entities, which a Qualisys file never does; refused")
    try:
        tree = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise CandidateError(Reason.E_CAMERA, f"the calibration file is not valid XML: {error}") from None
    found = [_camera(element) for element in tree.iterfind("cameras/camera") if element.get("active", "1") != "0"]
    if not found:
        raise CandidateError(Reason.E_CAMERA, "the calibration file has no active camera (calibration/cameras/camera)")
    return found


def _camera(element: ElementTree.Element) -> QualisysCamera:
    name = element.get("serial", "")
    transform, intrinsic, view = (_child(element, tag, name) for tag in ("transform", "intrinsic", "fov_video"))
    if abs(_number(intrinsic, "skew", name, 0.0)) > 1e-6:
        raise CandidateError(Reason.E_CAMERA, f"camera {name!r} has a skew of {intrinsic.get('skew')}; only 0 is supported")
    left, top, right, bottom = (_number(view, side, name) for side in ("left", "top", "right", "bottom"))
    focal = [_number(intrinsic, f"focalLength{axis}", name) / SUBPIXELS for axis in "UV"]
    centre = [
        (_number(intrinsic, f"centerPoint{axis}", name) - _number(intrinsic, f"sensorMin{axis}", name, 0.0)) / SUBPIXELS for axis in "UV"
    ]
    c2w = np.eye(4)
    c2w[:3, :3] = [[_number(transform, f"r{row}{column}", name) for row in (1, 2, 3)] for column in (1, 2, 3)]
    c2w[:3, 3] = [_number(transform, axis, name) / 1000 for axis in "xyz"]
    radial = [_number(intrinsic, f"radialDistortion{order}", name, 0.0) for order in (1, 2, 3)]
    tangential = [_number(intrinsic, f"tangentalDistortion{order}", name, 0.0) for order in (1, 2)]  # the file's own spelling
    model = element.get("model", "none").lower()
    return QualisysCamera(
        name,
        "video" in model or model == "none",
        round(right - left) + 1,
        round(bottom - top) + 1,
        intrinsics(focal[0], focal[1], centre[0] - left + 0.5, centre[1] - top + 0.5)[0],
        (radial[0], radial[1], tangential[0], tangential[1], radial[2]),
        from_opengl(c2w),
    )


def _child(element: ElementTree.Element, tag: str, name: str) -> ElementTree.Element:
    child = element.find(tag)
    if child is None:
        raise CandidateError(Reason.E_CAMERA, f"camera {name!r} has no <{tag}> in the calibration file")
    return child


def _number(element: ElementTree.Element, attribute: str, name: str, default: float | None = None) -> float:
    text = element.get(attribute)
    if text is None and default is not None:
        return default
    try:
        value = float(text or "")
    except ValueError:
        raise CandidateError(Reason.E_CAMERA, f"camera {name!r}: {element.tag}.{attribute} is {text!r}, expected a number") from None
    if not np.isfinite(value):
        raise CandidateError(Reason.E_CAMERA, f"camera {name!r}: {element.tag}.{attribute} is {text!r}, expected a finite number")
    return value
