"""Camera files of every format, made by the studio, against its own truth; and what is wrong with files."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.studio import write_layout
from pipeline.viewpoints import Viewpoints, ViewpointsError, preset, read_cameras, viewpoints, write_cameras
from schemas.camera import look_at, relative_to

FRAMES = 3


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    """(dataset folder, truth of scene 1) by layout."""

    def make(layout: str, size: tuple[int, int], **options: object) -> tuple[Path, dict[str, np.ndarray]]:
        root = tmp_path_factory.mktemp(layout)
        write_layout(layout, root / "data", scenes=1, cameras=3, frames=FRAMES, size=size, truth=root / "truth", **options)
        return root / "data", dict(np.load(root / "truth/scene1.npz"))

    return {
        "v1": make("syncamvideo-v1", (48, 32)),
        "v2": make("syncamvideo-v2", (32, 32)),
        "rig": make("rig", (64, 48)),
        "colmap": make("rig", (64, 48), calibration="colmap"),
    }


FILES = {
    "v1": ("train/cameras/scene1/scene1.json", (48, 32)),
    "v2": ("train/f24_aperture5/scene1/cameras/camera_extrinsics.json", (32, 32)),
    "rig": ("scene1/cameras.json", (64, 48)),
    "colmap": ("scene1", (64, 48)),
}


def assert_same_geometry(cameras: Viewpoints, truth: dict[str, np.ndarray], order: list[int], abs: float) -> None:
    theirs = truth["c2w"][order]
    assert relative_to(cameras.c2w, cameras.c2w[:1]) == pytest.approx(relative_to(theirs, theirs[:1]), abs=abs)
    assert pytest.approx(truth["K"][order], rel=1e-6) == cameras.K


@pytest.mark.parametrize("kind", FILES)
def test_files_say_what_the_scene_was_filmed_with(studio, kind):
    root, truth = studio[kind]
    file, size = FILES[kind]
    cameras = read_cameras(root / file, frames=FRAMES, size=size)
    assert cameras.names == tuple(truth["views"]) and cameras.size == size and cameras.frames == FRAMES
    assert cameras.metric == (kind != "colmap")
    assert_same_geometry(cameras, truth, [0, 1, 2], abs=1e-4 if kind == "v2" else 1e-8)  # v2 files are rounded to six digits


@pytest.mark.parametrize("kind", FILES)
def test_chosen_cameras_come_in_the_order_named(studio, kind):
    root, truth = studio[kind]
    file, size = FILES[kind]
    names = [str(truth["views"][2]), str(truth["views"][0])]
    cameras = viewpoints(f"{root / file}#{','.join(names)}", views=None, default_views=9, frames=FRAMES, size=size)
    assert cameras.names == tuple(names)
    assert_same_geometry(cameras, truth, [2, 0], abs=1e-4 if kind == "v2" else 1e-8)


def test_colmap_is_found_by_its_file_too(studio):
    root, _ = studio["colmap"]
    by_folder = read_cameras(root / "scene1", frames=FRAMES, size=(64, 48))
    by_file = read_cameras(root / "scene1/sparse/0/images.txt", frames=FRAMES, size=(64, 48))
    assert (by_folder.c2w == by_file.c2w).all()


def test_static_cameras_last_for_any_number_of_frames(studio):
    root, _ = studio["v2"]
    cameras = read_cameras(root / FILES["v2"][0], frames=17, size=(32, 32))
    assert cameras.frames == 17 and (cameras.c2w == cameras.c2w[:, :1]).all()


def test_intrinsics_follow_a_resize_that_covers_and_a_centre_crop(studio):
    """A ray through a pixel of the 64 x 48 picture is the ray through where that pixel is in a 36 x 36 crop of it."""
    root, truth = studio["rig"]
    K = read_cameras(root / FILES["rig"][0], frames=FRAMES, size=(36, 36)).K[0, 0]
    for x, y in [(12.0, 5.0), (50.0, 44.0)]:
        moved = (x * 36 / 48 - (48 - 36) / 2, y * 36 / 48)  # 64 x 48 becomes 48 x 36; six columns go at each side
        before, after = (np.linalg.solve(k, [*at, 1]) for k, at in ((truth["K"][0, 0], (x, y)), (K, moved)))
        assert before == pytest.approx(after)


@pytest.mark.parametrize("moving", [False, True])
def test_written_cameras_are_read_back_exactly(tmp_path, moving):
    cameras = preset(f"azimuth:move={30 * moving}", views=3, frames=5, size=(64, 40))
    if moving:  # and a lens that zooms
        cameras.K[1, :, 0, 0] *= np.linspace(1, 2, 5)
    write_cameras(tmp_path / "cameras.json", cameras)
    again = read_cameras(tmp_path / "cameras.json", frames=5, size=(64, 40))
    assert again.names == cameras.names and again.metric
    assert (again.c2w == cameras.c2w).all() and (again.K == cameras.K).all()


def test_arbitrary_scale_stays_arbitrary(tmp_path, studio):
    root, _ = studio["colmap"]
    write_cameras(tmp_path / "a.json", read_cameras(root / "scene1", frames=FRAMES, size=(64, 48)))
    assert not read_cameras(tmp_path / "a.json", frames=FRAMES, size=(64, 48)).metric


def pose(**changes: object) -> dict:
    return {
        "width": 64,
        "height": 48,
        "fx": 60.0,
        "fy": 60.0,
        "cx": 32.0,
        "cy": 24.0,
        "c2w": look_at((0, -4, 1), (0, 0, 1)).tolist(),
    } | changes


def rig(**cameras: dict) -> dict:
    return {"version": 1, "units": "metres", "cameras": cameras}


ROWS = "[1 0 0 0] [0 1 0 0] [0 0 1 0] [0 0 0 1]"
WALK = [look_at((x, -4, 1), (0, 0, 1)).tolist() for x in (0.0, 0.1, 0.2)]


@pytest.mark.parametrize(
    ("document", "chosen", "expected"),
    [
        (rig(left=pose(), right=pose()), "#left,rigth", r"no camera 'rigth'; did you mean 'right'\? \(it has left, right\)"),
        (rig(left=pose(), right=pose()), "#left,left", "names a camera twice"),
        (rig(left=pose(fx=-1.0)), "", "focal lengths must be positive, got fx -1"),
        (rig(left=pose(c2w=[[1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])), "", "pose 0 is not a rotation"),
        (rig(left=pose(c2w=[[float("nan")] * 4] * 4)), "", "NaN"),
        (rig(left=pose(c2w=WALK)), "", "'left' moves and has 3 poses, but 5 frames are to be generated; give --frames 3"),
        (rig(left=pose(K=[np.eye(3).tolist()] * 2, c2w=WALK)), "", "2 K for 3 poses"),
        ({"version": 2, "cameras": {}}, "", "version is 2; expected 1"),
        ({"C_01_18mm": "[1 0 0 0] [0 1 0 0]"}, "", "3 or 4 bracketed rows"),
        ({"C_01_18mm": ROWS.replace("1 0 0 0", "x 0 0 0")}, "", "no number"),
        ({"C_01_18mm": ROWS.replace("[1 0 0 0]", "[nan 0 0 0]")}, "", "the camera 'C_01_18mm': pose 0 holds NaN"),
        ({"frame0": {"cam01": ROWS}, "frame2": {"cam01": ROWS}}, "", "frame1 is missing"),
        ({"frame0": {"cam01": ROWS}, "frame1": {"cam02": ROWS}}, "", "frame1 has other cameras than frame0"),
        ({"poses": [1, 2]}, "", "expected our cameras.json, SynCamVideo's camera JSON .* its first key is 'poses'"),
        ([1, 2], "", "expected our cameras.json"),
    ],
)
def test_a_bad_file_is_named_with_what_was_expected(tmp_path, document, chosen, expected):
    file = tmp_path / "cams.json"
    file.write_text(json.dumps(document))
    with pytest.raises(ViewpointsError, match=expected) as raised:
        viewpoints(f"{file}{chosen}", views=None, default_views=2, frames=5, size=(64, 64))
    assert "cams.json" in str(raised.value)


def test_a_file_that_is_no_json_and_a_folder_without_cameras(tmp_path):
    (tmp_path / "cams.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ViewpointsError, match=r"cams\.json: .*not UTF-8"):
        read_cameras(tmp_path / "cams.json", frames=1, size=(8, 8))
    with pytest.raises(ViewpointsError, match=r"holds no camera file: expected our cameras\.json"):
        read_cameras(tmp_path, frames=1, size=(8, 8))


def test_another_number_of_views_than_the_file_has_is_refused(tmp_path):
    write_cameras(tmp_path / "c.json", preset("arc", views=5, frames=1, size=(64, 64)))
    with pytest.raises(ViewpointsError, match=r"5 cameras \(view00, .*\), but --views is 2; choose with .*c\.json#NAME,NAME"):
        viewpoints(str(tmp_path / "c.json"), views=2, default_views=2, frames=1, size=(64, 64))
