"""Cameras that went through the whole ingest equal the golden matrices (spec syncammaster.md, section 1.4).

The camera files are made here from the spec's definitions (sections 2.2 and 2.3), printed as the published ones are.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from schemas.camera import from_unreal, look_at, relative_to
from stages.ingest.syncamvideo import parse_matrix
from stages.storage import Tree


def vector(*parts: float) -> np.ndarray:
    return np.array(parts, float)


def unreal_look_at(position: np.ndarray, target: np.ndarray, form: str) -> str:
    """An Unreal matrix string: rows forward, right, up, position; left-handed, so right is up x forward."""
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross([0, 0, 1], forward)
    right /= np.linalg.norm(right)
    up = np.cross(forward, right)
    rows = [[*forward, 0], [*right, 0], [*up, 0], [*position, 1]]
    return " ".join("[" + " ".join(form % x for x in row[:3]) + f" {row[3]}]" for row in rows) + " "


def hemi36(metres: float, elevation: float) -> dict[str, str]:
    """The validation set Hemi36_{D}m_{E}: azimuth C_n = 10n, A_n = 120 + 10n, B_n = 240 + 10n degrees, looking at the origin."""
    cameras = {}
    for letter, start in (("C", 0), ("A", 120), ("B", 240)):
        for n in range(1, 13):
            az, el = np.radians(start + 10 * n), np.radians(elevation)
            position = 100 * metres * vector(np.cos(el) * np.cos(az), np.cos(el) * np.sin(az), np.sin(el))
            cameras[f"{letter}_{n:02d}_18mm"] = unreal_look_at(position, np.zeros(3), "%.9f")
    return cameras


def v2_example() -> dict[str, str]:
    """Section 2.2's example file: an azimuth fan at 300 cm, a pitch fan, and two distances, rounded to six digits."""
    target, cameras = vector(13220, 1100, -570), {}
    for i, az in enumerate((-30, -15, 0, 15, 30), 1):
        a = np.radians(az)
        cameras[f"cam{i:02d}"] = unreal_look_at(target - 300 * vector(np.cos(a), np.sin(a), 0), target, "%g")
    for i, pitch in enumerate((10, 20, 30), 6):
        cameras[f"cam{i:02d}"] = unreal_look_at(target + vector(-300, 0, 300 * np.tan(np.radians(pitch))), target, "%g")
    for i, distance in enumerate((400, 500), 9):
        cameras[f"cam{i:02d}"] = unreal_look_at(target - vector(distance, 0, 0), target, "%g")
    return cameras


def test_generated_files_are_the_published_ones() -> None:
    published = "[-0.984807753 -0.173648178 -0.0 0] [0.173648178 -0.984807753 0.0 0] [-0.0 0.0 1.0 0] [393.923101 69.459271 0.0 1]"
    assert parse_matrix(hemi36(4, 0)["C_01_18mm"]) == pytest.approx(parse_matrix(published), abs=1e-6)
    published = "[0.866025 -0.5 0 0] [0.5 0.866025 -0 0] [0 0 1 0] [12960.2 1250 -570 1] "
    assert parse_matrix(v2_example()["cam01"]) == pytest.approx(parse_matrix(published), abs=1e-9)


@pytest.mark.parametrize(("metres", "elevation"), [(4, 0), (4, 15), (5, 30), (7, 45)])
def test_every_camera_of_a_hemisphere_is_a_look_at_camera(metres: float, elevation: float) -> None:
    for text in hemi36(metres, elevation).values():
        c2w = from_unreal(parse_matrix(text))
        assert np.linalg.norm(c2w[:3, 3]) == pytest.approx(metres, abs=1e-6)
        assert c2w == pytest.approx(look_at(c2w[:3, 3], (0, 0, 0)), abs=1e-6)


def test_v1_golden(tmp_path: Path, make_video, ingest, load) -> None:
    both = hemi36(4, 15)
    cameras = {name: both[name] for name in ("C_01_18mm", "C_03_18mm")}
    folder = tmp_path / "train" / "cameras" / "scene1"
    folder.mkdir(parents=True)
    (folder / "scene1.json").write_text(json.dumps(cameras))
    for name in cameras:
        make_video(tmp_path / "train" / "videos" / "scene1" / f"{name}.mp4", frames=3, size=(72, 48))
    reader = ingest("syncamvideo")
    [candidate] = reader.discover(Tree(tmp_path))
    scene = load(reader, tmp_path, candidate)
    tracks = {view.view_id: view.cameras for view in scene.views}
    E = relative_to(tracks["C_01_18mm"].c2w[0], tracks["C_03_18mm"].c2w[0])
    E[:3, 3] /= 2  # the released code's unit is two metres
    golden = [
        [0.939693, 0.088521, -0.330366, 0.660732],
        [-0.088521, 0.995960, 0.015077, -0.030154],
        [0.330366, 0.015077, 0.943732, 0.112535],
    ]
    assert E[:3] == pytest.approx(np.array(golden), abs=1e-5)
    assert np.degrees(np.arccos((np.trace(E[:3, :3]) - 1) / 2)) == pytest.approx(20, abs=1e-4)
    for track in tracks.values():
        assert np.linalg.inv(track.c2w[0])[:3, 3] / 2 == pytest.approx([0, 0, 2], abs=1e-5)  # the scene's centre, seen by it
        assert track.centre == pytest.approx((0, 0, 0), abs=1e-5)
        assert (track.scale, track.up, track.azimuth_sign) == ("metres", (0, 0, 1), -1)


def test_v2_golden(tmp_path: Path, make_video, ingest, load) -> None:
    cameras, scene = v2_example(), tmp_path / "train" / "f24_aperture5" / "scene1"
    (scene / "cameras").mkdir(parents=True)
    (scene / "cameras" / "camera_extrinsics.json").write_text(json.dumps({f"frame{i}": cameras for i in range(4)}))
    for name in cameras:
        make_video(scene / "videos" / f"{name}.mp4", frames=4, size=(64, 64), fps=15)
    reader = ingest("syncamvideo")
    [candidate] = reader.discover(Tree(tmp_path))
    tracks = {view.view_id: view.cameras for view in load(reader, tmp_path, candidate).views}

    def relative(reference: str, other: str) -> np.ndarray:
        E = relative_to(tracks[other].c2w[3], tracks[reference].c2w[3])
        E[:3, 3] /= 2
        return E[:3]

    golden = [[0.86603, 0, 0.5, -0.75002], [0, 1, 0, 0], [-0.5, 0, 0.86603, 0.2009]]
    assert relative("cam01", "cam03") == pytest.approx(np.array(golden), abs=5e-5)
    raised = relative("cam03", "cam07")
    assert raised[:, 3] == pytest.approx([0, -0.54595, 0], abs=5e-5)
    assert np.degrees(np.arccos((np.trace(raised[:, :3]) - 1) / 2)) == pytest.approx(20, abs=5e-3)
    nearer = relative("cam09", "cam10")
    assert nearer == pytest.approx(np.hstack([np.eye(3), [[0], [0], [-0.5]]]), abs=5e-5)
    assert tracks["cam01"].centre == pytest.approx((132.20, -11.00, -5.70), abs=2e-3)  # metres, y mirrored
