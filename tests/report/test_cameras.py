"""`python -m pipeline.cameras`: reads every camera file that the ingests read, says what it found, and refuses what is none."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pipeline.cameras import main
from pipeline.report.camera_files import CameraFileError, read_camera_file
from pipeline.report.camera_view import MOST_POSES, MOST_VIEWS, scene_json, up_vector
from pipeline.studio import write_layout
from schemas.camera import CameraTrack, intrinsics, look_at

LAYOUTS = {
    "syncamvideo-v1": ("**/cameras/scene1/*.json", {}),
    "syncamvideo-v2": ("train/**/camera_extrinsics.json", {}),
    "realestate10k": ("**/*.txt", {}),
    "dl3dv": ("**/transforms.json", {}),
    "kubric4d": ("data/scn?????", {}),
    "rig": ("**/cameras.json", {}),
    "colmap": ("**/cameras.txt", {"calibration": "colmap"}),
    "qualisys": ("**/*.qca.txt", {"calibration": "qualisys"}),
}


def ring(views: int = 5, tilt: float = 0.0) -> np.ndarray:
    """[V,4,4] cameras round (0,0,1), 4 metres away, all with the world's z upward in the picture."""
    angles = np.linspace(0, 1.5 * np.pi, views)
    return np.stack([look_at((4 * np.cos(a), 4 * np.sin(a), 1.5 + tilt), (0, 0, 1)) for a in angles])


def npz(path: Path, frames: int = 3, **changed: np.ndarray) -> Path:
    """A sample's cameras.npz: five cameras that rise by 0.1 m a frame."""
    c2w = np.repeat(ring()[:, None], frames, axis=1)
    c2w[:, :, 2, 3] += 0.1 * np.arange(frames)
    arrays = {
        "c2w": c2w,
        "K": np.tile(intrinsics(100, 100, 80, 45)[0], (5, frames, 1, 1)),
        "frame": np.tile(np.arange(frames) * 2, (5, 1)),
        "size": np.tile([160, 90], (5, 1)),
        "distortion": np.zeros((5, 0)),
        "metric": np.ones(5, bool),
    }
    np.savez(path, **(arrays | changed))
    return path


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layouts_cameras_are_those_of_the_truth(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pattern, options = LAYOUTS[name]
    layout = "rig" if options else name
    cameras = None if name in ("realestate10k", "dl3dv") else 3
    write_layout(layout, tmp_path / "in", 1, cameras, 4, (64, 48), truth=tmp_path / "truth", **options)  # type: ignore[arg-type]
    path = sorted((tmp_path / "in").glob(pattern))[0]
    assert main([str(path), "--output", str(tmp_path / "out.html")]) == 0
    said = capsys.readouterr().out
    found = read_camera_file(path)
    poses = np.concatenate([track.c2w for track in found.tracks.values()])
    metric = all(track.scale == "metres" for track in found.tracks.values())
    rows, columns = (3, 4) if metric else (3, 3)
    truths = [np.load(each)["c2w"].reshape(-1, 4, 4) for each in sorted((tmp_path / "truth").rglob("*.npz"))]
    known = np.concatenate([(np.linalg.inv(own)[:, None] @ own[None]).reshape(-1, 4, 4) for own in truths])
    for own in np.linalg.inv(poses[0]) @ poses[1:]:  # the basis change of a left-handed world cancels in a relative pose
        assert np.abs(known - own)[:, :rows, :columns].max((1, 2)).min() < 1e-3
    assert f"views           {len(found.tracks)}:" in said
    assert metric == (name not in ("realestate10k", "dl3dv", "colmap")) and metric == ("are not metres" not in said)
    text = (tmp_path / "out.html").read_text("utf-8")
    assert "://" not in text and "src=" not in text.replace("img-src", "")


def test_a_samples_cameras_are_drawn_with_their_frame_numbers(tmp_path: Path) -> None:
    found = read_camera_file(npz(tmp_path / "cameras.npz"))
    scene = scene_json(found, "t")
    assert [view["name"] for view in scene["views"]] == [f"view{i:02d}" for i in range(5)]
    assert scene["views"][2]["frames"] == [0, 2, 4] and scene["metric"]
    pose = np.array(scene["views"][2]["poses"][1])
    assert np.allclose(pose[:9].reshape(3, 3), found.tracks["view02"].c2w[1, :3, :3], atol=1e-5)
    assert np.allclose(pose[9:], found.tracks["view02"].c2w[1, :3, 3], atol=1e-5)
    assert len(scene["views"][0]["K"]) == 1


def test_up_is_found_from_level_cameras() -> None:
    track = CameraTrack(ring(), intrinsics(100, 100, 80, 45, 5), 160, 90, "metres")
    up, told = up_vector([track])
    assert np.allclose(up, [0, 0, 1], atol=1e-6) and told.startswith("guessed")
    forward = np.repeat(np.eye(4)[None], 4, 0)  # a dolly: its own upward is all there is
    assert np.allclose(up_vector([CameraTrack(forward, intrinsics(9, 9, 5, 5, 4), 10, 10, "arbitrary")])[0], [0, -1, 0])


def test_many_views_and_poses_are_drawn_in_part_and_it_is_said(tmp_path: Path) -> None:
    lines = [f"{i + 1} 1 0 0 0 {i} 0 0 1 p{i:04d}.jpg\n\n" for i in range(MOST_VIEWS + 50)]
    (tmp_path / "cameras.txt").write_text("1 PINHOLE 160 90 100 100 80 45\n")
    (tmp_path / "images.txt").write_text("".join(lines))
    scene = scene_json(read_camera_file(tmp_path), "many")
    assert len(scene["views"]) == MOST_VIEWS == scene["shown"]["views"] and scene["shown"]["ofViews"] == MOST_VIEWS + 50
    assert scene["shown"]["poses"] == scene["shown"]["ofPoses"] == 1
    long = npz(tmp_path / "long.npz", MOST_POSES // 5 + 100)
    scene = scene_json(read_camera_file(long), "long")
    assert sum(len(view["poses"]) for view in scene["views"]) == MOST_POSES
    assert scene["views"][0]["frames"][-1] == 2 * (MOST_POSES // 5 + 99)


BAD = {
    "nothing.json": b"",
    "list.json": b"[1, 2]",
    "deep.json": b"[" * 100_000,
    "other.json": b'{"a": 1}',
    "transforms.json": b'{"frames": [], "fl_x": 1}',
    "kubric.json": b'{"scene": {}, "camera": {}}',
    "cameras.json": b'{"version": 1, "units": "feet", "cameras": {}}',
    "syncam.json": b'{"frame0": {"cam01": "[1 0 0 0] [0 1 0 0]"}}',
    "caption.txt": b"a person dances",
    "broken.txt": b"https://www.youtube.com/watch?v=abcdefgh\n1 2 3\n",
    "nan.txt": b"https://www.youtube.com/watch?v=abcdefgh\n0 " + b"nan " * 18 + b"\n",
    "rig.qca.txt": b"<!DOCTYPE x><calibration/>",
    "cameras.txt": b"1 FISHEYE 1 1 1\n",
    "empty.npz": b"",
    "zip.npz": b"PK\x03\x04 and nothing more",
    "film.mp4": b"film",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_ends_with_2_and_says_why(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).write_bytes(BAD[name])
    assert main([str(tmp_path / name), "--output", str(tmp_path / "out.html")]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and name in said.err and "Traceback" not in said.err
    assert not (tmp_path / "out.html").exists()


def bomb() -> bytes:
    """A header that asks for a terabyte."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": (10**5, 10**5, 4, 4)})
    return stream.getvalue()


@pytest.mark.parametrize(
    "changed",
    [
        {"c2w": np.zeros((5, 3, 4, 4))},
        {"c2w": np.full((5, 3, 4, 4), np.nan)},
        {"c2w": np.array([{"a": 1}], object)},
        {"c2w": np.zeros((0, 3, 4, 4)), "K": np.zeros((0, 3, 3, 3))},
        {"K": np.zeros((5, 2, 3, 3))},
        {"size": np.zeros((5, 2), np.int64)},
        {"metric": np.ones(4, bool)},
        {"frame": np.zeros((5, 3))},
        {"distortion": np.zeros((2, 4))},
    ],
    ids=lambda changed: ",".join(changed),
)
def test_a_bad_npz_is_refused(changed: dict[str, np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(CameraFileError, match=r"cameras\.npz"):
        read_camera_file(npz(tmp_path / "cameras.npz", **changed))


def test_an_npz_that_asks_for_too_much_memory_is_refused(tmp_path: Path) -> None:
    path = npz(tmp_path / "cameras.npz")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, bomb() if name == "c2w.npy" else data)
    with pytest.raises(CameraFileError, match="c2w has the shape"):
        read_camera_file(path)


def test_what_cannot_be_written_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main([str(npz(tmp_path / "cameras.npz")), "--output", str(tmp_path / "file" / "x.html")]) == 1
    assert "could not be written" in capsys.readouterr().err
