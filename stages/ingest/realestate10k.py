"""RealEstate10K: clips of one moving camera with a pose for every listed time.

Layouts, below the input or a folder directly in it; official splits are the folders `train` and `test`, or none:

    train/<clip>.txt with    videos/[train/]<clip or YouTube id>.mp4    (also .webm, .mkv, ...; the option `videos`)
                       or    frames/[train/]<clip>/<microseconds>.jpg   (also .png; the option `frames`)
    train/000000.torch [train/index.json]                               chunks as pixelSplat stores them

A trajectory without footage is skipped as NO_FOOTAGE. Where a clip has both, its extracted frames are taken; a video named
by the clip goes before one named by the YouTube id.

Times (microseconds) go to the nearest frame by pts, at most `pts_tolerance` frame intervals away (E_FRAMECOUNT); two
times at one frame is E_FRAMECOUNT too; times that do not increase are E_PTS. In a video named by the YouTube id, times are
the container's own; in one named by the clip, both are counted from the first. Extracted frames match exactly.

K is normalised by width and height, each on its own, so it goes with the real frame size (`aspect_rule: trust`). `crop`
takes frames of another aspect ratio than square pixels imply as cut at the centre, as CameraCtrl does.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import ClassVar, Literal
from urllib.parse import parse_qs, urlsplit

import numpy as np
from numpy.typing import NDArray

from schemas.camera import Array, CameraTrack, from_w2c
from schemas.candidate import Candidate, MediaRef, View
from schemas.frames import FrameIndex, Scene, SceneView
from schemas.recipe import MediaLimits
from schemas.typed import bounded
from schemas.verdict import CandidateError, Reason
from stages.ingest.base import Ingest
from stages.ingest.files import (
    VIDEO_EXTENSIONS,
    files,
    folders,
    media_file,
    read_text,
    require_folder,
    unique,
)
from stages.ingest.geometry import ROUNDING_PIXELS
from stages.ingest.torch_chunk import INSTALL_HINT, torch_is_installed
from stages.media import Media, SandboxError
from stages.storage import ROOT, Tree

SPLITS = ("train", "test")
IMAGES = (".jpg", ".jpeg", ".png")
VIEW = "cam"
MOST_README = 100  # texts of another kind that may lie before the first trajectory (ours)
MAX_TIME_US = 10**12  # eleven days; keeps nanoseconds within 64 bits

AspectRule = Literal["trust", "crop", "refuse"]

_YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{5,20}")


@dataclass(frozen=True)
class RealEstate10KOptions:
    """videos, frames: the folders that hold the footage, relative to the dataset's. The rest: see the module."""

    videos: str = "videos"
    frames: str = "frames"
    pts_tolerance: float = bounded(0.5, low=0.0, high=0.5)
    aspect_rule: AspectRule = "trust"


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A clip's cameras: times [N] in microseconds, normalised fx fy cx cy [N,4], world-to-camera [N,3,4]."""

    times_us: NDArray[np.int64]
    intrinsics: Array
    w2c: Array


class RealEstate10K(Ingest):
    format: ClassVar[str] = "realestate10k"
    provides: ClassVar[frozenset[str]] = frozenset({"video", "cameras"})
    Options: ClassVar[type] = RealEstate10KOptions

    def discover(self, tree: Tree) -> Iterator[Candidate]:
        require_folder(tree)
        datasets = [ROOT] if _has_clips(tree, ROOT) else [folder for folder in folders(tree, ROOT) if _has_clips(tree, folder)]
        if not datasets:
            raise ValueError(
                f"{tree} is no RealEstate10K folder: looked for *.txt and *.torch in it, in train/, in test/, and one level below"
            )
        yield from unique(candidate for dataset in datasets for candidate in self._dataset(tree, dataset))

    def _dataset(self, tree: Tree, dataset: PurePosixPath) -> Iterator[Candidate]:
        for split in (None, *SPLITS):
            folder = dataset if split is None else dataset / split
            trajectories, chunks = files(tree, folder, (".txt",)), files(tree, folder, (".torch",))
            footage = _Footage(tree, dataset, self.options, split)
            for path, url in zip(trajectories, _urls(tree, trajectories), strict=True):
                if split is not None or url.startswith("http"):  # a readme.txt may lie beside the folders
                    yield _clip(tree, path, url, split, footage)
            if chunks:
                yield from _chunks(tree, folder, chunks, split)

    def load(self, tree: Tree, candidate: Candidate, media: Media) -> Scene:
        (view,) = candidate.views
        if view.media.kind == "torch_chunk":
            trajectory = _from_chunk(view, media)
            index = media.index(view.media)
            frames = np.arange(len(index), dtype=np.int64)
        else:
            trajectory = parse_trajectory(read_text(tree, candidate.sidecars["trajectory"]))
            index = media.index(view.media)
            frames = self._matched(trajectory, index, str(candidate.attrs["footage"]))
        track, note = normalised_track(trajectory, index.width, index.height, self.options.aspect_rule)
        notes = {"footage": str(candidate.attrs["footage"])} | ({"aspect": note} if note else {})
        return Scene(candidate, (SceneView(view.view_id, view.media, index, track, frames),), notes)

    def _matched(self, trajectory: Trajectory, index: FrameIndex, footage: str) -> NDArray[np.int64]:
        times_ns, pts_ns = trajectory.times_us * 1000, index.pts_ns
        if footage == "frames":
            return match_times(times_ns, pts_ns, 500.0)  # names are whole microseconds
        if footage == "video named by the clip":
            times_ns, pts_ns = times_ns - times_ns[0], pts_ns - pts_ns[:1]
        interval_ns = 1e9 / float(index.fps) if index.fps else 0.0  # a single frame has no rate
        return match_times(times_ns, pts_ns, self.options.pts_tolerance * interval_ns)


def match_times(times_ns: NDArray[np.int64], pts_ns: NDArray[np.int64], tolerance_ns: float) -> NDArray[np.int64]:
    """[N] the frame nearest to each time. Raises CandidateError(E_FRAMECOUNT) where one is too far, or meant twice."""
    if len(pts_ns) == 0:
        raise CandidateError(Reason.E_FRAMECOUNT, f"{len(times_ns)} cameras, but the footage has no frame")
    after = np.clip(np.searchsorted(pts_ns, times_ns), 1, max(len(pts_ns) - 1, 1))
    before, after = after - 1, np.minimum(after, len(pts_ns) - 1)
    frames = np.where(times_ns - pts_ns[before] <= pts_ns[after] - times_ns, before, after)
    distance = np.abs(pts_ns[frames] - times_ns)
    far = distance > tolerance_ns
    if far.any():
        worst = int(distance.argmax())
        raise CandidateError(
            Reason.E_FRAMECOUNT,
            f"{int(far.sum())} of {len(times_ns)} camera times have no frame: camera {worst} at {times_ns[worst] / 1e9:.6f} s is "
            f"{distance[worst] / 1e6:.3f} ms from the nearest frame (at most {tolerance_ns / 1e6:.3f}); the footage runs from "
            f"{pts_ns[0] / 1e9:.6f} to {pts_ns[-1] / 1e9:.6f} s",
        )
    twice = np.flatnonzero(np.diff(frames) <= 0)
    if len(twice):
        first = int(twice[0])
        raise CandidateError(
            Reason.E_FRAMECOUNT,
            f"the cameras {first} and {first + 1} both belong to frame {int(frames[first])}; "
            "the footage has a lower frame rate than the cameras",
        )
    return frames.astype(np.int64)


def normalised_track(trajectory: Trajectory, width: int, height: int, rule: AspectRule) -> tuple[CameraTrack, str | None]:
    """The track in pixels of width x height, and a note where the frames are not of the shape that square pixels imply."""
    fx, fy, cx, cy = trajectory.intrinsics.T
    with np.errstate(all="ignore"):
        implied = float(np.median(fy / fx))  # square pixels: fx * width == fy * height
    left = top = 0.0
    whole = float(width), float(height)
    note = None
    if np.isfinite(implied) and implied > 0 and min(abs(width - height * implied), abs(height - width / implied)) > ROUNDING_PIXELS:
        odd = f"K implies the aspect ratio {implied:.4f}, frames are {width}x{height} ({width / height:.4f})"
        if rule == "refuse":
            raise CandidateError(Reason.E_CAMERA, f"{odd}; set the option aspect_rule to trust or crop")
        note = f"{odd}: trust, pixels are not square"
        if rule == "crop":
            whole = (height * implied, float(height)) if implied > width / height else (float(width), width / implied)
            left, top = (whole[0] - width) / 2, (whole[1] - height) / 2
            note = f"{odd}: crop at centre of {whole[0]:.2f}x{whole[1]:.2f}"
    K = np.zeros((len(fx), 3, 3))
    with np.errstate(all="ignore"):  # what overflows is refused below
        K[:, 0, 0], K[:, 0, 2] = fx * whole[0], cx * whole[0] - left
        K[:, 1, 1], K[:, 1, 2] = fy * whole[1], cy * whole[1] - top
    K[:, 2, 2] = 1
    return CameraTrack(from_w2c(trajectory.w2c), K, width, height, "arbitrary"), note


def parse_trajectory(text: str) -> Trajectory:
    """A released txt file: the URL, then 19 columns a frame (spec section 2.4). Raises CandidateError: E_CAMERA, E_PTS."""
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1) if line.strip()][1:]
    if not lines:
        raise CandidateError(Reason.E_CAMERA, "the trajectory has no camera below its first line, the URL")
    odd = next(((number, parts) for number, parts in lines if len(parts) != 19), None)
    if odd is not None:
        raise CandidateError(Reason.E_CAMERA, f"line {odd[0]} of the trajectory has {len(odd[1])} columns; a camera has 19")
    try:
        times = np.array([int(parts[0]) for _, parts in lines], np.int64)
        numbers = np.array([[float(part) for part in parts[1:]] for _, parts in lines])
    except (ValueError, OverflowError) as error:
        raise CandidateError(Reason.E_CAMERA, f"the trajectory holds what is no number: {error}") from None
    return _trajectory(times, numbers)


def _trajectory(times: NDArray[np.int64], numbers: Array) -> Trajectory:
    """numbers [N,18]: fx fy cx cy, two zeros, 3x4 world-to-camera by rows."""
    back = np.flatnonzero(np.diff(times) <= 0)
    if len(back) or (times < 0).any() or (times > MAX_TIME_US).any():
        where = f"camera {int(back[0]) + 1}" if len(back) else "one"
        raise CandidateError(
            Reason.E_PTS, f"the trajectory's times must increase, from 0 to {MAX_TIME_US} microseconds; {where} does not fit"
        )
    return Trajectory(times, numbers[:, :4], numbers[:, 6:].reshape(-1, 3, 4))


def video_id(url: str) -> str | None:
    """The YouTube id of a watch, short or embed URL; None where there is none."""
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return None
    found = parse_qs(parts.query).get("v", [""])[0] or PurePosixPath(parts.path).name
    return found if _YOUTUBE_ID.fullmatch(found) and parts.netloc else None


def _has_clips(tree: Tree, folder: PurePosixPath) -> bool:
    """A trajectory starts with a URL, so that a readme.txt does not make a dataset."""
    return any(
        files(tree, part, (".torch",)) or any(url.startswith("http") for url in _urls(tree, files(tree, part, (".txt",))[:MOST_README]))
        for part in (folder, *(folder / split for split in SPLITS))
    )


def _urls(tree: Tree, paths: Sequence[PurePosixPath]) -> list[str]:
    """The first line of each; "" where it cannot be read, of which media_file says why."""
    return [head.decode("utf-8-sig", "replace").partition("\n")[0].strip() for head in tree.heads(paths, 2048)]


class _Footage:
    """What there is to see of one split's clips."""

    def __init__(self, tree: Tree, dataset: PurePosixPath, options: RealEstate10KOptions, split: str | None) -> None:
        self.tree = tree
        places = [] if split is None else [split]
        self.frame_folders = [dataset / options.frames / part for part in (*places, ".")]
        self.videos: dict[str, PurePosixPath] = {}
        for part in (*places, "."):
            for path in files(tree, dataset / options.videos / part, VIDEO_EXTENSIONS):
                self.videos.setdefault(path.stem, path)

    def of(self, clip: str, video: str) -> tuple[str, MediaRef]:
        """What kind it is, and where. Raises CandidateError: NO_FOOTAGE, E_UNSAFE_PATH, E_PTS."""
        for folder in self.frame_folders:
            images = files(self.tree, folder / clip, IMAGES)
            if images:
                return "frames", _frames(self.tree, images)
        for name, kind in ((clip, "video named by the clip"), (video, "video named by the YouTube id")):
            if name in self.videos:
                return kind, MediaRef("video", (media_file(self.tree, self.videos[name]),))
        raise CandidateError(Reason.NO_FOOTAGE, f"neither extracted frames {clip}/ nor a video called {clip} or {video}")


def _frames(tree: Tree, images: list[PurePosixPath]) -> MediaRef:
    timed: dict[int, PurePosixPath] = {}
    for path in images:
        if not path.stem.isascii() or not path.stem.isdigit() or int(path.stem) > MAX_TIME_US:
            raise CandidateError(Reason.E_PTS, f"{path} is not named by its time in microseconds")
        if int(path.stem) in timed:
            raise CandidateError(Reason.E_PTS, f"{path} has the same time as {timed[int(path.stem)].name}")
        timed[int(path.stem)] = path
    times = sorted(timed)
    return MediaRef("images", tuple(tree.identify(timed[time] for time in times)), pts_ns=tuple(time * 1000 for time in times))


def _clip(tree: Tree, path: PurePosixPath, url: str, split: str | None, footage: _Footage) -> Candidate:
    made = Candidate("realestate10k", str(path.with_suffix("")), "posed_video", (), split=split)
    try:
        trajectory = media_file(tree, path)
        made = replace(made, sidecars={"trajectory": trajectory})
        video = video_id(url)
        if video is None:
            raise CandidateError(Reason.E_CAMERA, f"the first line of {trajectory.path} must be a YouTube URL, got {url!r:.100}")
        made = replace(made, attrs={"video_id": video})
        kind, media = footage.of(path.stem, video)
    except CandidateError as problem:
        return replace(made, error=(problem.reason, problem.message))
    return replace(made, views=(View(VIEW, media),), attrs={"video_id": video, "footage": kind})


def _chunks(tree: Tree, folder: PurePosixPath, chunks: list[PurePosixPath], split: str | None) -> Iterator[Candidate]:
    if not torch_is_installed():
        raise ValueError(INSTALL_HINT)
    with Media(tree, MediaLimits()) as media:
        for path in chunks:
            yield from _chunk(tree, folder, path, split, media)


def _chunk(tree: Tree, folder: PurePosixPath, path: PurePosixPath, split: str | None, media: Media) -> Iterator[Candidate]:
    try:
        file = media_file(tree, path)
        scenes = media.run("stages.ingest.torch_chunk:list_scenes", str(media.local([file])[0]))
    except (CandidateError, SandboxError) as problem:
        error = (problem.reason, problem.message) if isinstance(problem, CandidateError) else (Reason.E_STAGE, str(problem))
        yield Candidate("realestate10k", str(path), "posed_video", (), split=split, error=error)
        return
    for item, (key, url) in enumerate(scenes):
        plain = key != "" and PurePosixPath(key).name == key
        name = str(folder / key) if plain else f"{path}/item{item}"
        attrs = {"video_id": video_id(url) or PurePosixPath(name).name, "footage": "chunk"}
        ref = MediaRef("torch_chunk", (file,), item=item)
        yield Candidate("realestate10k", name, "posed_video", (View(VIEW, ref),), split=split, attrs=attrs)


def _from_chunk(view: View, media: Media) -> Trajectory:
    scene = media.run("stages.media.chunks:scene_header", str(media.local(view.media.files)[0]), view.media.item)
    times, cameras = np.asarray(scene["timestamps"], np.int64), np.asarray(scene["cameras"], np.float64)
    if cameras.ndim != 2 or cameras.shape[1] != 18 or times.shape != cameras.shape[:1] or len(times) == 0:
        raise CandidateError(
            Reason.E_CAMERA, f"the chunk's cameras must be [N,18] and its timestamps [N], got {list(cameras.shape)} and {list(times.shape)}"
        )
    if scene["n_images"] != len(times):
        raise CandidateError(
            Reason.E_FRAMECOUNT, f"the chunk has {len(times)} cameras for {scene['n_images']} pictures; there must be one for each"
        )
    return _trajectory(times, cameras)
