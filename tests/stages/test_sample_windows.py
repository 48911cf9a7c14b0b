"""Windows for in-betweening: which frames, which side of the split, and how far their ends differ."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.camera import CameraTrack, look_at
from schemas.frames import Scene
from schemas.recipe import MediaLimits
from schemas.typed import RecipeError, build
from schemas.verdict import CandidateError, Reason
from stages.media import Media
from stages.sample_windows import TIE_NS, Endpoints, EndpointsConfig, Windows, WindowsConfig, luma_difference, nearest, video_split
from stages.stage import Child, Item

UNREAD = Media(Path(), MediaLimits())  # samplers of cameras and headers look at no frame

MakeScene = Callable[..., Scene]


def windows(scene: Scene, seed: int = 0, **settings: Any) -> list[Child]:
    return Windows(build(WindowsConfig, settings, "x")).sample(scene, seed, UNREAD)


def judged(child: Child, **settings: Any) -> list[Reason]:
    """All reasons against a child: the sampler's own and those of its limits."""
    return [*child.reasons, *Windows(build(WindowsConfig, settings, "x")).decide(child.scores)]


def starts(children: list[Child]) -> list[int]:
    return [int(child.frames[0][0]) for child in children]


def test_every_frame_without_overlap_by_default(make_scene: MakeScene) -> None:
    children = windows(make_scene(frames=110))
    assert starts(children) == [0, 25, 50, 75]
    assert [child.suffix for child in children] == ["w0000", "w0001", "w0002", "w0003"]
    for child in children:
        frames = child.frames[0]
        assert (np.diff(frames) == 1).all() and len(frames) == 25
        assert child.kind == "window" and child.cameras is None and judged(child) == []
        # Both gaps of the paper: frames 1..12 lie between 0 and 13, frames 1..23 between 0 and 24.
        assert frames[13] - frames[0] == 13 and frames[24] - frames[0] == 24


@pytest.mark.parametrize(
    "frames, stride, hop, expected", [(49, 2, None, [0]), (48, 2, None, []), (99, 2, None, [0, 50]), (60, 2, 3, [0, 6])]
)
def test_stride_and_hop(make_scene: MakeScene, frames: int, stride: int, hop: int | None, expected: list[int]) -> None:
    children = [child for child in windows(make_scene(frames=frames), stride=stride, hop=hop) if not child.reasons]
    assert starts(children) == expected
    for child in children:
        assert (np.diff(child.frames[0]) == stride).all() and child.scores["stride"] == stride


def test_a_rate_takes_the_frame_nearest_in_time(make_scene: MakeScene) -> None:
    """30 to 12 frames a second: 0, 2.5, 5, ... source frames; every other one is half a frame off."""
    (child, *rest) = windows(make_scene(frames=130), fps=12.0)
    assert child.frames[0].tolist() == [(5 * k) // 2 for k in range(25)]
    assert child.scores["stride"] == 2.5
    assert child.scores["time_error_ms"] == pytest.approx(1000 / 60, abs=0.02)
    assert starts(rest) == [62]  # the second one starts 25 / 12 s later
    assert judged(child, fps=12.0) == []
    assert judged(child, fps=12.0, max_time_error_ms=10.0) == [Reason.UNEVEN_FRAME_RATE]


def test_a_rate_that_divides_the_source_s_is_exact(make_scene: MakeScene) -> None:
    (child,) = windows(make_scene(frames=49), fps=15.0)
    assert child.frames[0].tolist() == list(range(0, 49, 2)) and child.scores["time_error_ms"] < 0.01


def test_variable_frame_rate_is_followed_by_time_and_judged_by_error(make_scene: MakeScene) -> None:
    times = np.concatenate([np.arange(40) / 60, 40 / 60 + np.arange(40) / 20])  # 60, then 20 frames a second
    children = windows(make_scene([times]), fps=20.0, hop=5)
    for child in children:
        taken = times[child.frames[0]]
        assert child.scores["time_error_ms"] == pytest.approx(1e3 * np.abs(taken - taken[0] - np.arange(25) / 20).max(), abs=0.02)
        assert judged(child, fps=20.0) == []
    by_index = windows(make_scene([times]), stride=1, hop=5)
    across = [child for child in by_index if child.frames[0][0] < 40 <= child.frames[0][-1]]
    assert across and all(Reason.UNEVEN_FRAME_RATE in judged(child) for child in across)


def test_a_gap_shows_as_a_repeated_frame_and_is_refused(make_scene: MakeScene) -> None:
    times = np.arange(200) / 30
    times = np.delete(times, slice(20, 40))
    first = windows(make_scene([times]), fps=15.0, max_time_error_ms=None)[0]
    assert (np.diff(first.frames[0]) == 0).any() and first.reasons == (Reason.UNEVEN_FRAME_RATE,)


@pytest.mark.parametrize("gap", [(100, 400), (100, 413), (130, 300), (10, 60)])
@pytest.mark.parametrize("hop", [None, 5])
def test_begins_in_a_gap_make_no_window_twice(make_scene: MakeScene, gap: tuple[int, int], hop: int | None) -> None:
    """Every begin in the gap is nearest to the frame before or the frame after it."""
    times = np.delete(np.arange(700), slice(*gap)) / 30
    children = windows(make_scene([times]), fps=15.0, hop=hop)
    taken = [tuple(child.frames[0].tolist()) for child in children]
    assert len(set(taken)) == len(taken) and starts(children) == sorted(set(starts(children)))
    if hop is None:  # then no frame is in two windows either, and the footage after the gap is used up
        assert all(before[-1] < after[0] for before, after in pairwise(taken))
        assert len(times) - 1 - taken[-1][-1] < 2 * 25
    assert any(judged(child, fps=15.0) == [] and child.frames[0][0] >= gap[0] for child in children)


def test_windows_without_overlap_share_no_frame_whatever_the_timestamps(make_scene: MakeScene) -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        times = np.cumsum(rng.uniform(0.001, 0.3, size=120) * rng.choice([1, 1, 1, 20], size=120))
        mean_fps = 119 / (times[-1] - times[0])
        taken = [child.frames[0] for child in windows(make_scene([times]), frames=5, fps=mean_fps * rng.uniform(0.2, 1.0))]
        assert all(before[-1] < after[0] for before, after in pairwise(taken))


def test_a_clip_that_is_too_short_is_one_refused_row(make_scene: MakeScene) -> None:
    for scene, settings in ((make_scene(frames=24), {}), (make_scene(frames=1), {}), (make_scene(frames=60), {"fps": 10.0})):
        (child,) = windows(scene, **settings)
        assert child.reasons == (Reason.BOUNDARY,) and child.fields["notes"]["window"]
    assert "24 frames over 0.800 s; a window takes 25 frames 33.333 ms apart" in windows(make_scene(frames=24))[0].fields["notes"]["window"]


def test_a_clip_that_is_slower_than_the_wanted_rate_is_refused(make_scene: MakeScene) -> None:
    (child,) = windows(make_scene(frames=300, fps=10), fps=24.0)
    assert child.reasons == (Reason.LOW_FPS,)


def test_max_windows_draws_by_seed(make_scene: MakeScene) -> None:
    scene = make_scene(frames=1000)
    every = windows(scene)
    some = windows(scene, seed=3, max_windows=5)
    assert len(every) == 40 and len(some) == 5
    assert {child.suffix: starts([child]) for child in some}.items() <= {child.suffix: starts([child]) for child in every}.items()
    assert starts(some) == sorted(starts(some)) == starts(windows(scene, seed=3, max_windows=5))
    assert starts(some) != starts(windows(scene, seed=4, max_windows=5))


def test_windows_of_a_posed_clip_lie_within_it(make_scene: MakeScene, make_track: Callable[..., CameraTrack]) -> None:
    """A RealEstate10K clip is a stretch of a video: what lies around it may be another room, or another clip."""
    track = make_track(np.stack([look_at((t / 40, 0, 2), (0, 0, 0), (0, 1, 0)) for t in range(60)]))
    scene = make_scene(frames=100, cameras=[track], camera_frames=[np.arange(30, 90)], kind="posed_video")
    children = windows(scene, frames=25)
    assert [list(child.frames[0]) for child in children] == [list(range(30, 55)), list(range(55, 80))]
    assert [child.cameras[0].tolist() for child in children if child.cameras] == [list(range(25)), list(range(25, 50))]
    (refused,) = windows(scene, frames=61)
    assert judged(refused) == [Reason.BOUNDARY] and list(refused.frames[0]) == list(range(30, 90))
    assert "60 frames over 2.000 s" in refused.fields["notes"]["window"]


def test_a_window_with_a_frame_without_pose_has_no_cameras(make_scene: MakeScene, make_track: Callable[..., CameraTrack]) -> None:
    track = make_track(np.stack([look_at((t / 40, 0, 2), (0, 0, 0), (0, 1, 0)) for t in range(39)]))
    posed = np.array([0, *range(12, 50)])
    first, second = windows(make_scene(frames=100, cameras=[track], camera_frames=[posed], kind="posed_video"), frames=25)
    assert first.cameras is None
    assert second.cameras is not None and posed[second.cameras[0]].tolist() == list(second.frames[0]) == list(range(25, 50))


def test_views_of_one_scene_are_cut_alike(make_scene: MakeScene) -> None:
    times = np.arange(60) / 30
    (child,) = windows(make_scene([times, times[:30]]))
    assert child.views == (0, 1) and (child.frames[0] == child.frames[1]).all() and child.view_names == ("cam0", "cam1")


class TestSplit:
    def test_a_video_is_on_one_side(self, make_scene: MakeScene) -> None:
        """Clips of one YouTube video, whatever their seed and name, and all of their windows."""
        sides = set()
        for clip in range(20):
            scene = make_scene(frames=100, candidate_id=f"clip{clip}", attrs={"video_id": "QShWPZxTDoE"})
            sides |= {child.fields["split"] for child in windows(scene, seed=clip)}
        assert len(sides) == 1

    def test_four_to_one_in_the_long_run(self) -> None:
        sides = [video_split(f"video{i}", 0.2, 0) for i in range(10_000)]
        assert 0.185 < sides.count("test") / len(sides) < 0.215
        assert sides != [video_split(f"video{i}", 0.2, 1) for i in range(10_000)]

    @given(st.text(), st.integers(0, 10))
    def test_more_test_videos_take_none_back(self, video: str, seed: int) -> None:
        sides = [video_split(video, fraction, seed) for fraction in (0.0, 0.1, 0.3, 0.7, 1.0)]
        assert sides[0] == "train" and sides[-1] == "test" and sides == sorted(sides, reverse=True)

    def test_the_dataset_s_own_split_only_when_asked(self, make_scene: MakeScene) -> None:
        scene = make_scene(frames=25, split="val")
        assert windows(scene)[0].fields["split"] in ("train", "test")
        assert windows(scene, keep_official_split=True)[0].fields["split"] == "val"
        unsplit = make_scene(frames=25)
        assert windows(unsplit, keep_official_split=True)[0].fields["split"] == windows(unsplit)[0].fields["split"]

    def test_a_refused_window_has_a_side_too(self, make_scene: MakeScene) -> None:
        assert windows(make_scene(frames=3))[0].fields["split"] in ("train", "test")


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(RecipeError, match="fps or stride, not both"):
        build(WindowsConfig, {"fps": 12.0, "stride": 2}, "x")
    with pytest.raises(RecipeError, match="from 2 to"):
        build(WindowsConfig, {"frames": 1}, "x")


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=50, unique=True), st.lists(st.floats(-10.0, 2e9), min_size=1, max_size=20))
def test_nearest_equals_the_search_over_all(times: list[int], wanted: list[float]) -> None:
    pts = np.array(sorted(times), np.int64)
    for i, each in zip(nearest(pts, np.array(wanted)), wanted, strict=True):
        assert abs(int(pts[i]) - each) <= min(abs(t - each) for t in times) + TIE_NS


class TestEndpoints:
    def test_difference_is_a_share_of_the_luma_range(self) -> None:
        black, white = np.zeros((64, 100), np.uint8), np.full((64, 100), 255, np.uint8)
        half = np.concatenate([black[:, :50], white[:, :50]], axis=1)
        assert luma_difference(iter([black, white])) == luma_difference(iter([white, black])) == 1.0
        assert luma_difference(iter([black, half])) == 0.5
        assert luma_difference(iter([half, half])) == 0.0

    def test_limits(self) -> None:
        stage = Endpoints(EndpointsConfig(max_difference=0.5))
        assert stage.decide({"start_end_difference": 0.001}) == [Reason.START_END_TOO_SIMILAR]
        assert stage.decide({"start_end_difference": 0.9}) == [Reason.START_END_TOO_DIFFERENT]
        assert stage.decide({"start_end_difference": 0.2}) == stage.decide({"start_end_difference": None}) == []

    def test_on_video(self, media: Media, make_clip: Callable[..., Scene]) -> None:
        """Luma climbs by 4 a frame: 24 frames apart the ends differ by 96 of 255."""
        ramp = [np.full((90, 160), 20 + 4 * i, np.uint8) for i in range(50)]
        scene = make_clip(ramp)
        (child, _) = windows(scene)
        found = Endpoints(EndpointsConfig()).score(Item("key", "window", scene, child), media)
        assert found.scores["start_end_difference"] == pytest.approx(96 / 255, abs=0.02)

    def test_one_frame_has_no_ends(self, media: Media, make_scene: MakeScene) -> None:
        with pytest.raises(CandidateError) as error:
            Endpoints(EndpointsConfig()).score(Item("key", "video", make_scene(frames=1)), media)
        assert error.value.reason == Reason.E_FRAMECOUNT
