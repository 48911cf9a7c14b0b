"""Camera files: our cameras.json, SynCamVideo's JSON (v1 and v2), and COLMAP's text model. The parsers are those of the ingest."""

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.store import write_bytes
from pipeline.viewpoints.base import Viewpoints, ViewpointsError, stacked
from schemas.camera import Array, CameraTrack, intrinsics
from schemas.typed import nearest
from schemas.verdict import CandidateError
from stages.ingest.colmap import parse_model
from stages.ingest.files import media_file, read_json, read_text
from stages.ingest.rig_json import parse_rig
from stages.ingest.syncamvideo import (
    SENSOR_MM,
    V1_SIZE,
    V2_SIZE,
    SynCamVideoOptions,
    focal_length,
    moving_poses,
    static_poses,
)
from stages.storage import Tree

Tracks = dict[str, CameraTrack]

_COLMAP = ("cameras.txt", "images.txt")
_COLMAP_FOLDERS = (".", "sparse/0", "sparse")
_FORMATS = "our cameras.json, SynCamVideo's camera JSON (v1 or v2), or a folder with COLMAP's cameras.txt and images.txt"


def read_cameras(path: Path, names: Sequence[str] | None = None, *, frames: int, size: tuple[int, int]) -> Viewpoints:
    """The named cameras of a file, in that order (None: all, in the file's), over `frames` frames of pictures of `size`.

    A static camera is repeated; one that moves must have `frames` poses. Intrinsics follow a picture that is resized to cover
    (width, height) and cut at the centre. COLMAP's and "arbitrary" units are not metric. Raises ViewpointsError.
    """
    try:
        tracks = read_tracks(path)
    except CandidateError as error:
        raise ViewpointsError(f"{path}: {error.message}") from None
    if names is None:
        names = list(tracks)
    for name in names:
        if name not in tracks:
            raise ViewpointsError(f"{path} has no camera {name!r}{nearest(name, tracks)} (it has {_listed(tracks)})")
    if len(set(names)) != len(names):
        raise ViewpointsError(f"{path}: the choice {','.join(names)} names a camera twice; each view needs a camera of its own")
    try:
        return stacked([(name, tracks[name]) for name in names], size, frames)
    except (CandidateError, ViewpointsError) as error:
        raise ViewpointsError(f"{path}: {error.message if isinstance(error, CandidateError) else error}") from None


def write_cameras(path: Path, cameras: Viewpoints) -> None:
    """Write our cameras.json, which `read_cameras` reads back exactly; static cameras and lenses as one matrix."""
    entries = {
        name: {"width": cameras.size[0], "height": cameras.size[1], "K": _compact(K, single), "c2w": _compact(c2w, single)}
        for name, c2w, K in zip(cameras.names, cameras.c2w, cameras.K, strict=True)
        for single in [_is_static(c2w) and _is_static(K)]
    }
    document = {"version": 1, "units": "metres" if cameras.metric else "arbitrary", "cameras": entries}
    write_bytes(path, (json.dumps(document, indent=1) + "\n").encode())


def _is_static(matrices: Array) -> bool:
    return bool((matrices == matrices[0]).all())


def _compact(matrices: Array, single: bool) -> Any:
    return matrices[0].tolist() if single else matrices.tolist()


def read_tracks(path: Path) -> Tracks:
    """Every camera of a file, with as many poses as it has there. Raises ViewpointsError, CandidateError."""
    path = path.resolve()
    if path.is_dir():
        return _colmap(path)
    if path.name in _COLMAP:
        return _colmap(path.parent)
    tree, name = Tree(path.parent), path.name
    document = read_json(tree, media_file(tree, PurePosixPath(name)))
    if not isinstance(document, dict) or not document:
        raise ViewpointsError(f"{path}: expected {_FORMATS}; got JSON that is {document!r:.60}")
    first = next(iter(document.values()))
    if "cameras" in document or "version" in document:
        return parse_rig(document)
    if isinstance(first, str):
        poses = static_poses(document, name)
        return {camera: _unreal(camera, c2w, "v1", path) for camera, c2w in poses.items()}
    if isinstance(first, dict) and next(iter(document)).startswith("frame"):
        poses = moving_poses(document, name)
        return {camera: _unreal(camera, c2w, "v2", path) for camera, c2w in poses.items()}
    raise ViewpointsError(f"{path}: expected {_FORMATS}; its first key is {next(iter(document))!r}")


def _unreal(camera: str, c2w: Array, version: Any, path: Path) -> CameraTrack:
    """SynCamVideo writes no intrinsics: focal lengths and sizes are the published ones, as the ingest has them."""
    width, height = V1_SIZE if version == "v1" else V2_SIZE
    millimetres, _ = focal_length(path.as_posix(), camera, version, SynCamVideoOptions())
    focal = width * millimetres / SENSOR_MM
    try:
        K = intrinsics(focal, focal, width / 2, height / 2, len(c2w))
        return CameraTrack(c2w, K, width, height, "metres", up=(0.0, 0.0, 1.0), azimuth_sign=-1)
    except CandidateError as error:
        raise ViewpointsError(f"{path}: the camera {camera!r}: {error.message}") from None


def _colmap(folder: Path) -> Tracks:
    for below in _COLMAP_FOLDERS:
        place = folder / below
        if all((place / name).is_file() for name in _COLMAP):
            tree = Tree(place)
            cameras, images = (read_text(tree, media_file(tree, PurePosixPath(name))) for name in _COLMAP)
            return parse_model(cameras, images, "arbitrary")
    raise ViewpointsError(f"{folder} holds no camera file: expected {_FORMATS}")


def _listed(tracks: Tracks) -> str:
    return ", ".join(list(tracks)[:40]) + (f" and {len(tracks) - 40} more" if len(tracks) > 40 else "")
