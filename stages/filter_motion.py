"""The motion filter of SynCamMaster for single-view clips: a camera at rest, before which something moves.

Masks on the first frame of the downsampled clip, points inside each mask and over the background, tracked through the clip; from
their tracks the camera's motion and what each mask does against it (specs/syncammaster.md 2.7). The paper gives neither statistic nor
threshold: both are ours. The defaults of the two limits are what separates the studio clips of seeds 0-199 best (benchmarks/motion.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any, Literal, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from schemas.typed import bounded
from schemas.verdict import Reason
from stages.motion import LEAST_POINTS, CameraMotion, MaskMotion, camera_motion, mask_motion, spread, summary
from stages.perception.device import Precision
from stages.perception.loaded import loaded
from stages.perception.results import Image, Mask, Segmenter, Tracker, Tracks
from stages.perception.weights import Weights, find
from stages.quality import spread_over
from stages.stage import Findings, Item, Look, Shown, Watcher, limit, placement, scaled_down

TEXTURE = 1.5  # grey levels a pixel, the weaker direction: flatter points tell nothing about the camera
LARGEST_MASK = 0.5  # a mask over more of the image than this is taken as background
SMALLEST_MASK = 0.001  # and one that is left with less is not followed
# What the report gets
PICTURE_HEIGHT, PICTURE_FRAMES, PICTURE_POINTS = 96, 16, 200


@dataclass(frozen=True)
class MotionConfig:
    """masks, tracker: which models; "regions" and "klt" need no weights. sam, cotracker: their checkpoint, where it is not the
    registry's; cotracker_code: the folder of upstream's package, or of a checkout of it, instead of the registry's or an installed one.

    frames: at most so many, evenly spread over the clip, are looked at; every: every so manieth instead, whatever their number.
    height: pixels that frames are scaled down to. points_per_mask, background_points: tracked at most; max_masks: followed, the largest.
    points_per_side, pred_iou_thresh, stability_score_thresh: of Segment Anything's automatic masks.
    points_per_batch: prompts that Segment Anything works on at once. precision: of Segment Anything's image encoder and of CoTracker's
    networks; see their classes for what less than fp32 costs.

    min_tracked_points, min_tracked_masks: with less to go by (plain grey, a single frame, everything lost) a clip has no score of
    motion, or one that means little, and is turned away for that. The defaults are what a camera and a subject take at least.
    """

    masks: Literal["regions", "sam-vit-b", "sam-vit-l", "sam-vit-h"] = "regions"
    tracker: Literal["klt", "cotracker3-offline", "cotracker3-online"] = "klt"
    sam: str | None = placement(None)
    cotracker: str | None = placement(None)
    cotracker_code: str | None = placement(None)
    frames: int = bounded(64, low=2, high=100_000)
    every: int | None = bounded(None, low=1, high=10_000)
    height: int = bounded(240, low=32, high=4320)
    points_per_mask: int = bounded(12, low=3, high=1000)
    background_points: int = bounded(150, low=8, high=10_000)
    max_masks: int = bounded(48, low=1, high=254)
    points_per_side: int = bounded(32, low=1, high=256)
    pred_iou_thresh: float = bounded(0.88, low=0.0, high=1.0)
    stability_score_thresh: float = bounded(0.95, low=0.0, high=1.0)
    points_per_batch: int = bounded(64, low=1, high=4096)
    precision: Precision = "fp32"
    device: str = placement("auto")
    max_camera_motion: float | None = limit("camera_motion", "<=", Reason.CAMERA_MOVES, 0.0058)
    min_foreground_motion: float | None = limit("foreground_motion", ">=", Reason.SUBJECT_STILL, 0.0054)
    min_tracked_points: float | None = limit("tracked_points", ">=", Reason.UNTRACKED, float(LEAST_POINTS))
    min_tracked_masks: float | None = limit("tracked_masks", ">=", Reason.UNTRACKED, 1.0)


@dataclass(frozen=True, eq=False)
class Motion:
    """What was seen of one clip of frames [H,W]. labels [H,W]: 0 background, k the k-th mask; label [N]: of each point.
    xy, visible: tracks of N points in pixels of these frames."""

    labels: NDArray[np.uint8]
    label: NDArray[np.int64]
    tracks: Tracks
    camera: CameraMotion
    masks: MaskMotion

    def scores(self) -> dict[str, float | None]:
        return summary(self.camera, self.masks, self.tracks.visible)


class MotionFilter(Watcher):
    """camera_motion, foreground_motion, tracked_points, tracked_masks, n_masks, visible_fraction; of several views the worst value
    counts.

    The member `motion` of the first view (those of others are `motion01`, ...) holds labels [h,w] uint8 (0: background) at 96 pixels
    height at most; size [2]: width and height of the source; tracks [T,N,2] float16 in its pixels and visible [T,N] of at most 16 frames
    (their positions in the view: frames [T]) and 200 points; point_mask [N]; per mask: mask_motion, mask_displacement (shares of the
    diagonal, NaN: unknown), mask_visible, mask_points; camera_motion [F] for every frame looked at (all_frames [F]).
    """

    name = packs = "motion"
    version = 1
    needs = frozenset({"video"})
    Config = MotionConfig
    config: MotionConfig

    def __init__(self, config: MotionConfig, accept_noncommercial: bool = False) -> None:
        super().__init__(config, accept_noncommercial)
        self._models: tuple[Segmenter, Tracker] | None = None

    def weights(self) -> tuple[tuple[str, str | None], ...]:
        used: list[tuple[str, str | None]] = []
        if self.config.masks != "regions":
            used.append((self.config.masks, self.config.sam))
        if self.config.tracker != "klt":
            used += [(self.config.tracker, self.config.cotracker), ("cotracker-code", self.config.cotracker_code)]
        return tuple(used)

    def unused(self) -> frozenset[str]:
        sam = {"points_per_side", "pred_iou_thresh", "stability_score_thresh", "points_per_batch"}
        names = sam if self.config.masks == "regions" else set()
        names = names | {"precision"} if not self.weights() else names
        return frozenset(names if self.config.every is None else names | {"frames"})

    def wants(self, item: Item) -> list[Look]:
        looks = []
        for number, (position, frames) in enumerate(item.selection()):
            chosen = spread_over(frames, self._most()) if self.config.every is None else frames[:: self.config.every]
            index = item.scene.views[position].index
            looks.append(Look(number, np.unique(chosen), scaled_down(index, self.config.height)))
        return looks

    def _most(self) -> int:
        """Frames that are looked at: those asked for, or fewer where CoTracker offline could not hold them for so many points."""
        if self.config.tracker != "cotracker3-offline":
            return self.config.frames
        from stages.perception.cotracker import most_frames

        return min(self.config.frames, most_frames(self.config.max_masks * self.config.points_per_mask + self.config.background_points))

    def prepare(self) -> None:
        self.models()

    def look(self, item: Item, frames: Iterator[Shown]) -> Findings:
        scores: list[dict[str, float | None]] = []
        members = {}
        for view, shown in groupby(frames, lambda each: each.view):
            numbers: list[int] = []
            motion = measure((_noted(each, numbers) for each in shown), *self.models(), self.config)
            index = item.scene.views[item.selection()[view][0]].index
            scores.append(motion.scores())
            members["motion" if view == 0 else f"motion{view:02d}"] = picture(motion, np.array(numbers), (index.width, index.height))
        return Findings(worst(scores), {}, members)

    def models(self) -> tuple[Segmenter, Tracker]:
        """Loaded when first asked for. Raises WeightsError, RecipeError."""
        if self._models is None:
            self._models = (self.segmenter(), self.tracker())
        return self._models

    def _found(self) -> dict[str, Weights]:
        return {name: find(name, path, accept_noncommercial=self.accept_noncommercial) for name, path in self.weights()}

    def segmenter(self) -> Segmenter:
        chosen = self.config
        if chosen.masks == "regions":
            from stages.perception.regions import RegionSegmenter

            return loaded("motion regions", (), RegionSegmenter)
        from stages.perception.sam import SamSegmenter

        weights, kind = self._found()[chosen.masks], chosen.masks.removeprefix("sam-").replace("-", "_")
        names = ("points_per_side", "pred_iou_thresh", "stability_score_thresh", "points_per_batch", "precision", "device")
        asked: dict[str, Any] = {name: getattr(chosen, name) for name in names}
        return loaded(f"motion {chosen.masks}", (weights, *asked.items()), lambda: SamSegmenter(weights.path, kind, **asked))

    def tracker(self) -> Tracker:
        chosen = self.config
        if chosen.tracker == "klt":
            from stages.perception.klt import KltTracker

            return loaded("motion klt", (), KltTracker)
        from stages.perception.cotracker import CoTracker, Mode

        found = self._found()
        weights, code, mode = found[chosen.tracker], found["cotracker-code"], cast(Mode, chosen.tracker.removeprefix("cotracker3-"))
        where: dict[str, Any] = {"device": chosen.device, "precision": chosen.precision}
        asked = (weights, code, *where.items())
        return loaded(f"motion {chosen.tracker}", asked, lambda: CoTracker(weights.path, mode, code=code.path, **where))


def _noted(shown: Shown, numbers: list[int]) -> Image:
    numbers.append(shown.frame)
    return shown.pixels


def measure(frames: Iterator[Image], segmenter: Segmenter, tracker: Tracker, config: MotionConfig) -> Motion:
    """What moves in frames [H,W,3] of one size. No frames give scores of None."""
    first = next(frames, None)
    if first is None:
        nothing = Tracks(np.zeros((0, 0, 2), np.float32), np.zeros((0, 0), np.bool_))
        return _judged(np.zeros((0, 0), np.uint8), np.zeros(0, np.int64), np.zeros(0), nothing, 1.0)
    labels = one_label_each(segmenter.masks(first), first.shape[:2], config.max_masks)
    texture = texture_of(first)
    counts = {0: config.background_points, **dict.fromkeys(range(1, int(labels.max(initial=0)) + 1), config.points_per_mask)}
    xy, label, weight = spread(labels, texture, counts)
    textured = texture[xy[:, 1].astype(np.int64), xy[:, 0].astype(np.int64)] >= TEXTURE
    tracks = tracker.track(chain([first], frames), xy.astype(np.float32))
    return _judged(labels, label, np.where(textured, weight, 0.0), tracks, float(np.hypot(*first.shape[:2])))


def _judged(labels: NDArray[np.uint8], label: NDArray[np.int64], weight: NDArray[np.float64], tracks: Tracks, diagonal: float) -> Motion:
    xy = tracks.xy.astype(np.float64)
    camera = camera_motion(xy, tracks.visible, weight, diagonal)
    masks = mask_motion(xy, tracks.visible, label, int(labels.max(initial=0)), camera.against, diagonal)
    return Motion(labels, label, tracks, camera, masks)


def one_label_each(masks: list[Mask], size: tuple[int, ...], most: int) -> NDArray[np.uint8]:
    """[H,W] labels of masks that may overlap: 0 is the background, 1 the largest followed mask. A pixel belongs to the smallest mask
    over it, so that a part that moves is not lost in a whole that does not."""
    painted = np.zeros(size, np.int64)
    for number, mask in enumerate(masks, 1):  # the largest first
        if mask.pixels.mean() <= LARGEST_MASK:
            painted[mask.pixels] = number
    areas = np.bincount(painted.ravel(), minlength=len(masks) + 1)
    areas[0] = 0
    order = np.argsort(-areas, kind="stable")
    kept = order[areas[order] >= max(1, SMALLEST_MASK * painted.size)][:most]
    renamed = np.zeros(len(masks) + 1, np.uint8)
    renamed[kept] = np.arange(1, len(kept) + 1)
    return np.asarray(renamed[painted], np.uint8)


def texture_of(frame: Image) -> NDArray[np.float64]:
    """[H,W]: how well the neighbourhood of a pixel can be followed: grey levels a pixel in the direction in which it changes least."""
    gray = cv2.GaussianBlur(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 1.0)
    dx, dy = cv2.Scharr(gray, cv2.CV_32F, 1, 0) / 32, cv2.Scharr(gray, cv2.CV_32F, 0, 1) / 32
    xx, xy, yy = (cv2.boxFilter(product, -1, (9, 9)) for product in (dx * dx, dx * dy, dy * dy))
    least = (xx + yy) / 2 - np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    return np.sqrt(np.maximum(least, 0)).astype(np.float64)


def worst(scores: list[dict[str, float | None]]) -> dict[str, float | None]:
    """Over the views: the largest camera motion, the least of the others; None only where no view has the score."""
    judged: dict[str, float | None] = {}
    for name in dict.fromkeys(name for each in scores for name in each):
        known = [value for value in (each[name] for each in scores) if value is not None]
        judged[name] = (max if name == "camera_motion" else min)(known, default=None)
    return judged


def picture(motion: Motion, frames: NDArray[np.int64], source: tuple[int, int]) -> dict[str, NDArray[Any]]:
    """What the report draws, small; see MotionFilter. frames [T]: positions in the view; source: its (width, height)."""
    height, width = motion.labels.shape
    small = min(height, PICTURE_HEIGHT)
    size = (max(1, round(width * small / max(height, 1))), small)
    labels = cv2.resize(motion.labels, size, interpolation=cv2.INTER_NEAREST) if motion.labels.size else motion.labels
    times = spread_over(np.arange(len(frames)), PICTURE_FRAMES)
    points = spread_over(np.arange(len(motion.label)), PICTURE_POINTS)
    scale = np.array([source[0] / max(width, 1), source[1] / max(height, 1)], np.float32)
    tracks = np.clip(
        motion.tracks.xy[np.ix_(times, points)] * scale, -30_000, 30_000
    )  # a lost point may be anywhere; float16 ends at 65504
    return {
        "labels": np.asarray(labels, np.uint8),
        "size": np.array(source, np.int32),
        "frames": frames[times].astype(np.int32),
        "tracks": tracks.astype(np.float16),
        "visible": motion.tracks.visible[np.ix_(times, points)],
        "point_mask": motion.label[points].astype(np.uint8),
        "mask_motion": motion.masks.motion.astype(np.float32),
        "mask_displacement": motion.masks.displacement.astype(np.float32),
        "mask_visible": motion.masks.visible.astype(np.float32),
        "mask_points": motion.masks.points.astype(np.int32),
        "all_frames": frames.astype(np.int32),
        "camera_motion": motion.camera.moved.astype(np.float32),
    }
