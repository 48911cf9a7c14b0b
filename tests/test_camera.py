"""Camera conventions against cameras written down by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.camera import (
    CameraTrack,
    check_poses,
    from_opengl,
    from_unreal,
    from_w2c,
    intrinsics,
    look_at,
    relative_to,
    to_unreal,
)
from schemas.verdict import CandidateError, Reason

numbers = st.floats(-50, 50, allow_nan=False)
triples = st.tuples(numbers, numbers, numbers)


@st.composite
def poses(draw: st.DrawFn) -> np.ndarray:
    """Any rigid pose: a unit quaternion and a position."""
    q = np.array(draw(st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: sum(x * x for x in q) > 0.1)))
    w, x, y, z = q / np.linalg.norm(q)
    c2w = np.eye(4)
    c2w[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    c2w[:3, 3] = draw(triples)
    return c2w


def project(K: np.ndarray, c2w: np.ndarray, point: np.ndarray) -> np.ndarray:
    x = K @ (np.linalg.inv(c2w) @ [*point, 1.0])[:3]
    return x[:2] / x[2]


def track(c2w: np.ndarray, width: int = 640, height: int = 480) -> CameraTrack:
    return CameraTrack(
        np.atleast_3d(c2w).reshape(-1, 4, 4), intrinsics(500, 510, 310, 250, len(c2w.reshape(-1, 4, 4))), width, height, "metres"
    )


def test_look_at_puts_target_in_the_middle_with_up_upward_and_right_to_the_right() -> None:
    c2w = look_at((0, -5, 1), (0, 0, 1))  # standing south of the target, looking north
    K = intrinsics(100, 100, 50, 50)[0]
    assert project(K, c2w, np.array([0, 0, 1])) == pytest.approx([50, 50])
    assert project(K, c2w, np.array([0, 0, 2])) == pytest.approx([50, 30])  # higher up: smaller y
    assert project(K, c2w, np.array([1, 0, 1])) == pytest.approx([70, 50])  # east: to the right


def test_unreal_camera_written_by_hand() -> None:
    # At x = 4 m, 1 m up, looking back along -x; Unreal's right is then -y (left-handed: x forward, y right, z up, turned).
    matrix = [[-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 1, 0], [400, 0, 100, 1]]
    c2w = from_unreal(matrix)
    K = intrinsics(100, 100, 50, 50)[0]
    check_poses(c2w[None])
    assert c2w[:3, 3] == pytest.approx([4, 0, 1])
    assert project(K, c2w, np.array([0, 0, 1])) == pytest.approx([50, 50])
    assert project(K, c2w, np.array([0, 0, 2])) == pytest.approx([50, 25])
    # A point on Unreal's y = -1 m side lies to this camera's right; our world has y mirrored.
    assert project(K, c2w, np.array([0, 1, 1])) == pytest.approx([75, 50])


@settings(max_examples=50, deadline=None)
@given(poses(), poses())
def test_unreal_round_trip_and_relative_poses(a: np.ndarray, b: np.ndarray) -> None:
    assert from_unreal(to_unreal(a)) == pytest.approx(a, abs=1e-9)
    ours = relative_to(from_unreal(to_unreal(a)), from_unreal(to_unreal(b)))
    # The released code's own way (spec 1.4): columns right, -up, forward of the left-handed world, no mirroring.
    theirs = [np.stack([A[:, 1], -A[:, 2], A[:, 0], A[:, 3] * [0.01, 0.01, 0.01, 1]], 1) for A in (to_unreal(a).T, to_unreal(b).T)]
    assert np.linalg.det(theirs[0][:3, :3]) == pytest.approx(-1)
    assert ours == pytest.approx(np.linalg.inv(theirs[1]) @ theirs[0], abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(poses())
def test_w2c_and_opengl_round_trips(c2w: np.ndarray) -> None:
    w2c = np.linalg.inv(c2w)
    assert from_w2c(w2c) == pytest.approx(c2w, abs=1e-9)
    assert from_w2c(w2c[:3]) == pytest.approx(c2w, abs=1e-9)
    assert from_opengl(from_opengl(c2w)) == pytest.approx(c2w)
    assert np.linalg.det(from_opengl(c2w)[:3, :3]) == pytest.approx(1)


def test_opengl_camera_looks_along_its_minus_z() -> None:
    c2w = from_opengl(np.eye(4))  # an OpenGL camera at the origin sees what lies at negative z, with y up
    K = intrinsics(100, 100, 50, 50)[0]
    assert project(K, c2w, np.array([1, 2, -10])) == pytest.approx([60, 30])


@settings(max_examples=50, deadline=None)
@given(poses(), poses(), poses())
def test_relative_poses_do_not_change_with_the_world(a: np.ndarray, b: np.ndarray, world: np.ndarray) -> None:
    assert relative_to(world @ a, world @ b) == pytest.approx(relative_to(a, b), abs=1e-6)
    assert relative_to(a, a) == pytest.approx(np.eye(4), abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), st.floats(-100, 200), st.floats(-100, 200))
def test_scaling_and_cropping_move_projected_points_as_they_move_pixels(spot: tuple[float, float], left: float, top: float) -> None:
    c2w = look_at((3, 2, 1), (0, 0, 0))
    point = (c2w @ [*spot, 4.0, 1.0])[:3]
    before = track(c2w)
    x, y = project(before.K[0], c2w, point)
    small = before.scaled(320, 120)
    assert project(small.K[0], c2w, point) == pytest.approx([x / 2, y / 4])
    cut = before.cropped(left, top, 100, 90)
    assert project(cut.K[0], c2w, point) == pytest.approx([x - left, y - top])
    assert (cut.width, cut.height, small.width, small.height) == (100, 90, 320, 120)
    assert before.K[0, 0, 2] == 310  # unchanged


def test_at_picks_poses_with_their_intrinsics() -> None:
    many = np.stack([look_at((i + 1.0, 0, 0), (0, 0, 0)) for i in range(4)])
    chosen = track(many).at([3, 0])
    assert chosen.c2w[:, 0, 3] == pytest.approx([4, 1])
    assert len(chosen) == len(chosen.K) == 2


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda m: m.__setitem__((1, 0, 3), np.nan), "NaN"),
        (lambda m: m.__setitem__((1, 2, 2), np.inf), "NaN or infinity"),
        (lambda m: m.__setitem__((1, slice(0, 3), 0), -m[1, :3, 0]), "det -1"),
        (lambda m: m.__setitem__((1, slice(0, 3), slice(0, 3)), 1.01 * m[1, :3, :3]), "not a rotation"),
        (lambda m: m.__setitem__((1, slice(0, 3), slice(0, 3)), 0), "not a rotation"),
        (lambda m: m.__setitem__((1, 3, 0), 0.5), "last row"),
    ],
)
def test_what_is_no_pose_is_named(spoil, said: str) -> None:
    c2w = np.stack([look_at((3, 2, 1), (0, 0, 0))] * 2)
    spoil(c2w)
    with pytest.raises(CandidateError, match=said) as caught:
        track(c2w)
    assert caught.value.reason is Reason.E_CAMERA
    if "last row" not in said:
        assert "pose 1" in caught.value.message


def test_published_rounding_is_accepted() -> None:
    rounded = np.round(look_at((3, 2, 1), (0, 0, 0)), 4)
    assert track(rounded).c2w[0] == pytest.approx(rounded)


@pytest.mark.parametrize(("fx", "width"), [(0.0, 640), (-5.0, 640), (float("nan"), 640), (500.0, 0)])
def test_what_is_no_camera_is_refused(fx: float, width: int) -> None:
    with pytest.raises(CandidateError) as caught:
        CameraTrack(np.eye(4)[None], intrinsics(fx, 500, 1, 1), width, 480, "metres")
    assert caught.value.reason is Reason.E_CAMERA


def test_singular_w2c_becomes_a_camera_error_not_a_crash() -> None:
    with pytest.raises(CandidateError) as caught:
        check_poses(from_w2c(np.zeros((2, 3, 4))))
    assert caught.value.reason is Reason.E_CAMERA


def test_no_pose_at_all_is_refused() -> None:
    with pytest.raises(CandidateError, match="at least one"):
        check_poses(np.zeros((0, 4, 4)))
