from fractions import Fraction

import numpy as np
import pytest

from pipeline.studio.layouts.published import frame_rate, place
from pipeline.studio.trajectories import CENTRE, arc, dolly, handheld, hemisphere, hold, interpolate, orbit, walk
from pipeline.studio.worlds import RoomSize
from schemas.camera import check_poses, look_at, relative_to


def angle_deg(a, b):
    return np.degrees(np.arccos(np.clip((np.trace(a[:3, :3].T @ b[:3, :3]) - 1) / 2, -1, 1)))


def offsets(c2w):
    return c2w[:, :3, 3] - np.array(CENTRE)


@pytest.mark.parametrize("make", [hemisphere, arc])
def test_static_sets_look_at_the_centre_from_the_stated_distances(make):
    c2w = make(np.random.default_rng(0), 10)
    check_poses(c2w)
    away = offsets(c2w)
    distance = np.linalg.norm(away, axis=1)
    elevation = np.degrees(np.arcsin(away[:, 2] / distance))
    assert ((distance >= 3.5) & (distance <= 9) & (elevation >= 0) & (elevation <= 45)).all()
    assert np.abs(c2w[:, :3, 2] + away / distance[:, None]).max() < 1e-9


def test_moving_cameras_move_as_named():
    rng = np.random.default_rng(1)
    around, towards = orbit(rng, 30), dolly(rng, 30)
    assert np.ptp(np.linalg.norm(offsets(around), axis=1)) < 1e-9 and angle_deg(around[0], around[-1]) > 40
    assert np.linalg.norm(offsets(towards), axis=1)[[0, -1]] == pytest.approx([6.5, 3.6]) and angle_deg(towards[0], towards[-1]) < 1e-4
    shaken = handheld(rng, hold(around[0], 30), 24.0, 1.0, 0.02)
    check_poses(shaken)
    assert 0 < max(angle_deg(shaken[0], pose) for pose in shaken) < 4
    assert 0 < np.ptp(shaken[:, :3, 3], axis=0).max() < 0.09


def test_a_walk_stays_in_the_free_middle_of_its_room_and_turns_further_the_longer_it_takes():
    size = RoomSize((-3.2, 3.2), (-2.6, 2.6))
    for seed in range(8):
        c2w = walk(np.random.default_rng(seed), 132, 30.0, size)
        check_poses(c2w)
        assert (np.abs(c2w[:, :2, 3]) < (3.2 - 0.7, 2.6 - 0.7)).all()
        near, far = angle_deg(c2w[0], c2w[30]), angle_deg(c2w[0], c2w[131])
        assert far > near + 20


def test_interpolation_keeps_the_given_poses_and_halves_the_turn_between_them():
    start, end = look_at((0, 0, 1), (1, 0, 1)), look_at((2, 0, 1), (2, 1, 1))
    found = interpolate([0.0, 1.0], np.stack([start, end]), [0.0, 0.5, 1.0, 7.0])
    assert np.abs(found[[0, 2, 3]] - np.stack([start, end, end])).max() < 1e-9
    assert angle_deg(start, found[1]) == pytest.approx(45) and angle_deg(found[1], end) == pytest.approx(45)
    assert found[1, :3, 3] == pytest.approx([1, 0, 1])


def test_placing_a_path_scales_and_turns_it_as_a_whole():
    rng = np.random.default_rng(3)
    size = RoomSize((-3.2, 3.2), (-2.6, 2.6))
    metric = walk(rng, 50, 30.0, size)
    turn = np.eye(4)
    turn[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn[:3, :3] *= np.sign(np.linalg.det(turn[:3, :3]))
    arbitrary = turn @ metric
    arbitrary[:, :3, 3] = arbitrary[:, :3, 3] * 0.13 + (40.0, -7.0, 3.0)
    placed, room_size = place(arbitrary)
    before, after = relative_to(arbitrary, arbitrary[0]), relative_to(placed, placed[0])
    assert np.abs(before[:, :3, :3] - after[:, :3, :3]).max() < 1e-9
    scale = np.linalg.norm(after[-1, :3, 3]) / np.linalg.norm(before[-1, :3, 3])
    assert np.abs(before[:, :3, 3] * scale - after[:, :3, 3]).max() < 1e-9
    assert (-placed[:, 2, 1] > 0.9).all()  # upright: the image's down is the world's down
    (x0, x1), (y0, y1) = room_size.x, room_size.y
    assert ((placed[:, :3, 3] > (x0 + 2, y0 + 2, 0.5)) & (placed[:, :3, 3] < (x1 - 2, y1 - 2, room_size.height - 0.5))).all()


@pytest.mark.parametrize("rate", [Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(60)])
def test_the_frame_rate_follows_from_the_times(rate):
    numbers = np.cumsum([4756, 8, 8, 9, 8, 9, 8, 8, 9, 8, 8, 8, 9, 8, 9])
    assert frame_rate(np.array([round(1_000_000 * int(n) / rate) for n in numbers])) == rate
