"""The tracker that needs no weights, against motion that is known: warps of a picture, studio scenes, things that hide a point."""

from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.motion import delta_avg, plain_tracks
from stages.perception.klt import KltTracker
from tests.perception.motion_clips import studio_clip

Image = NDArray[np.uint8]

WIDTH, HEIGHT = 160, 120


def texture(seed: int = 0, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Image:
    noise = np.random.default_rng(seed).random((size[1], size[0], 3)).astype(np.float32)
    return np.asarray(cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 20, 235, cv2.NORM_MINMAX), np.uint8)


def points(step: int = 20, margin: int = 30) -> NDArray[np.float32]:
    x, y = np.meshgrid(np.arange(margin, WIDTH - margin + 1, step), np.arange(margin, HEIGHT - margin + 1, step))
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32) + 0.5


def warped(picture: Image, model: NDArray[np.float64]) -> Image:
    """model [2,3]: pixel centres at whole numbers, as OpenCV has it."""
    return np.asarray(cv2.warpAffine(picture, model, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT), np.uint8)


def test_a_shift_by_fractions_of_a_pixel_is_followed_without_drift() -> None:
    picture, start = texture(), points()
    steps = np.arange(30)[:, None] * np.array([0.37, -0.21])
    frames = (warped(picture, np.array([[1, 0, dx], [0, 1, dy]])) for dx, dy in steps)
    found = KltTracker().track(frames, start)
    assert found.xy.shape == (30, len(start), 2) and found.xy.dtype == np.float32
    error = np.linalg.norm(found.xy - (start + steps[:, None]), axis=2)
    assert found.visible.mean() > 0.98
    assert np.quantile(error[found.visible], 0.95) < 0.15 and error[-1][found.visible[-1]].max() < 0.5


def test_positions_count_from_the_corner_of_the_first_pixel() -> None:
    """So the picture ends at 0 and at WIDTH, not half a pixel before or after."""
    start = np.array([[0.1, 60], [-0.1, 60], [WIDTH - 0.1, 60], [WIDTH + 0.1, 60], [80, 0.1], [80, HEIGHT + 0.1]], np.float32)
    found = KltTracker().track(iter([texture()] * 3), start)
    assert found.visible[0].tolist() == [True, False, True, False, True, False]
    assert np.abs(found.xy - start).max() < 0.05


def test_a_hidden_point_is_not_visible_and_comes_back() -> None:
    picture, start = texture(), points()
    cover = texture(9, (40, HEIGHT))

    def frames() -> Iterator[Image]:
        for k in range(24):
            frame = picture.copy()
            left = 10 * k - 40
            low, high = max(left, 0), min(left + 40, WIDTH)
            if low < high:
                frame[:, low:high] = cover[:, low - left : high - left]
            yield frame

    found = KltTracker().track(frames(), start)
    hidden = np.array([[(10 * k - 40 + 6 < x < 10 * k - 6) for x in start[:, 0]] for k in range(24)])
    free = np.array([[not (10 * k - 40 - 6 < x < 10 * k + 6) for x in start[:, 0]] for k in range(24)])
    assert found.visible[hidden].mean() < 0.25
    assert found.visible[free].mean() > 0.9
    back = np.linalg.norm(found.xy[-1] - start, axis=1) < 0.5
    assert back.mean() > 0.9 and found.visible[-1][back].all(), "found again where they were"


def test_points_that_leave_the_picture_are_not_visible() -> None:
    picture, start = texture(), points()
    found = KltTracker().track((warped(picture, np.array([[1.0, 0, 6 * k], [0, 1, 0]])) for k in range(30)), start)
    assert not found.visible[-1].any()
    assert np.isfinite(found.xy).all()


def test_at_least_as_good_as_plain_lucas_kanade_on_studio_clips() -> None:
    ours, plain = [], []
    for seed in (2, 27, 35):  # tripod, orbit and dolly, all with moving subjects
        clip = studio_clip(seed, frames=10)
        truth = clip.truth()
        chosen = truth.visible[0, 0]
        xy, visible = truth.pixels[0][:, chosen], truth.visible[0][1:, chosen]
        frames, scale = list(clip.frames()), 256 / np.array(clip.size)
        start = xy[0].astype(np.float32)
        ours.append(np.linalg.norm((KltTracker().track(iter(frames), start).xy - xy)[1:] * scale, axis=2)[visible])
        plain.append(np.linalg.norm((plain_tracks(frames, start) - xy)[1:] * scale, axis=2)[visible])
    assert delta_avg(np.concatenate(ours)) >= delta_avg(np.concatenate(plain))
    assert delta_avg(np.concatenate(ours)) > 0.85


@pytest.mark.parametrize("frames, count", [(0, 4), (1, 4), (3, 0), (0, 0)])
def test_little_to_follow(frames: int, count: int) -> None:
    found = KltTracker().track(iter([texture()] * frames), points()[:count])
    assert found.xy.shape == (frames, count, 2) and found.visible.shape == (frames, count)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (120, 2)])
def test_tiny_and_black_frames(shape: tuple[int, int]) -> None:
    found = KltTracker().track(iter([np.zeros((*shape, 3), np.uint8)] * 3), np.array([[0.5, 0.5], [1e6, -1e6]], np.float32))
    assert np.isfinite(found.xy).all() and not found.visible[:, 1].any()


def test_the_same_frames_give_the_same_bytes() -> None:
    frames = list(studio_clip(3, frames=5).frames())
    one, two = (KltTracker().track(iter(frames), points()) for _ in range(2))
    assert one.xy.tobytes() == two.xy.tobytes() and one.visible.tobytes() == two.visible.tobytes()
