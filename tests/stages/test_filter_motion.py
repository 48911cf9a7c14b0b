"""The motion filter as a stage: on studio clips through the decoder, on recordings whose answer was written down, on hostile input."""

import json
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.studio.video import write_mp4
from schemas.candidate import Candidate, MediaFile, MediaRef, View
from schemas.frames import FrameIndex, Scene, SceneView
from schemas.recipe import MediaLimits
from schemas.typed import RecipeError, build
from schemas.verdict import Reason
from stages.filter_motion import MotionConfig, MotionFilter, measure, one_label_each
from stages.media import Media
from stages.perception.klt import KltTracker
from stages.perception.regions import RegionSegmenter
from stages.perception.results import Mask
from stages.perception.weights import WeightsError
from stages.stage import Child, Findings, Item, Shown
from tests.perception.motion_clips import studio_clip

Image = NDArray[np.uint8]

LABELS = json.loads((Path(__file__).parents[1] / "perception" / "motion_labels.json").read_text("utf-8"))["clips"]
SCORES = {"camera_motion", "foreground_motion", "tracked_points", "tracked_masks", "n_masks", "visible_fraction"}
ROOT = Path(os.environ.get("PARALLAX_REAL_DATA", "/nonexistent"))


def scene_of(frames: int, size: tuple[int, int], views: int = 1) -> Scene:
    """A scene without footage."""
    pts = np.arange(frames)
    index = FrameIndex(pts, pts[:1], Fraction(1, 25), *size, Fraction(25), "h264")
    listed = tuple(View(f"cam{i}", MediaRef("video", (MediaFile(f"cam{i}.mp4", 1, 1),))) for i in range(views))
    return Scene(Candidate("clips", "x", "video", listed), tuple(SceneView(each.view_id, each.media, index) for each in listed))


def looked_at(*views: list[Image], source: tuple[int, int] | None = None, **settings: Any) -> tuple[Findings, MotionFilter]:
    """What the filter finds in these frames; source: (width, height) of the footage they were scaled from."""
    size = source or (views[0][0].shape[1], views[0][0].shape[0])
    scene = scene_of(len(views[0]), size, len(views))
    frames = (Shown(number, k, frame) for number, view in enumerate(views) for k, frame in enumerate(view))
    stage = MotionFilter(build(MotionConfig, settings, "x"))
    return stage.look(Item("key", "video", scene), frames), stage


@pytest.fixture(scope="module")
def clips() -> dict[int, list[Image]]:
    """Seeds by their bits: 1 the camera moves, 2 the subject moves, 4 dull."""
    return {seed: list(studio_clip(seed).frames()) for seed in (0, 2, 6, 9, 16, 18)}


@pytest.mark.parametrize("seed", [0, 2, 6, 9, 16, 18])
def test_studio_clips_are_decided_right(clips: dict[int, list[Image]], seed: int) -> None:
    clip = studio_clip(seed)
    found, stage = looked_at(clips[seed])
    reasons = stage.decide(found.scores)
    assert (Reason.CAMERA_MOVES in reasons) == clip.camera_moves, found.scores
    assert Reason.UNTRACKED not in reasons, found.scores
    if not clip.camera_moves:
        assert (Reason.SUBJECT_STILL in reasons) == (not clip.subject_moves), found.scores


def test_what_moves_is_where_the_truth_says(clips: dict[int, list[Image]]) -> None:
    """The mask that moves most lies on something that moves; what belongs to the ground and the houses does not move."""
    clip = studio_clip(2)
    from pipeline.studio.render import render

    truth = render(clip.scene, 0.0, clip.c2w[0], clip.K[0], clip.size).instance
    motion = measure(iter(clips[2]), RegionSegmenter(), KltTracker(), MotionConfig())
    most = int(np.nanargmax(motion.masks.motion)) + 1
    assert (truth[motion.labels == most] > 0).mean() > 0.7
    ground = [k for k in range(1, len(motion.masks.motion) + 1) if (truth[motion.labels == k] <= 0).mean() > 0.95]
    assert len(ground) > 5 and np.nanmedian(motion.masks.motion[np.array(ground) - 1]) < 0.003


def test_a_changed_limit_is_decided_from_the_scores_alone(clips: dict[int, list[Image]]) -> None:
    found, _ = looked_at(clips[2])
    foreground = found.scores["foreground_motion"]
    assert foreground is not None
    strict = MotionFilter(build(MotionConfig, {"min_foreground_motion": foreground * 1.01, "max_camera_motion": None}, "x"))
    assert strict.decide(found.scores) == [Reason.SUBJECT_STILL]
    assert strict.compute_settings() == MotionFilter(MotionConfig()).compute_settings()


def test_what_the_report_gets_is_small_and_in_source_pixels(clips: dict[int, list[Image]]) -> None:
    found, _ = looked_at(clips[2] * 2, source=(1600, 1200))
    arrays = found.members["motion"]
    assert arrays["labels"].dtype == np.uint8 and arrays["labels"].shape == (96, 128)
    count = arrays["tracks"].shape[1]
    assert arrays["tracks"].dtype == np.float16 and arrays["tracks"].shape == (16, count, 2) and 20 < count <= 200
    assert arrays["visible"].shape == (16, count) and arrays["point_mask"].shape == (count,)
    assert arrays["frames"].tolist() == np.rint(np.linspace(0, 31, 16)).astype(int).tolist()
    assert arrays["tracks"][0, :, 0].max() > 1200, "footage is ten times as wide as what was looked at"
    at = (arrays["tracks"][0].astype(float) / (1600, 1200) * (128, 96)).astype(int)
    assert (arrays["labels"][at[:, 1], at[:, 0]] == arrays["point_mask"]).mean() > 0.9
    masks = len(arrays["mask_motion"])
    assert found.scores["n_masks"] == masks == arrays["labels"].max()
    assert np.nanmax(arrays["mask_motion"]) == pytest.approx(found.scores["foreground_motion"])
    assert np.nanmax(arrays["camera_motion"]) == pytest.approx(found.scores["camera_motion"])
    assert sum(each.nbytes for each in arrays.values()) < 64 << 10


def test_the_same_clip_gives_the_same_bytes(clips: dict[int, list[Image]]) -> None:
    one, two = (looked_at(clips[9])[0] for _ in range(2))
    assert one.scores == two.scores
    assert {k: v.tobytes() for k, v in one.members["motion"].items()} == {k: v.tobytes() for k, v in two.members["motion"].items()}


def test_of_two_views_the_worse_one_counts(clips: dict[int, list[Image]]) -> None:
    both, _ = looked_at(clips[2], clips[9])
    each = [looked_at(clips[seed])[0].scores for seed in (2, 9)]
    assert both.scores["camera_motion"] == max(s["camera_motion"] or 0 for s in each)
    assert both.scores["foreground_motion"] == min(s["foreground_motion"] or 0 for s in each)
    assert sorted(both.members) == ["motion", "motion01"]


def test_which_frames_it_asks_for() -> None:
    item = Item("key", "video", scene_of(300, (1920, 1080)))
    [some] = MotionFilter(build(MotionConfig, {"frames": 10}, "x")).wants(item)
    assert len(some.frames) == 10 and some.frames[[0, -1]].tolist() == [0, 299] and some.size == (427, 240)
    [fifth] = MotionFilter(build(MotionConfig, {"every": 5, "height": 1080}, "x")).wants(item)
    assert fifth.frames.tolist() == list(range(0, 300, 5)) and fifth.size is None
    child = Child("w", "window", (0,), (np.array([7, 7, 9]),), None, ("cam",))
    [window] = MotionFilter(MotionConfig()).wants(Item("key", "window", item.scene, child))
    assert window.frames.tolist() == [7, 9], "a frame that comes twice is looked at once"


def test_through_the_decoder(clips: dict[int, list[Image]], tmp_path: Path) -> None:
    write_mp4(tmp_path / "clip.mp4", clips[2], Fraction(10))
    write_mp4(tmp_path / "pan.mp4", clips[9], Fraction(10))
    stage = MotionFilter(MotionConfig())
    with Media(tmp_path, MediaLimits()) as media:
        found = [stage.score(Item("key", "video", scene_of_file(media, name)), media) for name in ("clip.mp4", "pan.mp4")]
    assert stage.decide(found[0].scores) == []
    assert Reason.CAMERA_MOVES in stage.decide(found[1].scores)


def scene_of_file(media: Media, *names: str) -> Scene:
    files = tuple(media.tree.identify(PurePosixPath(name) for name in names))
    times = tuple(k * 40_000_000 for k in range(len(names))) if len(names) > 1 else ()
    ref = MediaRef("images" if times else "video", files, pts_ns=times)
    return Scene(Candidate("clips", "x", "video", (View("cam", ref),)), (SceneView("cam", ref, media.index(ref)),))


def black(count: int, shape: tuple[int, int] = (96, 128)) -> list[Image]:
    return [np.zeros((*shape, 3), np.uint8)] * count


def blinking() -> Iterator[Image]:
    """Nothing of one frame is in the next."""
    for seed in range(8):
        yield np.random.default_rng(seed).integers(0, 255, (96, 128, 3)).astype(np.uint8)


def grey(count: int, noise: float = 0.0) -> list[Image]:
    rng = np.random.default_rng(4)
    return [np.clip(np.rint(128 + rng.normal(0, noise, (96, 128, 3))), 0, 255).astype(np.uint8) for _ in range(count)]


HOSTILE = {
    "one frame": [next(blinking())],
    "one dark frame": black(1),
    "black": black(6),
    "two dark frames": black(2),
    "one pixel": black(2, (1, 1)),
    "tiny": black(5, (2, 2)),
    "a line": black(5, (1, 300)),
    "a column": black(2, (300, 1)),
    "few pixels": black(3, (9, 9)),
    "grey": grey(8),
    "grey with a sensor's noise": grey(8, 2.0),
    "everything lost": [next(blinking()), *black(4)],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_clips_in_which_nothing_can_be_judged_are_turned_away_for_that(name: str) -> None:
    found, stage = looked_at(HOSTILE[name])
    assert set(found.scores) == SCORES
    for value in found.scores.values():
        assert value is None or np.isfinite(value)
    assert found.scores["camera_motion"] is None and found.scores["foreground_motion"] is None, "nothing was measured"
    assert found.scores["tracked_points"] == 0 and stage.decide(found.scores) == [Reason.UNTRACKED]
    lenient = MotionFilter(build(MotionConfig, {"min_tracked_points": None, "min_tracked_masks": None}, "x"))
    assert lenient.decide(found.scores) == [] and lenient.compute_settings() == stage.compute_settings()


def test_what_is_seen_in_pure_noise_rests_on_too_little() -> None:
    """Here and there a few patches look alike by chance, so there is a camera motion."""
    found, stage = looked_at(list(blinking()))
    assert Reason.UNTRACKED in stage.decide(found.scores), found.scores


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 2000), (2000, 1)])
def test_pictures_of_a_few_pixels_through_the_decoder(tmp_path: Path, size: tuple[int, int]) -> None:
    names = [f"{k}.png" for k in range(2)]
    for name in names:
        assert cv2.imwrite(str(tmp_path / name), np.full((size[1], size[0], 3), 90, np.uint8))
    stage = MotionFilter(MotionConfig())
    with Media(tmp_path, MediaLimits()) as media:
        found = stage.score(Item("key", "video", scene_of_file(media, *names)), media)
    assert stage.decide(found.scores) == [Reason.UNTRACKED]


def test_of_two_views_one_that_shows_nothing_turns_both_away(clips: dict[int, list[Image]]) -> None:
    found, stage = looked_at(clips[2], [np.full((120, 160, 3), 128, np.uint8)] * 16)
    assert found.scores["camera_motion"] is not None, "of the view that has one"
    assert stage.decide(found.scores) == [Reason.UNTRACKED]


def test_a_few_dark_frames_turn_no_clip_away(clips: dict[int, list[Image]]) -> None:
    """Points are lost in them and found again."""
    frames = clips[2][:6] + [np.zeros((120, 160, 3), np.uint8)] * 2 + clips[2][6:]
    found, stage = looked_at(frames)
    assert (found.scores["tracked_points"] or 0) > 50 and stage.decide(found.scores) == []


def test_no_frames_at_all() -> None:
    nothing = measure(iter([]), RegionSegmenter(), KltTracker(), MotionConfig()).scores()
    assert nothing.pop("camera_motion") is nothing.pop("foreground_motion") is nothing.pop("visible_fraction") is None
    assert nothing == {"n_masks": 0, "tracked_points": 0, "tracked_masks": 0}


class NoRegions:
    def masks(self, image: Image) -> list[Mask]:
        return []


def test_a_segmenter_that_finds_nothing_leaves_the_camera(clips: dict[int, list[Image]]) -> None:
    found = measure(iter(clips[9]), NoRegions(), KltTracker(), MotionConfig()).scores()
    assert found["n_masks"] == 0 and found["foreground_motion"] is None
    assert found["camera_motion"] is not None and found["camera_motion"] > 0.01
    assert (found["tracked_points"] or 0) > 20 and found["tracked_masks"] == 0
    assert MotionFilter(build(MotionConfig, {"max_camera_motion": None}, "x")).decide(found) == [Reason.UNTRACKED]


def test_of_masks_that_overlap_the_smallest_has_the_pixel() -> None:
    whole, part, speck = (np.zeros((50, 100), np.bool_) for _ in range(3))
    whole[10:40, 10:60], part[20:30, 20:40], speck[0, 0] = True, True, True
    everything = Mask(np.ones((50, 100), np.bool_))
    labels = one_label_each([everything, Mask(whole), Mask(part), Mask(speck)], (50, 100), 10)
    assert labels[0, 0] == labels[49, 99] == 0, "most of the picture is background, and so is a speck"
    assert labels[12, 12] == 1 and labels[25, 30] == 2
    assert one_label_each([Mask(whole), Mask(part)], (50, 100), 1).max() == 1


def test_checkpoints_are_named_and_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARALLAX_WEIGHTS", str(tmp_path))
    settings = {"masks": "sam-vit-l", "tracker": "cotracker3-online", "cotracker": "mine.pth"}
    stage = MotionFilter(build(MotionConfig, settings, "x"))
    assert stage.weights() == (("sam-vit-l", None), ("cotracker3-online", "mine.pth"), ("cotracker-code", None))
    own = MotionFilter(build(MotionConfig, {"tracker": "cotracker3-offline", "cotracker_code": "co-tracker"}, "x"))
    assert own.weights() == (("cotracker3-offline", None), ("cotracker-code", "co-tracker"))
    assert MotionFilter(MotionConfig()).weights() == ()
    with pytest.raises(WeightsError, match="sam-vit-l"):
        stage.models()
    with pytest.raises(WeightsError, match="noncommercial"):
        MotionFilter(build(MotionConfig, {"tracker": "cotracker3-offline"}, "x")).models()
    with pytest.raises(RecipeError, match="did you mean 'sam-vit-"):
        build(MotionConfig, {"masks": "sam-vit"}, "x")


def test_settings_of_models_that_are_not_used_are_no_part_of_the_step_key() -> None:
    def settings(**chosen: Any) -> dict[str, Any]:
        return MotionFilter(build(MotionConfig, chosen, "x")).compute_settings()

    assert settings(points_per_side=16, pred_iou_thresh=0.5, stability_score_thresh=0.5) == settings()
    assert settings(masks="sam-vit-b", points_per_side=16) != settings(masks="sam-vit-b")
    assert settings(every=4, frames=10) == settings(every=4)
    assert settings(frames=10) != settings()


def test_two_sources_share_their_models() -> None:
    one, two = MotionFilter(MotionConfig()), MotionFilter(MotionConfig(height=480))
    one.prepare(), two.prepare()
    assert one.models()[0] is two.models()[0] and one.models()[1] is two.models()[1]


@pytest.mark.skipif("PARALLAX_REAL_DATA" not in os.environ, reason="PARALLAX_REAL_DATA does not name the folder of real recordings")
@pytest.mark.parametrize("name", LABELS)
def test_real_recordings_are_decided_as_labelled(name: str) -> None:
    names = [name] if (ROOT / name).is_file() else sorted(str(path.relative_to(ROOT)) for path in (ROOT / name).glob("*.jpg"))
    stage = MotionFilter(MotionConfig())
    with Media(ROOT, MediaLimits()) as media:
        found = stage.score(Item("key", "video", scene_of_file(media, *names)), media)
    reasons = stage.decide(found.scores)
    assert (Reason.CAMERA_MOVES in reasons) == LABELS[name]["camera_moves"], found.scores
    assert Reason.UNTRACKED not in reasons, found.scores
    assert (Reason.SUBJECT_STILL in reasons) == (not LABELS[name]["subject_moves"]), found.scores
