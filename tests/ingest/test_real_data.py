"""Published camera files and a real recording. Skipped where PARALLAX_REAL_DATA is not set; the other files are the twins."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from schemas.camera import CameraTrack, relative_to
from schemas.recipe import MediaLimits
from stages.ingest.realestate10k import normalised_track, parse_trajectory
from stages.media import Media
from stages.storage import Tree


def project(track: CameraTrack, points: np.ndarray) -> np.ndarray:
    w2c = np.linalg.inv(track.c2w[0])
    found, _ = cv2.projectPoints(points, cv2.Rodrigues(w2c[:3, :3])[0], w2c[:3, 3], track.K[0], np.array(track.distortion))
    return found[:, 0]


@pytest.fixture
def recording(real_data: Path) -> Path:
    folder = real_data / "pose2sim_single"
    if not folder.is_dir():
        pytest.skip("pose2sim_single is not among the real recordings")
    return folder


def test_qualisys_recording_as_it_is(recording: Path, ingest, load) -> None:
    """Four cameras around a person on a treadmill: they look inward and downward at one point, from above head height."""
    reader = ingest("rig")
    [candidate] = reader.discover(Tree(recording))
    scene = load(reader, recording, candidate)
    assert [(view.view_id, len(view.index), view.index.width) for view in scene.views] == [
        ("cam01", 100, 1080), ("cam02", 100, 1080), ("cam03", 100, 1088), ("cam04", 100, 1088),
    ]  # fmt: skip
    # The files show it: the two narrower ones have seven black rows above and below, so they were scaled and padded.
    assert sorted(name for name in scene.notes if name.startswith("size.")) == ["size.cam01", "size.cam02"]
    assert "pad at centre, K times 0.992647" in scene.notes["size.cam01"]
    for view in scene.views:
        track = view.cameras
        assert track.centre is not None and len(track) == 100 and track.scale == "metres"
        assert 0.3 < track.centre[2] < 1.2 < track.c2w[0, 2, 3] < 2.5  # metres above the treadmill
        assert -track.c2w[0, 2, 1] > 0.8  # upright
        [middle] = project(track, np.array([track.centre]))
        assert np.abs(middle - [track.width / 2, track.height / 2]).max() < 100


def test_the_person_walks_where_the_cameras_say(recording: Path, ingest, load) -> None:
    """The same teal cap, found by its colour in each picture, is seen by all four cameras at one point at head height."""
    reader = ingest("rig")
    [candidate] = reader.discover(Tree(recording))
    scene = load(reader, recording, candidate)
    equations, seen = [], []
    with Media(recording, MediaLimits()) as media:
        for view in scene.views:
            hsv = cv2.cvtColor(media.frames(view.media, view.index, [0])[0], cv2.COLOR_RGB2HSV)
            teal = cv2.inRange(hsv, (82, 120, 60), (96, 255, 255))
            _, _, stats, centres = cv2.connectedComponentsWithStats(teal)
            spot = centres[1 + stats[1:, cv2.CC_STAT_AREA].argmax()]
            seen.append(spot)
            track = view.cameras
            x, y = cv2.undistortPoints(spot[None, None], track.K[0], np.array(track.distortion))[0, 0]
            w2c = np.linalg.inv(track.c2w[0])
            equations += [x * w2c[2] - w2c[0], y * w2c[2] - w2c[1]]
    homogeneous = np.linalg.svd(np.array(equations))[2][-1]
    head = homogeneous[:3] / homogeneous[3]
    assert 1.5 < head[2] < 2.0
    for view, spot in zip(scene.views, seen, strict=True):
        assert np.linalg.norm(project(view.cameras, head[None])[0] - spot) < 25  # the cap is about 100 pixels wide


def test_multicam_cameras_coincide_at_frame_0(real_data: Path, tmp_path: Path, make_video, ingest, load) -> None:
    published = real_data / "multicam_cameras" / "camera_extrinsics.json"
    if not published.is_file():
        pytest.skip("multicam_cameras is not among the real recordings")
    scene_folder = tmp_path / "train" / "f24_aperture5" / "scene1"
    (scene_folder / "cameras").mkdir(parents=True)
    (scene_folder / "cameras" / "camera_extrinsics.json").write_bytes(published.read_bytes())
    for i in range(1, 11):
        make_video(scene_folder / "videos" / f"cam{i:02d}.mp4", frames=81, size=(64, 64), fps=15)
    reader = ingest("syncamvideo")
    [candidate] = reader.discover(Tree(tmp_path))
    tracks = {view.view_id: view.cameras for view in load(reader, tmp_path, candidate).views}
    first = tracks["cam01"]
    assert first.c2w[0, :3, 3].tolist() == pytest.approx([33.90, -13.80, 2.40])
    for track in tracks.values():
        assert len(track) == 81
        assert relative_to(track.c2w[0], first.c2w[0]) == pytest.approx(np.eye(4), abs=1e-9)
        assert np.linalg.norm(track.c2w[80] - track.c2w[0]) > 0.05  # and part from there on
    # By the file's own numbers: cam01 turns right (its forward vector towards Unreal's +y), cam05 moves forward by 2.48 cm.
    turn = relative_to(first.c2w[1], first.c2w[0])
    assert turn[0, 2] == pytest.approx(0.00433621, abs=1e-8)  # the new forward points to the old right
    step = relative_to(tracks["cam05"].c2w[1], tracks["cam05"].c2w[0])
    assert step[:3, 3] == pytest.approx([0, 0, 0.0248], abs=1e-6)
    assert step[:3, :3] == pytest.approx(np.eye(3))
    rise = relative_to(tracks["cam07"].c2w[1], tracks["cam07"].c2w[0])
    assert rise[:3, 3] == pytest.approx([0, -0.01242, 0], abs=1e-6)  # up is minus y
    assert rise[1, 2] > 0  # and looks down


def test_realestate10k_trajectories_are_cameras_that_walk(real_data: Path) -> None:
    """Published poses are rotations, keep the picture upright against the first, and move on smoothly."""
    files = sorted((real_data / "realestate10k_poses").glob("*.txt"))
    if not files:
        pytest.skip("realestate10k_poses is not among the real recordings")
    for path in files:
        trajectory = parse_trajectory(path.read_text())
        track, note = normalised_track(trajectory, 640, 360, "refuse")
        assert note is None and len(track) == 16
        assert track.K[0, 0, 0] == pytest.approx(track.K[0, 1, 1], rel=1e-6)
        assert np.diff(trajectory.times_us).min() > 0
        steps = np.linalg.norm(np.diff(track.c2w[:, :3, 3], axis=0), axis=1)
        assert steps.min() > 0 and steps.max() < 8 * np.median(steps)
        # Read the wrong way round (as camera-to-world), the same numbers would not have the centre at -R^T t.
        R, t = trajectory.w2c[3, :, :3], trajectory.w2c[3, :, 3]
        assert track.c2w[3, :3, 3] == pytest.approx(-R.T @ t, abs=1e-6)
