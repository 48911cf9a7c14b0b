"""Kubric-4D: synthetic scenes of falling objects before 16 static synchronized cameras, with depth and masks.

Layout (specs/recapture.md 4.2), below the dataset's folder or below a folder that holds several of them; `data` may be left out:

    data/scn00000/frames_p0_v{0..15}/rgba_%05d.png       8-bit RGBA; alpha is not looked at
                                     depth_%05d.tiff     float32 metres to the camera's centre: stage `known_depth`, layout kubric4d
                                     segmentation, forward_flow, normal, object_coordinates: not read
    data/scn00000/scn00000_p0_v{0..15}.json              written last, so a view without it was not finished

Cameras are Blender's (x right, y up, z backward; quaternions w x y z), the world is right-handed with z up, in metres.
Splits follow the scene's number: train below 2800, val below 2900, test below 3000.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, ClassVar

import numpy as np

from schemas.camera import Array, CameraTrack, from_opengl
from schemas.candidate import Candidate, MediaFile, View
from schemas.frames import Scene, SceneView
from schemas.typed import bounded
from schemas.verdict import CandidateError, Reason
from stages.ingest.base import Ingest
from stages.ingest.files import files, folders, media_file, read_json, read_listing, require_folder, unique
from stages.ingest.geometry import common_centre, fit_to_frames, match_names, over_frames
from stages.ingest.numbered import numbered, sequence
from stages.media import Media
from stages.storage import ROOT, Tree
from stages.storage.paths import storage_error

SPLITS = ((2800, "train"), (2900, "val"), (3000, "test"))  # the first number above each
FIRST_TEST = 2900
TEST_LISTS = {"test20": 20, "test50": 50, "test100": 100}  # kubric_testN.txt: the first N scenes of the test split
MAX_LIST_BYTES = 1 << 20
CENTRE_WITHIN_DEG = 1.0  # the cameras were placed to look at one point
UNIT_WITHIN = 1e-3  # of a quaternion's length: what rounding to six digits may do, and more
LARGEST = 1e9  # of a number in a camera file: metres and pixels stay far below, and their squares within range

_SCENE = re.compile(r"scn([0-9]{5,8})")
_FRAMES = re.compile(r"frames_p0_v([0-9]{1,4})")
_CAMERA = re.compile(r"_p0_v([0-9]{1,4})\.json")


@dataclass(frozen=True)
class Kubric4DOptions:
    """scenes: `test20`, `test50` or `test100` (the published lists), or a text file below the input with the name of a scene
    a line; a listed scene that is missing is NO_FOOTAGE. None: every scene. views: only these, by number; empty: all that
    there are. fps: of the frames; a camera file that says otherwise is E_PTS.
    """

    scenes: str | None = None
    views: tuple[int, ...] = bounded((), low=0, high=9999)
    fps: float = bounded(24.0, low=0.01, high=1000.0)

    def __post_init__(self) -> None:
        if len(set(self.views)) != len(self.views):
            raise ValueError(f"views are {list(self.views)}; name each once")


class Kubric4D(Ingest):
    format: ClassVar[str] = "kubric4d"
    provides: ClassVar[frozenset[str]] = frozenset({"video", "cameras", "synchronized"})
    Options: ClassVar[type] = Kubric4DOptions

    def discover(self, tree: Tree) -> Iterator[Candidate]:
        require_folder(tree)
        places = _places(tree, ROOT) or [place for folder in folders(tree, ROOT) for place in _places(tree, folder)]
        if not places:
            raise ValueError(f"{tree} is no Kubric-4D folder: looked for folders scnNNNNN in it, in data/, and one level below")
        wanted = _listed(tree, self.options.scenes)
        yield from unique(self._candidate(tree, scene) for scene in _scenes(tree, places, wanted))

    def _candidate(self, tree: Tree, scene: PurePosixPath) -> Candidate:
        made = Candidate("kubric4d", str(scene), "multiview", (), split=split_of(scene.name))
        try:
            views, cameras = self._views(tree, scene), self._cameras(tree, scene)
            made = replace(made, views=views, sidecars=cameras)
            names = [view.view_id for view in views]
            if not names:
                raise CandidateError(Reason.NO_FOOTAGE, f"{made.candidate_id} has no frames_p0_vN/rgba_NNNNN.png{self._chosen()}")
            unfinished = [name for name in names if name not in cameras]
            if unfinished:
                file = f"{scene.name}_p0_{unfinished[0]}.json"
                raise CandidateError(Reason.E_CAMERA, f"{file} is missing; it is written last, so the view is not finished or not unpacked")
            match_names(names, list(cameras))
        except (CandidateError, OSError) as caught:
            problem = caught if isinstance(caught, CandidateError) else storage_error(caught, made.candidate_id)
            return replace(made, error=(problem.reason, problem.message))
        return made

    def _chosen(self) -> str:
        return f" of the views {list(self.options.views)}" if self.options.views else ""

    def _views(self, tree: Tree, scene: PurePosixPath) -> tuple[View, ...]:
        """Those that have frames, in the order of their numbers."""
        found = {int(match[1]): folder for folder in folders(tree, scene) if (match := _FRAMES.fullmatch(folder.name))}
        views = []
        for number in self.options.views or sorted(found):
            # Of six kinds of picture one is read: the others are not looked at, file by file.
            names = [each.name for each in tree.entries(found[number])] if number in found else []
            frames = numbered(
                tree, [found[number] / name for name in sorted(names) if name.startswith("rgba_") and name.endswith(".png")], "rgba_"
            )
            if not frames:
                continue
            if list(frames) != list(range(len(frames))):
                missing = next(k for k, number in enumerate(frames) if k != number)
                what = f"{found[number].name} has {len(frames)} frames up to number {max(frames)}, and no rgba_{missing:05d}.png"
                raise CandidateError(Reason.E_FRAMECOUNT, what)
            views.append(View(f"v{number}", sequence(frames, self.options.fps)))
        return tuple(views)

    def _cameras(self, tree: Tree, scene: PurePosixPath) -> dict[str, MediaFile]:
        """Camera files by view."""
        found = {}
        for path in files(tree, scene, (".json",)):
            match = _CAMERA.fullmatch(path.name.removeprefix(scene.name))
            if match and (not self.options.views or int(match[1]) in self.options.views):
                found[f"v{int(match[1])}"] = media_file(tree, path)
        return found

    def load(self, tree: Tree, candidate: Candidate, media: Media) -> Scene:
        tracks = {}
        for view in candidate.views:
            file = candidate.sidecars[view.view_id]
            tracks[view.view_id], rate = parse_camera(read_json(tree, file), file.path)
            if abs(rate - self.options.fps) > 1e-3:
                what = f"{file.path} says {rate:g} frames a second, the option fps {self.options.fps:g}; set it to what the files say"
                raise CandidateError(Reason.E_PTS, what)
        centre = common_centre(np.concatenate([track.c2w for track in tracks.values()]), CENTRE_WITHIN_DEG)
        notes: dict[str, str] = {}
        views = []
        indices = media.indices([view.media for view in candidate.views])
        for view, index in zip(candidate.views, indices, strict=True):
            track, note = fit_to_frames(replace(tracks[view.view_id], centre=centre), index.width, index.height, "refuse")
            if note is not None:
                notes[f"size.{view.view_id}"] = note
            track = over_frames(track, index, view.view_id)
            views.append(SceneView(view.view_id, view.media, index, track, np.arange(len(index), dtype=np.int64)))
        return Scene(candidate, tuple(views), notes)


def parse_camera(document: Any, where: str) -> tuple[CameraTrack, float]:
    """The track of a view's JSON in pixels of the scene's resolution, and its frames a second.

    K is normalised, with y and z negated: [[f/W, 0, -cx/W], [0, -f/H, -cy/H], [0, 0, -1]]. Raises CandidateError(E_CAMERA).
    """
    scene, camera = (_part(document, name, where) for name in ("scene", "camera"))
    width, height = (int(side) for side in _numbers(scene, "resolution", (2,), where))
    positions = _numbers(camera, "positions", (None, 3), where)
    quaternions = _numbers(camera, "quaternions", (None, 4), where)
    if len(positions) != len(quaternions):
        raise CandidateError(Reason.E_CAMERA, f"{where} has {len(positions)} positions and {len(quaternions)} quaternions")
    c2w = np.tile(np.eye(4), (len(positions), 1, 1))
    c2w[:, :3, :3], c2w[:, :3, 3] = rotations(quaternions, where), positions
    K = np.diag([width, height, 1.0]) @ np.abs(_numbers(camera, "K", (3, 3), where))
    if np.abs(K[[0, 1, 2, 2, 2], [1, 0, 0, 1, 2]] - [0, 0, 0, 0, 1]).max() > 1e-6:
        raise CandidateError(Reason.E_CAMERA, f"{where}: K is {camera['K']!r:.120}; a pinhole without skew has zeros and a 1 there")
    track = CameraTrack(from_opengl(c2w), np.repeat(K[None], len(c2w), axis=0), width, height, "metres", up=(0.0, 0.0, 1.0))
    return track, float(_numbers(scene, "frame_rate", (), where))


def rotations(quaternions: Array, where: str) -> Array:
    """[T,3,3] of unit quaternions [T,4], w x y z. Raises CandidateError(E_CAMERA) for one whose length is not 1."""
    length = np.linalg.norm(quaternions, axis=1)
    bad = np.abs(length - 1) > UNIT_WITHIN
    if bad.any():
        first = int(bad.argmax())
        raise CandidateError(Reason.E_CAMERA, f"{where}: quaternion {first} has the length {length[first]:.6g}; a rotation's is 1")
    w, x, y, z = (quaternions / length[:, None]).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), 2, 0)


def split_of(scene: str) -> str | None:
    """The published split of `scnNNNNN`; None for a number that was not published."""
    match = _SCENE.fullmatch(scene)
    return next((name for end, name in SPLITS if match and int(match[1]) < end), None)


def _part(document: Any, name: str, where: str) -> Mapping[str, Any]:
    found = document.get(name) if isinstance(document, Mapping) else None
    if not isinstance(found, Mapping):
        raise CandidateError(Reason.E_CAMERA, f"{where} has no object {name!r}; it is no camera file of Kubric-4D")
    return found


def _numbers(values: Mapping[str, Any], name: str, shape: tuple[int | None, ...], where: str) -> Array:
    """Finite numbers of that shape; None stands for any length above 0."""
    try:
        found = np.asarray(values.get(name), np.float64)
    except (TypeError, ValueError, OverflowError):
        found = np.full((), np.nan)
    fits = found.ndim == len(shape) and all(want in (None, have) for want, have in zip(shape, found.shape, strict=True))
    if not fits or found.size == 0 or not (np.abs(found) <= LARGEST).all():  # NaN is not either
        spelled = "x".join("T" if want is None else str(want) for want in shape) or "one"
        raise CandidateError(
            Reason.E_CAMERA, f"{where}: {name} is {values.get(name)!r:.120}; it must be {spelled} finite numbers up to {LARGEST:g}"
        )
    return found


def _places(tree: Tree, folder: PurePosixPath) -> list[PurePosixPath]:
    """The folder, or its `data`, if scenes lie there."""
    return [place for place in (folder, folder / "data") if any(_SCENE.fullmatch(each.name) for each in folders(tree, place))][:1]


def _scenes(tree: Tree, places: list[PurePosixPath], wanted: list[str] | None) -> Iterator[PurePosixPath]:
    """All, or those of the list; a listed one that is nowhere is looked for in the first place."""
    if wanted is None:
        yield from (folder for place in places for folder in folders(tree, place) if _SCENE.fullmatch(folder.name))
        return
    for name in wanted:
        yield from [place / name for place in places if tree.is_dir(place / name)] or [places[0] / name]


def _listed(tree: Tree, scenes: str | None) -> list[str] | None:
    """The names of a list, each once, in its order. Raises FileNotFoundError, ValueError."""
    if scenes is None:
        return None
    if scenes in TEST_LISTS:
        return [f"scn{number:05d}" for number in range(FIRST_TEST, FIRST_TEST + TEST_LISTS[scenes])]
    path = PurePosixPath(scenes)
    if not tree.is_file(path):
        raise FileNotFoundError(f"the option scenes names {scenes!r}: neither one of {', '.join(TEST_LISTS)} nor a file in {tree}")
    names = read_listing(tree, path, MAX_LIST_BYTES, "a list of scenes").split()
    odd = next((name for name in names if not _SCENE.fullmatch(name)), None)
    if odd is not None or not names:
        raise ValueError(f"{path} lists {odd if names else 'nothing'!r:.80}; a list has the name of a scene a line, e.g. scn02900")
    return list(dict.fromkeys(names))
