"""Windows for in-betweening: short runs of frames whose two ends are the input and whose middle is the answer.

Source: specs/fcvg.md 1.2. A window of 25 frames serves both gaps of the paper, whose end frame for gap g is frame
g + 1: frames 0 and 13 for gap 12, frames 0 and 24 for gap 23.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from hashlib import sha256
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from schemas.candidate import Candidate
from schemas.frames import Scene, SceneView
from schemas.typed import bounded
from schemas.verdict import CandidateError, Reason
from stages.media import Media
from stages.sample_views import pose_frames
from stages.stage import Child, Findings, Item, Sampler, Scorer, Tier, limit

Positions = NDArray[np.int64]

# Ours: half a frame at 24 fps, the lowest common rate. Taking the nearest frame of steady footage cannot err by more.
MAX_TIME_ERROR_MS = 21.0
# Ours: ends that differ by less than 1% of the luma range show next to no motion to fill in (a still shot with noise: 0.3%).
MIN_DIFFERENCE = 0.01
COMPARE_HEIGHT = 64
# Half-way between two frames the earlier one is taken, not the one that rounding of timestamps happens to favour.
TIE_NS = 2_000


@dataclass(frozen=True)
class WindowsConfig:
    """frames: in a window. Give either `fps`, the rate of the window's frames (the nearest source frame is taken), or
    `stride`, source frames from one frame to the next; neither means every frame. hop: from the start of one window to
    the next, in frames of the window; None: windows do not share frames. max_windows: at most so many per source, drawn
    by the seed.

    test_fraction, split_seed: share of videos whose windows go to the test split, and what shuffles them. The split is
    a hash of the video's id, so all windows of a video are on one side whatever else is in the input.
    keep_official_split: take the dataset's own split where it has one instead. It is off, because a dataset's split may
    cut through a video.
    """

    frames: int = bounded(25, low=2, high=10_000)
    fps: float | None = bounded(None, low=0.01)
    stride: int | None = bounded(None, low=1)
    hop: int | None = bounded(None, low=1)
    max_windows: int | None = bounded(None, low=1)
    test_fraction: float = bounded(0.2, low=0.0, high=1.0)
    split_seed: int = bounded(0, low=0)
    keep_official_split: bool = False
    max_time_error_ms: float | None = limit("time_error_ms", "<=", Reason.UNEVEN_FRAME_RATE, MAX_TIME_ERROR_MS)

    def __post_init__(self) -> None:
        if self.fps is not None and self.stride is not None:
            raise ValueError(f"give fps or stride, not both; got fps {self.fps} and stride {self.stride}")


class Windows(Sampler):
    """Windows of a clip at a stated stride, and the side of the train/test split its video is on.

    A posed clip may be a stretch of a longer video (RealEstate10K); its windows lie between its first and last pose.
    """

    name = "windows"
    version = 3
    needs = frozenset({"video"})
    provides = frozenset({"window"})
    Config = WindowsConfig
    config: WindowsConfig

    def sample(self, scene: Scene, seed: int, media: Media) -> list[Child]:
        index = min((view.index for view in scene.views), key=len)
        times = [view.index.pts_ns for view in scene.views]
        clip = clip_frames(scene)
        pts_ns = min(times, key=len)[clip.start : clip.stop]
        if len(pts_ns) < 2:
            return [self._refused(scene, clip, Reason.BOUNDARY, f"{len(pts_ns)} frames make no window")]
        interval_ns = float(np.median(np.diff(pts_ns)))
        step_ns = 1e9 / self.config.fps if self.config.fps is not None else interval_ns * (self.config.stride or 1)
        if self.config.fps is not None and float(index.fps) < self.config.fps * 0.99:
            why = f"the clip has {float(index.fps):.3f} frames a second, the recipe wants {self.config.fps:g}"
            return [self._refused(scene, clip, Reason.LOW_FPS, why)]
        chosen = [frames + clip.start for frames in self._chosen(pts_ns, step_ns, interval_ns)]
        if not chosen:
            length = f"{len(pts_ns)} frames over {(int(pts_ns[-1] - pts_ns[0]) + interval_ns) / 1e9:.3f} s"
            why = f"{length}; a window takes {self.config.frames} frames {step_ns / 1e6:.3f} ms apart"
            return [self._refused(scene, clip, Reason.BOUNDARY, why)]
        return [self._window(scene, times, number, chosen[number], step_ns) for number in self._drawn(len(chosen), seed)]

    def _chosen(self, pts_ns: Positions, step_ns: float, interval_ns: float) -> list[Positions]:
        """The frames [frames] of every window that fits."""
        frames, hop = self.config.frames, self.config.hop or self.config.frames
        if self.config.fps is None:
            stride = self.config.stride or 1
            starts = range(0, len(pts_ns) - (frames - 1) * stride, hop * stride)
            return [start + stride * np.arange(frames, dtype=np.int64) for start in starts]
        last_ns = pts_ns[-1] + interval_ns / 2
        begin_ns = np.arange(pts_ns[0], last_ns - (frames - 1) * step_ns, hop * step_ns)
        chosen: list[Positions] = []
        # Begins that lie in a gap all go to the frame before or after it: one window each, and the next begins after that.
        for start in np.unique(nearest(pts_ns, begin_ns)).tolist():
            if chosen and hop >= frames:
                start = max(start, int(chosen[-1][-1]) + 1)
            if start >= len(pts_ns) or pts_ns[start] + step_ns * (frames - 1) >= last_ns:
                break
            chosen.append(nearest(pts_ns, pts_ns[start] + step_ns * np.arange(frames)))
        return chosen

    def _drawn(self, count: int, seed: int) -> list[int]:
        wanted = self.config.max_windows
        if wanted is None or count <= wanted:
            return list(range(count))
        order = np.random.default_rng(seed).random(count).argsort(kind="stable")
        return sorted(order[:wanted].tolist())

    def _window(self, scene: Scene, times: list[Positions], number: int, frames: Positions, step_ns: float) -> Child:
        scores = {
            "stride": float(frames[-1] - frames[0]) / (len(frames) - 1),
            "time_error_ms": max(time_error_ms(each[frames], step_ns) for each in times),
            "n_frames": float(len(frames)),
        }
        # A gap in the clip shows as one frame twice, however loose the limit on the error is.
        repeated = (Reason.UNEVEN_FRAME_RATE,) if (np.diff(frames) == 0).any() else ()
        return self._child(scene, number, frames, scores, {}, repeated)

    def _refused(self, scene: Scene, clip: range, reason: Reason, why: str) -> Child:
        return self._child(scene, 0, np.array(clip[: self.config.frames], np.int64), {}, {"window": why}, (reason,))

    def _child(
        self, scene: Scene, number: int, frames: Positions, scores: dict[str, float], notes: dict[str, str], reasons: tuple[Reason, ...]
    ) -> Child:
        return window_of(scene, f"w{number:04d}", frames, scores, split_of(scene.candidate, self.config), notes, reasons)


def window_of(
    scene: Scene,
    suffix: str,
    frames: Positions,
    scores: Mapping[str, float],
    split: str,
    notes: Mapping[str, str],
    reasons: tuple[Reason, ...],
) -> Child:
    """The same frames of every view of a scene as one child, with their cameras where all views have them."""
    entries = [camera_entries(view, frames) for view in scene.views]
    found = [each for each in entries if each is not None]
    return Child(
        suffix=suffix,
        kind="window",
        views=tuple(range(len(scene.views))),
        frames=(frames,) * len(scene.views),
        cameras=tuple(found) if len(found) == len(entries) else None,
        view_names=tuple(view.view_id for view in scene.views),
        scores=scores,
        fields={"split": split, **({"notes": dict(notes)} if notes else {})},
        reasons=reasons,
    )


def clip_frames(scene: Scene) -> range:
    """The frames that the clip is made of: those that every view has, from the first to the last pose where there are poses."""
    first, stop = 0, min(len(view.index) for view in scene.views)
    for view in scene.views:
        if view.cameras is not None and len(posed := pose_frames(view)):
            first, stop = max(first, int(posed[0])), min(stop, int(posed[-1]) + 1)
    return range(first, max(first, stop))


def video_id(candidate: Candidate) -> str:
    """What tells source videos apart: the ingest's `video_id` (for YouTube the video's id), else the candidate's own."""
    return str(candidate.attrs.get("video_id", candidate.candidate_id))


class SplitConfig(Protocol):
    """The settings that decide it."""

    @property
    def test_fraction(self) -> float: ...
    @property
    def split_seed(self) -> int: ...
    @property
    def keep_official_split(self) -> bool: ...


def split_of(candidate: Candidate, config: SplitConfig) -> str:
    """The side of the train/test split that a candidate is on: the dataset's own where it is kept, else its video's."""
    if config.keep_official_split and candidate.split is not None:
        return candidate.split
    return video_split(video_id(candidate), config.test_fraction, config.split_seed)


def video_split(video: str, test_fraction: float, seed: int) -> Literal["train", "test"]:
    """The side of the split a video is on. A function of its id alone, so new input moves no video across."""
    draw = int.from_bytes(sha256(f"{seed}:{video}".encode("utf-8", "surrogateescape")).digest()[:8], "big")
    return "test" if draw < Fraction(test_fraction) * 2**64 else "train"


def nearest(pts_ns: Positions, wanted_ns: NDArray[np.float64]) -> Positions:
    """Positions in pts_ns [N] (increasing, N >= 1) of the times nearest to wanted_ns [n]; of two equally near
    (to TIE_NS) the earlier."""
    after = np.searchsorted(pts_ns, wanted_ns).clip(1, max(len(pts_ns) - 1, 1))
    if len(pts_ns) == 1:
        return np.zeros(len(wanted_ns), np.int64)
    earlier = wanted_ns - pts_ns[after - 1] <= pts_ns[after] - wanted_ns + TIE_NS
    return np.asarray(np.where(earlier, after - 1, after), np.int64)


def time_error_ms(times_ns: Positions, step_ns: float) -> float:
    """The largest distance of a frame's time from where steps of step_ns from the first frame want it."""
    return float(np.abs(times_ns - times_ns[0] - step_ns * np.arange(len(times_ns))).max()) / 1e6


def camera_entries(view: SceneView, frames: Positions) -> Positions | None:
    """Positions in the view's camera track for its frames [n], or None unless every frame has a camera."""
    if view.cameras is None:
        return None
    posed = pose_frames(view)
    entries = np.searchsorted(posed, frames).clip(max=len(posed) - 1)
    return entries if (posed[entries] == frames).all() else None


@dataclass(frozen=True)
class EndpointsConfig:
    min_difference: float | None = limit("start_end_difference", ">=", Reason.START_END_TOO_SIMILAR, MIN_DIFFERENCE)
    max_difference: float | None = limit("start_end_difference", "<=", Reason.START_END_TOO_DIFFERENT)


class Endpoints(Scorer):
    """How much the first and the last frame differ; of several views the least."""

    name = "endpoints"
    version = 1
    tier = Tier.PIXELS
    needs = frozenset({"window"})
    Config = EndpointsConfig
    config: EndpointsConfig

    def score(self, item: Item, media: Media) -> Findings:
        differences = []
        for position, frames in item.selection():
            view = item.scene.views[position]
            if len(frames) < 2:
                raise CandidateError(Reason.E_FRAMECOUNT, f"view {view.view_id!r} has {len(frames)} frames; start and end need two")
            size = (max(1, round(view.index.width * COMPARE_HEIGHT / view.index.height)), COMPARE_HEIGHT)
            ends = [int(frames[0]), int(frames[-1])]
            function = "stages.sample_windows:luma_difference"
            differences.append(media.map_frames(view.media, view.index, ends, function, size=size, gray=True))
        return Findings({"start_end_difference": min(differences)})


def luma_difference(frames: Iterator[NDArray[np.uint8]]) -> float:
    """Mean absolute difference of two [H,W] luma frames, as a share of the full range. Runs in the sandbox."""
    first, last = (frame.astype(np.int16) for frame in frames)
    return float(np.abs(last - first).mean()) / 255
