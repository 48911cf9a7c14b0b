"""Overlapping views: synchronized cameras checked and measured, and groups of frames drawn from a moving camera.

Issue "Sampling of overlapping views"; specs/syncammaster.md 1.5 and 2.6. Where the sources give no number, the
defaults are ours and say so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from schemas.camera import CameraTrack
from schemas.frames import Scene, SceneView
from schemas.recipe import AngleKind
from schemas.typed import bounded
from schemas.verdict import CandidateError, Reason
from stages.geometry.overlap import GRID, two_way_overlap
from stages.geometry.pairs import angle_bins, fields_of_view, known_centre, pair_angles, pair_rows, spread, world_up
from stages.group_search import Choice, Groups, Wanted, all_groups, choose
from stages.media import Media
from stages.stage import Child, Findings, Item, Sampler, Scorer, Tier, limit

Array = NDArray[np.float64]
Positions = NDArray[np.int64]

# Ours: half a frame at 60 fps, so at common rates no view can be a frame late. Timestamps of web containers are
# rounded to 1 ms and pass.
MAX_OFFSET_MS = 8.0
# Ours: 29.97 against 30 fps differ by 0.03 and drift apart by a frame in half a minute.
MAX_FPS_SPREAD = 0.01
# pixelSplat's evaluation index accepts pairs from this overlap on, and drops fields of view above 100 degrees and
# baselines below 1e-3 (specs/syncammaster.md 2.4, 2.6).
MIN_OVERLAP = 0.6
MAX_FOV_DEG = 100.0
MIN_BASELINE = 1e-3
# SynCamMaster samples frames at most this far apart (specs/syncammaster.md 2.6).
MAX_INTERVAL = 100
# Ours: more poses than this are thinned evenly before groups are searched; the search grows with their square.
MAX_POSES = 128


@dataclass(frozen=True)
class SyncConfig:
    """Limits on how far the views of one scene may disagree.

    clock: "shared" compares timestamps as stored; "own" lets every view's first frame be time zero, for containers
    whose start times mean nothing.
    """

    clock: Literal["shared", "own"] = "shared"
    min_views: float | None = limit("n_views", ">=", Reason.TOO_FEW_VIEWS, 2)
    max_frame_spread: float | None = limit("sync_frame_spread", "<=", Reason.SYNC_FRAME_COUNT, 0)
    max_fps_spread: float | None = limit("sync_fps_spread", "<=", Reason.SYNC_FPS, MAX_FPS_SPREAD)
    max_offset_ms: float | None = limit("sync_offset_ms", "<=", Reason.SYNC_OFFSET, MAX_OFFSET_MS)


class Sync(Scorer):
    """Do the views of a scene belong together in time? Compares frame counts, rates and the times of equal frame numbers."""

    name = "sync"
    version = 1
    tier = Tier.HEADER
    needs = frozenset({"synchronized"})
    Config = SyncConfig
    config: SyncConfig

    def score(self, item: Item, media: Media) -> Findings:
        indices = [item.scene.views[view].index for view, _ in item.selection()]
        counts = [len(index) for index in indices]
        rates = [float(index.fps) for index in indices]
        common = min(counts)
        scores: dict[str, float | None] = {
            "n_views": len(indices),
            "sync_frame_spread": max(counts) - common,
            "sync_fps_spread": max(rates) - min(rates),
            "sync_offset_ms": None,
        }
        if common:
            times = np.stack([index.pts_ns[:common] for index in indices])
            if self.config.clock == "own":
                times = times - times[:, :1]
            scores["sync_offset_ms"] = float(np.ptp(times, axis=0).max()) / 1e6
        return Findings(scores)


@dataclass(frozen=True)
class ViewAnglesConfig:
    """angle: what `angle_deg` and the bins go by; parallax falls back to the optical axes where no centre is known.

    overlap: also measure every pair's overlap, at the middle frame. near, far: depths in the scene's unit between which
    rays are followed for it; None follows them from the camera to infinity.
    """

    angle: AngleKind = "parallax"
    overlap: bool = False
    near: float | None = bounded(None, low=0)
    far: float | None = bounded(None, low=0)
    min_overlap: float | None = limit("overlap", ">=", Reason.LOW_OVERLAP)
    min_baseline: float | None = limit("baseline", ">=", Reason.SMALL_BASELINE)
    max_fov: float | None = limit("fov_deg", "<=", Reason.WIDE_FOV)

    def __post_init__(self) -> None:
        check_depths(self.near, self.far)
        if self.min_overlap is not None and not self.overlap:
            raise ValueError("min_overlap needs 'overlap: true', because nothing else measures it")


class ViewAngles(Scorer):
    """Angles of every pair of a scene's cameras, over the frames that all cameras have poses for.

    `pairs` as in schemas.manifest.PAIR. `angle_bins` are all bins that hold at least one pair. `angle_deg` and
    `baseline` are the largest over the pairs of the median over frames.
    """

    name = "view_angles"
    version = 1
    tier = Tier.HEADER
    needs = frozenset({"cameras", "synchronized"})
    provides = frozenset({"pairs"})
    Config = ViewAnglesConfig
    config: ViewAnglesConfig

    def score(self, item: Item, media: Media) -> Findings:
        tracks, names = camera_tracks(item)
        c2w = np.stack([track.c2w for track in tracks])
        a, b = np.triu_indices(len(tracks), 1)
        scores: dict[str, float | None] = {"fov_deg": max(float(fields_of_view(track).max()) for track in tracks)}
        if len(tracks) < 2:
            return Findings(scores, {"pairs": [], "angle_bins": []})
        centre, centre_note = known_centre(tracks, c2w)
        up, azimuth_sign = world_up(tracks)
        angles = pair_angles(c2w, a, b, centre=centre, up=up, azimuth_sign=azimuth_sign)
        kind, values = angles.curriculum(self.config.angle)
        overlap = self._overlap(tracks, a, b) if self.config.overlap else None
        scores["angle_deg"] = float(values.max())
        scores["baseline"] = float(spread(angles.baseline)[:, 1].max())
        scores["overlap"] = None if overlap is None else float(overlap.min())
        notes = {"angle": kind, "scene_centre": centre_note}
        return Findings(scores, {"pairs": pair_rows(angles, names, overlap), "angle_bins": angle_bins(values), "notes": notes})

    def _overlap(self, tracks: list[CameraTrack], a: Positions, b: Positions) -> Array:
        middle = len(tracks[0]) // 2
        pose = np.stack([track.c2w[middle] for track in tracks])
        # Views may differ in size: every camera is brought to the first one's, which moves no ray.
        size = (tracks[0].width, tracks[0].height)
        K = np.stack([track.scaled(*size).K[middle] for track in tracks])
        near, far = depth_range(self.config.near, self.config.far)
        return two_way_overlap(pose[a], K[a], size, pose[b], K[b], size, near=near, far=far)


def camera_tracks(item: Item) -> tuple[list[CameraTrack], list[str]]:
    """The cameras of an item's views, all over the same frames, and the views' names.

    Raises CandidateError(E_CAMERA) where a view has none, E_FRAMECOUNT where no frame has a pose in every view.
    """
    views, child = item.scene.views, item.child
    for view in views:
        if view.cameras is None:
            raise CandidateError(Reason.E_CAMERA, f"view {view.view_id!r} has no cameras; view_angles needs them for every view")
    if child is not None:
        if child.cameras is None:
            raise CandidateError(Reason.E_CAMERA, "not every frame of the window has a camera")
        chosen = zip(child.views, child.cameras, strict=True)
        return [tracked(views[view]).at(entries) for view, entries in chosen], list(child.view_names)
    names = [view.view_id for view in views]
    common = reduce(np.intersect1d, [pose_frames(view) for view in views])
    if len(common) == 0:
        raise CandidateError(Reason.E_FRAMECOUNT, f"no frame has a pose in all of the {len(views)} views")
    return [tracked(view).at(np.searchsorted(pose_frames(view), common)) for view in views], names


def tracked(view: SceneView) -> CameraTrack:
    """The view's cameras; raises CandidateError(E_CAMERA) without."""
    if view.cameras is None:
        raise CandidateError(Reason.E_CAMERA, f"view {view.view_id!r} has no cameras")
    return view.cameras


def pose_frames(view: SceneView) -> Positions:
    """[N] the frame that each pose belongs to, strictly increasing. Raises CandidateError(E_FRAMECOUNT) otherwise."""
    n = len(tracked(view))
    frames = np.arange(n) if view.camera_frames is None else np.asarray(view.camera_frames, np.int64)
    if len(frames) != n or (np.diff(frames) <= 0).any() or (n and (frames[0] < 0 or frames[-1] >= len(view.index))):
        raise CandidateError(
            Reason.E_FRAMECOUNT,
            f"view {view.view_id!r}: {n} poses for {len(frames)} frame numbers; they must increase and lie in 0..{len(view.index) - 1}",
        )
    return frames


@dataclass(frozen=True)
class ViewGroupsConfig:
    """Groups of frames of a posed video that serve as images of one scene from several places.

    views: frames in a group. groups: at most so many per source, shared out over the angle bins. max_interval: largest
    distance between any two of a group's frames, in frames of the source video. source_fps: the source video's rate,
    for input that is an extract of it (images named by timestamp), where intervals follow from timestamps; None counts
    frames of the input itself. angle, near, far: as for view_angles.
    """

    views: int = bounded(4, low=2, high=36)
    groups: int = bounded(6, low=1, high=1000)
    max_interval: int = bounded(MAX_INTERVAL, low=1)
    source_fps: float | None = bounded(None, low=0.001)
    angle: AngleKind = "parallax"
    near: float | None = bounded(None, low=0)
    far: float | None = bounded(None, low=0)
    min_overlap: float | None = limit("overlap", ">=", Reason.LOW_OVERLAP, MIN_OVERLAP)
    min_baseline: float | None = limit("baseline", ">=", Reason.SMALL_BASELINE, MIN_BASELINE)
    max_fov: float | None = limit("fov_deg", "<=", Reason.WIDE_FOV, MAX_FOV_DEG)

    def __post_init__(self) -> None:
        check_depths(self.near, self.far)
        if self.min_overlap is not None and not 0 <= self.min_overlap <= 1:
            raise ValueError(f"min_overlap is a fraction from 0 to 1, got {self.min_overlap}")


@dataclass(frozen=True, eq=False)
class CameraPath:
    """N poses of a moving camera. frames: positions in the view's index; entries: positions in the view's track;
    numbers: frame numbers of the source video, which intervals are counted in."""

    track: CameraTrack
    frames: Positions
    entries: Positions
    numbers: Positions


class ViewGroups(Sampler):
    """Groups that cover the angle bins as far as overlap allows.

    A bin that was searched and that no group reaches becomes one refused child that holds the nearest miss and says what
    it lacks; the places it would have taken go to the other bins, and every group's notes say so. Where `groups` is too
    small for every bin to have its turn, nothing is said of those without.
    """

    name = "view_groups"
    version = 2
    needs = frozenset({"video", "cameras"})
    provides = frozenset({"view_group", "pairs"})
    Config = ViewGroupsConfig
    config: ViewGroupsConfig

    def compute_settings(self) -> dict[str, Any]:
        """The limits too: they steer the search, so other limits find other groups."""
        return super().compute_settings() | {each.key: each.value for each in self.limits()}

    def sample(self, scene: Scene, seed: int, media: Media) -> list[Child]:
        if len(scene.views) != 1:
            message = f"view_groups draws from one moving camera, got {len(scene.views)} views; use view_angles"
            raise CandidateError(Reason.E_CAMERA, message)
        view, setting = scene.views[0], self.config
        frames = pose_frames(view)
        entries = thinned(len(frames))
        path = CameraPath(tracked(view).at(entries), frames[entries], entries, self._source_frames(view, frames[entries]))
        if len(path.track) < setting.views:
            return [self._too_few(path, f"{len(path.track)} poses; a group takes {setting.views}")]
        near, far = depth_range(setting.near, setting.far)
        groups = all_groups(path.track, path.numbers, setting.views, setting.max_interval, setting.angle, near, far)
        if len(groups) == 0:
            return [self._too_few(path, f"no {setting.views} poses lie within {setting.max_interval} frames of each other")]
        wanted = Wanted(setting.groups, setting.min_overlap, setting.min_baseline, setting.max_fov)

        def measure(g: int) -> float:
            return float(self._overlaps(path, groups.members[g]).min())

        choice = choose(groups, wanted, np.random.default_rng(seed), measure, path.numbers)
        return self._children(path, groups, choice)

    def _source_frames(self, view: SceneView, frames: Positions) -> Positions:
        if self.config.source_fps is None:
            return frames
        times = view.index.pts_ns[frames]
        return np.rint((times - times[0]) * (self.config.source_fps / 1e9)).astype(np.int64)

    def _overlaps(self, path: CameraPath, members: Positions) -> Array:
        """[V(V-1)/2] two-way overlaps of a group's pairs, on the full grid."""
        a, b = (members[side] for side in np.triu_indices(len(members), 1))
        track, (near, far) = path.track, depth_range(self.config.near, self.config.far)
        size = (track.width, track.height)
        return two_way_overlap(track.c2w[a], track.K[a], size, track.c2w[b], track.K[b], size, near=near, far=far, grid=GRID)

    def _children(self, path: CameraPath, groups: Groups, choice: Choice) -> list[Child]:
        notes = {"angle": groups.kind, "scene_centre": groups.centre_note}
        if choice.missed:
            found = f"the largest angle taken is {groups.angle[choice.taken].max():.1f}" if choice.taken else "no group passes the limits"
            notes["angle_fallback"] = f"no group at {', '.join(choice.missed)} degrees; {found}"
        children = [self._child(path, groups, g, k, notes) for k, g in enumerate(choice.taken)]
        for name, (best, count) in choice.missed.items():
            why = f"{name} degrees: {self._why(groups, best, count)}"
            number = len(children)
            children.append(self._child(path, groups, best, number, notes | {"no_such_angle": why}, (Reason.NO_SUCH_ANGLE,)))
        return children

    def _why(self, groups: Groups, best: int, count: int) -> str:
        if not count:
            span = f"angles within {self.config.max_interval} frames run from {groups.angle.min():.1f} to {groups.angle.max():.1f}"
            return f"{span}; the nearest group is shown"
        return f"none of {count} groups passes the limits; the one with the most overlap is shown"

    def _child(
        self, path: CameraPath, groups: Groups, g: int, number: int, notes: Mapping[str, str], reasons: tuple[Reason, ...] = ()
    ) -> Child:
        members = groups.members[g]
        a, b = np.triu_indices(len(members), 1)
        overlap = self._overlaps(path, members)
        up, azimuth_sign = world_up([path.track])
        angles = pair_angles(path.track.c2w[members][:, None], a, b, centre=groups.centre, up=up, azimuth_sign=azimuth_sign)
        scores = {
            "n_views": float(len(members)),
            "overlap": float(overlap.min()),
            "angle_deg": float(groups.angle[g]),
            "frame_interval": float(groups.interval[g]),
            "baseline": float(groups.baseline[g]),
            "fov_deg": float(groups.fov[g]),
        }
        names = [f"f{frame:06d}" for frame in path.frames[members].tolist()]
        fields = {"pairs": pair_rows(angles, names, overlap), "angle_bins": angle_bins([scores["angle_deg"]]), "notes": dict(notes)}
        return self._made(path, members, number, names, scores, fields, reasons)

    def _too_few(self, path: CameraPath, why: str) -> Child:
        members = np.arange(min(len(path.track), self.config.views))
        names = [f"f{frame:06d}" for frame in path.frames[members].tolist()]
        notes = {"notes": {"too_few_views": why}}
        return self._made(path, members, 0, names, {"n_views": float(len(members))}, notes, (Reason.TOO_FEW_VIEWS,))

    def _made(
        self,
        path: CameraPath,
        members: Positions,
        number: int,
        names: list[str],
        scores: Mapping[str, float],
        fields: Mapping[str, Any],
        reasons: tuple[Reason, ...],
    ) -> Child:
        return Child(
            suffix=f"g{number:04d}",
            kind="view_group",
            views=(0,) * len(members),
            frames=tuple(path.frames[members, None]),
            cameras=tuple(path.entries[members, None]),
            view_names=tuple(names),
            scores=scores,
            fields=fields,
            reasons=reasons,
        )


def thinned(n: int) -> Positions:
    """Positions of at most MAX_POSES out of n, evenly spread, both ends included."""
    return np.arange(n) if n <= MAX_POSES else np.rint(np.linspace(0, n - 1, MAX_POSES)).astype(np.int64)


def check_depths(near: float | None, far: float | None) -> None:
    """Raise ValueError unless near lies before far."""
    low, high = depth_range(near, far)
    if not low < high:
        raise ValueError(f"near must be smaller than far, got near {near} and far {far}")


def depth_range(near: float | None, far: float | None) -> tuple[float, float]:
    """From the camera to infinity where not given."""
    return 0.0 if near is None else near, np.inf if far is None else far
