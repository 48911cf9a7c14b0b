"""Presets are the geometry they promise: analytic angles, the published validation cameras, the golden relative pose."""

import numpy as np
import pytest

from pipeline.viewpoints import PRESETS, Viewpoints, ViewpointsError, preset, viewpoints
from schemas.camera import from_unreal, relative_to


def made(text: str, views: int = 4, frames: int = 1, size: tuple[int, int] = (720, 480)) -> Viewpoints:
    return preset(text, views=views, frames=frames, size=size)


def centres(cameras: Viewpoints) -> np.ndarray:
    return cameras.c2w[..., :3, 3]


def rotation_deg(relative: np.ndarray) -> np.ndarray:
    return np.degrees(np.arccos(np.clip((np.trace(relative[..., :3, :3], axis1=-2, axis2=-1) - 1) / 2, -1, 1)))


def parallax_deg(cameras: Viewpoints, a: int, b: int) -> float:
    p, q = centres(cameras)[a, 0], centres(cameras)[b, 0]
    return float(np.degrees(np.arccos(p @ q / np.linalg.norm(p) / np.linalg.norm(q))))


def hemi36(metres: float, elevation: float, azimuth: float) -> np.ndarray:
    """A camera of the published validation sets as the file has it: Unreal's rows forward, right, up, position in cm."""
    az, el = np.radians(azimuth), np.radians(elevation)
    position = 100 * metres * np.array([np.cos(el) * np.cos(az), np.cos(el) * np.sin(az), np.sin(el)])
    forward = -position / np.linalg.norm(position)
    right = np.cross([0, 0, 1], forward)
    right /= np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[:, :3] = [forward, right, np.cross(forward, right), position]
    return from_unreal(matrix)


@pytest.mark.parametrize("name", PRESETS)
def test_every_camera_looks_at_the_centre_with_the_horizon_level(name):
    cameras = made(f"{name}:move=40", frames=5)
    towards = -centres(cameras) / np.linalg.norm(centres(cameras), axis=-1, keepdims=True)
    assert np.allclose(cameras.c2w[..., :3, 2], towards)
    assert np.allclose(cameras.c2w[..., 2, 0], 0)  # the picture's x axis is horizontal
    assert (cameras.c2w[..., 2, 1] < 0).all()  # its y axis points down
    assert cameras.metric and cameras.names == ("view00", "view01", "view02", "view03")


@pytest.mark.parametrize("step", [20.0, 7.5, -30.0])
def test_azimuth_steps_are_that_angle(step):
    cameras = made(f"azimuth:step={step}")
    relative = relative_to(cameras.c2w, cameras.c2w[:1])[:, 0]
    assert rotation_deg(relative) == pytest.approx(np.abs(step) * np.arange(4), abs=1e-6)
    assert np.linalg.norm(centres(cameras), axis=-1) == pytest.approx(4.0)
    assert parallax_deg(cameras, 0, 1) == pytest.approx(
        np.degrees(np.arccos(np.sin(np.radians(15)) ** 2 + np.cos(np.radians(15)) ** 2 * np.cos(np.radians(step))))
    )
    assert np.sign(relative[1, 0, 3]) == np.sign(step)  # a positive step goes to the right of view 0


def test_elevation_and_distance_are_what_they_say():
    steep = made("elevation:step=10,start=5,distance=6")
    assert np.degrees(np.arcsin(centres(steep)[:, 0, 2] / 6)) == pytest.approx([5, 15, 25, 35])
    assert parallax_deg(steep, 0, 3) == pytest.approx(30)
    far = made("distance:start=3,step=2,elevation=0")
    assert np.linalg.norm(centres(far)[:, 0], axis=-1) == pytest.approx([3, 5, 7, 9])
    assert relative_to(far.c2w, far.c2w[:1])[2, 0] == pytest.approx(np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, -4], [0, 0, 0, 1]]))


def test_arc_spreads_evenly_and_a_ring_closes():
    ends = made("arc:angle=90,elevation=0", views=4)
    assert [parallax_deg(ends, 0, k) for k in range(1, 4)] == pytest.approx([30, 60, 90])
    ring = made("arc:angle=360,elevation=0", views=4)
    assert [parallax_deg(ring, k, (k + 1) % 4) for k in range(4)] == pytest.approx([90] * 4)
    assert made("arc:angle=90", views=1).views == 1


def test_moving_cameras_travel_that_far_over_the_clip():
    cameras = made("azimuth:move=24,elevation=0", views=2, frames=5)
    for view in cameras.c2w:
        assert rotation_deg(relative_to(view, view[:1])) == pytest.approx([0, 6, 12, 18, 24], abs=1e-5)
    assert rotation_deg(relative_to(cameras.c2w[1], cameras.c2w[0])) == pytest.approx([20] * 5)
    assert (made("azimuth", frames=3).c2w[:, :1] == made("azimuth", frames=3).c2w).all()


@pytest.mark.parametrize(
    ("name", "published"),
    [
        # The release takes C_01, C_03, C_05, C_07 (azimuth 10, 30, 50, 70) and reverses: the last is the reference.
        ("azimuth", [(4, 15, 70), (4, 15, 50), (4, 15, 30), (4, 15, 10)]),
        ("elevation", [(5, 0, 10), (5, 15, 10), (5, 30, 10), (5, 45, 10)]),
        ("distance", [(4, 15, 10), (5, 15, 10), (6, 15, 10), (7, 15, 10)]),
    ],
)
def test_defaults_are_the_series_of_the_cogvideox_release(name, published):
    theirs = np.stack([hemi36(*each) for each in published])
    ours = made(name).c2w[:, 0]
    assert relative_to(ours, ours[:1]) == pytest.approx(relative_to(theirs, theirs[:1]), abs=1e-12)


def test_golden_relative_pose():
    """4 m, 15 degrees up, reference C_03, other C_01, translations in 2 m units."""
    c2w = made("azimuth", views=2).c2w[:, 0]
    E = relative_to(c2w[1], c2w[0])[:3]
    E[:, 3] /= 2
    golden = [
        [0.939693, 0.088521, -0.330366, 0.660732],
        [-0.088521, 0.995960, 0.015077, -0.030154],
        [0.330366, 0.015077, 0.943732, 0.112535],
    ]
    assert pytest.approx(np.array(golden), abs=1e-6) == E


def test_focal_length_is_the_published_one():
    assert made("azimuth").K[0, 0].tolist() == [
        [pytest.approx(545.4545, abs=1e-4), 0, 360],
        [0, pytest.approx(545.4545, abs=1e-4), 240],
        [0, 0, 1],
    ]
    assert made("arc:focal=24", size=(1280, 1280)).K[3, 0, 0, 0] == pytest.approx(1292.93, abs=0.01)


@pytest.mark.parametrize(
    ("text", "views", "expected"),
    [
        ("azimut", 2, "did you mean 'azimuth'"),
        ("azimuth:distence=3", 2, "did you mean 'distance'"),
        ("azimuth:angle=3", 2, "unknown key 'angle'"),
        ("azimuth:step", 2, "KEY=NUMBER, e.g. step=20"),
        ("azimuth:step=ten", 2, "'step=ten' is not of the form KEY=NUMBER"),
        ("azimuth:step=nan", 2, "must be a finite number"),
        ("distance:step=-2", 4, "a distance of -2 m"),
        ("elevation:step=30", 4, "view 3 would be at an elevation of 90 degrees"),
        ("arc:focal=0", 2, "focal is 0 mm"),
        ("azimuth", 0, "at least one view"),
    ],
)
def test_what_cannot_be_is_refused(text, views, expected):
    with pytest.raises(ViewpointsError, match=expected):
        made(text, views=views)


def test_the_number_of_views_comes_from_the_caller():
    assert viewpoints("arc", views=None, default_views=3, frames=2, size=(64, 64)).c2w.shape == (3, 2, 4, 4)
    assert viewpoints("arc", views=5, default_views=3, frames=2, size=(64, 64)).views == 5
    with pytest.raises(ViewpointsError, match="no such file or folder, and no such preset; did you mean 'distance'"):
        viewpoints("distanze:step=1", views=2, default_views=2, frames=1, size=(64, 64))
