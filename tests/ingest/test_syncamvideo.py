"""SynCamVideo and MultiCamVideo folders as they are published, and what can be wrong with them."""

import json
from pathlib import Path

import pytest

from schemas.verdict import CandidateError, Reason
from stages.ingest.syncamvideo import parse_matrix
from stages.storage import Tree

STATIC = "[1 0 0 0] [-0 1 0 0] [0 -0 1 0] [3390 1380 240 1] "
SIDE = "[0 1 0 0] [-1 0 0 0] [0 0 1 0] [3.0e2 0 1e1 1]"


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


@pytest.fixture
def v2_scene(make_video):
    """One scene of two cameras in the v2 layout."""

    def make(scene: Path, frames: int = 3, cameras: object = None, size: tuple[int, int] = (64, 64)) -> Path:
        for name in ("cam01", "cam02"):
            make_video(scene / "videos" / f"{name}.mp4", frames=frames, size=size, fps=15)
        poses = {f"frame{i}": {"cam01": STATIC, "cam02": SIDE} for i in range(frames)} if cameras is None else cameras
        write_json(scene / "cameras" / "camera_extrinsics.json", poses)
        return scene

    return make


def test_matrix_forms() -> None:
    full = parse_matrix("[-0.5 1e-3 -0 0] [0 1 0 0] [0 0 1 0] [12960.2 1.25E3 -570 1] ")
    assert full[0].tolist() == [-0.5, 0.001, 0, 0]
    assert full[3].tolist() == [12960.2, 1250, -570, 1]
    assert (parse_matrix("[1 0 0] [0 1 0] [0 0 1] [5 6 7]") == parse_matrix("[1 0 0 0] [0 1 0 0] [0 0 1 0] [5 6 7 1]")).all()
    assert parse_matrix("[1 0 0] [0 1 0] [0 0 1]")[3].tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize(
    "text",
    ["", "1 0 0 0", "[1 0] [0 1] [0 0] [0 0]", "[1 0 0 0]", "[1 0 0 0] [0 1 0 0] [0 0 1 0] [0 0 0 1] [0 0 0 1]",
     "[a 0 0 0] [0 1 0 0] [0 0 1 0] [0 0 0 1]", "[1 0 0 0] junk [0 1 0 0] [0 0 1 0] [0 0 0 1]", 5, None, [[1, 0, 0, 0]]],
)  # fmt: skip
def test_what_is_no_matrix(text: object) -> None:
    with pytest.raises(CandidateError) as caught:
        parse_matrix(text)
    assert caught.value.reason is Reason.E_CAMERA


def test_published_layouts_in_natural_order(tmp_path: Path, make_video, v2_scene, ingest) -> None:
    """The v1 and v2 folders side by side under one parent, with camera-only validation sets."""
    v1, v2, multi = (tmp_path / name for name in ("SynCamVideo", "SynCamVideo-Dataset", "MultiCamVideo-Dataset"))
    for number in (10, 2):
        make_video(v1 / "train" / "videos" / f"scene{number}" / "a.mp4")
        write_json(v1 / "train" / "cameras" / f"scene{number}" / "a.json", {"a": STATIC})
    write_json(v1 / "train" / "cameras" / "scene3" / "a.json", {"a": STATIC})
    for elevation in (0, 10, 5):
        write_json(v1 / "val" / "cameras" / f"Hemi36_4m_{elevation}" / f"Hemi36_4m_{elevation}.json", {"C_01_18mm": STATIC})
    v2_scene(v2 / "train" / "f24_aperture5" / "scene1")
    v2_scene(v2 / "val" / "basic")
    v2_scene(multi / "train" / "f18_aperture10" / "scene1")
    v2_scene(multi / "train" / "f35_aperture2.4" / "scene7")
    write_json(multi / "val" / "10basic_trajectories" / "cameras" / "camera_extrinsics.json", {"frame0": {"cam01": STATIC}})

    found = list(ingest("syncamvideo").discover(Tree(tmp_path)))
    assert [(each.candidate_id, each.split, each.error and each.error[0]) for each in found] == [
        ("MultiCamVideo-Dataset/train/f18_aperture10/scene1", "train", None),
        ("MultiCamVideo-Dataset/train/f35_aperture2.4/scene7", "train", None),
        ("MultiCamVideo-Dataset/val/10basic_trajectories", "val", Reason.CAMERA_ONLY),
        ("SynCamVideo/train/scene2", "train", None),
        ("SynCamVideo/train/scene3", "train", Reason.NO_FOOTAGE),
        ("SynCamVideo/train/scene10", "train", None),
        ("SynCamVideo/val/Hemi36_4m_0", "val", Reason.CAMERA_ONLY),
        ("SynCamVideo/val/Hemi36_4m_5", "val", Reason.CAMERA_ONLY),
        ("SynCamVideo/val/Hemi36_4m_10", "val", Reason.CAMERA_ONLY),
        ("SynCamVideo-Dataset/train/f24_aperture5/scene1", "train", None),
        ("SynCamVideo-Dataset/val/basic", "val", None),
    ]
    assert [each.candidate_id for each in ingest("syncamvideo").discover(Tree(v2))] == ["train/f24_aperture5/scene1", "val/basic"]
    assert len({each.key for each in found}) == len(found)


def test_moving_cameras_follow_the_frames_and_the_lens_follows_the_folder(tmp_path: Path, v2_scene, ingest, load) -> None:
    moving = {f"frame{i}": {"cam01": f"[1 0 0 0] [0 1 0 0] [0 0 1 0] [{100 * i} 200 300 1]", "cam02": SIDE} for i in range(12)}
    v2_scene(tmp_path / "train" / "f50_aperture2.4" / "scene1", frames=12, cameras=moving)
    reader = ingest("syncamvideo")
    [candidate] = reader.discover(Tree(tmp_path))
    scene = load(reader, tmp_path, candidate)
    camera = scene.views[0].cameras
    assert camera.c2w[:, 0, 3].tolist() == list(range(12))  # metres; frame10 after frame9, not after frame1
    assert camera.c2w[5, :3, 3].tolist() == [5, -2, 3]
    assert scene.views[0].camera_frames.tolist() == list(range(12))
    assert camera.K[0, 0, 0] == pytest.approx(64 * 50 / 23.76)
    assert camera.K[0, :2, 2].tolist() == [32, 32]


@pytest.mark.parametrize(
    ("size", "rule", "fx", "fy", "centre"),
    [
        ((90, 60), "crop", 90 * 18 / 23.76, 90 * 18 / 23.76, [45, 30]),  # the published 720x480, resized
        ((60, 60), "crop", 90 * 18 / 23.76, 90 * 18 / 23.76, [30, 30]),  # cut from 90x60
        ((60, 60), "scale", 545.454545 * 60 / 720, 545.454545 * 60 / 480, [30, 30]),
    ],
)
def test_v1_intrinsics_for_the_frames_that_are_there(tmp_path, make_video, ingest, load, size, rule, fx, fy, centre) -> None:
    make_video(tmp_path / "train" / "videos" / "scene1" / "a.mp4", size=size)
    write_json(tmp_path / "train" / "cameras" / "scene1" / "a.json", {"a_18mm": STATIC})
    reader = ingest("syncamvideo", size_rule=rule)
    [candidate] = reader.discover(Tree(tmp_path))
    scene = load(reader, tmp_path, candidate)
    K = scene.views[0].cameras.K
    assert len(K) == 3  # one static camera, repeated for every frame
    assert [K[2, 0, 0], K[2, 1, 1]] == pytest.approx([fx, fy])
    assert K[2, :2, 2] == pytest.approx(centre)
    assert f"frames are {size[0]}x{size[1]}" in scene.notes["size.a"]


def test_aspect_change_is_refused_when_the_rule_says_so(tmp_path: Path, v2_scene, ingest, load) -> None:
    v2_scene(tmp_path / "train" / "f24_aperture5" / "scene1", size=(64, 48))
    reader = ingest("syncamvideo", size_rule="refuse")
    [candidate] = reader.discover(Tree(tmp_path))
    with pytest.raises(CandidateError, match="1280x1280, frames are 64x48") as caught:
        load(reader, tmp_path, candidate)
    assert caught.value.reason is Reason.E_CAMERA


def spoiled(**changes: object) -> dict:
    poses: dict = {f"frame{i}": {"cam01": STATIC, "cam02": SIDE} for i in range(3)}
    return poses | changes


@pytest.mark.parametrize(
    ("cameras", "reason", "said"),
    [
        (spoiled(frame3={"cam01": STATIC, "cam02": SIDE}), Reason.E_FRAMECOUNT, "4 camera poses for 3 frames"),
        ({f"frame{i}": {"cam01": STATIC} for i in range(3)}, Reason.E_FRAMECOUNT, "cam02"),
        ({f"frame{i}": {"cam01": STATIC, "cam02": SIDE, "cam03": SIDE} for i in range(3)}, Reason.E_FRAMECOUNT, "cam03"),
        (spoiled(frame1={"cam01": STATIC}), Reason.E_CAMERA, "frame1 has other cameras"),
        (spoiled(frame7={"cam01": STATIC, "cam02": SIDE}), Reason.E_CAMERA, "frame3 is missing"),
        (spoiled(frame2={"cam01": STATIC.replace("3390", "nan"), "cam02": SIDE}), Reason.E_CAMERA, "pose 2 holds NaN"),
        (spoiled(frame2={"cam01": STATIC.replace("[1 0", "[2 0"), "cam02": SIDE}), Reason.E_CAMERA, "pose 2 is not a rotation"),
        (spoiled(frame2={"cam01": STATIC.replace("[1 0", "[-1 0"), "cam02": SIDE}), Reason.E_CAMERA, "det -1"),
        (spoiled(one={}), Reason.E_CAMERA, "'one'"),
        ([], Reason.E_CAMERA, "mapping"),
        ({}, Reason.E_CAMERA, "mapping"),
    ],
)  # fmt: skip
def test_bad_cameras_have_their_own_code(tmp_path, v2_scene, ingest, load, cameras, reason, said) -> None:
    v2_scene(tmp_path / "train" / "f24_aperture5" / "scene1", cameras=cameras)
    reader = ingest("syncamvideo")
    [candidate] = reader.discover(Tree(tmp_path))
    with pytest.raises(CandidateError, match=said) as caught:
        load(reader, tmp_path, candidate)
    assert caught.value.reason is reason


@pytest.mark.parametrize("text", ['{"frame0": ', "\x00\xff", "[" * 100_000, '{"frame0": {"cam01": "", "cam01": ""}}'])
def test_broken_camera_file(tmp_path: Path, v2_scene, ingest, load, text: str) -> None:
    scene = v2_scene(tmp_path / "train" / "f24_aperture5" / "scene1")
    (scene / "cameras" / "camera_extrinsics.json").write_bytes(text.encode("latin-1"))
    reader = ingest("syncamvideo")
    [candidate] = reader.discover(Tree(tmp_path))
    with pytest.raises(CandidateError) as caught:
        load(reader, tmp_path, candidate)
    assert caught.value.reason is Reason.E_CAMERA


def test_missing_camera_file_and_foreign_links_are_rows(tmp_path: Path, v2_scene, ingest) -> None:
    root = tmp_path / "input"
    (v2_scene(root / "train" / "f24_aperture5" / "scene1") / "cameras" / "camera_extrinsics.json").unlink()
    outside = v2_scene(tmp_path / "outside")
    linked = v2_scene(root / "train" / "f24_aperture5" / "scene2")
    (linked / "videos" / "cam01.mp4").unlink()
    (linked / "videos" / "cam01.mp4").symlink_to(outside / "videos" / "cam01.mp4")
    found = list(ingest("syncamvideo").discover(Tree(root)))
    assert [each.error[0] for each in found] == [Reason.E_CAMERA, Reason.E_UNSAFE_PATH]


def test_captions_of_a_scene(tmp_path: Path, v2_scene, ingest) -> None:
    train = tmp_path / "train" / "f24_aperture5"
    for number in (1, 2, 3):
        v2_scene(train / f"scene{number}")
    (tmp_path / "metadata.csv").write_text(
        "file_name,text\n"
        'f24_aperture5/scene1/videos/cam02.mp4,"a fox, running"\n'
        "f24_aperture5/scene2/videos/cam01.mp4,one view\n"
        "f24_aperture5/scene2,the scene\n"
    )
    assert [each.caption for each in ingest("syncamvideo").discover(Tree(tmp_path))] == ["a fox, running", "the scene", None]


def test_a_caption_file_without_its_columns_stops_the_run(tmp_path: Path, v2_scene, ingest) -> None:
    v2_scene(tmp_path / "train" / "f24_aperture5" / "scene1")
    (tmp_path / "metadata.csv").write_text("path,caption\na,b\n")
    with pytest.raises(ValueError, match="file_name,text"):
        list(ingest("syncamvideo").discover(Tree(tmp_path)))


def test_a_folder_that_is_something_else(tmp_path: Path, ingest) -> None:
    with pytest.raises(ValueError, match="no SynCamVideo"):
        list(ingest("syncamvideo").discover(Tree(tmp_path)))
    with pytest.raises(FileNotFoundError):
        list(ingest("syncamvideo").discover(Tree(tmp_path / "missing")))
