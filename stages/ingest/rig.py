"""Any synchronized rig: a folder of videos and a calibration.

The input is one scene, or a folder of scene folders. Videos lie in the scene's folder or in `videos/`; the calibration
lies there too or in `calibration/`, `calib/`, `cameras/`, `colmap/`, `sparse/` or `sparse/0/`. It is the first found of:

1. `cameras.json`, our own schema (stages/ingest/rig_json.py).
2. `*.qca.txt`, Qualisys. A video belongs to the camera whose serial is its name or a part of its name.
3. `cameras.txt` and `images.txt`, COLMAP's text model. An image `cam01.jpg` is the static camera of `cam01.mp4`; images
   `cam01/000001.jpg`, ... in natural order are the poses of its frames.

A camera without video or a video without camera is E_FRAMECOUNT (Qualisys files may list cameras that film nothing).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import ClassVar, Literal

import numpy as np

from schemas.camera import CameraTrack, Scale
from schemas.candidate import Candidate, MediaFile, MediaRef, View
from schemas.frames import FrameIndex, Scene, SceneView
from schemas.typed import bounded
from schemas.verdict import CandidateError, Reason
from stages.ingest.base import Ingest
from stages.ingest.colmap import parse_model
from stages.ingest.files import (
    VIDEO_EXTENSIONS,
    files,
    folders,
    media_file,
    read_json,
    read_text,
    require_folder,
    unique,
)
from stages.ingest.geometry import Anchor, SizeRule, bars_of_padding, common_centre, fit_to_frames, match_names, over_frames
from stages.ingest.lens import through_lens
from stages.ingest.qualisys import QualisysCamera, parse_calibration
from stages.ingest.rig_json import parse_rig
from stages.media import Media
from stages.storage import ROOT, Tree

CALIBRATION_FOLDERS = (".", "calibration", "calib", "cameras", "colmap", "sparse", "sparse/0")

VISIBLE_BAR_PIXELS = 1.5  # bars blur into the picture by about a pixel; thinner ones cannot be told from none

Tracks = dict[str, CameraTrack]  # by view name


@dataclass(frozen=True)
class RigOptions:
    """size_rule, anchor, max_crop: what to make of frames that have another size than the calibration speaks of (see
    geometry.fit_to_frames); a crop may take at most max_crop of a side. "auto" looks at three frames: "pad" if they have
    dark bars just where padding would have left them, else "crop". colmap_scale: whether COLMAP's unit is the metre.
    centre_within_deg: the scene centre is the point nearest to all optical axes, if none passes it by more; 0 for none.
    undistort: frames of lenses that distort are read as a pinhole would have taken them; needed for fisheye lenses (lens.py).
    """

    size_rule: SizeRule | Literal["auto"] = "auto"
    anchor: Anchor = "centre"
    max_crop: float = bounded(0.05, low=0.0, high=1.0)
    colmap_scale: Scale = "arbitrary"
    centre_within_deg: float = bounded(10.0, low=0.0, high=90.0)
    undistort: bool = False


class Rig(Ingest):
    format: ClassVar[str] = "rig"
    provides: ClassVar[frozenset[str]] = frozenset({"video", "cameras", "synchronized"})
    Options: ClassVar[type] = RigOptions

    def discover(self, tree: Tree) -> Iterator[Candidate]:
        require_folder(tree)
        if _videos(tree, ROOT) or _calibration(tree, ROOT) is not None:
            scenes = [ROOT]
        else:
            scenes = [folder for folder in folders(tree, ROOT) if _videos(tree, folder) or _calibration(tree, folder) is not None]
        if not scenes:
            raise ValueError(
                f"{tree} holds no rig: looked for videos and for cameras.json, *.qca.txt or COLMAP's cameras.txt and images.txt "
                "in it and in the folders directly below"
            )
        yield from unique(_candidate(tree, scene) for scene in scenes)

    def load(self, tree: Tree, candidate: Candidate, media: Media) -> Scene:
        names = [view.view_id for view in candidate.views]
        tracks, notes = self._tracks(tree, candidate, names)
        match_names(names, list(tracks))
        tracks, centre_note = self._with_centre(tracks)
        notes |= centre_note
        views = []
        indices = media.indices([view.media for view in candidate.views])
        for view, index in zip(candidate.views, indices, strict=True):
            rule = self._size_rule(tracks[view.view_id], view.media, index, media)
            track, note = fit_to_frames(tracks[view.view_id], index.width, index.height, rule, self.options.anchor, self.options.max_crop)
            if note is not None:
                notes[f"size.{view.view_id}"] = note
            ref, track, lens_note = through_lens(view.media, over_frames(track, index, view.view_id), self.options.undistort)
            if lens_note is not None:
                notes[f"distortion.{view.view_id}"] = lens_note
            views.append(SceneView(view.view_id, ref, index, track, np.arange(len(index), dtype=np.int64)))
        return Scene(candidate, tuple(views), notes)

    def _size_rule(self, track: CameraTrack, ref: MediaRef, index: FrameIndex, media: Media) -> SizeRule:
        rule: SizeRule | Literal["auto"] = self.options.size_rule
        if rule != "auto":
            return rule
        bars = bars_of_padding(track, index.width, index.height, self.options.anchor)
        if max(bars) < VISIBLE_BAR_PIXELS or len(index) == 0:
            return "crop"
        some = sorted({0, len(index) // 2, len(index) - 1})
        found = media.map_frames(ref, index, some, "stages.ingest.bars:dark_borders", gray=True)
        return "pad" if np.abs(np.subtract(found, bars)).max() < VISIBLE_BAR_PIXELS else "crop"

    def _tracks(self, tree: Tree, candidate: Candidate, names: list[str]) -> tuple[Tracks, dict[str, str]]:
        kind = str(candidate.attrs["calibration"])
        notes = {"calibration": kind}
        if kind == "json":
            return parse_rig(read_json(tree, candidate.sidecars["cameras.json"])), notes
        if kind == "qualisys":
            tracks, skipped = _qualisys_tracks(parse_calibration(read_text(tree, candidate.sidecars["qca"])), names)
            return tracks, notes | ({"cameras_without_video": ", ".join(skipped)} if skipped else {})
        cameras, images = (read_text(tree, candidate.sidecars[name]) for name in ("cameras.txt", "images.txt"))
        return parse_model(cameras, images, self.options.colmap_scale), notes

    def _with_centre(self, tracks: Tracks) -> tuple[Tracks, dict[str, str]]:
        if not tracks or any(track.centre is not None for track in tracks.values()) or self.options.centre_within_deg == 0:
            return tracks, {}
        centre = common_centre(np.concatenate([track.c2w for track in tracks.values()]), self.options.centre_within_deg)
        if centre is None:
            return tracks, {"centre": f"unknown: the optical axes do not meet within {self.options.centre_within_deg:g} degrees"}
        where = " ".join(f"{x:.4f}" for x in centre)
        return {name: replace(track, centre=centre) for name, track in tracks.items()}, {"centre": f"{where}, nearest to the optical axes"}


def _qualisys_tracks(cameras: list[QualisysCamera], names: list[str]) -> tuple[Tracks, list[str]]:
    """Tracks of the cameras that film, by view; and the names of the others, which are left out."""
    # The axis against gravity is z unless the user turned the world; then the cameras' own "up" disagrees and we do not know.
    upright = np.mean([-camera.c2w[2, 1] for camera in cameras]) > 0.5
    tracks: Tracks = {}
    skipped = []
    for camera in cameras:
        view = _view_of(camera.name, names)
        if view not in names and not camera.films:
            skipped.append(camera.name)
            continue
        if view in tracks:
            raise CandidateError(
                Reason.E_CAMERA, f"the calibration has two cameras for the video {view!r}: check the serial {camera.name!r}"
            )
        tracks[view] = CameraTrack(
            camera.c2w[None],
            camera.K[None],
            camera.width,
            camera.height,
            "metres",
            camera.distortion,
            up=(0.0, 0.0, 1.0) if upright else None,
        )
    return tracks, skipped


def _view_of(serial: str, names: list[str]) -> str:
    """The view that is called like the serial, or the only one that has it as a part between separators."""
    if serial in names:
        return serial
    holding = [name for name in names if serial in name.replace("-", "_").replace(" ", "_").split("_")]
    return holding[0] if len(holding) == 1 else serial


Found = tuple[Literal["json", "qualisys", "colmap"], dict[str, PurePosixPath]]


def _calibration(tree: Tree, scene: PurePosixPath) -> Found | None:
    """The scene's calibration: its kind and its files, by what `load` calls them."""
    places = [scene / name for name in CALIBRATION_FOLDERS]
    for place in places:
        if tree.exists(place / "cameras.json"):
            return "json", {"cameras.json": place / "cameras.json"}
    for place in places:
        qualisys = files(tree, place, (".qca.txt",))
        if qualisys:
            return "qualisys", {"qca": qualisys[0]}
    for place in places:
        if tree.exists(place / "cameras.txt") and tree.exists(place / "images.txt"):
            return "colmap", {name: place / name for name in ("cameras.txt", "images.txt")}
    return None


def _videos(tree: Tree, scene: PurePosixPath) -> list[PurePosixPath]:
    return files(tree, scene / "videos", VIDEO_EXTENSIONS) or files(tree, scene, VIDEO_EXTENSIONS)


def _candidate(tree: Tree, scene: PurePosixPath) -> Candidate:
    name = "scene" if scene == ROOT else str(scene)
    made = Candidate("rig", name, "multiview", ())
    calibration = _calibration(tree, scene)
    views: list[View] = []
    sidecars: dict[str, MediaFile] = {}
    error: tuple[Reason, str] | None = None
    try:
        for path in _videos(tree, scene):
            views.append(View(path.stem, MediaRef("video", (media_file(tree, path),))))
        if calibration is not None:
            sidecars = {key: media_file(tree, path) for key, path in calibration[1].items()}
        if not views:
            error = (Reason.NO_FOOTAGE, f"{name}: a calibration, but no video in it or in videos/")
        elif calibration is None:
            error = (Reason.E_CAMERA, f"{name}: {len(views)} videos, but neither cameras.json, *.qca.txt nor cameras.txt with images.txt")
        elif len({view.view_id for view in views}) != len(views):
            error = (Reason.E_DUPLICATE, f"{name}: two videos have the same name up to the extension")
    except CandidateError as problem:
        error = (problem.reason, problem.message)
    attrs = {"calibration": calibration[0]} if calibration is not None else {}
    return replace(made, views=tuple(views), sidecars=sidecars, attrs=attrs, error=error)
