"""DL3DV-10K: pictures of a walk through a place, extracted from one video, with a pose for each that could be registered.

Layout (spec syncammaster.md 2.5), in the input or up to four levels below it:

    [1K/]<hash>/transforms.json                 nerfstudio's form, for the full-size pictures (stages/ingest/nerfstudio.py)
                images_4/frame_00001.png, ...   960x540; or images_2/, images/ (full size), images_8/
    <hash>/nerfstudio/... or colmap/...         the same, as the benchmark and the sample of 11 scenes have it

Guards. No transforms.json, NaN, no rotation, a position beyond 1e3, pictures of another size than the folder's name says:
E_CAMERA. A pose whose picture is missing: E_FRAMECOUNT. No pictures: NO_FOOTAGE. Pictures without a pose are common (they
could not be registered) and are no fault; a note counts them. A scene on the list `exclude` is EXCLUDED.

A scene may be an archive, <hash>.zip as it is published or a tar, and so may what holds the scenes; it has the id of the folder
that it would be unpacked to. Where both lie side by side the folder is taken.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from schemas.camera import CameraTrack
from schemas.candidate import Candidate, MediaFile, View
from schemas.frames import FrameIndex, Scene, SceneView
from schemas.typed import bounded
from schemas.verdict import CandidateError, Reason
from stages.ingest.base import Ingest
from stages.ingest.files import files, folders, media_file, natural_key, read_json, read_listing, require_folder, unique
from stages.ingest.lens import through_lens
from stages.ingest.nerfstudio import PosedPictures, parse_transforms
from stages.ingest.numbered import numbered, sequence
from stages.media import Media
from stages.storage import ROOT, Tree

CAMERAS = "transforms.json"
VIEW = "cam"
PREFIX, PICTURES = "frame_", (".png", ".jpg", ".jpeg")
# Folder -> how many times smaller its pictures are than transforms.json says. The first one that holds pictures is taken:
# ours, 540 lines as most users have and trainers need, then larger ones, then 270 lines.
SHRINK = {"images_4": 4, "images_2": 2, "images": 1, "images_8": 8}
BENCHMARK = "benchmark-meta.csv"  # as the benchmark's own page has it
MAX_DEPTH = 4  # DL3DV-ALL-960P/1K/<hash>; in a hub's cache, snapshots/<revision>/1K/<hash>
# A scene's 300 to 600 frames make 0.3 to 0.6 MB; a JSON takes up to 30 times its size in memory.
MAX_CAMERA_BYTES = 16 * 2**20
MAX_LIST_BYTES = 16 * 2**20

_HASH = re.compile(r"[0-9a-f]{64}")
_WORD_HASH = re.compile(r"(?<![0-9a-z])[0-9a-f]{64}(?![0-9a-z])")


@dataclass(frozen=True)
class DL3DVOptions:
    """images: the folder to take, "auto" for the first of SHRINK. fps: ours; times are not published, so frame k is at k/fps.
    exclude: a file (relative to the input, or absolute) that names scenes to leave out: every word of 64 hex digits in it. "auto", ours:
    BENCHMARK where the input holds it.
    undistort: pictures are read as a pinhole would have taken them; needed for fisheye lenses (stages/ingest/lens.py).
    """

    images: Literal["auto", "images", "images_2", "images_4", "images_8"] = "auto"
    fps: float = bounded(5.0, low=0.1, high=1000.0)
    exclude: str | None = "auto"
    undistort: bool = False


class DL3DV(Ingest):
    format: ClassVar[str] = "dl3dv"
    provides: ClassVar[frozenset[str]] = frozenset({"video", "cameras"})
    Options: ClassVar[type] = DL3DVOptions

    def discover(self, tree: Tree) -> Iterator[Candidate]:
        require_folder(tree)
        listed = self._listed(tree)
        excluded = frozenset[str]() if listed is None else read_hashes(tree, listed)
        found = False
        for candidate in unique(self._candidate(tree, scene, listed, excluded) for scene in _scenes(tree, ROOT, MAX_DEPTH)):
            found = True
            yield candidate
        if not found:
            raise ValueError(
                f"{tree} holds no DL3DV scene: looked for folders with {CAMERAS} or pictures in {', '.join(sorted(SHRINK))}, "
                f"and for names of 64 hex digits, down to {MAX_DEPTH} levels below"
            )

    def load(self, tree: Tree, candidate: Candidate, media: Media) -> Scene:
        (view,) = candidate.views
        folder = str(candidate.attrs["images"])
        posed = parse_transforms(_json(tree, candidate.sidecars[CAMERAS]))
        index = media.index(view.media)
        frames, entries = matched(posed, view.media.files)
        track, note = in_folder(posed.track.at(entries), index, folder)
        notes = {"images": note}
        ref, track, lens_note = through_lens(view.media, track, self.options.undistort)
        if lens_note is not None:
            notes["distortion"] = lens_note
        without = len(index) - len(frames)
        if without:
            notes["without_pose"] = f"{without} of {len(index)} pictures were not registered"
        return Scene(candidate, (SceneView(view.view_id, ref, index, track, frames),), notes)

    def notice(self, tree: Tree) -> str | None:
        listed = self._listed(tree)
        if listed is not None:
            return f"scenes that {listed} names are excluded"
        return f"no benchmark scenes are excluded; put the benchmark's {BENCHMARK} into the input, or name a list in the option exclude"

    def _listed(self, tree: Tree) -> str | None:
        """The list of scenes to leave out."""
        exclude: str | None = self.options.exclude
        if exclude == "auto":
            return BENCHMARK if tree.is_file(PurePosixPath(BENCHMARK)) else None
        return exclude

    def _candidate(self, tree: Tree, scene: PurePosixPath, listed: str | None, excluded: frozenset[str]) -> Candidate:
        name = str(tree.unpacked(scene)) if scene != ROOT else tree.name if _HASH.fullmatch(tree.name) else "scene"
        made = Candidate("dl3dv", name, "posed_video", ())
        try:
            if not excluded.isdisjoint(made.candidate_id.lower().split("/")):
                raise CandidateError(Reason.EXCLUDED, f"{listed} names this scene")
            tree.require(scene)
            place = _place(tree, scene)
            folder, pictures = self._pictures(tree, place)
            made = replace(made, attrs={"images": folder})
            made = replace(made, views=(View(VIEW, sequence(numbered(tree, pictures, PREFIX), self.options.fps)),))
            if not tree.is_file(place / CAMERAS):
                raise CandidateError(Reason.E_CAMERA, f"the scene has {len(pictures)} pictures, but no {CAMERAS}: no camera is known")
            return replace(made, sidecars={CAMERAS: media_file(tree, place / CAMERAS)})
        except CandidateError as problem:
            return replace(made, error=(problem.reason, problem.message))

    def _pictures(self, tree: Tree, place: PurePosixPath) -> tuple[str, list[PurePosixPath]]:
        """The folder to take and what lies in it. Raises CandidateError(NO_FOOTAGE)."""
        wanted = list(SHRINK) if self.options.images == "auto" else [self.options.images]
        for folder in wanted:
            if pictures := files(tree, place / folder, PICTURES):
                return folder, pictures
        raise CandidateError(Reason.NO_FOOTAGE, f"no picture ({' '.join(PICTURES)}) in {', '.join(wanted)}")


def read_hashes(tree: Tree, name: str) -> frozenset[str]:
    """The scene hashes that stand anywhere in a text, CSV or JSON file. Raises ValueError: to train on a benchmark because its
    list could not be read would be found out too late.
    """
    if Path(name).is_absolute():
        tree, name = Tree(Path(name).parent), Path(name).name
    try:
        text = read_listing(tree, PurePosixPath(name), MAX_LIST_BYTES, "a list of scene hashes")
    except ValueError as error:
        raise ValueError(f"exclude: {error}; a relative path starts at the input folder") from None
    found = frozenset(_WORD_HASH.findall(text.lower()))
    if not found:
        raise ValueError(f"exclude: {name} names no scene; a scene's name is 64 hex digits")
    return found


def matched(posed: PosedPictures, pictures: tuple[MediaFile, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pictures [N] that have a pose, in time order, and the pose [N] of each. By name up to the extension, so that PNG
    may have been made JPEG. Raises CandidateError(E_FRAMECOUNT) where a pose has no picture.
    """
    position = {_stem(file.path): i for i, file in enumerate(pictures)}
    missing = [name for name in posed.names if _stem(name) not in position]
    if missing:
        message = f"{len(missing)} of {len(posed.names)} cameras have no picture: {missing[0]!r} is not among {len(pictures)}"
        raise CandidateError(Reason.E_FRAMECOUNT, message)
    frames = np.array([position[_stem(name)] for name in posed.names], np.int64)
    if len(np.unique(frames)) != len(frames):
        raise CandidateError(Reason.E_FRAMECOUNT, f"{CAMERAS} has two cameras for one picture: names that differ in the extension only")
    entries = np.argsort(frames, kind="stable").astype(np.int64)
    return frames[entries], entries


def in_folder(track: CameraTrack, index: FrameIndex, folder: str) -> tuple[CameraTrack, str]:
    """The track for the pictures of `images_N`, and a note. Those are the full-size ones resized whole to w/N x h/N, rounded
    up or down; K is scaled by what became of each side, so rounding moves no ray. Raises CandidateError(E_CAMERA) for another size.
    """
    shrink, size = SHRINK[folder], (index.width, index.height)
    sizes = f"{CAMERAS} speaks of {track.width}x{track.height}, {folder} holds {index.width}x{index.height}"
    if any(abs(real * shrink - full) >= shrink for real, full in zip(size, (track.width, track.height), strict=True)):
        expected = f"{track.width / shrink:g}x{track.height / shrink:g}"
        raise CandidateError(Reason.E_CAMERA, f"{sizes}; expected {expected}, rounded up or down")
    rounded = ", rounded" if (index.width * shrink, index.height * shrink) != (track.width, track.height) else ""
    scales = f"{index.width / track.width:.6g} x {index.height / track.height:.6g}"
    return track.scaled(*size), f"{sizes}: 1/{shrink}{rounded}, K times {scales}"


def _scenes(tree: Tree, folder: PurePosixPath, depth: int) -> Iterator[PurePosixPath]:
    """Scenes in natural order: folders, and archives where they are not unpacked beside them."""
    if _is_scene(tree, folder):
        yield folder
        return
    below = [path for path in folders(tree, folder) if path.name != "__MACOSX"] if depth else []
    names = {path.name for path in below}
    for path in sorted(below, key=lambda path: natural_key(tree.unpacked(path).name)):
        if tree.unpacked(path).name == path.name or tree.unpacked(path).name not in names:
            yield from _scenes(tree, path, depth - 1)


def _is_scene(tree: Tree, folder: PurePosixPath) -> bool:
    return _HASH.fullmatch(_name(tree, folder)) is not None or _holds_scene(tree, folder)


def _name(tree: Tree, folder: PurePosixPath) -> str:
    return tree.name if folder == ROOT else tree.unpacked(folder).name


def _holds_scene(tree: Tree, folder: PurePosixPath) -> bool:
    return tree.exists(folder / CAMERAS) or any(tree.is_dir(folder / name) for name in SHRINK)


def _place(tree: Tree, scene: PurePosixPath) -> PurePosixPath:
    """Where the scene's files are: in its folder, in nerfstudio/ (the benchmark) or colmap/ (the sample), or one deeper (unpacked into
    its own name)."""
    places = (scene, scene / "nerfstudio", scene / "colmap", scene / _name(tree, scene))
    return next((place for place in places if _holds_scene(tree, place)), scene)


def _json(tree: Tree, file: MediaFile) -> object:
    if file.size > MAX_CAMERA_BYTES:
        raise CandidateError(Reason.E_CAMERA, f"{file.path} has {file.size} bytes; at most {MAX_CAMERA_BYTES} are read")
    return read_json(tree, file)


def _stem(name: str) -> str:
    return PurePosixPath(name).stem
