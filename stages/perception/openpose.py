"""The order that all skeletons here have: OpenPose's body, then feet, face and hands, 134 points (specs/fcvg.md 3.3 and 3.4)."""

import numpy as np
from numpy.typing import NDArray

from stages.perception.results import People

WHOLEBODY = 133  # points of COCO-WholeBody: 17 body, 6 feet, 68 face, 21 left hand, 21 right hand
POINTS = 134
BODY, FEET, FACE, LEFT_HAND, RIGHT_HAND = slice(0, 18), slice(18, 24), slice(24, 92), slice(92, 113), slice(113, 134)
NECK = 1
FOUND = 0.3  # a point with at most this score counts as not found: DWPose's rule, for its neck, its drawing and its subsets

# For each of the 134: where COCO-WholeBody with the neck inserted as number 17 has it.
_SOURCE = np.arange(POINTS)
_SOURCE[:18] = [0, 17, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3]

# For each of COCO's 17 body points, its number among the 134.
COCO = (0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10)

# The 17 limbs that are drawn, in this order, and the colour (RGB) of limb i and of joint i (there are 18 joints).
LIMBS = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10)),
    *((1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17)),
)
COLORS = (
    *((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0), (0, 255, 85), (0, 255, 170)),
    *((0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85)),
)
# Within a hand of 21: the wrist is 0, then four points from the root to the tip of each finger, the thumb first.
HAND_EDGES = tuple((0 if joint % 4 == 1 else joint - 1, joint) for joint in range(1, 21))


def from_wholebody(keypoints: NDArray[np.floating], scores: NDArray[np.floating]) -> People:
    """COCO-WholeBody's keypoints [P,133,2] and scores [P,133] in OpenPose's order.

    The neck lies between the shoulders; its score is 1 where both have more than 0.3, else 0, as in DWPose.
    """
    if keypoints.shape[1:] != (WHOLEBODY, 2) or scores.shape != keypoints.shape[:2]:
        raise ValueError(f"keypoints {keypoints.shape}, scores {scores.shape}: expected [P,{WHOLEBODY},2] and [P,{WHOLEBODY}]")
    neck = keypoints[:, [5, 6]].mean(1)
    seen = (scores[:, [5, 6]] > FOUND).all(1)
    points = np.insert(keypoints, 17, neck, axis=1)[:, _SOURCE]
    values = np.insert(scores, 17, seen, axis=1)[:, _SOURCE]
    return People(points.astype(np.float32), values.astype(np.float32))


def nobody() -> People:
    """The result for an image without people."""
    return People(np.zeros((0, POINTS, 2), np.float32), np.zeros((0, POINTS), np.float32))
