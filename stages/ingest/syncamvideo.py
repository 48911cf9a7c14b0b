"""SynCamVideo v1 and v2 and MultiCamVideo: synchronized synthetic cameras with Unreal camera matrices.

Layouts (spec section 2.1), below the dataset's folder or below a folder that holds several of them:

    v1  train/videos/scene1/xxx.mp4   train/cameras/scene1/xxx.json   val/cameras/Hemi36_4m_0/Hemi36_4m_0.json
    v2  train/f24_aperture5/scene1/{videos/cam01.mp4, cameras/camera_extrinsics.json}
        val/basic/{videos/cam01.mp4, cameras/camera_extrinsics.json}; MultiCamVideo: several f*_aperture* folders and
        val/10basic_trajectories

Camera sets without videos are skipped: under `val` as CAMERA_ONLY, under `train` as NO_FOOTAGE.

Captions: `metadata.csv` (file_name,text; file_name relative to train/) beside or in train/. A row for the scene's folder
is the scene's caption; else the first of its videos, in natural order, that has a row.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, ClassVar, Literal

import numpy as np

from schemas.camera import Array, CameraTrack, check_poses, from_unreal, intrinsics
from schemas.candidate import Candidate, MediaFile, MediaRef, View
from schemas.frames import Scene, SceneView
from schemas.typed import bounded
from schemas.verdict import CandidateError, Reason
from stages.ingest.base import Ingest
from stages.ingest.files import (
    VIDEO_EXTENSIONS,
    files,
    folders,
    media_file,
    natural_key,
    read_caption_csv,
    read_json,
    require_folder,
    unique,
)
from stages.ingest.geometry import SizeRule, common_centre, fit_to_frames, match_names, over_frames
from stages.media import Media
from stages.storage import ROOT, Tree

SENSOR_MM = 23.76  # width of the sensor, both versions; v1: 720 * 18 / 23.76 = 545.45 px as its authors state
V1_SIZE = (720, 480)
V2_SIZE = (1280, 1280)
CENTRE_WITHIN_DEG = 1.0  # the cameras were placed to look at one point; published files are rounded to six digits

_ROW = re.compile(r"\[([^\[\]]*)\]")
_V1_FOCAL = re.compile(r"_([0-9]+(?:\.[0-9]+)?)mm$")
_V2_FOLDER = re.compile(r"f([0-9]+(?:\.[0-9]+)?)_aperture[0-9.]+$")
_FRAME = re.compile(r"frame([0-9]+)$")


@dataclass(frozen=True)
class SynCamVideoOptions:
    """size_rule: what to make of frames whose aspect ratio is not the published one (see geometry.fit_to_frames); crop is
    the rule of the dataset's own loader. default_focal_mm: where neither a key nor a folder names the focal length.
    """

    size_rule: SizeRule = "crop"
    default_focal_mm: float = bounded(24.0, low=1.0, high=1000.0)
    default_focal_mm_v1: float = bounded(18.0, low=1.0, high=1000.0)


class SynCamVideo(Ingest):
    format: ClassVar[str] = "syncamvideo"
    provides: ClassVar[frozenset[str]] = frozenset({"video", "cameras", "synchronized"})
    Options: ClassVar[type] = SynCamVideoOptions

    def discover(self, tree: Tree) -> Iterator[Candidate]:
        require_folder(tree)
        datasets = [ROOT] if _is_dataset(tree, ROOT) else [folder for folder in folders(tree, ROOT) if _is_dataset(tree, folder)]
        if not datasets:
            raise ValueError(
                f"{tree} is no SynCamVideo or MultiCamVideo folder: looked for train/videos, train/cameras, train/f*_aperture*, "
                "val/cameras and val/*/cameras in it and in the folders directly below"
            )
        yield from unique(candidate for dataset in datasets for candidate in self._dataset(tree, dataset))

    def _dataset(self, tree: Tree, dataset: PurePosixPath) -> Iterator[Candidate]:
        captions = _captions(tree, dataset)
        train = dataset / "train"
        names = {folder.name for part in ("videos", "cameras") for folder in folders(tree, train / part)}
        for name in sorted(names, key=natural_key):
            yield _candidate(tree, dataset, "train", train / name, train / "videos" / name, train / "cameras" / name, captions, "v1")
        for split in ("train", "val"):
            for lens in folders(tree, dataset / split):
                if _V2_FOLDER.match(lens.name):
                    for scene in folders(tree, lens):
                        yield _candidate(tree, dataset, split, scene, scene / "videos", scene / "cameras", captions, "v2")
        for folder in folders(tree, dataset / "val" / "cameras"):
            yield _candidate(
                tree, dataset, "val", dataset / "val" / folder.name, dataset / "val" / "videos" / folder.name, folder, captions, "v1"
            )
        for folder in folders(tree, dataset / "val"):
            if folder.name not in ("cameras", "videos") and tree.is_dir(folder / "cameras"):
                yield _candidate(tree, dataset, "val", folder, folder / "videos", folder / "cameras", captions, "v2")

    def load(self, tree: Tree, candidate: Candidate, media: Media) -> Scene:
        version: Literal["v1", "v2"] = "v1" if candidate.attrs["version"] == "v1" else "v2"
        poses, cameras = _v1_poses(tree, candidate) if version == "v1" else _v2_poses(tree, candidate)
        names = [view.view_id for view in candidate.views]
        match_names(names, list(poses))
        for c2w in poses.values():
            check_poses(c2w)  # the centre below is solved for, which NaN would not survive
        centre = common_centre(np.concatenate(list(poses.values())), CENTRE_WITHIN_DEG)
        notes: dict[str, str] = {}
        views = []
        indices = media.indices([view.media for view in candidate.views])
        for view, index in zip(candidate.views, indices, strict=True):
            focal_mm, where = focal_length(candidate.candidate_id, cameras[view.view_id], version, self.options)
            width, height = V1_SIZE if version == "v1" else V2_SIZE
            focal = width * focal_mm / SENSOR_MM
            c2w = poses[view.view_id]
            track = CameraTrack(
                c2w, intrinsics(focal, focal, width / 2, height / 2, len(c2w)), width, height, "metres",
                up=(0.0, 0.0, 1.0), azimuth_sign=-1, centre=centre,
            )  # fmt: skip
            track, note = fit_to_frames(track, index.width, index.height, self.options.size_rule)
            if note is not None:
                notes[f"size.{view.view_id}"] = note
            notes["focal_mm"] = f"{focal_mm:g}, from {where}"
            track = over_frames(track, index, view.view_id)
            views.append(SceneView(view.view_id, view.media, index, track, np.arange(len(index), dtype=np.int64)))
        return Scene(candidate, tuple(views), notes)


def focal_length(place: str, camera: str, version: Literal["v1", "v2"], options: SynCamVideoOptions) -> tuple[float, str]:
    """Millimetres, and what says so: v1's camera name, or the folder of v2 among the parts of the POSIX path `place`."""
    if version == "v1":
        named = _V1_FOCAL.search(camera)
        return (float(named[1]), "the camera's name") if named else (options.default_focal_mm_v1, "option default_focal_mm_v1")
    for part in PurePosixPath(place).parts:
        folder = _V2_FOLDER.match(part)
        if folder:
            return float(folder[1]), "the folder's name"
    return options.default_focal_mm, "option default_focal_mm"


def parse_matrix(text: Any) -> Array:
    """[4,4] Unreal matrix from "[a b c 0] [a b c 0] [a b c 0] [x y z 1]" (spec section 2.2).

    Rows of three numbers get their last column, three rows are taken as the rotation without a position (zero).
    Raises CandidateError(E_CAMERA) for any other shape or for what is no number; NaN passes here and fails as a pose.
    """
    if not isinstance(text, str):
        raise CandidateError(Reason.E_CAMERA, f"a camera must be a string of bracketed rows, got {text!r:.80}")
    return _parse_text(text)


@lru_cache(maxsize=4096)
def _parse_text(text: str) -> Array:
    """Remembered: a static camera's string comes once for every frame."""
    rows = [row.split() for row in _ROW.findall(text)]
    if _ROW.sub("", text).strip() or len(rows) not in (3, 4) or any(len(row) not in (3, 4) for row in rows):
        raise CandidateError(Reason.E_CAMERA, f"a camera must have 3 or 4 bracketed rows of 3 or 4 numbers, got {text!r:.120}")
    matrix = np.eye(4)
    try:
        for i, row in enumerate(rows):
            matrix[i, : len(row)] = [float(number) for number in row]
    except ValueError as error:
        raise CandidateError(Reason.E_CAMERA, f"a camera holds what is no number: {error}") from None
    return matrix


Poses = tuple[dict[str, Array], dict[str, str]]  # view name -> [T,4,4] c2w, and view name -> the camera's own name


def _v1_poses(tree: Tree, candidate: Candidate) -> Poses:
    """One static pose for each view. Every JSON file of the scene's folder is read: one for all views, or one each.

    A video may leave the focal length's suffix off: C_01.mp4 goes with the camera C_01_18mm.
    """
    views = {view.view_id for view in candidate.views}
    poses: dict[str, Array] = {}
    cameras: dict[str, str] = {}
    for file in candidate.sidecars.values():
        for name, pose in static_poses(read_json(tree, file), file.path).items():
            short = _V1_FOCAL.sub("", name)
            view = short if name not in views and short in views else name
            if view in poses:
                raise CandidateError(Reason.E_CAMERA, f"{file.path}: the camera {name!r} is the second one for the video {view!r}")
            poses[view], cameras[view] = pose, name
    return poses, cameras


def static_poses(document: Any, where: str) -> dict[str, Array]:
    """v1's {"C_01_18mm": matrix}: camera name to c2w [1,4,4], in the file's order. Raises CandidateError(E_CAMERA)."""
    named = _mapping(document, where, "camera names to matrices")
    return {name: from_unreal(parse_matrix(text))[None] for name, text in named.items()}


def _v2_poses(tree: Tree, candidate: Candidate) -> Poses:
    if len(candidate.sidecars) != 1:
        raise CandidateError(Reason.E_CAMERA, f"expected one camera file, got {sorted(file.path for file in candidate.sidecars.values())}")
    (file,) = candidate.sidecars.values()
    poses = moving_poses(read_json(tree, file), file.path)
    return poses, {name: name for name in poses}


def moving_poses(document: Any, where: str) -> dict[str, Array]:
    """v2's {"frame0": {"cam01": matrix}}, frames 0..T-1 with the same cameras each: camera name to c2w [T,4,4].

    Raises CandidateError(E_CAMERA).
    """
    frames: dict[int, Mapping[str, Any]] = {}
    for name, cameras in _mapping(document, where, "frame numbers to cameras").items():
        match = _FRAME.match(name)
        if match is None:
            raise CandidateError(Reason.E_CAMERA, f"{where}: the key {name!r} is not of the form frame0, frame1, ...")
        frames[int(match[1])] = _mapping(cameras, where, f"camera names to matrices in {name}")
    if sorted(frames) != list(range(len(frames))):
        missing = next(number for number in range(len(frames)) if number not in frames)
        raise CandidateError(Reason.E_CAMERA, f"{where}: frame{missing} is missing among {len(frames)} frames")
    names = list(frames[0])
    odd = next((number for number in range(len(frames)) if set(frames[number]) != set(names)), None)
    if odd is not None:
        raise CandidateError(Reason.E_CAMERA, f"{where}: frame{odd} has other cameras than frame0")
    return {name: from_unreal(np.stack([parse_matrix(frames[number][name]) for number in range(len(frames))])) for name in names}


def _mapping(value: Any, where: str, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict) or not value:
        raise CandidateError(Reason.E_CAMERA, f"{where}: expected a mapping of {what}, got {value!r:.80}")
    return value


def _is_dataset(tree: Tree, folder: PurePosixPath) -> bool:
    train, val = folder / "train", folder / "val"
    if any(tree.is_dir(part / name) for part in (train, val) for name in ("videos", "cameras")):
        return True
    return any(_V2_FOLDER.match(lens.name) for part in (train, val) for lens in folders(tree, part)) or any(
        tree.is_dir(each / "cameras") for each in folders(tree, val)
    )


def _candidate(
    tree: Tree,
    dataset: PurePosixPath,
    split: str,
    scene: PurePosixPath,
    videos: PurePosixPath,
    cameras: PurePosixPath,
    captions: Mapping[str, str],
    version: str,
) -> Candidate:
    """One scene; what is wrong with its files becomes its error. `scene` names it and need not exist."""
    train = dataset / "train"
    made = Candidate("syncamvideo", str(scene), "multiview", (), split=split, attrs={"version": version})
    views: list[View] = []
    sidecars: dict[str, MediaFile] = {}
    try:
        for path in files(tree, videos, VIDEO_EXTENSIONS):
            views.append(View(path.stem, MediaRef("video", (media_file(tree, path),))))
        for path in files(tree, cameras, (".json",)):
            sidecars[path.name] = media_file(tree, path)
        error = _missing(split, views, sidecars, videos, cameras)
    except CandidateError as problem:
        error = (problem.reason, problem.message)
    if error is None and len({view.view_id for view in views}) != len(views):
        error = (Reason.E_DUPLICATE, f"two videos of {videos} have the same name up to the extension")
    names = [scene, videos, *(PurePosixPath(file.path) for view in views for file in view.media.files)]
    keys = [str(name.relative_to(train)) for name in names if name.is_relative_to(train)]
    caption = next((captions[key] for key in keys if key in captions), None)
    return replace(made, views=tuple(views), sidecars=sidecars, caption=caption, error=error)


def _missing(
    split: str, views: list[View], sidecars: Mapping[str, MediaFile], videos: PurePosixPath, cameras: PurePosixPath
) -> tuple[Reason, str] | None:
    if not views:
        reason = Reason.CAMERA_ONLY if split == "val" else Reason.NO_FOOTAGE
        return reason, f"{videos} holds no video"
    if not sidecars:
        return Reason.E_CAMERA, f"{cameras} holds no camera file (.json)"
    return None


def _captions(tree: Tree, dataset: PurePosixPath) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in (dataset / "metadata.csv", dataset / "train" / "metadata.csv"):
        if tree.is_file(path):
            for row in read_caption_csv(tree, path):
                if row.text is not None:
                    found.setdefault(PurePosixPath(row.file_name).as_posix(), row.text)
    return found
