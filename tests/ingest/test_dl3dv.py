"""DL3DV-10K: conversion against the studio's truth, sizes, distortion, where things lie, and the shipped recipe."""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.curate import main as curate
from pipeline.studio import write_layout
from pipeline.studio.layouts.dl3dv import FOLDERS
from schemas.frames import Scene
from schemas.recipe import MediaLimits
from schemas.verdict import CandidateError, Reason
from stages.ingest import ingests
from stages.ingest.dl3dv import SHRINK
from stages.media import Media
from stages.storage import Tree
from tests.e2e.output import Output, cameras, intact, nearest_frame, picture, run, tree
from tests.ingest.dl3dv_scenes import HASHES, document, write_scene

# The convention


def project(points: np.ndarray, c2w: np.ndarray, K: np.ndarray) -> np.ndarray:
    """[N,2] pixels of world points [N,3]; OpenCV axes."""
    local = (points - c2w[:3, 3]) @ c2w[:3, :3]
    return (local @ K.T)[:, :2] / local[:, 2:]


def test_opengl_cameras_see_what_stands_before_them(tmp_path, ingest, load):
    """By hand: identity rotation at z = 5 looks at the origin; +x is right and +y is up, so y falls in pixels."""
    write_scene(tmp_path / HASHES[0])
    reader = ingest("dl3dv")
    (candidate,) = reader.discover(Tree(tmp_path))
    (view,) = load(reader, tmp_path, candidate).views
    K = view.cameras.K[0]
    found = project(np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), view.cameras.c2w[0], K)
    focal = 0.6 * 96
    assert found == pytest.approx(np.array([[48, 27], [48 + focal / 5, 27], [48, 27 - focal / 5]]))
    assert (view.cameras.scale, view.cameras.up, view.cameras.distortion) == ("arbitrary", None, ())
    assert view.cameras.c2w[2, :3, 3] == pytest.approx([0.4, 0, 5]), "the world is the file's"


@dataclass
class Made:
    data: Path
    truth: Path

    def known(self, candidate_id: str) -> dict[str, np.ndarray]:
        with np.load(self.truth / f"{Path(candidate_id).name}.npz") as stored:
            return {name: stored[name] for name in ("c2w", "K", "depth")}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("dl3dv")
    write_layout("dl3dv", folder / "data", scenes=3, frames=24, size=(96, 54), truth=folder / "truth", seed=3)
    return Made(folder / "data", folder / "truth")


@pytest.fixture(scope="module")
def scenes(made: Made) -> list[Scene]:
    cls = ingests()["dl3dv"]
    reader = cls(cls.Options())
    with Media(made.data, MediaLimits()) as media:
        return [reader.load(Tree(made.data), candidate, media) for candidate in reader.discover(Tree(made.data))]


def surface(known: dict[str, np.ndarray], frame: int) -> np.ndarray:
    """[N,3] points of the scene that the true camera sees at its pixel centres."""
    depth, K, c2w = known["depth"][0, frame], known["K"][0, frame], known["c2w"][0, frame]
    rows, columns = np.mgrid[0 : depth.shape[0] : 5, 0 : depth.shape[1] : 5]
    z = depth[rows, columns].ravel().astype(float)
    ray = np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5, np.ones(rows.size)], axis=1) @ np.linalg.inv(K).T
    return (ray * z[:, None]) @ c2w[:3, :3].T + c2w[:3, 3]


def reprojection_error(found: np.ndarray, K: np.ndarray, true: np.ndarray, true_K: np.ndarray, points: np.ndarray) -> float:
    """The largest distance in pixels of points [N,3] (true world) projected by cameras [T,4,4] of a world and unit of their own."""
    here, there = (np.linalg.inv(poses[0]) @ poses for poses in (found, true))
    unit = (here[:, :3, 3] * there[:, :3, 3]).sum() / (there[:, :3, 3] ** 2).sum()
    local = (points - true[0, :3, 3]) @ true[0, :3, :3]
    worst = 0.0
    for a, Ka, b, Kb in zip(here, K, there, true_K, strict=True):
        seen = ((local - b[:3, 3]) @ b[:3, :3])[:, 2] > 0.2
        assert seen.any()
        worst = max(worst, float(np.abs(project(local[seen] * unit, a, Ka) - project(local[seen], b, Kb)).max()))
    return worst


def test_known_points_fall_on_their_pixels_in_every_frame(made, scenes):
    folders = []
    for scene in scenes:
        (view,), known = scene.views, made.known(scene.candidate.candidate_id)
        folders.append(scene.candidate.attrs["images"])
        entries = view.camera_frames
        assert 2 < len(entries) < len(view.index) == 24, "some pictures have no pose"
        numbers = [int(Path(view.media.files[frame].path).stem[-5:]) - 1 for frame in entries]
        true, K = known["c2w"][0][numbers], known["K"][0][numbers]
        points = np.concatenate([surface(known, numbers[0]), surface(known, numbers[-1])])
        error = reprojection_error(view.cameras.c2w, view.cameras.K, true, K, points)
        assert error < 1e-6, "the issue asks for 0.1 px; the studio's file has all digits"
        assert scene.notes["without_pose"] == f"{24 - len(entries)} of 24 pictures were not registered"
    assert set(folders) == {name for name, _ in FOLDERS}


def test_a_conversion_that_forgets_the_axes_would_be_noticed(made, scenes):
    """The measure itself: the same poses without the change of axes are far off."""
    (view,), known = scenes[0].views, made.known(scenes[0].candidate.candidate_id)
    true, K = known["c2w"][0][view.camera_frames], known["K"][0][view.camera_frames]
    wrong = view.cameras.c2w @ np.diag([1.0, -1, -1, 1])
    assert reprojection_error(wrong, view.cameras.K, true, K, surface(known, int(view.camera_frames[0]))) > 5


# Sizes, distortion


# The folder, the size of its pictures of 381 x 213, and whether they are what the folder's name says.
SIZES = [
    ("images_4", (95, 53), True), ("images_4", (96, 54), True), ("images_8", (47, 27), True), ("images", (381, 213), True),
    ("images_4", (97, 53), False), ("images_4", (95, 52), False), ("images_8", (95, 53), False), ("images", (380, 213), False),
]  # fmt: skip


def test_intrinsics_go_with_the_pictures_that_are_there(tmp_path, ingest, load):
    """381 x 213 is no multiple: nerfstudio's own tool rounds down, others up. A ray keeps its share of each side."""
    for name, (images, size, _) in zip(HASHES, SIZES, strict=False):
        write_scene(tmp_path / name, document(width=381, height=213), size, images)
    full = np.array([[0.6 * 381, 0, 381 / 2], [0, 0.6 * 381, 213 / 2], [0, 0, 1]])
    ray = np.array([0.3, -0.2, 1.0])
    reader = ingest("dl3dv")
    for candidate, (images, size, fits) in zip(reader.discover(Tree(tmp_path)), SIZES, strict=True):
        if not fits:
            with pytest.raises(CandidateError, match=f"381x213.*{size[0]}x{size[1]}.*expected") as caught:
                load(reader, tmp_path, candidate)
            assert caught.value.reason is Reason.E_CAMERA
            continue
        scene = load(reader, tmp_path, candidate)
        track = scene.views[0].cameras
        assert (track.width, track.height) == size
        assert (track.K[0] @ ray)[:2] / size == pytest.approx((full @ ray)[:2] / (381, 213))
        assert f"1/{SHRINK[images]}" in scene.notes["images"] and f"{size[0]}x{size[1]}" in scene.notes["images"]
        assert ("rounded" in scene.notes["images"]) == (images != "images")


def test_distortion_is_carried_and_goes_with_the_smaller_pictures(tmp_path, ingest, load):
    """OpenCV's own projection at full size, shrunk, is that of the carried camera."""
    lens = {"k1": 0.05, "k2": -0.02, "p1": 0.001, "p2": -0.002}
    write_scene(tmp_path / HASHES[0], document() | lens)
    reader = ingest("dl3dv")
    (candidate,) = reader.discover(Tree(tmp_path))
    scene = load(reader, tmp_path, candidate)
    track = scene.views[0].cameras
    assert track.distortion == (0.05, -0.02, 0.001, -0.002) and "not undistorted" in scene.notes["distortion"]
    points = np.random.default_rng(0).uniform((-1, -0.6, 2), (1, 0.6, 4), (50, 3))
    full = np.array([[0.6 * 384, 0, 192], [0, 0.6 * 384, 108], [0, 0, 1]])
    still = np.zeros(3)
    large = cv2.projectPoints(points, still, still, full, np.array(list(lens.values())))[0][:, 0]
    small = cv2.projectPoints(points, still, still, track.K[0], np.array(track.distortion))[0][:, 0]
    assert small == pytest.approx(large / 4)
    (tmp_path / HASHES[0] / "transforms.json").write_text(json.dumps(document() | {"k1": 0.1, "k3": 0.01}))
    (candidate,) = reader.discover(Tree(tmp_path))
    assert load(reader, tmp_path, candidate).views[0].cameras.distortion == (0.1, 0, 0, 0, 0.01)


# Where things lie


def ids(reader, root: Path) -> dict[str, str]:
    return {each.candidate_id: str(each.error[0]) if each.error else str(each.attrs["images"]) for each in reader.discover(Tree(root))}


def test_scenes_are_found_in_batches_in_the_benchmark_and_unpacked_twice(tmp_path, ingest, load):
    a, b, c, d, e, f, g = HASHES[:7]
    write_scene(tmp_path / "DL3DV-ALL-960P/1K" / a)
    write_scene(tmp_path / "DL3DV-ALL-960P/2K" / b, images="images_8")
    write_scene(tmp_path / c / "nerfstudio")
    write_scene(tmp_path / d / d)
    write_scene(tmp_path / "my own scene")
    (tmp_path / e).mkdir()
    with zipfile.ZipFile(tmp_path / f"{f}.zip", "w") as archive:
        archive.writestr("x", "")
    with zipfile.ZipFile(tmp_path / f"{c}.zip", "w") as archive:  # unpacked beside it
        archive.writestr("x", "")
    write_scene(tmp_path / "__MACOSX" / g)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "DL3DV-valid.csv").write_text(f"hash\n{g}\n")
    reader = ingest("dl3dv")
    found = ids(reader, tmp_path)
    assert found == {
        f"DL3DV-ALL-960P/1K/{a}": "images_4", f"DL3DV-ALL-960P/2K/{b}": "images_8", c: "images_4", d: "images_4",
        e: "no_footage", f: "no_footage", "my own scene": "images_4",
    }  # fmt: skip
    assert list(reader.discover(Tree(tmp_path))) == list(reader.discover(Tree(tmp_path)))
    assert ids(reader, tmp_path / c) == {c: "images_4"} and ids(reader, tmp_path / "my own scene") == {"scene": "images_4"}
    by_id = {each.candidate_id: each for each in reader.discover(Tree(tmp_path))}
    assert "no picture" in by_id[f].error[1], "it was looked into"
    for name in (c, d):
        assert len(load(reader, tmp_path, by_id[name]).views[0].cameras) == 3


def test_the_cache_of_a_hub_is_read_as_it_lies(tmp_path, ingest, load):
    repository, unpacked = tmp_path / "datasets--DL3DV--DL3DV-ALL-960P", tmp_path / "unpacked"
    batch = repository / "snapshots/0af3/1K"
    for folder in (batch, repository / "blobs"):
        folder.mkdir(parents=True)
    write_scene(unpacked / HASHES[0])
    with zipfile.ZipFile(repository / "blobs/77ab", "w") as archive:
        for path in sorted(unpacked.rglob("*.*")):
            archive.write(path, path.relative_to(unpacked))
    (batch / f"{HASHES[0]}.zip").symlink_to("../../../blobs/77ab")
    reader = ingest("dl3dv")
    (candidate,) = reader.discover(Tree(repository))
    assert candidate.error is None and len(load(reader, repository, candidate).views[0].cameras) == 3
    assert ids(reader, batch) == {HASHES[0]: "E_UNSAFE_PATH"}, "there it would lead out of what was given"


def test_the_sample_keeps_its_scenes_in_colmap(tmp_path, ingest, load):
    write_scene(tmp_path / HASHES[0] / "colmap")
    reader = ingest("dl3dv")
    (candidate,) = reader.discover(Tree(tmp_path))
    assert candidate.candidate_id == HASHES[0] and len(load(reader, tmp_path, candidate).views[0].cameras) == 3


def test_a_folder_without_scenes_says_what_was_looked_for(tmp_path, ingest):
    (tmp_path / "videos").mkdir()
    with pytest.raises(ValueError, match=r"no DL3DV scene.*transforms\.json"):
        list(ingest("dl3dv").discover(Tree(tmp_path)))
    with pytest.raises(FileNotFoundError):
        list(ingest("dl3dv").discover(Tree(tmp_path / "none")))


def test_of_several_picture_folders_one_is_taken(tmp_path, ingest):
    scene = write_scene(tmp_path / HASHES[0], images="images_8")
    for images, expected in (("images", "images"), ("images_2", "images_2"), ("images_4", "images_4")):
        write_scene(tmp_path / "other" / images, images=images)
        (tmp_path / "other" / images / images).rename(scene / images)
        (tmp_path / "other" / images / "transforms.json").unlink()
        assert ids(ingest("dl3dv"), scene) == {HASHES[0]: expected}
    assert ids(ingest("dl3dv", images="images_8"), scene) == {HASHES[0]: "images_8"}
    assert ids(ingest("dl3dv", images="images_2"), write_scene(tmp_path / "x" / HASHES[1])) == {HASHES[1]: "no_footage"}


def test_pictures_made_jpeg_keep_their_poses_and_times_follow_numbers(tmp_path, ingest, load):
    scene = write_scene(tmp_path / HASHES[0], document(frames=12), numbers=(2, 10, 11))
    given = document(frames=12)
    given["frames"] = [given["frames"][k - 1] for k in (11, 2)]  # in COLMAP's order; 10 is not registered
    (scene / "transforms.json").write_text(json.dumps(given))
    for path in (scene / "images_4").iterdir():
        cv2.imwrite(str(path.with_suffix(".jpg")), cv2.imread(str(path)))
        path.unlink()
    reader = ingest("dl3dv", fps=10.0)
    (candidate,) = reader.discover(Tree(tmp_path))
    (view,) = load(reader, tmp_path, candidate).views
    assert [Path(file.path).name for file in view.media.files] == ["frame_00002.jpg", "frame_00010.jpg", "frame_00011.jpg"]
    assert view.index.pts_ns.tolist() == [200_000_000, 1_000_000_000, 1_100_000_000]
    assert view.camera_frames.tolist() == [0, 2]
    assert view.cameras.c2w[:, 0, 3] == pytest.approx([0.2, 2.0])


# The benchmark's list


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("benchmark-meta.csv", f"scene,hash,label\n1,{HASHES[1]},indoor\n2,{HASHES[3].upper()},outdoor\n"),
        ("index.json", json.dumps({HASHES[1]: {"context": [0, 5]}, HASHES[3]: None})),
        ("list.txt", f"# benchmark\n1K/{HASHES[1]}\n{HASHES[3]}.zip\n{HASHES[2]}0\n"),
    ],
)
def test_scenes_of_the_list_are_left_out_unseen(name, text, tmp_path, ingest):
    for k in range(3):
        write_scene(tmp_path / "1K" / HASHES[k])
    (tmp_path / "1K" / f"{HASHES[3]}.zip").write_bytes(b"")
    (tmp_path / name).write_text(text)
    found = {each.candidate_id[3:]: each for each in ingest("dl3dv", exclude=name).discover(Tree(tmp_path))}
    assert {key for key, each in found.items() if each.error and each.error[0] is Reason.EXCLUDED} == {HASHES[1], HASHES[3]}
    assert not found[HASHES[1]].views and name in found[HASHES[1]].error[1]
    assert found[HASHES[0]].error is None and found[HASHES[2]].error is None
    assert ids(ingest("dl3dv", exclude=str(tmp_path / name)), tmp_path / "1K" / HASHES[1]) == {HASHES[1]: "excluded"}


def test_the_benchmark_s_list_in_the_input_is_taken_and_its_absence_is_said(tmp_path, capsys):
    """By the shipped recipe as it is."""
    for k in range(2):
        write_scene(tmp_path / "in" / HASHES[k])
    command = ["syncammaster", f"--input=dl3dv={tmp_path / 'in'}", f"--output={tmp_path / 'out'}", "--executor=inline", "--no-report"]
    curate([*command, "--dry-run"])
    assert "dl3dv: no benchmark scenes are excluded; put the benchmark's benchmark-meta.csv" in capsys.readouterr().err
    (tmp_path / "in/benchmark-meta.csv").write_text(f"scene,hash\n1,{HASHES[1]}\n")
    curate(command)
    assert "dl3dv: scenes that benchmark-meta.csv names are excluded" in capsys.readouterr().err
    verdicts = Output(tmp_path / "out", 0).verdicts("dl3dv")
    assert verdicts[HASHES[1]] == "skipped excluded" and "excluded" not in verdicts[HASHES[0]]


def test_a_list_that_excludes_nothing_is_refused(tmp_path, ingest):
    write_scene(tmp_path / HASHES[0])
    (tmp_path / "list.txt").write_text("scene one\n")
    for name in ("list.txt", "missing.txt", HASHES[0]):
        with pytest.raises(ValueError, match="exclude: "):
            list(ingest("dl3dv", exclude=name).discover(Tree(tmp_path)))


# Through the command


@pytest.fixture(scope="module")
def curated(made: Made, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Output]:
    folder = tmp_path_factory.mktemp("curated")
    more = {"inline": ["--executor=inline"], "process": ["--executor=process", "--workers=2"]}
    return {name: run("syncammaster", {"dl3dv": made.data}, folder / name, "--no-report", *flags) for name, flags in more.items()}


def test_groups_of_the_shipped_recipe_are_the_studios_frames_and_cameras(made, curated):
    output = curated["inline"]
    assert output.code == 0 and intact(output.path)
    assert set(output.verdicts("dl3dv").values()) == {"kept"} and len(output.verdicts("dl3dv")) == 3
    groups = [row for row in output.of("dl3dv", status="kept") if row["kind"] == "view_group"]
    assert len(groups) >= 6 and len({row["parent_id"] for row in groups}) == 3
    for row in groups:
        assert row["scores"]["overlap"] >= 0.6 and "non-commercial" in row["license"]
        sample, known = output.samples[row["sample_id"]], made.known(row["candidate_id"])
        frames = [frame for (frame,) in row["frame_index"]]
        packed = cameras(sample)
        assert packed["size"].tolist() == [[96, 54]] * 4 and not packed["metric"].any()
        points = surface(known, frames[0])
        assert reprojection_error(packed["c2w"][:, 0], packed["K"][:, 0], known["c2w"][0][frames], known["K"][0][frames], points) < 0.1
        folder = (made.data / row["media"][0]).parent
        film = np.stack([cv2.imread(str(path))[..., ::-1] for path in sorted(folder.iterdir())])
        for view, frame in enumerate(frames):
            best, difference = nearest_frame(picture(sample[f"view{view:02d}.jpg"]), film)
            assert best == frame and difference < 6
        notes = json.loads(sample["meta.json"])["notes"]
        assert "K times" in notes["images"] and "without_pose" in notes


def test_the_same_bytes_from_both_executors(curated):
    inline, process = (curated[name].path for name in ("inline", "process"))
    assert tree(inline / "shards") == tree(process / "shards") != {}
    assert tree(inline / "manifest" / "samples") == tree(process / "manifest" / "samples")
