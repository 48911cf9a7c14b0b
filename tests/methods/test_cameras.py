"""Camera vectors against the published geometry, rays against points projected by hand."""

import numpy as np
import pytest

from pipeline.bases.base import BaseSpec
from pipeline.methods.syncammaster.cameras import camera_rays, camera_tensor, camera_vectors
from pipeline.methods.syncammaster.config import ViewConfig
from schemas.camera import from_unreal, intrinsics, look_at

SPEC = BaseSpec("test", "cogvideox", spatial=8, temporal=4, channels=16, patch=(1, 2, 2), dim=32, text_tokens=8, text_dim=16)


def hemisphere(azimuth: float, elevation: float, distance: float, centre: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
    """[4,4] Unreal matrix (rows forward, right, up, position; cm) of a camera on the dataset's hemisphere, looking at the centre."""
    a, e = np.radians([azimuth, elevation])
    outward = np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
    right = np.array([np.sin(a), -np.cos(a), 0.0])
    up = np.array([-np.sin(e) * np.cos(a), -np.sin(e) * np.sin(a), np.cos(e)])
    M = np.eye(4)
    M[:3, :3] = [-outward, right, up]
    M[3, :3] = np.asarray(centre) + 100 * distance * outward
    return M


def rig(*cameras: np.ndarray) -> np.ndarray:
    """Unreal matrices to [V,1,4,4] of ours."""
    return from_unreal(np.stack(cameras))[:, None]


def moving(seed: int = 0, views: int = 3, frames: int = 9) -> np.ndarray:
    """[V,F,4,4] cameras that all move."""
    rng = np.random.default_rng(seed)
    eyes = rng.normal(size=(views, frames, 3)) * 2 + [0, -6, 2]
    return np.stack([[look_at(eye, (0, 0, 1)) for eye in view] for view in eyes])


def test_the_helper_is_the_published_fragment() -> None:
    fragment = [[-0.984807753, -0.173648178, 0, 0], [0.173648178, -0.984807753, 0, 0], [0, 0, 1, 0], [393.923101, 69.459271, 0, 1]]
    np.testing.assert_allclose(hemisphere(10, 0, 4), fragment, atol=1e-6)


def test_golden_vector_of_the_validation_cameras_in_units_of_two_metres() -> None:
    vectors = camera_vectors(rig(hemisphere(30, 15, 4), hemisphere(10, 15, 4)), [0], translation="two_metres", metric=True)
    assert vectors.shape == (2, 1, 12) and vectors.dtype == np.float32
    golden = [0.939693, 0.088521, -0.330366, 0.660732, -0.088521, 0.995960, 0.015077, -0.030154, 0.330366, 0.015077, 0.943732, 0.112535]
    np.testing.assert_allclose(vectors[1, 0], golden, atol=1e-6)


def test_golden_vectors_of_the_second_dataset() -> None:
    centre = (13220.0, 1100.0, -570.0)

    def relative(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
        return camera_vectors(rig(reference, other), [0], translation="two_metres", metric=True)[1, 0].reshape(3, 4)

    cam01 = np.array([[0.866025, -0.5, 0, 0], [0.5, 0.866025, 0, 0], [0, 0, 1, 0], [12960.2, 1250, -570, 1]])
    cam03 = hemisphere(180, 0, 3, centre)
    golden = [[0.86603, 0, 0.5, -0.75002], [0, 1, 0, 0], [-0.5, 0, 0.86603, 0.2009]]
    np.testing.assert_allclose(relative(cam01, cam03), golden, atol=5e-5)  # the published position has one decimal (cm)
    # Its elevation cameras rise straight up at a constant horizontal distance of 3 m.
    risen = relative(cam03, hemisphere(180, 20, 3 / np.cos(np.radians(20)), centre))
    np.testing.assert_allclose(risen[:, 3], [0, -0.54595, 0], atol=1e-4)
    assert np.degrees(np.arccos((np.trace(risen[:, :3]) - 1) / 2)) == pytest.approx(20, abs=1e-3)
    farther = relative(hemisphere(180, 0, 4, centre), hemisphere(180, 0, 5, centre))
    np.testing.assert_allclose(farther, [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, -0.5]], atol=1e-6)


def test_view_0_is_the_identity_and_each_frame_is_relative_to_its_own_view_0() -> None:
    c2w = moving()
    vectors = camera_vectors(c2w, [0, 4, 8], translation="metres", metric=True)
    assert (vectors[0] == np.eye(4)[:3].reshape(12)).all()
    alone = camera_vectors(c2w[:, 4:5], [0], translation="metres", metric=True)
    np.testing.assert_array_equal(vectors[:, 1], alone[:, 0])


@pytest.mark.parametrize("translation", ["two_metres", "metres", "normalised"])
def test_moving_the_world_changes_nothing(translation) -> None:
    c2w = moving()
    motion = look_at((3, 4, 5), (-1, 2, 0))
    before = camera_vectors(c2w, [0, 8], translation=translation, metric=True)
    np.testing.assert_allclose(camera_vectors(motion @ c2w, [0, 8], translation=translation, metric=True), before, atol=1e-6)


def test_units_of_translation() -> None:
    c2w = moving()
    t = {unit: camera_vectors(c2w, [0, 4], translation=unit, metric=True)[..., 3::4] for unit in ("metres", "two_metres", "normalised")}
    np.testing.assert_allclose(t["metres"], 2 * t["two_metres"], rtol=1e-6)
    first = np.linalg.norm(c2w[:, 0, :3, 3] - c2w[0, 0, :3, 3], axis=-1).max()
    np.testing.assert_allclose(t["normalised"] * first, t["metres"], atol=1e-5)
    assert np.linalg.norm(t["normalised"][:, 0], axis=-1).max() == pytest.approx(1)
    # A scene of arbitrary scale stays as it is, and normalised it does not depend on that scale.
    arbitrary = camera_vectors(c2w, [0, 4], translation="two_metres", metric=False)[..., 3::4]
    np.testing.assert_array_equal(arbitrary, t["metres"])
    larger = c2w.copy()
    larger[..., :3, 3] *= 17
    np.testing.assert_allclose(
        camera_vectors(larger, [0, 4], translation="normalised", metric=False)[..., 3::4], t["normalised"], atol=1e-6
    )


def test_coinciding_cameras_are_not_blown_up() -> None:
    c2w = np.tile(look_at((1, 2, 3), (0, 0, 0)), (2, 1, 1, 1))
    c2w[1, :, :3, 3] += 1e-12
    vectors = camera_vectors(c2w, [0], translation="normalised", metric=True)
    np.testing.assert_allclose(vectors[1, 0], np.eye(4)[:3].reshape(12), atol=1e-6)


def test_rays_pass_through_the_points_that_project_to_token_centres() -> None:
    size, grid, frames = (48, 80), (3, 5), [0, 4]
    c2w = moving()
    K = np.tile(intrinsics(70, 66, 41, 23)[0], (3, 9, 1, 1))
    rays = camera_rays(c2w, K, size, grid, frames, translation="two_metres", metric=True)
    assert rays.shape == (3, 2, 15, 6) and rays.dtype == np.float32
    for view, place, row, column, depth in [(0, 0, 0, 0, 1.0), (1, 1, 2, 4, 3.0), (2, 0, 1, 3, 0.5), (2, 1, 0, 4, 7.0)]:
        frame = frames[place]
        x, y = (column + 0.5) * 80 / 5, (row + 0.5) * 48 / 3
        point = c2w[view, frame] @ [depth * (x - 41) / 70, depth * (y - 23) / 66, depth, 1]  # by hand, in the world
        p = (np.linalg.inv(c2w[0, frame]) @ point)[:3] / 2
        d, moment = np.split(rays[view, place, row * 5 + column].astype(float), 2)
        assert np.linalg.norm(d) == pytest.approx(1, abs=1e-6)
        np.testing.assert_allclose(np.cross(p, d), moment, atol=1e-5)  # the point lies on the line


def test_rays_do_not_change_when_the_picture_is_resized() -> None:
    c2w, K = moving(), np.tile(intrinsics(70, 66, 41, 23)[0], (3, 9, 1, 1))
    small = camera_rays(c2w, K, (48, 80), (3, 5), [0], translation="metres", metric=True)
    doubled = camera_rays(c2w, np.diag([2, 2, 1]) @ K, (96, 160), (3, 5), [0], translation="metres", metric=True)
    np.testing.assert_allclose(doubled, small, atol=1e-6)


def test_a_batch() -> None:
    c2w = np.stack([moving(1), moving(2)])
    K = np.tile(intrinsics(40, 40, 16, 16)[0], (2, 3, 9, 1, 1))
    vectors = camera_tensor(c2w, K, [True, False], SPEC, ViewConfig(), (32, 48))
    assert vectors.shape == (2, 3, 3, 12)
    np.testing.assert_array_equal(vectors[1], camera_vectors(c2w[1], [0, 4, 8], translation="two_metres", metric=False))
    rays = camera_tensor(c2w, K, [True, True], SPEC, ViewConfig(camera="plucker"), (32, 48))
    assert rays.shape == (2, 3, 3, 2 * 3, 6)


def test_samples_without_cameras_are_told_the_identity() -> None:
    vectors = camera_tensor(None, None, [False] * 2, SPEC, ViewConfig(), (32, 48), shape=(1, 9))
    assert vectors.shape == (2, 1, 3, 12) and (vectors.numpy() == np.eye(4)[:3].reshape(12)).all()
    rays = camera_tensor(None, None, [False] * 2, SPEC, ViewConfig(camera="plucker"), (32, 48), shape=(1, 9))
    assert rays.shape == (2, 1, 3, 6, 6) and (rays[..., 3:] == 0).all()


def test_bad_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"4k\+1 frames, got 8"):
        camera_tensor(np.stack([moving(frames=8)]), None, [True], SPEC, ViewConfig(), (32, 48))
    with pytest.raises(ValueError, match="needs the intrinsics"):
        camera_tensor(np.stack([moving()]), None, [True], SPEC, ViewConfig(camera="plucker"), (32, 48))
    with pytest.raises(ValueError, match=r"must be \[views,frames,4,4\]"):
        camera_vectors(np.eye(4)[None], [0], translation="metres", metric=True)
    with pytest.raises(ValueError, match="allowed: 0 to 8"):
        camera_vectors(moving(), [0, 9], translation="metres", metric=True)
