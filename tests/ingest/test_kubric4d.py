"""Kubric-4D: cameras and depth against the studio's truth and against numbers of the published set, lists, and hostile files."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from pipeline.studio import write_layout
from pipeline.studio.layouts.kubric4d import rig
from schemas.typed import RecipeError, build
from schemas.verdict import CandidateError, Reason
from stages.ingest.kubric4d import Kubric4DOptions, parse_camera, rotations, split_of
from stages.perception.depth_files import read_kubric4d
from stages.storage import Tree
from tests.e2e.output import Output, cameras, decoded, intact, run, tree, write_recipe

VIEWS, FRAMES, SIZE = 6, 3, (96, 64)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene in `data`, six of its sixteen views, and its truth beside it."""
    folder = tmp_path_factory.mktemp("kubric4d")
    write_layout("kubric4d", folder / "data", scenes=2, cameras=VIEWS, frames=FRAMES, size=SIZE, truth=folder / "truth")
    return folder


def truth(studio: Path, scene: str) -> dict[str, np.ndarray]:
    with np.load(studio / "truth" / f"{scene}.npz") as stored:
        return {name: stored[name] for name in stored.files}


def project(points: np.ndarray, c2w: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Pixels [N,2] by OpenCV."""
    w2c = np.linalg.inv(c2w)
    return cv2.projectPoints(points, cv2.Rodrigues(w2c[:3, :3])[0], w2c[:3, 3], K, np.zeros(4))[0][:, 0]


# Against the studio


def test_known_points_of_space_are_where_the_pictures_show_them(studio: Path, ingest, load) -> None:
    reader = ingest("kubric4d")
    candidates = list(reader.discover(Tree(studio / "data")))
    assert [(each.candidate_id, each.split) for each in candidates] == [("data/scn00000", "train"), ("data/scn02900", "test")]
    for candidate in candidates:
        scene, true = load(reader, studio / "data", candidate), truth(studio, Path(candidate.candidate_id).name)
        assert [view.view_id for view in scene.views] == true["views"].tolist() == [f"v{k}" for k in range(VIEWS)]
        worst = 0.0
        for v, view in enumerate(scene.views):
            track = view.cameras
            assert (len(track), track.scale, track.up) == (FRAMES, "metres", (0, 0, 1))
            assert track.centre == pytest.approx((0, 0, 1), abs=1e-6)
            for t in range(FRAMES):
                found = project(true["joints"][t].reshape(-1, 3), track.c2w[t], track.K[t])
                worst = max(worst, np.abs(found - true["joint_pixels"][v, t].reshape(-1, 2)).max())
        print(f"reprojection: {worst:.2e} px")
        assert worst < 0.1


def test_distances_become_depth_along_the_axis(studio: Path) -> None:
    """Every pixel of every view, as the stage `known_depth` reads them."""
    true, worst = truth(studio, "scn02900"), 0.0
    for v in range(VIEWS):
        folder = studio / "data/data/scn02900"
        maps = read_kubric4d(folder / f"scn02900_p0_v{v}.json", [folder / f"frames_p0_v{v}/depth_{t:05d}.tiff" for t in range(FRAMES)])
        for t, each in enumerate(maps):
            known = true["depth"][v, t]
            seen = np.isfinite(known)
            assert (np.isinf(each.metres[0]) == ~seen).all() and seen.mean() > 0.5
            worst = max(worst, np.abs(each.metres[0][seen] / known[seen] - 1).max())
    stored = cv2.imread(str(folder / "frames_p0_v5/depth_00000.tiff"), cv2.IMREAD_UNCHANGED)
    assert np.abs(stored[0, 0] / true["depth"][5, 0, 0, 0] - 1) > 0.05, "the files hold distances, which are larger at the corners"
    print(f"depth: {worst:.2e} relative")
    assert worst < 1e-4


def test_depth_of_one_view_falls_on_what_the_others_see(studio: Path, ingest, load) -> None:
    """Pixels of view 4, lifted by its own depth and camera, have that depth in view 5, or something nearer is before them."""
    reader = ingest("kubric4d", scenes="test20", views=[4, 5])
    first = next(reader.discover(Tree(studio / "data")))
    four, five = (view.cameras for view in load(reader, studio / "data", first).views)
    true = truth(studio, "scn02900")
    z = true["depth"][4, 1]
    y, x = np.mgrid[0 : SIZE[1], 0 : SIZE[0]] + 0.5
    seen = np.isfinite(z)
    local = np.stack([x, y, np.ones_like(x)], -1)[seen] @ np.linalg.inv(four.K[1]).T * z[seen][:, None]
    world = local @ four.c2w[1, :3, :3].T + four.c2w[1, :3, 3]
    pixels = project(world, five.c2w[1], five.K[1])
    depth = ((world - five.c2w[1, :3, 3]) @ five.c2w[1, :3, :3])[:, 2]
    inside = ((pixels > 0) & (pixels < SIZE)).all(1) & (depth > 0)
    there = true["depth"][5, 1][tuple(pixels[inside].astype(int).T[::-1])]
    assert inside.sum() > 500 and np.mean(np.abs(there / depth[inside] - 1) < 0.03) > 0.6
    assert np.mean(there > depth[inside] * 1.05) < 0.05, "next to nothing floats before what the other view sees"


# Against the published numbers (specs/recapture.md 4.1, 4.2)


def published(azimuth: float, elevation: float, radius: float = 15.0, frames: int = 2) -> dict[str, Any]:
    """A camera file of the released set, its pose from SciPy: z (backward) away from (0, 0, 1), x level."""
    az, el = np.radians([azimuth, elevation])
    back = np.array([np.cos(el) * np.cos(az), np.cos(el) * np.sin(az), np.sin(el)])
    right = np.array([-np.sin(az), np.cos(az), 0.0])
    x, y, z, w = Rotation.from_matrix(np.stack([right, np.cross(back, right), back], axis=1)).as_quat()
    place = radius * back + [0, 0, 1]
    return {
        "scene": {"resolution": [576, 384], "frame_rate": 24, "step_rate": 240, "num_frames": frames},
        "camera": {
            "focal_length": 32.0,
            "sensor_width": 32.0,
            "positions": [place.tolist()] * frames,
            "quaternions": [[w, x, y, z]] * frames,
            "K": [[1.0, 0.0, -0.5], [0.0, -1.5, -0.5], [0.0, 0.0, -1.0]],
        },
    }


def test_the_published_rig_sees_what_it_should() -> None:
    """View 4: 15 degrees around, 5 up, 15 m away. f is 576 px; the world's up is up, and its left is left."""
    track, rate = parse_camera(published(15, 5), "v4")
    assert rate == 24 and np.allclose(track.K[0], [[576, 0, 288], [0, 576, 192], [0, 0, 1]])
    middle, above, aside = project(np.array([[0, 0, 1.0], [0, 0, 2], [-np.sin(np.radians(15)), np.cos(np.radians(15)), 1]]), *first(track))
    assert np.allclose(middle, [288, 192], atol=1e-6)
    assert above[0] == pytest.approx(288) and above[1] == pytest.approx(192 - 576 * np.cos(np.radians(5)) / (15 - np.sin(np.radians(5))))
    assert np.allclose(aside, [288 + 576 / 15, 192])


def first(track: Any) -> tuple[np.ndarray, np.ndarray]:
    return track.c2w[0], track.K[0]


def test_quaternions_are_w_x_y_z_as_an_independent_library_has_them() -> None:
    random = Rotation.random(50, rng=np.random.default_rng(0))
    x, y, z, w = random.as_quat().T
    assert np.abs(rotations(np.stack([w, x, y, z], 1), "here") - random.as_matrix()).max() < 1e-12
    with pytest.raises(CandidateError, match=r"quaternion 1 has the length 2"):
        rotations(np.array([[1.0, 0, 0, 0], [2, 0, 0, 0]]), "here")


def test_splits_follow_the_numbers() -> None:
    names = ("scn00000", "scn02799", "scn02800", "scn02899", "scn02900", "scn02999", "scn03000")
    assert [split_of(name) for name in names] == ["train", "train", "val", "val", "test", "test", None]


# Options


def test_a_list_names_the_scenes_and_what_is_missing_of_them(studio: Path, ingest) -> None:
    found = list(ingest("kubric4d", scenes="test20").discover(Tree(studio / "data")))
    assert [each.candidate_id for each in found] == [f"data/scn029{k:02d}" for k in range(20)]
    assert found[0].error is None and all(each.error[0] is Reason.NO_FOOTAGE for each in found[1:])
    (studio / "data" / "mine.txt").write_text("scn00000\nscn00077\nscn00000\n")
    found = list(ingest("kubric4d", scenes="mine.txt").discover(Tree(studio / "data")))
    assert [(each.candidate_id, each.error is None) for each in found] == [("data/scn00000", True), ("data/scn00077", False)]


def test_a_list_that_is_none_is_refused(studio: Path, ingest) -> None:
    with pytest.raises(FileNotFoundError, match="neither one of test20, test50, test100 nor a file"):
        list(ingest("kubric4d", scenes="test21").discover(Tree(studio / "data")))
    (studio / "data" / "odd.txt").write_text("scn00000\n../scn00001\n")
    with pytest.raises(ValueError, match=r"lists '../scn00001'"):
        list(ingest("kubric4d", scenes="odd.txt").discover(Tree(studio / "data")))
    with pytest.raises(RecipeError, match="name each once"):
        build(Kubric4DOptions, {"views": [4, 4]}, "options")


def test_views_are_chosen_by_number_and_in_that_order(studio: Path, ingest) -> None:
    one, _ = ingest("kubric4d", views=[4, 2]).discover(Tree(studio / "data"))
    assert [view.view_id for view in one.views] == ["v4", "v2"] and set(one.sidecars) == {"v4", "v2"}
    none, _ = ingest("kubric4d", views=[9]).discover(Tree(studio / "data"))
    assert none.error == (Reason.NO_FOOTAGE, "data/scn00000 has no frames_p0_vN/rgba_NNNNN.png of the views [9]")


@pytest.mark.parametrize(("inside", "ids"), [("data", "data/scn00000"), ("data/data", "scn00000"), (".", "data/data/scn00000")])
def test_the_input_may_be_the_dataset_or_a_folder_around_it(studio: Path, ingest, inside: str, ids: str) -> None:
    assert next(ingest("kubric4d").discover(Tree(studio / inside))).candidate_id == ids


def test_a_folder_that_cannot_be_listed_costs_one_scene(studio: Path, ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def failing(path: Any) -> list[str]:
        if str(path).endswith("scn00000/frames_p0_v3"):
            raise OSError(5, "Input/output error")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    assert [each.error and each.error[0] for each in ingest("kubric4d").discover(Tree(studio / "data"))] == [Reason.E_IO, None]


def test_another_folder_is_refused(tmp_path: Path, ingest) -> None:
    with pytest.raises(ValueError, match="looked for folders scnNNNNN"):
        list(ingest("kubric4d").discover(Tree(tmp_path)))


# Through the command, with faults


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    """The camera file of view 0 with something changed."""

    def spoil(scene: Path) -> None:
        file = scene / f"{scene.name}_p0_v0.json"
        document = json.loads(file.read_text())
        change(document)
        file.write_text(json.dumps(document))

    return spoil


def camera(name: str, change: Callable[[Any], Any]) -> Callable[[Path], object]:
    return edit(lambda document: document["camera"].__setitem__(name, change(document["camera"][name])))


def png(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    def spoil(scene: Path) -> None:
        file = scene / "frames_p0_v1" / "rgba_00001.png"
        file.write_bytes(change(file.read_bytes()))

    return spoil


def link_out(scene: Path) -> None:
    file = scene / "frames_p0_v1" / "rgba_00001.png"
    file.unlink()
    file.symlink_to(scene.parents[2] / "private.png")


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "scn00001": (camera("positions", lambda p: [[float("nan"), 0, 0], *p[1:]]), "error E_CAMERA"),
    "scn00002": (camera("quaternions", lambda q: [[2, 0, 0, 0], *q[1:]]), "error E_CAMERA"),
    "scn00003": (camera("K", lambda K: [[0, 0, -0.5], *K[1:]]), "error E_CAMERA"),
    "scn00004": (camera("K", lambda K: [[1, 0.2, -0.5], *K[1:]]), "error E_CAMERA"),
    "scn00005": (lambda scene: (scene / f"{scene.name}_p0_v0.json").write_bytes(b"\x80\x04\x95pickled."), "error E_CAMERA"),
    "scn00006": (lambda scene: (scene / f"{scene.name}_p0_v1.json").unlink(), "error E_CAMERA"),
    "scn00007": (edit(lambda document: document.pop("camera")), "error E_CAMERA"),
    "scn00008": (edit(lambda document: document["scene"].__setitem__("resolution", [64, 64])), "error E_CAMERA"),
    "scn00009": (camera("positions", lambda p: p[:-1]), "error E_CAMERA"),
    "scn00010": (edit(lambda d: [d["camera"][name].pop() for name in ("positions", "quaternions")]), "error E_FRAMECOUNT"),
    "scn00011": (lambda scene: (scene / "frames_p0_v1/rgba_00001.png").unlink(), "error E_FRAMECOUNT"),
    "scn00012": (lambda scene: shutil.rmtree(scene / "frames_p0_v1"), "error E_FRAMECOUNT"),
    "scn00013": (edit(lambda document: document["scene"].__setitem__("frame_rate", 12)), "error E_PTS"),
    "scn00014": (lambda scene: (scene / "frames_p0_v1/rgba_00001.png").rename(scene / "frames_p0_v1/rgba_one.png"), "error E_PTS"),
    "scn00015": (link_out, "error E_UNSAFE_PATH"),
    "scn00016": (png(lambda data: data[: len(data) // 2]), "error E_TRUNCATED"),
    "scn00017": (png(lambda data: data[:16] + b"\x00\x01\x00\x00" * 2 + data[24:]), "error E_TOO_BIG"),
    "scn00018": (png(lambda data: b"GIF89a" + data[6:]), "error E_OPEN"),
    "scn00019": (lambda scene: [shutil.rmtree(scene / f"frames_p0_v{v}") for v in (0, 1)], "skipped no_footage"),
    "scn00020": (lambda scene: (scene / "frames_p0_v0/depth_00001.tiff").write_bytes(b"II*\0" + b"\xff" * 60), "error E_OPEN"),
    "scn00021": (lambda scene: (scene / "frames_p0_v0/forward_flow_00000.png").write_bytes(b"no picture, and not read"), "kept"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Output]:
    """The same hostile folder through two executors."""
    folder = tmp_path_factory.mktemp("hostile")
    root = folder / "kubric"
    write_layout("kubric4d", root, scenes=2, cameras=2, frames=3, size=(64, 48))
    shutil.rmtree(root / "data/scn02900")
    shutil.copy(root / "data/scn00000/frames_p0_v0/rgba_00000.png", folder / "private.png")
    for name, (spoil, _) in FAULTS.items():
        copy = shutil.copytree(root / "data/scn00000", root / "data" / name)
        for file in copy.glob("scn00000_*"):
            file.rename(copy / file.name.replace("scn00000", name))
        spoil(copy)
    depth = {"stages.estimate_depth:KnownDepth": {"files": str(root), "layout": "kubric4d", "stride": 1, "height": 48}}
    stages = [{"header": {"min_views": 2}}, "sync", {"view_angles": {"angle": "parallax"}}, depth]
    recipe = write_recipe(folder / "recipe.yaml", {"kubric4d": {"stages": stages, "payload": {"video": {"codec": "h264"}}}})
    return {
        name: run(recipe, {"kubric4d": root}, folder / name, f"--executor={name}", "--error-budget=1", "--no-report", *more)
        for name, *more in (("inline",), ("process", "--workers=2"))
    }


@pytest.mark.parametrize("executor", ["inline", "process"])
def test_each_fault_ends_in_its_own_code_and_good_neighbours_are_kept(made: dict[str, Output], executor: str) -> None:
    output = made[executor]
    expected = {"scn00000": "kept"} | {name: verdict for name, (_, verdict) in FAULTS.items()}
    assert output.verdicts("kubric4d") == {f"data/{name}": verdict for name, verdict in expected.items()}
    assert all(len(row["error_message"]) > 15 for row in output.rows if row["status"] == "error")
    assert intact(output.path)


def test_both_executors_write_the_same_bytes(made: dict[str, Output]) -> None:
    inline, process = (tree(made[name].path / "shards") for name in ("inline", "process"))
    assert inline == process and inline
    rows = [sorted(made[name].rows, key=lambda row: row["sample_id"]) for name in ("inline", "process")]
    assert rows[0] == rows[1]


def test_a_kept_scene_holds_its_cameras_its_frames_and_its_depth(made: dict[str, Output]) -> None:
    sample = made["process"].samples["kubric4d_-data_-scn00000"]
    packed = cameras(sample)
    assert packed["c2w"].shape == (2, 3, 4, 4) and packed["metric"].all() and packed["size"].tolist() == [[64, 48]] * 2
    folder = made["process"].path.parent / "kubric/data/scn00000/frames_p0_v1"
    frames, times = decoded(sample["view01.mp4"])
    assert len(frames) == 3 and np.abs(np.diff(times) - 1e9 / 24).max() < 1e6
    for t, frame in enumerate(frames):
        picture = cv2.imread(str(folder / f"rgba_{t:05d}.png"))[..., ::-1]
        assert np.abs(picture.astype(int) - frame).mean() < 12
    assert "depth.npz" in sample


def test_the_shipped_recipe_packs_a_test_scene_with_the_cameras_of_the_studio(tmp_path: Path) -> None:
    write_layout("kubric4d", tmp_path / "in", scenes=1, cameras=2, frames=14, size=(256, 256))
    output = run("recapture", {"kubric4d": tmp_path / "in"}, tmp_path / "out", "--executor=inline", "--no-report")
    assert output.code == 0 and intact(output.path)
    assert output.verdicts("kubric4d") == {"data/scn02900": "kept"}
    packed, true = cameras(output.samples["kubric4d_-data_-scn02900"]), rig()
    assert packed["frame"].tolist() == [list(range(14))] * 2
    points = np.random.default_rng(0).uniform(-2, 2, (50, 3))
    for v in (0, 1):
        known = project(points, true[v], np.array([[256.0, 0, 128], [0, 256, 128], [0, 0, 1]]))
        assert np.abs(project(points, packed["c2w"][v, 13], packed["K"][v, 13]) - known).max() < 0.1


# Whatever is in the file


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**400) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["scene", "camera"]), st.sampled_from(["resolution", "frame_rate", "positions", "quaternions", "K", ""]), values)
def test_no_camera_file_raises_anything_else(part: str, name: str, value: Any) -> None:
    document = published(15, 5)
    if name:
        document[part][name] = value
    else:
        document[part] = value
    try:
        track, rate = parse_camera(document, "here")
    except CandidateError as problem:
        assert problem.reason is Reason.E_CAMERA
    else:
        assert np.isfinite(track.c2w).all() and np.isfinite(track.K).all() and np.isfinite(rate)
