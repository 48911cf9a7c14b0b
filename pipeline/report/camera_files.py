"""Any camera file that the ingests read, and a sample's cameras.npz, as named tracks. The parsers are those of the ingests."""

import io
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipeline.viewpoints import ViewpointsError
from pipeline.viewpoints.files import Tracks, read_tracks
from schemas.camera import CameraTrack
from schemas.candidate import MediaFile
from schemas.verdict import CandidateError
from stages.ingest.files import files, media_file, read_json, read_text
from stages.ingest.kubric4d import parse_camera
from stages.ingest.nerfstudio import parse_transforms
from stages.ingest.qualisys import parse_calibration
from stages.ingest.realestate10k import normalised_track, parse_trajectory
from stages.storage import ROOT, Tree

MAX_NPZ_BYTES = 256 * 2**20  # unpacked: 36 views of 10,000 frames have 72 MB
HEIGHT = 720  # RealEstate10K's K is normalised; any height gives the same view, the width follows from square pixels
FORMATS = (
    "a sample's cameras.npz, our cameras.json, SynCamVideo's camera JSON (v1 or v2), RealEstate10K's trajectory (.txt), transforms.json "
    "(DL3DV, nerfstudio), Kubric-4D's JSON, a Qualisys *.qca.txt, or COLMAP's cameras.txt and images.txt (a file of them, or their folder)"
)
_OPENCV = "OpenCV axes, camera-to-world"


class CameraFileError(ValueError):
    """No camera file, or one that cannot be drawn. The message says which, what was found and what is read."""


@dataclass(frozen=True, eq=False)
class CameraFile:
    """tracks: by view name, OpenCV camera-to-world. kind, convention: what it was. frames: numbers [T] of each view's frames."""

    tracks: Mapping[str, CameraTrack]
    kind: str
    convention: str
    frames: Mapping[str, NDArray[np.int64]]
    notes: tuple[str, ...] = ()


def read_camera_file(path: Path) -> CameraFile:
    """Raises CameraFileError."""
    if not path.exists():
        raise CameraFileError(f"{path}: no such file or folder; expected {FORMATS}")
    try:
        return _read(path)
    except CandidateError as error:
        raise CameraFileError(f"{path}: {error.message}") from None
    except ViewpointsError as error:
        raise CameraFileError(str(error)) from None
    except OSError as error:
        raise CameraFileError(f"{path}: cannot be read: {error.strerror or error}") from None


def _read(path: Path) -> CameraFile:
    if path.is_dir():
        return _folder(path)
    if path.suffix == ".npz":
        return _npz(path)
    name = path.name.lower()
    if name in ("cameras.txt", "images.txt"):
        return _colmap(path)
    if name.endswith(".qca.txt"):
        return _qualisys(path)
    if path.suffix == ".txt":
        return _trajectory(path)
    if path.suffix == ".json":
        return _json(path)
    raise CameraFileError(f"{path}: the extension {path.suffix!r} is none of .npz, .json and .txt; expected {FORMATS}")


def _folder(path: Path) -> CameraFile:
    kubric = [path / each for each in files(Tree(path), ROOT, (".json",)) if "_p0_v" in each.name]
    if kubric:
        return _merged([_json(each) for each in kubric])
    for name in ("cameras.npz", "cameras.json", "transforms.json"):
        if (path / name).is_file():
            return _read(path / name)
    return _colmap(path)


def _merged(parts: list[CameraFile]) -> CameraFile:
    tracks = {name: track for part in parts for name, track in part.tracks.items()}
    return CameraFile(tracks, parts[0].kind, parts[0].convention, {name: number for part in parts for name, number in part.frames.items()})


def _made(tracks: Mapping[str, CameraTrack], kind: str, convention: str, *notes: str) -> CameraFile:
    return CameraFile(tracks, kind, convention, {name: np.arange(len(track)) for name, track in tracks.items()}, notes)


def _text(path: Path) -> str:
    return read_text(*_of(path))


def _document(path: Path) -> Any:
    return read_json(*_of(path))


def _of(path: Path) -> tuple[Tree, MediaFile]:
    tree = Tree(path.resolve().parent)
    return tree, media_file(tree, PurePosixPath(path.resolve().name))


def _json(path: Path) -> CameraFile:
    document = _document(path)
    keys = set(document) if isinstance(document, dict) else set()
    if {"frames", "fl_x"} & keys and "cameras" not in keys:
        track = parse_transforms(document).track
        return _made({"cam": track}, "transforms.json (nerfstudio, DL3DV)", f"OpenGL camera-to-world, converted to {_OPENCV}")
    if {"scene", "camera"} <= keys:
        track, _ = parse_camera(document, path.name)
        name = path.stem.rpartition("_")[2]
        return _made({name: track}, "Kubric-4D's camera", f"Blender's axes, quaternions w x y z, converted to {_OPENCV}")
    tracks = read_tracks(path)
    if "cameras" in keys or "version" in keys:
        return _made(tracks, "our cameras.json", _OPENCV)
    version = "v2" if next(iter(keys), "").startswith("frame") else "v1"
    assumed = "focal length and picture size are the published ones: the file has none"
    return _made(tracks, f"SynCamVideo {version}", f"Unreal matrices in centimetres, converted to {_OPENCV}", assumed)


def _colmap(path: Path) -> CameraFile:
    return _made(_some(read_tracks(path), path), "COLMAP's text model", f"OpenCV axes, world-to-camera, inverted to {_OPENCV}")


def _qualisys(path: Path) -> CameraFile:
    cameras = parse_calibration(_text(path))
    tracks = {each.name: CameraTrack(each.c2w[None], each.K[None], each.width, each.height, "metres", each.distortion) for each in cameras}
    return _made(tracks, "Qualisys's calibration", f"OpenGL axes in millimetres, converted to {_OPENCV}")


def _trajectory(path: Path) -> CameraFile:
    text = _text(path)
    if not text.lstrip().startswith("http"):
        raise CameraFileError(f"{path}: the first line is no URL, so this is no trajectory of RealEstate10K; expected {FORMATS}")
    trajectory = parse_trajectory(text)
    fx, fy = np.median(trajectory.intrinsics[:, :2], axis=0)
    aspect = fy / fx if fx > 0 and fy > 0 and 0.1 < fy / fx < 10 else 16 / 9
    track, _ = normalised_track(trajectory, round(HEIGHT * aspect), HEIGHT, "trust")
    assumed = f"K is normalised in the file; shown for square pixels and {HEIGHT} lines"
    return _made({"cam": track}, "RealEstate10K's trajectory", f"world-to-camera, inverted to {_OPENCV}", assumed)


def _some(tracks: Tracks, path: Path) -> Tracks:
    if not tracks:
        raise CameraFileError(f"{path}: holds no camera")
    return tracks


def _npz(path: Path) -> CameraFile:
    with path.open("rb") as file:
        return sample_cameras(read_arrays(file, str(path)), str(path))


_WANTED: Mapping[str, tuple[int, Callable[[np.dtype[Any]], bool]]] = {
    "c2w": (4, lambda kind: kind.kind == "f"),
    "K": (4, lambda kind: kind.kind == "f"),
    "frame": (2, lambda kind: kind.kind in "iu"),
    "size": (2, lambda kind: kind.kind in "iu"),
    "distortion": (2, lambda kind: kind.kind == "f"),
    "metric": (1, lambda kind: kind.kind == "b"),
}


def read_arrays(file: BinaryIO, where: str) -> dict[str, NDArray[Any]]:
    """The arrays of a sample's cameras.npz, checked in dimensions, type and size before memory is asked for. Raises CameraFileError."""
    found = {}
    try:
        with zipfile.ZipFile(file) as archive:
            for name, (dimensions, fits) in _WANTED.items():
                entry = archive.getinfo(f"{name}.npy")
                if entry.file_size > MAX_NPZ_BYTES:
                    raise CameraFileError(f"{where}: {name} has {entry.file_size} bytes, at most {MAX_NPZ_BYTES} are read")
                found[name] = _array(archive.read(entry), name, dimensions, fits, where)
    except KeyError as error:
        raise CameraFileError(f"{where}: {error.args[0]}; a sample's cameras.npz has {', '.join(_WANTED)}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, ValueError) as error:
        if isinstance(error, CameraFileError):
            raise
        raise CameraFileError(f"{where}: not a readable npz: {error}") from None
    return found


def _array(data: bytes, name: str, dimensions: int, fits: Callable[[np.dtype[Any]], bool], where: str) -> NDArray[Any]:
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, kind = header(stream)
    if len(shape) != dimensions or not fits(kind) or int(np.prod(shape, dtype=object)) * kind.itemsize > len(data):
        raise CameraFileError(f"{where}: {name} has the shape {list(shape)} and type {kind}, which a sample's cameras.npz does not have")
    stream.seek(0)
    return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))


def sample_cameras(arrays: Mapping[str, NDArray[Any]], where: str, names: tuple[str, ...] = ()) -> CameraFile:
    """The tracks of a sample. names: of its views; without them view00, view01, ... Raises CameraFileError."""
    views, frames = arrays["c2w"].shape[:2]
    shapes = {"c2w": (views, frames, 4, 4), "K": (views, frames, 3, 3), "frame": (views, frames), "size": (views, 2), "metric": (views,)}
    wrong = next((name for name, shape in shapes.items() if arrays[name].shape != shape), None)
    if wrong is not None or len(arrays["distortion"]) != views or not views or not frames:
        named = wrong or "distortion"
        raise CameraFileError(f"{where}: {named} has the shape {list(arrays[named].shape)} beside {views} views of {frames} frames")
    called = names if len(set(names)) == views else tuple(f"view{i:02d}" for i in range(views))
    tracks = {}
    for i, name in enumerate(called):
        width, height = (int(side) for side in arrays["size"][i])
        distortion = tuple(float(x) for x in arrays["distortion"][i]) if arrays["distortion"][i].any() else ()
        scale = "metres" if arrays["metric"][i] else "arbitrary"
        try:
            tracks[name] = CameraTrack(arrays["c2w"][i], arrays["K"][i], width, height, scale, distortion)  # type: ignore[arg-type]
        except CandidateError as error:
            raise CameraFileError(f"{where}: {name}: {error.message}") from None
    numbers = {name: arrays["frame"][i].astype(np.int64) for i, name in enumerate(called)}
    return CameraFile(tracks, "a sample's cameras.npz", _OPENCV, numbers)
