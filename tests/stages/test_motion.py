"""Motion statistics on tracks whose truth is arithmetic: known homographies, a block that moves, outliers, lost points."""

import numpy as np
import pytest
from numpy.typing import NDArray

from schemas.camera import intrinsics, look_at
from stages.motion import apply, camera_motion, mask_motion, sampson, spread, summary

SIZE = np.array([320.0, 240.0])
DIAGONAL = 400.0
FRAMES = 9
NOISE = 0.15  # pixels, as a tracker has it

Array = NDArray[np.float64]
Tracks = tuple[Array, NDArray[np.bool_], NDArray[np.int64]]


def grid(columns: int = 16, rows: int = 12) -> Array:
    x, y = np.meshgrid((np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows)
    return np.stack([x.ravel(), y.ravel()], axis=1) * SIZE


def tracked(models: list[Array], block: Array | None = None, share: float = 0.2, seed: int = 0) -> Tracks:
    """Points under one homography a frame; those of the block (a part of the picture's width) also shift by block [T,2]. Mask 1 is
    the block, mask 2 a part as large that does not move of itself."""
    points = grid()
    label = np.where(points[:, 0] < share * SIZE[0], 1, np.where(points[:, 0] > (1 - min(share, 0.2)) * SIZE[0], 2, 0))
    xy = np.stack([apply(model, points) for model in models])
    if block is not None:
        xy[:, label == 1] += block[:, None]
    xy[1:] += np.random.default_rng(seed).normal(0, NOISE, xy[1:].shape)
    return xy, np.ones(xy.shape[:2], np.bool_), label


def shift(x: float, y: float = 0.0) -> Array:
    return np.array([[1.0, 0, x], [0, 1, y], [0, 0, 1]])


def zoomed(factor: float, turn: float = 0.0) -> Array:
    """About the picture's middle."""
    a, b = factor * np.cos(turn), factor * np.sin(turn)
    middle = SIZE / 2
    rotation = np.array([[a, -b], [b, a]])
    model = np.eye(3)
    model[:2, :2], model[:2, 2] = rotation, middle - rotation @ middle
    return model


def judged(tracks: Tracks, weight: Array | None = None) -> tuple[dict[str, float | None], Array]:
    """The scores, and the motion of the masks 1 and 2."""
    xy, visible, label = tracks
    camera = camera_motion(xy, visible, np.ones(len(label)) if weight is None else weight, DIAGONAL)
    masks = mask_motion(xy, visible, label, 2, camera.against, DIAGONAL)
    return summary(camera, masks, visible), masks.motion


STILL = [np.eye(3)] * FRAMES
RAMP = np.linspace(0, 1, FRAMES)[:, None]


def test_nothing_moves() -> None:
    scores, _ = judged(tracked(STILL))
    assert scores["camera_motion"] == pytest.approx(0, abs=5e-4)
    assert scores["foreground_motion"] == pytest.approx(0, abs=1.5e-3)
    assert scores["n_masks"] == 2 and scores["visible_fraction"] == 1


@pytest.mark.parametrize("distance", [2.0, 6.0, 30.0])
def test_a_shift_of_the_camera_is_measured(distance: float) -> None:
    """From less than what counts as agreement with a camera at rest to far beyond it."""
    scores, _ = judged(tracked([shift(distance * k / (FRAMES - 1)) for k in range(FRAMES)]))
    assert scores["camera_motion"] == pytest.approx(distance / DIAGONAL, rel=0.15)
    assert scores["foreground_motion"] == pytest.approx(0, abs=2.5e-3)


def test_a_zoom_is_camera_motion() -> None:
    """RMS over a W x H picture of (factor - 1) r is (factor - 1) sqrt((W² + H²) / 12)."""
    scores, _ = judged(tracked([zoomed(1 + 0.2 * k / (FRAMES - 1)) for k in range(FRAMES)]))
    assert scores["camera_motion"] == pytest.approx(0.2 / np.sqrt(12), rel=0.05)
    assert scores["foreground_motion"] == pytest.approx(0, abs=2.5e-3)


def test_a_shake_counts_at_its_largest() -> None:
    wave = np.sin(np.arange(FRAMES) * 2.0) * 5
    scores, _ = judged(tracked([shift(float(w), float(-w / 2)) for w in wave - wave[0]]))
    largest = np.abs(wave - wave[0]).max() * np.hypot(1, 0.5)
    assert scores["camera_motion"] == pytest.approx(largest / DIAGONAL, rel=0.1)


def test_a_block_moves_before_a_camera_at_rest() -> None:
    scores, motion = judged(tracked(STILL, RAMP * (40.0, 0.0)))
    assert scores["camera_motion"] == pytest.approx(0, abs=5e-4)
    assert motion[0] == pytest.approx(0.9 * 40 / DIAGONAL, rel=0.1), "the 0.9 quantile over the frames of a steady move"
    assert motion[1] == pytest.approx(0, abs=1.5e-3)


@pytest.mark.parametrize("share", [0.55, 0.65])
def test_a_block_over_most_of_the_picture_is_not_the_camera(share: float) -> None:
    scores, motion = judged(tracked(STILL, RAMP * (30.0, 10.0), share))
    assert scores["camera_motion"] == pytest.approx(0, abs=1e-3)
    assert motion[0] > 0.05 and motion[1] < 2e-3


def test_a_block_moves_while_the_camera_turns_and_zooms() -> None:
    models = [zoomed(1 + 0.1 * k / (FRAMES - 1), 0.05 * k / (FRAMES - 1)) for k in range(FRAMES)]
    scores, motion = judged(tracked(models, RAMP * (0.0, 25.0)))
    assert scores["camera_motion"] is not None and scores["camera_motion"] > 0.02
    assert motion[0] == pytest.approx(0.9 * 25 / DIAGONAL, rel=0.15)
    assert motion[1] < 3e-3


def test_a_quarter_of_the_points_lost_to_chance_changes_little() -> None:
    xy, visible, label = tracked([shift(10.0 * k / (FRAMES - 1)) for k in range(FRAMES)], RAMP * (0.0, 20.0))
    rng = np.random.default_rng(1)
    wild = rng.random(len(label)) < 0.25
    xy[1:, wild] = rng.uniform(0, 1, (FRAMES - 1, wild.sum(), 2)) * SIZE
    scores, motion = judged((xy, visible, label))
    assert scores["camera_motion"] == pytest.approx(10 / DIAGONAL, rel=0.05)
    assert motion[0] == pytest.approx(0.9 * 20 / DIAGONAL, rel=0.15) and motion[1] < 3e-3


def test_depth_under_a_moving_camera_is_not_foreground() -> None:
    """Points at 2 to 12 m, the camera goes half a metre to the side: no homography explains that, the epipolar geometry does."""
    rng = np.random.default_rng(2)
    points = grid()
    rays = np.concatenate([(points - SIZE / 2) / 280, np.ones((len(points), 1))], axis=1)
    world = rays * rng.uniform(2, 12, (len(points), 1))
    K = intrinsics(280, 280, 160, 120)[0]
    xy = []
    for k in range(FRAMES):
        pose = look_at((0.5 * k / (FRAMES - 1), 0.0, 0.0), (0.5 * k / (FRAMES - 1), 0.0, 6.0), up=(0.0, -1.0, 0.0))
        local = (world - pose[:3, 3]) @ pose[:3, :3] @ K.T
        xy.append(local[:, :2] / local[:, 2:])
    label = np.where(points[:, 0] < 64, 1, np.where(points[:, 0] > 256, 2, 0))
    tracks = np.stack(xy)
    tracks[1:] += rng.normal(0, NOISE, tracks[1:].shape)
    still, _ = judged((tracks, np.ones(tracks.shape[:2], np.bool_), label))
    tracks[:, label == 1] += (RAMP * (0.0, 25.0))[:, None]
    moving, motion = judged((tracks, np.ones(tracks.shape[:2], np.bool_), label))
    assert still["camera_motion"] is not None and still["camera_motion"] > 0.02
    assert still["foreground_motion"] is not None and still["foreground_motion"] < 4e-3
    assert motion[0] > 0.04 and motion[0] > 8 * motion[1]
    assert moving["foreground_motion"] == motion[0]


def test_only_what_is_visible_counts() -> None:
    xy, visible, label = tracked(STILL)
    xy[4:, label == 1] += 90.0  # where a tracker lost them
    visible[4:, label == 1] = False
    scores, motion = judged((xy, visible, label))
    assert motion[0] < 2e-3
    assert scores["visible_fraction"] == pytest.approx(visible.mean())


def test_points_without_weight_say_nothing_about_the_camera() -> None:
    """Four fifths of the picture are a blank wall on which a tracker sees no motion."""
    xy, visible, label = tracked([shift(12.0 * k / (FRAMES - 1)) for k in range(FRAMES)])
    blank = grid()[:, 1] < 0.8 * SIZE[1]
    xy[:, blank] = xy[0, blank]
    scores, _ = judged((xy, visible, label), np.where(blank, 0.0, 1.0))
    assert scores["camera_motion"] == pytest.approx(12 / DIAGONAL, rel=0.05)


@pytest.mark.parametrize("frames, points", [(0, 0), (1, 0), (1, 40), (5, 0), (5, 3)])
def test_too_little_gives_no_number(frames: int, points: int) -> None:
    xy = np.tile(grid()[:points], (frames, 1, 1)).reshape(frames, points, 2)
    label = np.ones(points, np.int64)
    scores, _ = judged((xy, np.ones((frames, points), np.bool_), label))
    assert scores["camera_motion"] is None
    assert scores["foreground_motion"] is None


def test_all_lost_after_the_first_frame() -> None:
    xy, visible, label = tracked(STILL)
    visible[1:] = False
    scores, _ = judged((xy, visible, label))
    assert scores["camera_motion"] is None and scores["foreground_motion"] is None
    assert scores["visible_fraction"] == pytest.approx(1 / FRAMES)


def test_points_far_off_or_all_in_one_place_break_nothing() -> None:
    xy, visible, label = tracked(STILL)
    xy[3:] = 1e7
    judged((xy, visible, label))
    xy[:] = 5.0
    scores, _ = judged((xy, visible, label))
    assert scores["camera_motion"] is None or np.isfinite(scores["camera_motion"])


def test_the_same_tracks_give_the_same_numbers() -> None:
    tracks = tracked([zoomed(1 + 0.02 * k) for k in range(FRAMES)], RAMP * (0.0, 25.0))
    assert judged(tracks)[0] == judged(tracks)[0]


def test_sampson_is_the_distance_from_the_epipolar_line_for_a_camera_that_goes_sideways() -> None:
    """F = [t]x for t = (1, 0, 0): lines are rows of the image, and both images share the error."""
    fundamental = np.array([[0.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    start = np.array([[10.0, 20.0], [50.0, 60.0]])
    assert sampson(fundamental, start, start + np.array([7.0, 0.0])) == pytest.approx([0, 0], abs=1e-9)
    assert sampson(fundamental, start, start + np.array([7.0, 3.0])) == pytest.approx([3 / np.sqrt(2)] * 2)


def test_points_lie_inside_their_masks_spread_and_on_what_can_be_followed() -> None:
    labels = np.zeros((60, 80), np.uint8)
    labels[20:40, 30:50] = 1
    labels[5, 5] = 2  # smaller than any margin
    response = np.zeros(labels.shape)
    response[::10, ::10] = 1.0
    xy, label, weight = spread(labels, response, {0: 40, 1: 9, 2: 9})
    at = xy.astype(int)
    assert (xy % 1 == 0.5).all() and (labels[at[:, 1], at[:, 0]] == label).all()
    assert [(label == k).sum() for k in (0, 1, 2)][1:] == [9, 1]
    assert 25 <= (label == 0).sum() <= 40
    inside = xy[label == 1]
    assert inside.min(axis=0) == pytest.approx((32.5, 22.5), abs=4) and inside.max(axis=0) == pytest.approx((47.5, 37.5), abs=4)
    assert ((inside >= (32, 22)) & (inside <= (48, 38))).all(), "off the edge of the mask"
    chosen = response[at[:, 1], at[:, 0]]
    assert chosen[label == 0].mean() > 0.6, "what can be followed is preferred"
    for k in (0, 1, 2):
        assert weight[label == k].sum() == pytest.approx((labels == k).sum())
