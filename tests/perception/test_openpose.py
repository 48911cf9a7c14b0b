"""The order of 134 points, against the table of specs/fcvg.md 3.3."""

import numpy as np
import pytest

from stages.perception.openpose import (
    BODY,
    COCO,
    COLORS,
    FACE,
    FEET,
    HAND_EDGES,
    LEFT_HAND,
    LIMBS,
    NECK,
    RIGHT_HAND,
    from_wholebody,
    nobody,
)

# OpenPose's number, and that of COCO-WholeBody with the neck inserted as 17: what is assigned at once.
TARGETS = [1, 2, 3, 4, 6, 7, 8, 9, 10, 12, 13, 14, 15, 16, 17]
SOURCES = [17, 6, 8, 10, 7, 9, 12, 14, 16, 13, 15, 2, 1, 4, 3]
COCO_NAMES = "nose leye reye lear rear lsho rsho lelb relb lwri rwri lhip rhip lkne rkne lank rank"
OPENPOSE_NAMES = "nose neck rsho relb rwri lsho lelb lwri rhip rkne rank lhip lkne lank reye leye rear lear"


def test_every_point_goes_where_the_table_says() -> None:
    rng = np.random.default_rng(0)
    keypoints, scores = rng.uniform(0, 500, (3, 133, 2)), rng.uniform(0.4, 1, (3, 133))
    expected = np.insert(keypoints, 17, (keypoints[:, 5] + keypoints[:, 6]) / 2, axis=1)
    expected_scores = np.insert(scores, 17, 1.0, axis=1)
    expected[:, TARGETS], expected_scores[:, TARGETS] = expected[:, SOURCES], expected_scores[:, SOURCES]
    people = from_wholebody(keypoints, scores)
    np.testing.assert_allclose(people.keypoints, expected, rtol=1e-6)
    np.testing.assert_allclose(people.scores, expected_scores, rtol=1e-6)
    assert people.keypoints.dtype == people.scores.dtype == np.float32


def test_names_meet() -> None:
    names = OPENPOSE_NAMES.split()
    assert [names[place] for place in COCO] == COCO_NAMES.split()
    drawn = {frozenset((names[a], names[b])) for a, b in LIMBS}
    for limb in ("neck rsho", "rsho relb", "relb rwri", "neck lhip", "lkne lank", "nose leye", "leye lear", "neck nose"):
        assert frozenset(limb.split()) in drawn


def test_parts_follow_each_other() -> None:
    keypoints = np.arange(133, dtype=np.float64)[None, :, None].repeat(2, axis=2)
    [found] = from_wholebody(keypoints, np.ones((1, 133))).keypoints[..., 0]
    for part, first, count in ((FEET, 17, 6), (FACE, 23, 68), (LEFT_HAND, 91, 21), (RIGHT_HAND, 112, 21)):
        assert found[part].tolist() == list(range(first, first + count))
    assert len(found[BODY]) == 18


@pytest.mark.parametrize(("left", "right", "neck"), [(0.31, 0.9, 1.0), (0.3, 0.9, 0.0), (0.9, 0.1, 0.0), (0.31, 0.31, 1.0)])
def test_the_neck_is_there_where_both_shoulders_are(left: float, right: float, neck: float) -> None:
    scores = np.full((1, 133), 0.5)
    scores[0, [5, 6]] = left, right
    assert from_wholebody(np.zeros((1, 133, 2)), scores).scores[0, NECK] == neck


def test_what_is_drawn_is_what_dwpose_draws() -> None:
    """Specs 3.4, counted from 1 there."""
    listed = "2-3,2-6,3-4,4-5,6-7,7-8,2-9,9-10,10-11,2-12,12-13,13-14,2-1,1-15,15-17,1-16,16-18"
    assert [f"{a + 1}-{b + 1}" for a, b in LIMBS] == listed.split(",")
    assert len(COLORS) == 18 and len(set(COLORS)) == 18 and COLORS[9] == (0, 255, 255)
    chains = [list(range(first, first + 4)) for first in (1, 5, 9, 13, 17)]
    assert set(HAND_EDGES) == {edge for chain in chains for edge in zip([0, *chain], chain, strict=False)}


def test_nobody_and_wrong_shapes() -> None:
    assert nobody().keypoints.shape == from_wholebody(np.zeros((0, 133, 2)), np.zeros((0, 133))).keypoints.shape == (0, 134, 2)
    with pytest.raises(ValueError, match="133"):
        from_wholebody(np.zeros((1, 17, 2)), np.zeros((1, 17)))
