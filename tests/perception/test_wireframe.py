"""Segments of drawn pictures whose edges are known, and the wiring of hand-built ones."""

import numpy as np
import pytest

from stages.perception.wireframe import aligned, clear_of_ends, detect, given, ordered, wire


def _step(width: int = 320, height: int = 240) -> np.ndarray:
    """Four fields that meet in a cross: edges at x = 120 and y = 100."""
    image = np.full((height, width, 3), 40, np.uint8)
    image[:, 120:] = 200
    image[100:, :100] = 120
    image[100:, 120:] = 90
    return image


def _grating() -> np.ndarray:
    """One strong edge beside stripes so fine that they are gone in a picture of 0.3 of the size."""
    image = np.full((240, 320, 3), 100, np.uint8)
    image[:, :60] = 220
    image[20:220, 120:300:6] = 160
    image[20:220, 121:300:6] = 160
    return image


@pytest.mark.parametrize("max_lines", [1, 2, 300])
def test_segments_lie_on_the_edges_at_every_scale(max_lines: int) -> None:
    found = detect(_step(), max_lines)
    assert 0 < len(found.lines) <= max_lines
    for line in found.lines:
        upright = abs(line[1, 1] - line[0, 1]) > abs(line[1, 0] - line[0, 0])
        edges = [100, 120] if upright else [100]  # x of the fields' sides, or y
        near = np.abs(line[:, 0 if upright else 1, None] - edges).min(1)
        assert near.max() < 0.3, line


def test_the_strongest_come_first_and_scores_are_relative() -> None:
    found = detect(_step(), 300)
    assert found.scores[0] == pytest.approx(1, abs=1e-6)
    assert (np.diff(found.scores) <= 0).all() and (found.scores > 0).all()
    assert detect(_step(), 1).scores.tolist() == pytest.approx([1])


def test_scales_grow_until_there_are_segments_enough() -> None:
    coarse, fine = detect(_grating(), 1), detect(_grating(), 300)
    assert np.allclose(coarse.lines[0, :, 0], 60, atol=0.5)
    stripes = fine.lines[(fine.lines[:, :, 0] > 110).all(1)]
    assert len(stripes) >= 20
    assert len(detect(_grating(), 5).lines) <= 5


def test_short_segments_are_dropped() -> None:
    image = np.full((200, 200, 3), 30, np.uint8)
    image[50:61, 50:61] = 220
    assert len(detect(image, 300).lines) == 0
    image[100:130, 100:130] = 220
    found = detect(image, 300).lines
    assert len(found) >= 4
    assert (np.linalg.norm(found[:, 1] - found[:, 0], axis=1) >= 15).all()


@pytest.mark.parametrize("shape", [(240, 320, 3), (5, 5, 3), (1, 400, 3), (31, 31, 3), (32, 32, 3)])
def test_nothing_to_see_gives_nothing(shape: tuple[int, ...]) -> None:
    found = detect(np.full(shape, 77, np.uint8), 300)
    assert found.lines.shape == (0, 2, 2) and found.scores.shape == (0,)


def test_the_same_picture_gives_the_same_bytes() -> None:
    noisy = np.random.default_rng(1).integers(0, 255, (120, 160, 3), dtype=np.uint8) // 8 + _step(160, 120) // 2
    first, second = detect(noisy, 50), detect(noisy, 50)
    assert first.lines.tobytes() == second.lines.tobytes() and first.scores.tobytes() == second.scores.tobytes()


def test_a_callers_segments_are_scored_by_their_length() -> None:
    lines = np.array([[[0, 0], [16, 0]], [[10, 40], [10, 4]], [[5, 5], [5, 5]]], np.float32)
    found = given(lines)
    assert found.scores == pytest.approx([4 / 6, 1, 0])
    assert given(lines, np.array([2, 1, 4], np.float32)).scores == pytest.approx([0.5, 0.25, 1])
    assert found.lines.tolist() == [[[0, 0], [16, 0]], [[10, 4], [10, 40]], [[5, 5], [5, 5]]]
    assert given(np.zeros((0, 2, 2), np.float32)).lines.shape == given(np.zeros(0, np.float32)).lines.shape == (0, 2, 2)


@pytest.mark.parametrize(
    ("lines", "scores"),
    [
        (np.zeros((3, 4), np.float32), None),
        (np.full((1, 2, 2), np.nan, np.float32), None),
        (np.zeros((2, 2, 2), np.float32), np.zeros(3, np.float32)),
        (np.zeros((1, 2, 2), np.float32), np.array([-1], np.float32)),
    ],
)
def test_what_is_no_segment_is_refused(lines: np.ndarray, scores: np.ndarray | None) -> None:
    with pytest.raises(ValueError, match="segments"):
        given(lines, scores)


def test_the_order_of_ends_does_not_depend_on_how_they_came() -> None:
    lines = np.random.default_rng(0).uniform(0, 100, (50, 2, 2)).astype(np.float32)
    lines[7, 1] = lines[7, 0] + [0, 9]
    assert (ordered(lines) == ordered(lines[:, ::-1])).all()
    assert (ordered(lines)[:, 0, 0] <= ordered(lines)[:, 1, 0]).all()


def test_ends_that_meet_become_one_junction() -> None:
    # A corner whose ends are 2 px apart, and a third segment on its own.
    lines = np.array([[[10, 10], [50, 10]], [[52, 10], [52, 60]], [[80, 5], [99, 5]]], np.float32)
    wired = wire(given(lines, np.array([1.0, 0.5, 0.2], np.float32)))
    assert wired.ends.tolist() == [[0, 1], [1, 2], [3, 4]]
    assert wired.junctions.tolist() == [[10, 10], [51, 10], [52, 60], [80, 5], [99, 5]]
    assert wired.junction_scores == pytest.approx([1, 0.75, 0.5, 0.2, 0.2])
    assert wired.lines[0].tolist() == [[10, 10], [51, 10]]
    assert wired.line_scores == pytest.approx([1, 0.5, 0.2])


@pytest.mark.parametrize(("gap", "junctions"), [(2.5, 4), (3.0, 4), (3.01, 6)])
def test_ends_link_up_to_three_pixels_and_in_chains(gap: float, junctions: int) -> None:
    # Three ends in a row, each `gap` from the next: the outer ones are further apart than that.
    x = np.array([100, 100 + gap, 100 + 2 * gap])
    lines = np.stack([np.stack([x, np.full(3, 50)], 1), [[60, 200], [120, 200], [180, 200]]], 1).astype(np.float32)
    assert len(wire(given(lines)).junctions) == junctions


def test_wiring_agrees_with_a_search_one_by_one() -> None:
    rng = np.random.default_rng(3)
    segments = given(rng.uniform(0, 60, (60, 2, 2)).astype(np.float32))
    wired = wire(segments)
    ends = segments.lines.reshape(-1, 2).astype(np.float64)
    group = np.full(len(ends), -1)
    for start in range(len(ends)):
        if group[start] < 0:
            number, todo = group.max() + 1, [start]
            while todo:
                each = todo.pop()
                if group[each] < 0:
                    group[each] = number
                    todo += np.flatnonzero(np.linalg.norm(ends - ends[each], axis=1) <= 3).tolist()
    assert wired.ends.ravel().tolist() == group.tolist()  # and numbered in the order of first sight
    assert 10 < len(wired.junctions) < len(ends)
    for number, junction in enumerate(wired.junctions):
        assert junction == pytest.approx(ends[group == number].mean(0), abs=1e-4)


def test_nothing_wired_is_nothing() -> None:
    wired = wire(given(np.zeros((0, 2, 2), np.float32)))
    assert wired.junctions.shape == (0, 2) and wired.ends.shape == (0, 2) and wired.lines.shape == (0, 2, 2)


def test_keypoints_near_an_end_go() -> None:
    segments = given(np.array([[[10, 10], [60, 10]]], np.float32))
    points = np.array([[13.99, 10], [14, 10], [35, 10], [60, 6.1], [60, 5.9]], np.float32)
    assert clear_of_ends(points, segments).tolist() == [False, True, True, False, True]
    assert clear_of_ends(points, given(np.zeros((0, 2, 2), np.float32))).all()
    assert clear_of_ends(np.zeros((0, 2), np.float32), segments).shape == (0,)


def test_ends_are_paired_the_way_that_moves_them_less() -> None:
    first = np.array([[[0, 0], [10, 0]], [[0, 0], [10, 0]], [[5, 5], [5, 5]]], np.float32)
    second = np.array([[[1, 1], [11, 1]], [[11, 1], [1, 1]], [[1, 5], [9, 5]]], np.float32)
    assert aligned(first, second).tolist() == [[[1, 1], [11, 1]], [[1, 1], [11, 1]], [[9, 5], [1, 5]]]  # the tie is turned
    empty = np.zeros((0, 2, 2), np.float32)
    assert aligned(empty, empty).shape == (0, 2, 2)
