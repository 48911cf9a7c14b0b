"""Pair angles against configurations whose answer is known on paper, and against an independent formula."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.camera import CameraTrack, from_unreal, intrinsics, look_at
from schemas.manifest import PAIR
from stages.geometry.pairs import (
    angle_between,
    angle_bins,
    fields_of_view,
    known_centre,
    pair_angles,
    pair_rows,
    rotation_angle,
    scene_centre,
    spread,
    world_up,
)

UP = np.array([0.0, 0.0, 1.0])
ORIGIN = np.zeros(3)
ONE = np.array([0])
TWO = np.array([1])


def on_sphere(azimuth_deg: float, elevation_deg: float, distance: float = 4.0) -> np.ndarray:
    azimuth, elevation = np.radians([azimuth_deg, elevation_deg])
    position = distance * np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    return look_at(position, ORIGIN)


def turned(axis: np.ndarray, angle: float) -> np.ndarray:
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-6, 0.3, np.pi / 2, 3.0, np.pi - 1e-6, np.pi - 1e-9, np.pi])
def test_angles_keep_their_digits_near_0_and_180(angle: float) -> None:
    axis = np.array([0.36, 0.48, 0.8])
    R = turned(axis, angle)
    assert abs(rotation_angle(R[None])[0] - angle) < 1e-14 + 1e-12 * angle
    u = np.array([0.8, -0.6, 0.0])  # perpendicular to the axis
    assert abs(angle_between(u, R @ u) - angle) < 1e-14 + 1e-12 * angle


def test_orbit_by_20_degrees_of_azimuth() -> None:
    """The golden pair of the v1 validation cameras: 4 m, elevation 15, azimuths 10 and 30: a rotation of exactly 20."""
    c2w = np.stack([on_sphere(10, 15), on_sphere(30, 15)])[:, None]
    angles = pair_angles(c2w, ONE, TWO, centre=ORIGIN, up=UP)
    assert angles.rotation[0, 0] == pytest.approx(20, abs=1e-9)
    assert angles.azimuth is not None and angles.azimuth[0, 0] == pytest.approx(20, abs=1e-9)
    assert angles.elevation is not None and angles.elevation[0, 0] == pytest.approx(0, abs=1e-9)
    great_circle = np.degrees(np.arccos(np.sin(np.radians(15)) ** 2 + np.cos(np.radians(15)) ** 2 * np.cos(np.radians(20))))
    assert angles.axis[0, 0] == pytest.approx(great_circle, abs=1e-9)
    assert angles.parallax is not None and angles.parallax[0, 0] == pytest.approx(great_circle, abs=1e-9)
    assert angles.baseline[0, 0] == pytest.approx(2 * 4 * np.sin(np.radians(great_circle) / 2), abs=1e-9)


def test_parallax_differs_from_axes_when_cameras_look_past_each_other() -> None:
    here, there = look_at((3.0, 0, 0), (0, 0, 0)), look_at((0, 3.0, 0), (9.0, 3.0, 0))
    angles = pair_angles(np.stack([here, there])[:, None], ONE, TWO, centre=ORIGIN)
    assert angles.parallax is not None
    assert angles.parallax[0, 0] == pytest.approx(90, abs=1e-9)
    assert angles.axis[0, 0] == pytest.approx(180, abs=1e-9)
    assert angles.azimuth is None and angles.elevation is None


def test_azimuth_keeps_the_source_s_sense_through_the_mirror() -> None:
    """Unreal azimuth grows from x to y in its left-handed world; ours is mirrored, the difference must not be."""

    def unreal(azimuth_deg: float) -> np.ndarray:
        azimuth = np.radians(azimuth_deg)
        position = 400 * np.array([np.cos(azimuth), np.sin(azimuth), 0.2])
        forward = -position / np.linalg.norm(position)
        right = np.array([-np.sin(azimuth), np.cos(azimuth), 0]) * -1
        return np.block([[np.stack([forward, right, np.cross(forward, right), position]), np.array([[0], [0], [0], [1.0]])]])

    c2w = from_unreal(np.stack([unreal(10), unreal(350)]))[:, None]
    assert np.linalg.det(c2w[0, 0, :3, :3]) == pytest.approx(1)
    angles = pair_angles(c2w, ONE, TWO, centre=ORIGIN, up=UP, azimuth_sign=-1)
    assert angles.azimuth is not None and angles.azimuth[0, 0] == pytest.approx(-20, abs=1e-9)


@given(st.floats(-720, 720), st.floats(-720, 720), st.floats(-80, 80), st.floats(-80, 80))
def test_differences_are_wrapped_and_antisymmetric(az_a: float, az_b: float, el_a: float, el_b: float) -> None:
    c2w = np.stack([on_sphere(az_a, el_a), on_sphere(az_b, el_b)])[:, None]
    forth, back = pair_angles(c2w, ONE, TWO, centre=ORIGIN, up=UP), pair_angles(c2w, TWO, ONE, centre=ORIGIN, up=UP)
    assert forth.azimuth is not None and back.azimuth is not None and forth.elevation is not None
    azimuth = forth.azimuth[0, 0]
    assert -180 < azimuth <= 180
    assert np.cos(np.radians(azimuth - (az_b - az_a))) == pytest.approx(1, abs=1e-9)
    assert np.cos(np.radians(azimuth + back.azimuth[0, 0])) == pytest.approx(1, abs=1e-9)
    assert forth.elevation[0, 0] == pytest.approx(el_b - el_a, abs=1e-6)
    for name in ("rotation", "axis", "parallax", "baseline"):
        assert getattr(forth, name)[0, 0] == pytest.approx(getattr(back, name)[0, 0], abs=1e-9)


def test_half_a_turn_is_plus_180() -> None:
    c2w = np.stack([look_at((1.0, 0, 0), ORIGIN), look_at((-1.0, 0, 0), ORIGIN)])[:, None]
    for a, b in ((ONE, TWO), (TWO, ONE)):
        azimuth = pair_angles(c2w, a, b, centre=ORIGIN, up=UP).azimuth
        assert azimuth is not None and azimuth[0, 0] == 180.0


def test_azimuth_and_elevation_of_cameras_that_look_at_the_centre_need_no_centre() -> None:
    c2w = np.stack([on_sphere(200, 5), on_sphere(-100, 40, 7.0)])[:, None]
    known, unknown = pair_angles(c2w, ONE, TWO, centre=ORIGIN, up=UP), pair_angles(c2w, ONE, TWO, up=UP)
    assert known.azimuth is not None and unknown.azimuth is not None and known.elevation is not None and unknown.elevation is not None
    assert known.azimuth == pytest.approx(unknown.azimuth) and known.azimuth[0, 0] == pytest.approx(60)
    assert known.elevation == pytest.approx(unknown.elevation) and known.elevation[0, 0] == pytest.approx(35)


def test_moving_cameras_report_least_median_and_largest() -> None:
    still = np.stack([on_sphere(0, 0)] * 5)
    moving = np.stack([on_sphere(azimuth, 0) for azimuth in (50, 10, 40, 20, 30)])
    angles = pair_angles(np.stack([still, moving]), ONE, TWO, centre=ORIGIN, up=UP)
    row = pair_rows(angles, ["a", "b"])[0]
    for kind in ("rotation_deg", "axis_deg", "parallax_deg", "azimuth_deg"):
        assert row[kind] == {"min": 10.0, "median": 30.0, "max": 50.0}
    assert row["elevation_deg"] == {"min": 0.0, "median": 0.0, "max": 0.0}
    assert angles.curriculum("parallax") == ("parallax", pytest.approx([30]))


def test_the_median_of_a_wrapped_angle_is_an_angle_that_occurs() -> None:
    assert spread(np.array([[-179.0, 179.0, 178.0, -178.0]]))[0, 1] == -178.0


def test_rows_have_the_manifest_s_shape() -> None:
    c2w = np.stack([on_sphere(azimuth, 10) for azimuth in (0, 40, 90)])[:, None].repeat(3, axis=1)
    a, b = np.triu_indices(3, 1)
    for angles in (pair_angles(c2w, a, b), pair_angles(c2w, a, b, centre=ORIGIN, up=UP)):
        rows = pair_rows(angles, ["x", "y", "z"])
        assert [(row["a"], row["b"]) for row in rows] == [("x", "y"), ("x", "z"), ("y", "z")]
        for row in rows:
            assert list(row) == [field.name for field in PAIR]
            assert all(set(value) == {"min", "median", "max"} for value in row.values() if isinstance(value, dict))
            assert json.loads(json.dumps(row)) == row


def test_many_pairs_and_frames_agree_with_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    c2w = np.array([[look_at(rng.normal(size=3) * 3, rng.normal(size=3)) for _ in range(7)] for _ in range(6)])
    a, b = np.triu_indices(6, 1)
    monkeypatch.setattr("stages.geometry.pairs.PAIRS_AT_ONCE", 20)  # several parts
    angles = pair_angles(c2w, a, b, centre=ORIGIN, up=UP)
    for p in range(len(a)):
        for t in range(7):
            R = c2w[a[p], t, :3, :3].T @ c2w[b[p], t, :3, :3]
            assert np.cos(np.radians(angles.rotation[p, t])) == pytest.approx((np.trace(R) - 1) / 2, abs=1e-9)
            assert np.cos(np.radians(angles.axis[p, t])) == pytest.approx(c2w[a[p], t, :3, 2] @ c2w[b[p], t, :3, 2], abs=1e-9)


def test_the_centre_is_found_where_the_axes_meet() -> None:
    target = np.array([1.0, -2.0, 0.5])
    rng = np.random.default_rng(0)
    c2w = np.array([[look_at(target + 4 * rng.normal(size=3), target) for _ in range(3)] for _ in range(5)])
    assert scene_centre(c2w) == pytest.approx(target, abs=1e-9)
    shaken = np.array([look_at(target + 4 * place, target + rng.normal(scale=0.1, size=3)) for place in rng.normal(size=(15, 3))])
    found = scene_centre(shaken[:, None])
    assert found is not None and np.linalg.norm(found - target) < 0.3


@pytest.mark.parametrize("name", ["parallel", "outward", "skew", "one camera"])
def test_no_centre_where_cameras_do_not_look_at_one_point(name: str) -> None:
    poses = {
        "parallel": [look_at((x, 0, 0), (x, 5.0, 0)) for x in range(4)],
        "outward": [look_at((np.cos(t), np.sin(t), 0), (5 * np.cos(t), 5 * np.sin(t), 0)) for t in range(4)],
        "skew": [look_at((0, -2.0, 0), (0, 9.0, 0)), look_at((-2.0, 0, 4.0), (9.0, 0, 4.0))],
        "one camera": [look_at((3.0, 0, 0), (0, 0, 0))],
    }[name]
    assert scene_centre(np.stack(poses)[:, None]) is None


def track(c2w: np.ndarray, **more: object) -> CameraTrack:
    return CameraTrack(c2w, intrinsics(500, 500, 320, 180, len(c2w)), 640, 360, "metres", **more)  # type: ignore[arg-type]


def test_the_source_s_centre_and_up_go_first() -> None:
    c2w = np.stack([on_sphere(0, 10), on_sphere(60, 10)])[:, None]
    tracks = [track(c2w[0]), track(c2w[1], centre=(0.1, 0.2, 0.3), up=(0.0, 1.0, 0.0), azimuth_sign=-1)]
    centre, note = known_centre(tracks, c2w)
    assert centre == pytest.approx([0.1, 0.2, 0.3]) and note == "given by the source"
    up, sign = world_up(tracks)
    assert up == pytest.approx([0, 1, 0]) and sign == -1
    centre, note = known_centre(tracks[:1] * 2, c2w)
    assert centre == pytest.approx([0, 0, 0], abs=1e-9) and note == "estimated from the optical axes"


def test_a_centre_that_is_a_camera_s_own_place_is_not_used() -> None:
    c2w = np.stack([on_sphere(0, 0), look_at((0.0, 0, 0), (1.0, 0, 0))])[:, None]
    centre, note = known_centre([track(c2w[0], centre=(0.0, 0.0, 0.0)), track(c2w[1])], c2w)
    assert centre is None and "no common point" in note


def test_field_of_view_goes_through_the_principal_point() -> None:
    K = intrinsics(100, 100, 100, 50)
    assert fields_of_view(CameraTrack(np.eye(4)[None], K, 200, 100, "metres"))[0] == pytest.approx(90)
    off = CameraTrack(np.eye(4)[None], intrinsics(100, 100, 0, 50), 200, 100, "metres")
    assert fields_of_view(off)[0] == pytest.approx(np.degrees(np.arctan(2)))


def test_bins_overlap_and_include_their_ends() -> None:
    assert angle_bins([10]) == ["0-60"]
    assert angle_bins([60]) == ["0-60", "30-90", "60-120"]
    assert angle_bins([10, 100]) == ["0-60", "60-120"]
    assert angle_bins([130]) == []


@pytest.mark.skipif("PARALLAX_REAL_DATA" not in os.environ, reason="PARALLAX_REAL_DATA is not set")
def test_real_cameras_that_start_together_part() -> None:
    """ReCamMaster's example: ten cameras at one place in frame 0, apart later."""
    document = json.loads((Path(os.environ["PARALLAX_REAL_DATA"]) / "multicam_cameras" / "camera_extrinsics.json").read_text())
    frames = sorted(document, key=lambda name: int(name.removeprefix("frame")))
    names = sorted(document[frames[0]])

    def matrix(text: str) -> np.ndarray:
        return np.array([[float(number) for number in row.split()] for row in text.replace("[", " ").split("]") if row.strip()])

    c2w = from_unreal(np.array([[matrix(document[frame][name]) for frame in frames] for name in names]))
    a, b = np.triu_indices(len(names), 1)
    angles = pair_angles(c2w, a, b, up=UP, azimuth_sign=-1)
    assert angles.rotation[:, 0].max() < 1e-3 and angles.baseline[:, 0].max() < 1e-3
    assert angles.rotation[:, -1].max() > 5 and angles.baseline[:, -1].max() > 0.5
