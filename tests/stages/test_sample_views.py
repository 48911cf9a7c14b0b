"""Synchronization, angles of multi-view scenes, and groups drawn from one moving camera."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.camera import CameraTrack, from_w2c, intrinsics, look_at
from schemas.frames import Scene
from schemas.manifest import ANGLE_BINS
from schemas.recipe import MediaLimits
from schemas.typed import RecipeError, build
from schemas.verdict import CandidateError, Reason
from stages.geometry.overlap import one_way_overlap
from stages.group_search import pairs_within, spread_members
from stages.media import Media
from stages.sample_views import (
    MAX_POSES,
    Sync,
    SyncConfig,
    ViewAngles,
    ViewAnglesConfig,
    ViewGroups,
    ViewGroupsConfig,
)
from stages.stage import Child, Findings, Item, Stage

UNREAD = Media(Path(), MediaLimits())  # samplers of cameras and headers look at no frame

MakeScene = Callable[..., Scene]
MakeTrack = Callable[..., CameraTrack]
SIZE = (640, 360)


def run(stage: Any, scene: Scene) -> Findings:
    found: Findings = stage.score(Item("key", "multiview", scene), None)
    return found


def reasons(stage: Stage, findings: Findings) -> list[Reason]:
    return stage.decide(findings.scores)


def orbit(n: int, degrees: float, radius: float = 3.0) -> np.ndarray:
    """n poses on an arc around the origin, all looking at it."""
    return np.stack([look_at((radius * np.cos(t), radius * np.sin(t), 0.5), (0, 0, 0)) for t in np.radians(np.linspace(0, degrees, n))])


def pan(n: int, degrees: float, step: float = 0.0) -> np.ndarray:
    """n poses that turn on the spot, or on a dolly to the side: content leaves the image."""
    angles = np.radians(np.linspace(0, degrees, n))
    return np.stack([look_at((0, step * i, 0), (np.cos(t), step * i + np.sin(t), 0)) for i, t in enumerate(angles)])


class TestSync:
    def test_views_that_agree(self, make_scene: MakeScene) -> None:
        times = np.arange(50) / 25
        found = run(Sync(SyncConfig()), make_scene([times, times, times]))
        assert found.scores == {"n_views": 3, "sync_frame_spread": 0, "sync_fps_spread": 0, "sync_offset_ms": 0}
        assert reasons(Sync(SyncConfig()), found) == []

    def test_every_disagreement_has_its_own_reason(self, make_scene: MakeScene) -> None:
        times = np.arange(50) / 25
        stage = Sync(SyncConfig())
        late = run(stage, make_scene([times, times + 0.04]))
        assert late.scores["sync_offset_ms"] == pytest.approx(40) and reasons(stage, late) == [Reason.SYNC_OFFSET]
        short = run(stage, make_scene([times, times[:-3]]))
        assert short.scores["sync_frame_spread"] == 3 and reasons(stage, short) == [Reason.SYNC_FRAME_COUNT]
        fast = run(stage, make_scene([times, np.arange(50) / 30]))
        assert fast.scores["sync_fps_spread"] == pytest.approx(5)
        assert reasons(stage, fast) == [Reason.SYNC_FPS, Reason.SYNC_OFFSET]
        alone = run(stage, make_scene([times]))
        assert reasons(stage, alone) == [Reason.TOO_FEW_VIEWS]

    def test_one_dropped_frame_shows_as_an_offset(self, make_scene: MakeScene) -> None:
        times = np.arange(51) / 25
        found = run(Sync(SyncConfig(max_fps_spread=None)), make_scene([times[:50], np.delete(times, 20)]))
        assert found.scores["sync_offset_ms"] == pytest.approx(40)

    def test_own_clocks_forgive_a_start_time_but_no_drift(self, make_scene: MakeScene) -> None:
        times = np.arange(50) / 25
        own = Sync(SyncConfig(clock="own"))
        assert run(own, make_scene([times, times + 1.4])).scores["sync_offset_ms"] == 0
        assert run(own, make_scene([times, times * 1.01 + 1.4])).scores["sync_offset_ms"] == pytest.approx(49 * 0.4, abs=0.02)

    def test_limits_are_the_recipe_s(self, make_scene: MakeScene) -> None:
        times = np.arange(50) / 25
        found = run(Sync(SyncConfig()), make_scene([times, times[:-3]]))
        assert reasons(Sync(build(SyncConfig, {"max_frame_spread": 3.0}, "x")), found) == []
        assert reasons(Sync(build(SyncConfig, {"max_frame_spread": None, "min_views": 3.0}, "x")), found) == [Reason.TOO_FEW_VIEWS]
        assert Sync(SyncConfig()).compute_settings() == {"clock": "shared"}
        with pytest.raises(RecipeError, match="shared"):
            build(SyncConfig, {"clock": "wall"}, "x")


class TestViewAngles:
    def test_static_ring(self, make_scene: MakeScene, make_track: MakeTrack) -> None:
        ring = orbit(4, 90)  # 0, 30, 60, 90 degrees of azimuth
        tracks = [make_track(np.repeat(pose[None], 10, axis=0), up=(0.0, 0.0, 1.0)) for pose in ring]
        stage = ViewAngles(ViewAnglesConfig(overlap=True))
        found = run(stage, make_scene(frames=10, cameras=tracks, kind="multiview"))
        assert [(row["a"], row["b"]) for row in found.fields["pairs"]][:3] == [("cam0", "cam1"), ("cam0", "cam2"), ("cam0", "cam3")]
        assert [row["azimuth_deg"]["median"] for row in found.fields["pairs"]] == pytest.approx([30, 60, 90, 30, 60, 30])
        assert found.fields["notes"] == {"angle": "parallax", "scene_centre": "estimated from the optical axes"}
        assert found.fields["angle_bins"] == ["0-60", "30-90", "60-120"]
        assert found.scores["angle_deg"] == pytest.approx(max(row["parallax_deg"]["max"] for row in found.fields["pairs"]), abs=1e-5)
        assert found.scores["baseline"] == pytest.approx(3 * np.sqrt(2))
        assert found.scores["fov_deg"] == pytest.approx(60)
        assert found.scores["overlap"] == pytest.approx(min(row["overlap"] for row in found.fields["pairs"]), abs=1e-5)

    def test_bins_hold_any_pair(self, make_scene: MakeScene, make_track: MakeTrack) -> None:
        tracks = [make_track(pose[None]) for pose in (orbit(2, 10)[0], orbit(2, 10)[1], orbit(2, 170)[1])]
        found = run(ViewAngles(ViewAnglesConfig()), make_scene(frames=1, cameras=tracks))
        assert found.fields["angle_bins"] == ["0-60"]  # pairs at 10, 160 and 170 degrees

    def test_the_kind_of_angle_is_the_recipe_s_and_falls_back_to_axes(self, make_scene: MakeScene, make_track: MakeTrack) -> None:
        rolled = look_at((1.0, 0, 0), (1.0, 5.0, 0), up=(1.0, 0, 0))
        tracks = [make_track(pose[None]) for pose in (look_at((0.0, 0, 0), (0.0, 5.0, 0)), rolled)]
        scene = make_scene(frames=1, cameras=tracks)
        parallel = run(ViewAngles(ViewAnglesConfig()), scene)
        assert parallel.scores["angle_deg"] == pytest.approx(0, abs=1e-9)
        assert parallel.fields["notes"] == {"angle": "axis", "scene_centre": "no common point on the optical axes"}
        assert parallel.fields["pairs"][0]["parallax_deg"] is None
        assert run(ViewAngles(ViewAnglesConfig(angle="rotation")), scene).scores["angle_deg"] == pytest.approx(90)

    def test_only_frames_with_a_pose_in_every_view_count(self, make_scene: MakeScene, make_track: MakeTrack) -> None:
        away = look_at((0, 0, 9.0), (1.0, 0, 9.0))
        first = make_track(np.stack([orbit(2, 40)[0], away, orbit(2, 40)[0]]))
        second = make_track(np.stack([orbit(2, 40)[1]] * 2))
        scene = make_scene(frames=20, cameras=[first, second], camera_frames=[np.array([2, 5, 9]), np.array([2, 9])])
        assert run(ViewAngles(ViewAnglesConfig()), scene).fields["pairs"][0]["rotation_deg"]["max"] == pytest.approx(40, abs=1e-5)
        apart = make_scene(frames=20, cameras=[first, second], camera_frames=[np.array([2, 5, 9]), np.array([3, 4])])
        with pytest.raises(CandidateError, match="no frame has a pose in all of the 2 views"):
            run(ViewAngles(ViewAnglesConfig()), apart)

    def test_overlap_of_views_with_different_sizes(self, make_scene: MakeScene, make_track: MakeTrack) -> None:
        poses = orbit(2, 50)
        wide = make_track(poses[:1])
        same = run(ViewAngles(ViewAnglesConfig(overlap=True)), make_scene(frames=1, cameras=[wide, make_track(poses[1:])]))
        half = run(ViewAngles(ViewAnglesConfig(overlap=True)), make_scene(frames=1, cameras=[wide, make_track(poses[1:]).scaled(320, 180)]))
        assert half.scores["overlap"] == same.scores["overlap"]

    def test_missing_cameras_are_an_error_of_the_candidate(self, make_scene: MakeScene, make_track: MakeTrack) -> None:
        with pytest.raises(CandidateError) as error:
            run(ViewAngles(ViewAnglesConfig()), make_scene(frames=1, cameras=[make_track(orbit(1, 0)), None]))
        assert error.value.reason == Reason.E_CAMERA

    def test_settings_that_make_no_sense_are_refused(self) -> None:
        with pytest.raises(RecipeError, match="overlap: true"):
            build(ViewAnglesConfig, {"min_overlap": 0.3}, "x")
        with pytest.raises(RecipeError, match="near must be smaller"):
            build(ViewAnglesConfig, {"near": 3.0, "far": 2.0}, "x")


def groups(scene: Scene, seed: int = 0, **settings: Any) -> list[Child]:
    return ViewGroups(build(ViewGroupsConfig, settings, "x")).sample(scene, seed, UNREAD)


def kept(children: list[Child]) -> list[Child]:
    return [child for child in children if not child.reasons]


class TestViewGroups:
    def test_every_kept_group_fulfils_what_was_asked(self, make_scene: MakeScene, make_track: MakeTrack) -> None:
        track = make_track(pan(150, 100, step=0.01))
        numbers = np.arange(150) * 2 + 10  # every second frame of the video has a pose
        scene = make_scene(frames=400, cameras=[track], camera_frames=[numbers], kind="posed_video")
        found = kept(groups(scene, views=3, groups=8, min_overlap=0.5, max_interval=60))
        assert len(found) == 8
        for child in found:
            frames = np.array([int(each[0]) for each in child.frames])
            entries = np.array([int(each[0]) for each in child.cameras or ()])
            assert (numbers[entries] == frames).all() and child.views == (0, 0, 0)
            assert frames[-1] - frames[0] == child.scores["frame_interval"] <= 60
            angle = 0.0
            for a in range(3):
                for b in range(3):
                    pose_a, pose_b = track.c2w[entries[a]], track.c2w[entries[b]]
                    if a != b:
                        assert one_way_overlap(pose_a[None], track.K[:1], SIZE, pose_b[None], track.K[:1], SIZE)[0] >= 0.5
                    angle = max(angle, float(np.degrees(np.arccos(np.clip(pose_a[:3, 2] @ pose_b[:3, 2], -1, 1)))))
            assert child.scores["angle_deg"] == pytest.approx(angle, abs=1e-5)
            assert child.fields["notes"]["angle"] == "axis"
            assert len(child.fields["pairs"]) == 3
            assert child.view_names == tuple(f"f{frame:06d}" for frame in frames)

    def test_an_orbit_covers_every_bin(self, make_scene: MakeScene, make_track: MakeTrack) -> None:
        scene = make_scene(frames=120, cameras=[make_track(orbit(120, 130), fov_deg=80)], kind="posed_video")
        children = groups(scene, groups=6)
        assert len(children) == len(kept(children)) == 6
        assert {name for child in children for name in child.fields["angle_bins"]} == set(ANGLE_BINS)
        for child in children:
            low_high = [ANGLE_BINS[name] for name in child.fields["angle_bins"]]
            assert all(low <= child.scores["angle_deg"] <= high for low, high in low_high)
            assert "angle_fallback" not in child.fields["notes"]

    def test_a_bin_out_of_reach_is_one_refused_row_that_says_why(self, make_scene: MakeScene, make_track: MakeTrack) -> None:
        scene = make_scene(frames=120, cameras=[make_track(orbit(120, 40))], kind="posed_video")
        children = groups(scene, groups=5)
        refused = [child for child in children if child.reasons]
        assert len(kept(children)) == 5 and len(refused) == 1
        assert refused[0].reasons == (Reason.NO_SUCH_ANGLE,)
        assert "60-120 degrees: angles within 100 frames run from" in refused[0].fields["notes"]["no_such_angle"]
        assert "no group at 60-120 degrees; the largest angle taken is" in kept(children)[0].fields["notes"]["angle_fallback"]
        assert len({child.suffix for child in children}) == 6

    @pytest.mark.parametrize("wanted", [1, 2])
    def test_a_bin_whose_turn_never_came_has_no_verdict(self, make_scene: MakeScene, make_track: MakeTrack, wanted: int) -> None:
        """`groups` ends the search before all bins had their turn; six groups do cover every one of them."""
        scene = make_scene(frames=120, cameras=[make_track(orbit(120, 130), fov_deg=80)], kind="posed_video")
        for seed in range(10):
            children = groups(scene, seed, groups=wanted)
            assert len(children) == len(kept(children)) == wanted
            assert all("angle_fallback" not in child.fields["notes"] for child in children)

    def test_a_group_near_another_bin_s_still_covers_its_own(self, make_scene: MakeScene, make_track: MakeTrack) -> None:
        """101 poses over 61 degrees: all groups of 60 degrees or more lie at the two ends, next to others just below."""
        scene = make_scene(frames=101, cameras=[make_track(orbit(101, 61), fov_deg=80)], kind="posed_video")
        for seed in range(20):
            children = groups(scene, seed)
            assert [child.reasons for child in children] == [()] * 6
            assert max(child.scores["angle_deg"] for child in children) >= 60

    def test_large_angles_without_overlap_are_refused_for_both(self, make_scene: MakeScene, make_track: MakeTrack) -> None:
        scene = make_scene(frames=100, cameras=[make_track(pan(100, 120))], kind="posed_video")
        stage = ViewGroups(ViewGroupsConfig(min_baseline=None))
        refused = {child.fields["notes"]["no_such_angle"].split()[0]: child for child in stage.sample(scene, 0, UNREAD) if child.reasons}
        assert set(refused) == {"30-90", "60-120"}  # a 60-degree lens that turns by 30 keeps half of the image
        for child in refused.values():
            assert stage.decide(child.scores) == [Reason.LOW_OVERLAP]
            assert "none of" in child.fields["notes"]["no_such_angle"]

    def test_other_limits_name_themselves(self, make_scene: MakeScene, make_track: MakeTrack) -> None:
        scene = make_scene(frames=60, cameras=[make_track(np.repeat(orbit(1, 0), 60, axis=0), fov_deg=110)], kind="posed_video")
        stage = ViewGroups(ViewGroupsConfig())
        children = stage.sample(scene, 0, UNREAD)
        assert len(children) == 3 and all(child.reasons == (Reason.NO_SUCH_ANGLE,) for child in children)
        assert stage.decide(children[0].scores) == [Reason.SMALL_BASELINE, Reason.WIDE_FOV]
        assert children[0].fields["notes"]["angle_fallback"].endswith("no group passes the limits")

    def test_too_few_poses(self, make_scene: MakeScene, make_track: MakeTrack) -> None:
        few = groups(make_scene(frames=10, cameras=[make_track(orbit(3, 20))], kind="posed_video"))
        assert [child.reasons for child in few] == [(Reason.TOO_FEW_VIEWS,)]
        assert few[0].fields["notes"]["too_few_views"] == "3 poses; a group takes 4"
        sparse = make_scene(frames=2000, cameras=[make_track(orbit(10, 90))], camera_frames=[np.arange(10) * 200], kind="posed_video")
        assert [child.reasons for child in groups(sparse)] == [(Reason.TOO_FEW_VIEWS,)]

    def test_the_seed_decides_and_nothing_else(self, make_scene: MakeScene, make_track: MakeTrack) -> None:
        def drawn(seed: int) -> list[list[int]]:
            scene = make_scene(frames=200, cameras=[make_track(orbit(200, 150))], kind="posed_video")
            return [[int(each[0]) for each in child.frames] for child in groups(scene, seed)]

        assert drawn(1) == drawn(1)
        assert drawn(1) != drawn(2)

    def test_groups_differ(self, make_scene: MakeScene, make_track: MakeTrack) -> None:
        scene = make_scene(frames=200, cameras=[make_track(orbit(200, 100))], kind="posed_video")
        ends = [(int(child.frames[0][0]), int(child.frames[-1][0])) for child in kept(groups(scene, groups=20))]
        assert len(ends) == 20
        assert min(max(abs(a - c), abs(b - d)) for i, (a, b) in enumerate(ends) for c, d in ends[:i]) >= 10

    def test_intervals_of_an_extract_come_from_its_timestamps(self, make_scene: MakeScene, make_track: MakeTrack) -> None:
        """16 images, every 8th frame of a 30 fps video: 12 images apart are 96 frames."""
        scene = make_scene([np.arange(16) * 8 / 30], cameras=[make_track(orbit(16, 60))], kind="posed_video")
        intervals = [child.scores["frame_interval"] for child in groups(scene, source_fps=30.0)]
        assert max(intervals) <= 96 and all(interval % 8 == 0 for interval in intervals)
        assert max(child.scores["frame_interval"] for child in groups(scene)) <= 15

    def test_known_depth_range_lowers_overlap(self, make_scene: MakeScene, make_track: MakeTrack) -> None:
        scene = make_scene(frames=100, cameras=[make_track(orbit(100, 100))], kind="posed_video")
        whole = np.mean([child.scores["overlap"] for child in groups(scene, min_overlap=None)])
        known = np.mean([child.scores["overlap"] for child in groups(scene, min_overlap=None, near=2.9, far=3.3)])
        assert known < whole

    def test_limits_steer_the_search_so_they_are_part_of_the_key(self) -> None:
        loose, strict = (ViewGroups(build(ViewGroupsConfig, {"min_overlap": value}, "x")) for value in (0.3, 0.7))
        assert loose.compute_settings() != strict.compute_settings()

    def test_long_clips_are_thinned(self, make_scene: MakeScene, make_track: MakeTrack) -> None:
        n = 4 * MAX_POSES
        scene = make_scene(frames=n, cameras=[make_track(orbit(n, 500))], kind="posed_video")
        children = groups(scene)
        assert len(kept(children)) == 6 and max(int(child.frames[-1][0]) for child in children) > n / 2

    def test_more_than_one_camera_is_refused_with_advice(self, make_scene: MakeScene, make_track: MakeTrack) -> None:
        with pytest.raises(CandidateError, match="use view_angles"):
            groups(make_scene(frames=5, cameras=[make_track(orbit(5, 20))] * 2))

    @pytest.mark.parametrize("frames", [[0, 5, 5], [0, 9, 3], [0, 50, 100], [0, 1]])
    def test_camera_frames_that_do_not_fit_are_refused(self, make_scene: MakeScene, make_track: MakeTrack, frames: list[int]) -> None:
        scene = make_scene(frames=100, cameras=[make_track(orbit(3, 20))], camera_frames=[np.array(frames)], kind="posed_video")
        with pytest.raises(CandidateError) as error:
            groups(scene)
        assert error.value.reason == Reason.E_FRAMECOUNT


def test_pairs_within_an_interval_equal_the_double_loop() -> None:
    frames = np.cumsum(np.random.default_rng(0).integers(0, 30, size=60))
    i, j = pairs_within(frames, 50)
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == [
        (a, b) for a in range(60) for b in range(a + 1, 60) if frames[b] - frames[a] <= 50
    ]


def test_members_are_distinct_and_span_the_ends() -> None:
    i, j = np.triu_indices(12, 1)
    members = spread_members(i, j, 4)
    assert len(members) == (j - i >= 3).sum()
    assert (np.diff(members, axis=1) >= 1).all()
    assert (members[:, 0] == i[j - i >= 3]).all() and (members[:, -1] == j[j - i >= 3]).all()


@pytest.mark.skipif("PARALLAX_REAL_DATA" not in os.environ, reason="PARALLAX_REAL_DATA is not set")
def test_real_trajectories(make_scene: MakeScene) -> None:
    """Five RealEstate10K clips, every 8th frame (now and then the 9th): pairs may be 11 lines apart at most."""
    paths = sorted((Path(os.environ["PARALLAX_REAL_DATA"]) / "realestate10k_poses").glob("*.txt"))
    assert len(paths) == 5
    for path in paths:
        rows = np.array([[float(x) for x in line.split()] for line in path.read_text().splitlines()[1:]])
        c2w = from_w2c(rows[:, 7:].reshape(-1, 3, 4))
        track = CameraTrack(c2w, intrinsics(640 * rows[0, 1], 360 * rows[0, 2], 320, 180, len(rows)), *SIZE, "arbitrary")
        seconds = (rows[:, 0] - rows[0, 0]) / 1e6
        numbers = np.rint(seconds * 30).astype(np.int64)
        assert set(np.diff(numbers)) == {8, 9}
        posed = make_scene(frames=int(numbers[-1]) + 1, cameras=[track], camera_frames=[numbers], kind="posed_video")
        extract = make_scene([seconds], cameras=[track], kind="posed_video")
        for children in (groups(posed), groups(extract, source_fps=30.0)):
            assert kept(children)
            assert all(25 <= child.scores["frame_interval"] <= 100 for child in children)  # three lines or more
            assert all(child.scores["overlap"] >= 0.6 for child in kept(children))
