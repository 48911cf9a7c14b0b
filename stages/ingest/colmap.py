"""COLMAP's text model: cameras.txt and images.txt.

World-to-camera poses as quaternion (w, x, y, z) and translation, OpenCV axes; pixel centres at integer + 0.5, as ours.
"""

import math
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from schemas.camera import Array, CameraTrack, LensModel, Scale, from_w2c, intrinsics
from schemas.verdict import CandidateError, Reason
from stages.ingest.files import natural_key

# Model -> positions of fx, fy, cx, cy among its parameters; what follows is distortion.
_MODELS: dict[str, tuple[int, tuple[int, int, int, int]]] = {
    "SIMPLE_PINHOLE": (3, (0, 0, 1, 2)),
    "PINHOLE": (4, (0, 1, 2, 3)),
    "SIMPLE_RADIAL": (4, (0, 0, 1, 2)),
    "RADIAL": (5, (0, 0, 1, 2)),
    "OPENCV": (8, (0, 1, 2, 3)),
    "OPENCV_FISHEYE": (8, (0, 1, 2, 3)),
}


@dataclass(frozen=True, eq=False)
class ColmapCamera:
    width: int
    height: int
    K: Array  # [3,3]
    distortion: tuple[float, ...]  # OpenCV order (k1, k2, p1, p2), or empty; k1..k4 of a fisheye
    model: LensModel


@dataclass(frozen=True, eq=False)
class ColmapImage:
    name: str
    camera_id: int
    c2w: Array  # [4,4]


def parse_cameras(text: str) -> dict[int, ColmapCamera]:
    """cameras.txt: `CAMERA_ID MODEL WIDTH HEIGHT PARAMS...` a line. Raises CandidateError(E_CAMERA)."""
    found: dict[int, ColmapCamera] = {}
    for number, line in _lines(text):
        parts = line.split()
        model = parts[1] if len(parts) > 1 else ""
        if model not in _MODELS:
            raise CandidateError(
                Reason.E_CAMERA,
                f"cameras.txt line {number}: the camera model {model!r} is not one of {', '.join(_MODELS)}; undistort first",
            )
        count, (fx, fy, cx, cy) = _MODELS[model]
        numbers = _numbers(parts[4:], f"cameras.txt line {number}")
        if len(numbers) != count:
            raise CandidateError(Reason.E_CAMERA, f"cameras.txt line {number}: {model} has {count} parameters, got {len(numbers)}")
        identity, width, height = (_integer(part, f"cameras.txt line {number}") for part in (parts[0], parts[2], parts[3]))
        K = intrinsics(numbers[fx], numbers[fy], numbers[cx], numbers[cy])[0]
        radial = numbers[max(fx, fy, cx, cy) + 1 :]
        distortion = tuple(radial + [0.0] * (4 - len(radial))) if radial else ()
        if identity in found:
            raise CandidateError(Reason.E_CAMERA, f"cameras.txt line {number}: the camera {identity} occurs twice")
        found[identity] = ColmapCamera(width, height, K, distortion, "fisheye" if model == "OPENCV_FISHEYE" else "opencv")
    return found


def parse_images(text: str) -> list[ColmapImage]:
    """images.txt: two lines an image, `IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME` and its points (may be empty)."""
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if not line.lstrip().startswith("#")]
    while lines and not lines[0][1].strip():  # blank lines before the first image
        lines.pop(0)
    found: list[ColmapImage] = []
    for number, line in lines[::2]:
        if not line.strip():
            continue
        where = f"images.txt line {number}"
        parts = line.split(maxsplit=9)
        if len(parts) != 10:
            raise CandidateError(Reason.E_CAMERA, f"{where}: expected IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, got {line!r:.80}")
        numbers = _numbers(parts[1:8], where)
        w2c = np.eye(4)
        w2c[:3, :3] = _rotation(numbers[:4], where)
        w2c[:3, 3] = numbers[4:]
        found.append(ColmapImage(parts[9].strip(), _integer(parts[8], where), from_w2c(w2c)))
    return found


def parse_model(cameras_text: str, images_text: str, scale: Scale) -> dict[str, CameraTrack]:
    """Tracks by view name. An image `cam01.jpg` is the static camera cam01; images `cam01/000001.jpg`, ... in natural order
    are the poses of its frames. Raises CandidateError(E_CAMERA).
    """
    cameras = parse_cameras(cameras_text)
    groups: dict[str, list[ColmapImage]] = {}
    for image in parse_images(images_text):
        path = PurePosixPath(image.name)
        groups.setdefault(path.parent.name or path.stem, []).append(image)
    tracks: dict[str, CameraTrack] = {}
    for name, images in groups.items():
        unknown = next((image for image in images if image.camera_id not in cameras), None)
        if unknown is not None:
            raise CandidateError(
                Reason.E_CAMERA, f"images.txt: {unknown.name!r} names the camera {unknown.camera_id}, which cameras.txt does not have"
            )
        images = sorted(images, key=lambda image: natural_key(image.name))
        used = [cameras[image.camera_id] for image in images]
        if len({(camera.width, camera.height, camera.distortion, camera.model) for camera in used}) != 1:
            raise CandidateError(
                Reason.E_CAMERA, f"images.txt: the images of {name!r} have cameras of different size or distortion; a view needs one"
            )
        poses: Array = np.stack([image.c2w for image in images])
        K: Array = np.stack([camera.K for camera in used])
        tracks[name] = CameraTrack(poses, K, used[0].width, used[0].height, scale, used[0].distortion, model=used[0].model)
    return tracks


def _rotation(quaternion: list[float], where: str) -> Array:
    length = math.sqrt(sum(part * part for part in quaternion))
    if not abs(length - 1) < 1e-3:
        raise CandidateError(Reason.E_CAMERA, f"{where}: the quaternion's length is {length:.6g}, it must be 1")
    w, x, y, z = (part / length for part in quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def _lines(text: str) -> list[tuple[int, str]]:
    return [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip() and not line.lstrip().startswith("#")]


def _numbers(parts: list[str], where: str) -> list[float]:
    try:
        return [float(part) for part in parts]
    except ValueError as error:
        raise CandidateError(Reason.E_CAMERA, f"{where}: {error}") from None


def _integer(part: str, where: str) -> int:
    try:
        return int(part)
    except ValueError:
        raise CandidateError(Reason.E_CAMERA, f"{where}: {part!r} is not an integer") from None
