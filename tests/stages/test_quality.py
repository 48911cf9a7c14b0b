"""Cheap scores on clips whose truth is known, decoded through the sandbox as in a run."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from schemas.candidate import Candidate, MediaFile, MediaRef, View
from schemas.frames import Scene, SceneView
from schemas.recipe import MediaLimits
from schemas.typed import build
from schemas.verdict import Reason
from stages.media import Media
from stages.quality import HEIGHT, Header, HeaderConfig, Quality, QualityConfig, letterbox, measure, same_picture, spread_over, worst
from stages.sample_windows import Windows, WindowsConfig
from stages.stage import Child, Item

UNREAD = Media(Path(), MediaLimits())  # samplers of cameras and headers look at no frame

MakeClip = Callable[..., Scene]
Scores = dict[str, float | None]


def drifting(count: int, size: tuple[int, int] = (320, 180), speed: int = 4) -> list[np.ndarray]:
    """A textured picture that moves to the side; luma between 40 and 215."""
    noise = np.random.default_rng(5).random((size[1], size[0] + speed * count)).astype(np.float32)
    picture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 1), None, 40, 215, cv2.NORM_MINMAX).astype(np.uint8)
    return [picture[:, speed * i : speed * i + size[0]].copy() for i in range(count)]


def scored(media: Media, scene: Scene, child: Child | None = None, **settings: Any) -> tuple[Scores, list[Reason]]:
    stage = Quality(build(QualityConfig, settings, "x"))
    found = stage.score(Item("key", "video", scene, child), media)
    return dict(found.scores), stage.decide(found.scores)


def test_a_good_clip_is_kept(media: Media, make_clip: MakeClip) -> None:
    scores, reasons = scored(media, make_clip(drifting(30)))
    assert reasons == []
    assert scores["black_fraction"] == scores["frozen_fraction"] == scores["letterbox_fraction"] == 0
    assert scores["brightness"] == pytest.approx(127 / 255, abs=0.05)


def test_half_black(media: Media, make_clip: MakeClip) -> None:
    frames = drifting(24)
    frames[12:] = [np.zeros_like(frames[0])] * 12
    scores, reasons = scored(media, make_clip(frames), every=True)
    assert scores["black_fraction"] == 0.5
    assert scores["frozen_fraction"] == pytest.approx(11 / 23)
    assert scores["letterbox_fraction"] == 0
    assert Reason.BLACK in reasons


def test_a_frozen_tail(media: Media, make_clip: MakeClip) -> None:
    frames = drifting(60)
    frames[20:] = [frames[20]] * 40
    scores, reasons = scored(media, make_clip(frames), every=True)
    assert scores["frozen_fraction"] == pytest.approx(39 / 59)
    assert reasons == [Reason.FROZEN]
    sampled, _ = scored(media, make_clip(frames), sample_frames=13)
    assert sampled["frozen_fraction"] == pytest.approx(39 / 59, abs=1 / 12)


def test_something_small_that_moves_is_not_frozen(media: Media, make_clip: MakeClip) -> None:
    still = drifting(1)[0]
    frames = [still.copy() for _ in range(20)]
    for i, frame in enumerate(frames):
        cv2.circle(frame, (40 + 12 * i, 90), 8, 255, -1)
    scores, _ = scored(media, make_clip(frames), every=True)
    assert scores["frozen_fraction"] == 0


@pytest.mark.parametrize("top, side, expected", [(36, 0, 0.4), (0, 32, 0.2), (18, 32, 1 - 0.8 * 0.8), (0, 0, 0.0)])
def test_letterbox(media: Media, make_clip: MakeClip, top: int, side: int, expected: float) -> None:
    frames = drifting(12)
    for frame in frames:
        frame[:top] = frame[180 - top :] = 0
        frame[:, :side] = frame[:, 320 - side :] = 0
    scores, reasons = scored(media, make_clip(frames))
    assert scores["letterbox_fraction"] == pytest.approx(expected, abs=0.02)
    assert reasons == ([Reason.LETTERBOX] if expected else [])


def test_a_dark_border_that_lights_up_once_is_no_bar() -> None:
    lightest, darkest = np.full((256, 400), 200, np.uint8), np.zeros((256, 400), np.uint8)
    lightest[:50] = 10
    assert letterbox(lightest, darkest) == pytest.approx(50 / 256)
    lightest[20, 7] = 120
    assert letterbox(lightest, darkest) == pytest.approx(20 / 256)
    assert letterbox(np.zeros_like(lightest), darkest) == 0


def test_sharpness_falls_with_blur_and_does_not_depend_on_resolution(media: Media, make_clip: MakeClip) -> None:
    sharp = drifting(6, size=(640, 360))
    values = []
    for sigma in (0, 1, 2, 4, 8):
        scores, reasons = scored(media, make_clip([cv2.GaussianBlur(f, (0, 0), sigma) if sigma else f for f in sharp]))
        values.append(scores["sharpness"])
    assert values == sorted(values, reverse=True) and values[0] > 4 * values[-1]
    assert Reason.BLURRED in reasons
    large = [cv2.resize(frame, (1280, 720), interpolation=cv2.INTER_CUBIC) for frame in sharp]
    assert scored(media, make_clip(large))[0]["sharpness"] == pytest.approx(values[0], rel=0.25)


def test_exposure(media: Media, make_clip: MakeClip) -> None:
    frames = drifting(6)
    dark, dark_reasons = scored(media, make_clip([frame // 24 for frame in frames]), min_sharpness=None)
    assert dark["dark_fraction"] == 1.0 and dark["brightness"] == pytest.approx(5 / 255, abs=0.02)
    assert Reason.UNDEREXPOSED in dark_reasons
    blown = [np.clip(frame.astype(int) * 3, 0, 255).astype(np.uint8) for frame in frames]
    bright, bright_reasons = scored(media, make_clip(blown), min_sharpness=None)
    assert bright["bright_fraction"] is not None and bright["bright_fraction"] > 0.8 and bright_reasons == [Reason.OVEREXPOSED]
    _, by_mean = scored(media, make_clip(frames), min_brightness=0.6)
    assert by_mean == [Reason.UNDEREXPOSED]
    _, by_mean = scored(media, make_clip(frames), max_brightness=0.4)
    assert by_mean == [Reason.OVEREXPOSED]


def test_a_window_is_judged_by_its_own_frames(media: Media, make_clip: MakeClip) -> None:
    frames = drifting(50)
    frames[25:] = [np.zeros_like(frames[0])] * 25
    scene = make_clip(frames)
    light, dark = Windows(WindowsConfig()).sample(scene, 0, UNREAD)
    assert scored(media, scene, light)[0]["black_fraction"] == 0
    assert scored(media, scene, dark)[0]["black_fraction"] == 1


def test_limits_compute_nothing() -> None:
    strict, loose = (Quality(build(QualityConfig, {"min_sharpness": value}, "x")) for value in (500.0, 5.0))
    assert strict.compute_settings() == loose.compute_settings() == {"sample_frames": 24, "every": False}
    assert strict.decide({"sharpness": 100.0}) == [Reason.BLURRED] and loose.decide({"sharpness": 100.0}) == []
    fractions = ("black_fraction", "frozen_fraction", "letterbox_fraction", "dark_fraction", "bright_fraction")
    everything: Scores = {"sharpness": 0.0, **dict.fromkeys(fractions, 1.0)}
    assert strict.decide(everything) == [
        Reason.BLACK, Reason.FROZEN, Reason.LETTERBOX, Reason.BLURRED, Reason.UNDEREXPOSED, Reason.OVEREXPOSED,
    ]  # fmt: skip
    assert strict.decide({}) == []
    assert strict.decide({"sharpness": float("nan")}) == [Reason.BLURRED]


def test_of_several_views_the_worst_counts() -> None:
    good = {"black_fraction": 0.0, "frozen_fraction": None, "sharpness": 900.0, "brightness": 0.5}
    bad = {"black_fraction": 0.3, "frozen_fraction": 0.1, "sharpness": 90.0, "brightness": 0.1}
    assert worst([good, bad]) == worst([bad, good]) == bad
    assert worst([good])["frozen_fraction"] is None


def test_single_frames_and_no_frames() -> None:
    frame = np.full((HEIGHT, 455), 128, np.uint8)
    assert measure(iter([frame]))["frozen_fraction"] is None
    assert measure(iter([frame]))["brightness"] == pytest.approx(128 / 255)
    assert set(measure(iter([])).values()) == {None}


def test_codec_noise_is_no_motion_at_any_size() -> None:
    rng = np.random.default_rng(0)
    for shape in ((256, 455), (256, 16), (256, 7), (256, 1)):
        picture = rng.integers(20, 200, shape, dtype=np.uint8)
        noisy = np.clip(picture + rng.normal(0, 1.5, shape), 0, 255).astype(np.uint8)
        assert same_picture(picture, picture) and same_picture(picture, noisy)
        moved = picture.copy()
        moved[64:96] += 40
        assert not same_picture(picture, moved)


def test_sampling_spreads_over_the_clip() -> None:
    assert spread_over(np.arange(100), 3).tolist() == [0, 50, 99]
    assert spread_over(np.arange(5), 24).tolist() == [0, 1, 2, 3, 4]
    assert spread_over(np.arange(7), 1).tolist() == [0]


class TestHeader:
    def test_the_smallest_over_the_views(self, make_scene: Callable[..., Scene]) -> None:
        stage = Header(HeaderConfig())
        found = stage.score(Item("key", "multiview", make_scene([np.arange(60) / 30, np.arange(40) / 25])), None)  # type: ignore[arg-type]
        assert found.scores == {
            "width": 640, "height": 360, "n_frames": 40, "n_views": 2,
            "fps": pytest.approx(25), "duration_s": pytest.approx(1.6, abs=1e-3),
        }  # fmt: skip
        assert stage.decide(found.scores) == []

    def test_windows_have_their_own_rate_and_length(self, make_scene: Callable[..., Scene]) -> None:
        scene = make_scene(frames=200)
        child = Windows(WindowsConfig(stride=3)).sample(scene, 0, UNREAD)[0]
        scores = Header(HeaderConfig()).score(Item("key", "window", scene, child), None).scores  # type: ignore[arg-type]
        assert scores["fps"] == pytest.approx(10) and scores["duration_s"] == pytest.approx(2.5) and scores["n_frames"] == 25

    @pytest.mark.parametrize(
        "setting, reason",
        [
            ({"min_width": 641.0}, Reason.LOW_RESOLUTION),
            ({"min_height": 361.0}, Reason.LOW_RESOLUTION),
            ({"min_fps": 31.0}, Reason.LOW_FPS),
            ({"max_fps": 29.0}, Reason.HIGH_FPS),
            ({"min_duration_s": 4.0}, Reason.TOO_SHORT),
            ({"max_duration_s": 3.0}, Reason.TOO_LONG),
            ({"min_frames": 101.0}, Reason.TOO_SHORT),
            ({"min_views": 2.0}, Reason.TOO_FEW_VIEWS),
        ],
    )
    def test_limits(self, make_scene: Callable[..., Scene], setting: dict[str, float], reason: Reason) -> None:
        stage = Header(build(HeaderConfig, setting, "x"))
        assert stage.decide(stage.score(Item("key", "video", make_scene(frames=100)), None).scores) == [reason]  # type: ignore[arg-type]

    def test_a_single_frame_has_no_rate(self, make_scene: Callable[..., Scene]) -> None:
        scene = make_scene(frames=100)
        child = Child("g0000", "view_group", (0, 0), (np.array([3]), np.array([50])), None, ("a", "b"))
        stage = Header(HeaderConfig(min_fps=10, min_duration_s=1))
        scores = stage.score(Item("key", "view_group", scene, child), None).scores  # type: ignore[arg-type]
        assert scores["fps"] is None and scores["duration_s"] is None and scores["n_views"] == 2
        assert stage.decide(scores) == []


@pytest.mark.skipif("PARALLAX_REAL_DATA" not in os.environ, reason="PARALLAX_REAL_DATA is not set")
def test_real_clips_are_not_turned_away() -> None:
    root = Path(os.environ["PARALLAX_REAL_DATA"])
    paths = sorted((root / "sav_videos").glob("*.mp4"))
    assert len(paths) == 3
    with Media(root, MediaLimits()) as media:
        for path in paths:
            ref = MediaRef("video", (MediaFile(path.relative_to(root).as_posix(), path.stat().st_size, path.stat().st_mtime_ns),))
            scene = Scene(Candidate("clips", path.stem, "video", (View("v", ref),)), (SceneView("v", ref, media.index(ref)),))
            scores, reasons = scored(media, scene)
            assert reasons == [], path.name
            assert scores["black_fraction"] == 0 and scores["letterbox_fraction"] == 0
