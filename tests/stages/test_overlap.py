"""Overlap against brute force along rays, against paper configurations, and against the studio's depth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.studio.render import render
from pipeline.studio.worlds import room
from schemas.camera import intrinsics, look_at
from stages.geometry.overlap import one_way_overlap, pixel_grid, two_way_overlap
from stages.geometry.pairs import pair_angles, scene_centre

SIZE = (640, 360)
K90 = intrinsics(320, 320, 320, 180)  # 90 degrees across
GRID = (32, 18)


def turned_about_y(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    c2w = np.eye(4)
    c2w[:3, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
    return c2w


def brute_force(c2w_a: np.ndarray, K_a: np.ndarray, c2w_b: np.ndarray, K_b: np.ndarray, near: float, far: float) -> float:
    """Step along every ray of A in 4,000 steps (even in log depth) and ask whether any point projects into B's image."""
    uv = pixel_grid(GRID, SIZE)
    rays = np.concatenate([uv, np.ones((len(uv), 1))], axis=1) @ np.linalg.inv(K_a).T
    w2c_b = np.linalg.inv(c2w_b)
    hit = np.zeros(len(uv), bool)
    for s in np.geomspace(max(near, 1e-4), min(far, 1e5), 4000):
        world = (s * rays) @ c2w_a[:3, :3].T + c2w_a[:3, 3]
        camera = world @ w2c_b[:3, :3].T + w2c_b[:3, 3]
        pixel = camera @ K_b.T
        with np.errstate(divide="ignore", invalid="ignore"):
            u, v = pixel[:, 0] / pixel[:, 2], pixel[:, 1] / pixel[:, 2]
        hit |= (camera[:, 2] > 0) & (u >= 0) & (u <= SIZE[0]) & (v >= 0) & (v <= SIZE[1])
    return float(hit.mean())


def random_pair(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    poses = [look_at(rng.normal(size=3) * 2, rng.normal(size=3) * 2) for _ in range(2)]
    focal = rng.uniform(250, 900, size=2)
    return poses[0][None], intrinsics(focal[0], focal[0], 320, 180), poses[1][None], intrinsics(focal[1], focal[1], 300, 200)


@pytest.mark.parametrize("near, far", [(0.0, np.inf), (0.5, 4.0), (2.0, np.inf)])
@pytest.mark.parametrize("seed", range(8))
def test_equals_brute_force_along_rays(seed: int, near: float, far: float) -> None:
    a, K_a, b, K_b = random_pair(seed)
    exact = one_way_overlap(a, K_a, SIZE, b, K_b, SIZE, near=near, far=far)[0]
    stepped = brute_force(a[0], K_a[0], b[0], K_b[0], near, far)
    assert exact == pytest.approx(stepped, abs=4 / (GRID[0] * GRID[1]))  # rays that only touch a border may differ
    assert exact >= stepped - 1e-12  # stepping can miss a crossing, never invent one


def test_a_camera_overlaps_itself_fully_and_its_back_not_at_all() -> None:
    for position in (0.0, 1.0, 1e4):  # far from the origin, equal places differ by rounding
        c2w = turned_about_y(33.3)[None]
        c2w[0, :3, 3] = position
        back = turned_about_y(213.3)[None]
        back[0, :3, 3] = position * (1 + 1e-14)
        assert two_way_overlap(c2w, K90, SIZE, c2w, K90, SIZE)[0] == 1.0
        assert two_way_overlap(c2w, K90, SIZE, back, K90, SIZE)[0] == 0.0


@pytest.mark.parametrize("degrees", [5.0, 20.0, 45.0, 60.0, 89.0, 91.0, 150.0, 180.0])
def test_rotation_on_the_spot_in_closed_form(degrees: float) -> None:
    """A ray at angle x off the axis crosses B if x lies in B's span. One row of pixels, so only the angle about y counts."""
    grid = (2000, 1)
    a, b = np.eye(4)[None], turned_about_y(degrees)[None]
    # A's pixels look from -45 to 45 degrees; B covers [degrees - 45, degrees + 45]; pixel position goes by the tangent.
    low = np.tan(np.radians(max(degrees - 45, -45)))
    expected = (1 - low) / 2 if degrees < 90 else 0.0
    assert one_way_overlap(a, K90, SIZE, b, K90, SIZE, grid=grid)[0] == pytest.approx(expected, abs=1e-3)
    assert two_way_overlap(a, K90, SIZE, b, K90, SIZE, grid=grid)[0] == pytest.approx(expected, abs=1e-3)


def test_half_a_field_of_view_to_the_side() -> None:
    """At depth d a camera moved aside by d sees half of a 90-degree image whose content all lies at d."""
    a, b = np.eye(4)[None], np.eye(4)[None]
    b[0, 0, 3] = 3.0
    assert one_way_overlap(a, K90, SIZE, b, K90, SIZE, near=3.0, far=3.0)[0] == pytest.approx(0.5)
    assert one_way_overlap(a, K90, SIZE, b, K90, SIZE, near=6.0, far=6.0)[0] == pytest.approx(0.75)
    assert one_way_overlap(a, K90, SIZE, b, K90, SIZE, near=1.0, far=1.0)[0] == 0.0
    depth = np.full((1, 18, 32), 3.0)
    depth[0, :, 16:] = 1.0  # the half that B sees at 3 m is too near
    assert one_way_overlap(a, K90, SIZE, b, K90, SIZE, depth=depth)[0] == 0.0


def test_cameras_that_face_each_other_overlap_by_the_definition_and_not_by_depth() -> None:
    a, b = look_at((0, -3.0, 0), (0, 0, 0))[None], look_at((0, 3.0, 0), (0, 0, 0))[None]
    assert two_way_overlap(a, K90, SIZE, b, K90, SIZE)[0] == 1.0
    # A plane at depth 5 is 1 m before B: A sees 10 x 5.625 m of it, B 2 x 1.125 m.
    assert two_way_overlap(a, K90, SIZE, b, K90, SIZE, near=5.0, far=5.0, grid=(1000, 1000))[0] == pytest.approx(0.2 * 0.2, abs=1e-3)


def test_depth_that_is_infinite_or_unknown() -> None:
    a, b = np.eye(4)[None], np.eye(4)[None]
    b[0, 0, 3] = 1000.0
    assert one_way_overlap(a, K90, SIZE, b, K90, SIZE, depth=np.full((1, 18, 32), np.inf))[0] == pytest.approx(1.0)
    assert one_way_overlap(a, K90, SIZE, b, K90, SIZE, depth=np.full((1, 18, 32), 10.0))[0] == 0.0
    whole = one_way_overlap(a, K90, SIZE, b, K90, SIZE)[0]
    for unknown in (np.nan, 0.0, -1.0):
        assert one_way_overlap(a, K90, SIZE, b, K90, SIZE, depth=np.full((1, 18, 32), unknown))[0] == whole > 0.9


def test_images_of_different_size_and_crop() -> None:
    """B has the same lens but shows only the left quarter of A's picture."""
    a = np.eye(4)[None]
    small = intrinsics(160, 160, 160, 90)  # half the pixels
    assert one_way_overlap(a, K90, SIZE, a, small, (80, 180))[0] == pytest.approx(0.25)
    assert one_way_overlap(a, small, (80, 180), a, K90, SIZE)[0] == 1.0
    assert two_way_overlap(a, K90, SIZE, a, small, (80, 180))[0] == pytest.approx(0.25)


poses = st.tuples(*[st.floats(-3, 3)] * 6).filter(lambda p: np.linalg.norm(np.cross(np.subtract(p[3:], p[:3]), (0, 0, 1.0))) > 1e-3)


@settings(max_examples=60, deadline=None)
@given(poses, poses, st.floats(0.1, 2.0), st.floats(2.1, 50.0))
def test_two_ways_are_symmetric_and_longer_rays_see_more(p: tuple[float, ...], q: tuple[float, ...], near: float, far: float) -> None:
    a, b = look_at(p[:3], p[3:])[None], look_at(q[:3], q[3:])[None]
    whole = two_way_overlap(a, K90, SIZE, b, K90, SIZE)[0]
    assert 0 <= whole <= 1
    assert whole == two_way_overlap(b, K90, SIZE, a, K90, SIZE)[0]
    assert two_way_overlap(a, K90, SIZE, b, K90, SIZE, near=near, far=far)[0] <= whole
    moved = np.array(look_at((5.0, -7.0, 2.0), (1.0, 1.0, 1.0)))
    assert two_way_overlap(moved @ a, K90, SIZE, moved @ b, K90, SIZE)[0] == pytest.approx(whole, abs=2 / (GRID[0] * GRID[1]))


def test_many_pairs_agree_with_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.geometry.overlap.RAYS_AT_ONCE", 1500)
    pairs = [random_pair(seed) for seed in range(20)]
    a, K_a, b, K_b = (np.concatenate(each) for each in zip(*pairs, strict=True))
    together = two_way_overlap(a, K_a, SIZE, b, K_b, SIZE)
    assert together.tolist() == [two_way_overlap(*pair[:2], SIZE, *pair[2:], SIZE)[0] for pair in pairs]
    assert len(two_way_overlap(a[:0], K_a[:0], SIZE, b[:0], K_b[:0], SIZE)) == 0


@pytest.mark.parametrize("eye", [(1.0, -1.2, 1.4), (-2.0, 0.3, 1.6), (0.4, 1.5, 1.0)])
def test_overlap_on_studio_depth_equals_casting_every_pixel(eye: tuple[float, float, float]) -> None:
    """Every pixel of a rendered room is taken to its place in the world by the studio's depth and projected into B."""
    size = (64, 36)
    K = intrinsics(40, 40, 32, 18)
    target = (3.0, 1.0, 1.2)
    a, b = look_at((-1.5, -1.0, 1.5), target), look_at(eye, target)
    depth = render(room(3), 0.0, a, K[0], size).depth.astype(np.float64)
    seen = 0
    for y in range(size[1]):
        for x in range(size[0]):
            point = a @ [*(np.linalg.inv(K[0]) @ [x + 0.5, y + 0.5, 1.0] * depth[y, x]), 1.0]
            u, v, z = K[0] @ (np.linalg.inv(b) @ point)[:3]
            seen += bool(z > 0 and 0 <= u / z <= size[0] and 0 <= v / z <= size[1])
    expected = seen / (size[0] * size[1])
    assert 0 < expected < 1
    assert one_way_overlap(a[None], K, size, b[None], K, size, depth=depth[None])[0] == pytest.approx(expected, abs=1e-12)
    # Whole rays see at least as much; rays cut to the room's own depths lie between.
    near, far = depth.min(), depth.max()
    bounded = one_way_overlap(a[None], K, size, b[None], K, size, near=near, far=far, grid=size)[0]
    whole = one_way_overlap(a[None], K, size, b[None], K, size, grid=size)[0]
    assert expected <= bounded <= whole


def test_parallax_of_cameras_in_the_studio_equals_the_triangle_of_its_depths() -> None:
    """Two cameras look at one place on a wall. Depth along both axes and the baseline form a triangle; its angle there
    is the parallax, and the place itself is the centre that the axes alone give."""
    size, K = (65, 37), intrinsics(60, 60, 32.5, 18.5)  # the middle pixel looks along the axis
    wall = (4.0, 0.5, 2.3)
    poses = np.stack([look_at((-1.0, -1.5, 1.5), wall), look_at((0.5, 1.8, 1.2), wall)])
    depth = [float(render(room(3), 0.0, pose, K[0], size).depth[18, 32]) for pose in poses]
    places = [pose[:3, 3] + z * pose[:3, 2] for pose, z in zip(poses, depth, strict=True)]
    assert places[0] == pytest.approx(places[1], abs=1e-3)
    centre = scene_centre(poses[:, None])
    assert centre == pytest.approx(places[0], abs=1e-3)
    baseline = np.linalg.norm(poses[0, :3, 3] - poses[1, :3, 3])
    by_sides = np.degrees(np.arccos((depth[0] ** 2 + depth[1] ** 2 - baseline**2) / (2 * depth[0] * depth[1])))
    angles = pair_angles(poses[:, None], np.array([0]), np.array([1]), centre=centre)
    assert angles.parallax is not None and angles.parallax[0, 0] == pytest.approx(by_sides, abs=0.05)
