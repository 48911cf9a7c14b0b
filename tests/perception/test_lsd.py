"""LSD's segments against edges whose place is known to a fraction of a pixel."""

import cv2
import numpy as np
import pytest

from stages.perception.lsd import line_segments

FINE = 8  # pictures are painted this much larger and averaged down, so that edges between pixels are exact


def polygon(corners: np.ndarray, height: int = 160, width: int = 240, dark: int = 60, bright: int = 190) -> np.ndarray:
    """[H,W,3]: a bright polygon with these corners [n,2] on dark ground."""
    large = np.full((height * FINE, width * FINE), dark, np.uint8)
    cv2.fillPoly(large, [np.rint(corners * FINE - 0.5).astype(np.int32)], bright)
    return np.repeat(cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA)[..., None], 3, axis=2)


def off_line(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    step = (end - start) / np.linalg.norm(end - start)
    return np.abs((points - start) @ np.array([-step[1], step[0]]))


@pytest.mark.parametrize("shift", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("turn_deg", [0.0, 17.0, 45.0])
def test_segments_lie_on_the_edges(shift: float, turn_deg: float) -> None:
    turn = np.radians(turn_deg)
    square = np.array([(-45, -45), (45, -45), (45, 45), (-45, 45)]) @ np.array(
        [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]
    )
    corners = square + np.array([120.0, 80.0]) + shift
    lines, _ = line_segments(polygon(corners))
    assert len(lines) == 4
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        off = np.stack([off_line(line, start, end) for line in lines])
        nearest = off.max(axis=1).argmin()
        assert off[nearest].max() < 0.25  # a third of a pixel is what a wrong convention would cost
        length = np.linalg.norm(lines[nearest][1] - lines[nearest][0])
        assert 84 < length < 93
    middle = lines.reshape(-1, 2).mean(axis=0)
    assert np.allclose(middle, corners.mean(axis=0), atol=0.4)


@pytest.mark.parametrize("swapped", [False, True])
def test_the_brighter_side_lies_to_the_same_hand(swapped: bool) -> None:
    corners = np.array([(60.0, 40), (180, 50), (170, 120), (50, 110)])
    tones = {"dark": 190, "bright": 60} if swapped else {}
    lines, _ = line_segments(polygon(corners, **tones))
    inside = corners.mean(axis=0) - lines[:, 0]
    step = lines[:, 1] - lines[:, 0]
    hand = np.sign(step[:, 0] * inside[:, 1] - step[:, 1] * inside[:, 0])
    assert len(lines) >= 4 and (hand == (1 if swapped else -1)).all()


def test_the_strongest_come_first_and_fewer_are_the_first_of_many() -> None:
    rng = np.random.default_rng(3)
    image = np.full((160, 240, 3), 120, np.uint8)
    for _ in range(12):
        x, y = rng.integers(5, 180), rng.integers(5, 110)
        image[y : y + rng.integers(20, 45), x : x + rng.integers(20, 55)] = rng.integers(0, 256, 3)
    lines, scores = line_segments(image, 300)
    assert len(lines) > 12 and lines.dtype == np.float32 and scores.dtype == np.float32
    assert scores[0] == 1 and (np.diff(scores) <= 0).all() and scores[-1] > 0
    assert (np.linalg.norm(lines[:, 1] - lines[:, 0], axis=1) >= 15).all()
    some, of_them = line_segments(image, 7)
    assert np.array_equal(some, lines[:7]) and np.array_equal(of_them, scores[:7])
    assert np.array_equal(lines, line_segments(image, 300)[0])
    assert np.array_equal(lines, line_segments(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), 300)[0])


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (200, 3), (8, 8), (9, 31), (120, 160)])
@pytest.mark.parametrize("luma", [0, 255])
def test_nothing_to_see_gives_no_segments(shape: tuple[int, int], luma: int) -> None:
    lines, scores = line_segments(np.full((*shape, 3), luma, np.uint8))
    assert lines.shape == (0, 2, 2) and scores.shape == (0,)


def test_no_segments_may_be_asked_for() -> None:
    assert len(line_segments(polygon(np.array([(60.0, 40), (180, 50), (170, 120), (50, 110)])), 0)[0]) == 0
