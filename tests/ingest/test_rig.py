"""Rigs: our cameras.json, COLMAP's text model (against pycolmap), Qualisys files, and size rules."""

import json
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.camera import look_at
from schemas.verdict import CandidateError, Reason
from stages.ingest.files import printable
from stages.storage import Tree

EYES = {"left": (-1.5, -4.0, 1.2), "right": (2.0, -3.0, 1.5)}
TARGET = (0.0, 0.0, 1.0)


def camera(name: str, **changes: object) -> dict:
    pose = look_at(EYES[name], TARGET).tolist()
    return {"width": 64, "height": 48, "fx": 60.0, "fy": 61.0, "cx": 31.0, "cy": 25.0, "c2w": pose} | changes


def rig(**changes: object) -> dict:
    return {"version": 1, "units": "metres", "cameras": {name: camera(name) for name in EYES}} | changes


@pytest.fixture
def scene(tmp_path: Path, make_video):
    """A scene folder: two videos of three frames and a cameras.json."""

    def make(document: object = None, folder: str = "", size: tuple[int, int] = (64, 48), videos: str = "") -> Path:
        for name in EYES:
            make_video(tmp_path / folder / videos / f"{name}.mp4", size=size)
        if document is not None:
            (tmp_path / folder / "cameras.json").write_text(json.dumps(document))
        return tmp_path

    return make


def load_only(reader, root, load):
    [candidate] = reader.discover(Tree(root))
    return load(reader, root, candidate)


def test_documented_example_is_what_is_read(scene, ingest, load) -> None:
    moving = [look_at((0.1 * i, -3, 1), TARGET).tolist() for i in range(3)]
    right = {
        "video": "right.mp4",
        "width": 64,
        "height": 48,
        "K": [[60, 0, 31], [0, 61, 25], [0, 0, 1]],
        "w2c": [np.linalg.inv(m).tolist()[:3] for m in moving],
    }
    document = rig(up=[0, 0, 2], centre=TARGET, cameras={"left": camera("left", distortion=[0.1, 0, 0, 0]), "R": right})
    views = load_only(ingest("rig"), scene(document), load).views
    assert [view.view_id for view in views] == ["left", "right"]
    left, other = (view.cameras for view in views)
    assert left.c2w == pytest.approx(np.stack([look_at(EYES["left"], TARGET)] * 3))  # static, for every frame
    assert other.c2w == pytest.approx(np.array(moving))
    assert (left.up, left.centre, left.scale, left.distortion) == ((0, 0, 1), TARGET, "metres", (0.1, 0, 0, 0))
    assert (left.K == other.K).all()


def test_units_become_metres(scene, ingest, load) -> None:
    millimetres = rig(units="millimetres", centre=[0, 0, 1000])
    for name, entry in millimetres["cameras"].items():
        entry["c2w"] = look_at(np.multiply(EYES[name], 1000), np.multiply(TARGET, 1000)).tolist()
    view = load_only(ingest("rig"), scene(millimetres), load).views[0]
    assert view.cameras.c2w[0, :3, 3] == pytest.approx(EYES["left"])
    assert view.cameras.centre == pytest.approx(TARGET)


def test_centre_is_where_the_optical_axes_meet(scene, ingest, load) -> None:
    root = scene(rig())
    found = load_only(ingest("rig"), root, load)
    assert found.views[1].cameras.centre == pytest.approx(TARGET, abs=1e-9)
    assert load_only(ingest("rig", centre_within_deg=0.0), root, load).views[1].cameras.centre is None
    apart = rig()
    apart["cameras"]["left"]["c2w"] = look_at(EYES["left"], (-9, -4, 1.2)).tolist()  # looks away
    (root / "cameras.json").write_text(json.dumps(apart))
    found = load_only(ingest("rig"), root, load)
    assert found.views[1].cameras.centre is None and "do not meet" in found.notes["centre"]


def test_several_scenes_in_natural_order_and_their_verdicts(tmp_path: Path, scene, make_video, ingest) -> None:
    scene(rig(), "take10")
    scene(rig(), "take9", videos="videos")
    scene(None, "take11")
    (tmp_path / "take12").mkdir()
    (tmp_path / "take12" / "cameras.json").write_text(json.dumps(rig()))
    (tmp_path / "notes").mkdir()
    found = list(ingest("rig").discover(Tree(tmp_path)))
    assert [(each.candidate_id, each.error and each.error[0]) for each in found] == [
        ("take9", None),
        ("take10", None),
        ("take11", Reason.E_CAMERA),
        ("take12", Reason.NO_FOOTAGE),
    ]
    with pytest.raises(ValueError, match="holds no rig"):
        list(ingest("rig").discover(Tree(tmp_path / "notes")))


@pytest.mark.parametrize(
    ("document", "reason", "said"),
    [
        (rig(version=2), Reason.E_CAMERA, "version"),
        (rig(units="feet"), Reason.E_CAMERA, "metres"),
        (rig(camera={}), Reason.E_CAMERA, "did you mean 'cameras'"),
        (rig(cameras={}), Reason.E_CAMERA, "cameras"),
        (rig(up=[0, 0, 0]), Reason.E_CAMERA, "direction"),
        (rig(cameras={"left": camera("left")}), Reason.E_FRAMECOUNT, "no camera for the videos 'right'"),
        (rig(cameras={name: camera("left") for name in ("left", "right", "top")}), Reason.E_FRAMECOUNT, "'top'"),
        (
            rig(cameras={"left": camera("left"), "right": camera("right", c2w=[camera("right")["c2w"]] * 2)}),
            Reason.E_FRAMECOUNT,
            "2 camera poses for 3",
        ),
        (rig(cameras={"left": camera("left", fx=float("nan")), "right": camera("right")}), Reason.E_CAMERA, "NaN"),
        (rig(cameras={"left": camera("left", w2c=np.eye(4).tolist()), "right": camera("right")}), Reason.E_CAMERA, "exactly one"),
        (rig(cameras={"left": camera("left", c2w=[[1, 2], [3]]), "right": camera("right")}), Reason.E_CAMERA, "equally long"),
        (rig(cameras={"left": camera("left", distortion=[1, 2]), "right": camera("right")}), Reason.E_CAMERA, "4 or 5"),
        (rig(cameras={"left": camera("left", width=0), "right": camera("right")}), Reason.E_CAMERA, "positive integer"),
        (
            rig(cameras={"left": {"c2w": np.eye(4).tolist(), "width": 64, "height": 48}, "right": camera("right")}),
            Reason.E_CAMERA,
            "lacks fx",
        ),
        ([], Reason.E_CAMERA, "mapping"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(scene, ingest, load, document, reason, said) -> None:
    with pytest.raises(CandidateError, match=said) as caught:
        load_only(ingest("rig"), scene(document), load)
    assert caught.value.reason is reason


HALF = "\ud800"  # json.dumps writes it as an escape, which json.loads takes for half of a surrogate pair


@pytest.mark.parametrize(
    "document",
    [
        rig(cameras={HALF: camera("left"), "right": camera("right")}),
        rig(cameras={"left": camera("left", video=f"{HALF}.mp4"), "right": camera("right")}),
        rig(cameras={"left": camera("left"), HALF: camera("right", fx="wide")}),
        rig(cameras={"left": camera("left"), HALF: camera("right", width=0)}),
        rig(cameras={"left": camera("left"), HALF: camera("right", lens=1)}),
        rig(cameras={"left": camera("left"), HALF: 5}),
        rig(units=HALF),
        rig(up=[HALF, "\udcff", 1]),
        rig(**{HALF: 1}),
    ],
)
def test_names_that_are_no_text_leave_messages_that_are(scene, ingest, load, document) -> None:
    with pytest.raises(CandidateError) as caught:
        load_only(ingest("rig"), scene(document), load)
    assert "\\ud800" in caught.value.message.encode("utf-8").decode()


def test_a_camera_whose_name_is_no_text_goes_with_the_video_it_names(scene, ingest, load) -> None:
    document = rig(cameras={HALF: camera("left", video="left.mp4"), "right": camera("right")})
    assert [view.view_id for view in load_only(ingest("rig"), scene(document), load).views] == ["left", "right"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("café\U0001f600", "café\U0001f600"),
        ("\udcff.mp4", "\\xff.mp4"),
        ("a\ud800b", "a\\ud800b"),
        ("\udc7f\udd00\udfff", "\\udc7f\\udd00\\udfff"),
    ],
)
def test_printable_spells_out_what_is_no_text(name: str, text: str) -> None:
    assert printable(name) == text


@given(st.text(st.characters() | st.characters(categories=["Cs"])))
def test_printable_is_always_text_and_settles(name: str) -> None:
    spelled = printable(name)
    assert spelled.encode("utf-8").decode("utf-8") == spelled == printable(spelled)


@pytest.mark.parametrize(
    ("size", "options", "expected"),
    [
        ((32, 24), {}, [30, 30.5, 15.5, 12.5]),  # resized
        ((62, 48), {}, [60, 61, 30, 25]),  # two pixels cut, one each side
        ((62, 48), {"anchor": "top-left"}, [60, 61, 31, 25]),
        ((62, 48), {"size_rule": "scale"}, [60 * 62 / 64, 61, 31 * 62 / 64, 25]),
        ((48, 48), {"max_crop": 0.3}, [60, 61, 23, 25]),
        ((48, 48), {}, "25.0% of a side, at most 5.0%"),
        ((62, 48), {"size_rule": "refuse"}, "size rule is refuse"),
        ((68, 48), {}, "padding"),
        ((68, 48), {"size_rule": "pad"}, [60, 61, 33, 25]),
        ((68, 48), {"size_rule": "pad", "anchor": "top-left"}, [60, 61, 31, 25]),  # a decoder that shows whole macroblocks
        ((64, 60), {"size_rule": "pad"}, [60, 61, 31, 31]),
        ((32, 36), {"size_rule": "pad"}, [30, 30.5, 15.5, 18.5]),
    ],
)
def test_size_mismatch_follows_the_rule_and_is_recorded(scene, ingest, load, size, options, expected) -> None:
    reader, root = ingest("rig", **options), scene(rig(), size=size)
    if isinstance(expected, str):
        with pytest.raises(CandidateError, match=expected) as caught:
            load_only(reader, root, load)
        assert caught.value.reason is Reason.E_CAMERA
        return
    found = load_only(reader, root, load)
    camera_ = found.views[0].cameras
    K = camera_.K[0]
    assert [K[0, 0], K[1, 1], K[0, 2], K[1, 2]] == pytest.approx(expected)
    assert (camera_.width, camera_.height) == size
    assert found.notes["size.left"].startswith(f"cameras speak of 64x48, frames are {size[0]}x{size[1]}")


@pytest.mark.parametrize(("bars", "rule"), [(6, "pad"), (0, "crop"), (12, "crop")])
def test_auto_tells_padding_from_a_crop_by_the_bars(tmp_path: Path, scene, ingest, load, bars: int, rule: str) -> None:
    """Frames of 48x48 from a 64x48 calibration: padded, if there are bars of just 6 pixels; else the picture was cut."""
    root = scene(rig())
    for name in EYES:
        picture = np.full((48, 48, 3), 120, np.uint8)
        picture[:bars] = picture[48 - bars :] = 0
        with av.open(str(root / f"{name}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=30, options={"crf": "20"})
            stream.width, stream.height, stream.pix_fmt = 48, 48, "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
    found = load_only(ingest("rig", max_crop=0.5), root, load)
    assert rule in found.notes["size.left"]
    K = found.views[0].cameras.K[0]
    assert [K[0, 0], K[0, 2], K[1, 2]] == pytest.approx([45, 23.25, 24.75] if rule == "pad" else [60, 23, 25])


COLMAP_CAMERAS = """# Camera list
1 OPENCV 64 48 60 61 31.5 24.25 0.1 -0.02 0.001 0.002
2 SIMPLE_RADIAL 64 48 60 32 24 0.05
3 RADIAL 64 48 60 32 24 0.05 -0.01
4 PINHOLE 64 48 60 61 32 24
5 SIMPLE_PINHOLE 64 48 60 32 24
"""
COLMAP_IMAGES = """# Image list with two lines of data per image:
7 0.9659258262890683 0 0.25881904510252074 0 0.1 0.2 3 1 left.jpg
10.5 20.5 -1 30 40 2
3 0.8 0.1 -0.5 0.31622776601683794 0.5 0.2 3 {model} right.png

"""


@pytest.mark.parametrize("model", [1, 2, 3, 4, 5])
def test_colmap_text_model_agrees_with_pycolmap(tmp_path: Path, scene, ingest, load, model: int) -> None:
    """Every supported camera model: the same world point lands on the same pixel."""
    pycolmap = pytest.importorskip("pycolmap")
    sparse = scene(None, videos="videos") / "sparse" / "0"
    sparse.mkdir(parents=True)
    (sparse / "cameras.txt").write_text(COLMAP_CAMERAS)
    (sparse / "images.txt").write_text(COLMAP_IMAGES.format(model=model))
    (sparse / "points3D.txt").write_text("")
    truth = pycolmap.Reconstruction(str(sparse))
    points = np.random.default_rng(0).uniform(-0.4, 0.4, (20, 3))
    found = load_only(ingest("rig"), tmp_path, load)
    for view in found.views:
        [image] = [image for image in truth.images.values() if Path(image.name).stem == view.view_id]
        theirs = truth.cameras[image.camera_id].img_from_cam(image.cam_from_world() * points)
        track = view.cameras
        w2c = np.linalg.inv(track.c2w[0])
        ours, _ = cv2.projectPoints(points, cv2.Rodrigues(w2c[:3, :3])[0], w2c[:3, 3], track.K[0], np.array(track.distortion or [0.0] * 4))
        assert ours[:, 0] == pytest.approx(theirs, abs=1e-6)
        assert track.scale == "arbitrary" and len(track) == 3


def test_colmap_folder_of_frames_is_a_moving_camera(tmp_path: Path, scene, ingest, load) -> None:
    """Frame 10 comes after frame 9, and after 2."""
    root = scene(None)
    (root / "cameras.txt").write_text("1 PINHOLE 64 48 60 61 32 24\n")
    lines = [f"{n} 1 0 0 0 {-n} 0 0 1 {name}/{n}.jpg\n\n" for name in EYES for n in (10, 2, 9)]
    (root / "images.txt").write_text("".join(lines))
    for view in load_only(ingest("rig"), root, load).views:
        assert view.cameras.c2w[:, 0, 3].tolist() == [2, 9, 10]


@pytest.mark.parametrize(
    ("cameras", "images", "said"),
    [
        ("1 FISHEYE 64 48 1 2 3\n", "", "'FISHEYE' is not one of"),
        ("1 PINHOLE 64 48 60 61 32\n", "", "4 parameters, got 3"),
        ("1 PINHOLE 64 48 60 61 32 x\n", "", "could not convert"),
        ("1 PINHOLE 64 48 60 61 32 24\n", "1 2 0 0 0 0 0 0 1 left.jpg\n\n", "quaternion"),
        ("1 PINHOLE 64 48 60 61 32 24\n", "1 nan 0 0 0 0 0 0 1 left.jpg\n\n", "quaternion"),
        ("1 PINHOLE 64 48 60 61 32 24\n", "1 1 0 0 0 0 0 0 2 left.jpg\n\n", "names the camera 2"),
        ("1 PINHOLE 64 48 60 61 32 24\n", "1 1 0 0 0\n\n", "expected IMAGE_ID"),
    ],
)
def test_broken_colmap_models(scene, ingest, load, cameras: str, images: str, said: str) -> None:
    root = scene(None)
    (root / "cameras.txt").write_text(cameras)
    (root / "images.txt").write_text(images)
    with pytest.raises(CandidateError, match=said) as caught:
        load_only(ingest("rig"), root, load)
    assert caught.value.reason is Reason.E_CAMERA


def qualisys_camera(serial: str, eye: tuple[float, float, float], model: str = "Miqus Video") -> str:
    """As the file has it: rows of r are the camera's right, up and backward axis in the world; millimetres; 1/64 pixel."""
    c2w = look_at(eye, TARGET)
    rows = [c2w[:3, 0], -c2w[:3, 1], -c2w[:3, 2]]
    r = " ".join(f'r{i + 1}{j + 1}="{rows[i][j]:.16f}"' for i in range(3) for j in range(3))
    return (
        f'<camera active="1" model="{model}" serial="{serial}"><fov_video left="0" top="0" right="63" bottom="47"/>'
        f'<transform x="{eye[0] * 1000}" y="{eye[1] * 1000}" z="{eye[2] * 1000}" {r}/>'
        f'<intrinsic focalLengthU="{60 * 64}" focalLengthV="{61 * 64}" centerPointU="{31 * 64}" centerPointV="{25 * 64}" '
        'sensorMinU="0.0" sensorMinV="0.0" skew="0.0" radialDistortion1="-0.05" radialDistortion2="0.14" radialDistortion3="0" '
        'tangentalDistortion1="0.001" tangentalDistortion2="0.002"/></camera>'
    )


def qualisys(*cameras: str) -> str:
    return f"<?xml version='1.0' encoding='ASCII'?>\n<calibration><cameras>{''.join(cameras)}</cameras></calibration>"


def test_qualisys_file(tmp_path: Path, make_video, ingest, load) -> None:
    """Videos named after the serial number; a marker camera without a video is left out and recorded."""
    for name in ("Take 1_Miqus_11", "Take 1_Miqus_12"):
        make_video(tmp_path / "videos" / f"{name}.mp4", size=(64, 48))
    (tmp_path / "calibration").mkdir()
    text = qualisys(
        qualisys_camera("11", EYES["left"]), qualisys_camera("12", EYES["right"]), qualisys_camera("99", EYES["right"], "Oqus 300")
    )
    (tmp_path / "calibration" / "Calib.qca.txt").write_text(text)
    found = load_only(ingest("rig"), tmp_path, load)
    assert found.notes["cameras_without_video"] == "99"
    for view, eye in zip(found.views, EYES.values(), strict=True):
        track = view.cameras
        assert track.c2w[0] == pytest.approx(look_at(eye, TARGET), abs=1e-9)
        assert track.K[0] == pytest.approx(np.array([[60, 0, 31.5], [0, 61, 25.5], [0, 0, 1]]))
        assert track.distortion == (-0.05, 0.14, 0.001, 0.002, 0.0)
        assert (track.scale, track.up) == ("metres", (0, 0, 1))
        assert track.centre == pytest.approx(TARGET, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<calibration>", "not valid XML"),
        ("<calibration/>", "no active camera"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><calibration/>', "entities"),
        (qualisys(qualisys_camera("left", EYES["left"]).replace("<transform", "<moved")), "no <transform>"),
        (qualisys(qualisys_camera("left", EYES["left"]).replace('skew="0.0"', 'skew="3"')), "skew"),
        (qualisys(qualisys_camera("left", EYES["left"]).replace('x="-1500.0"', 'x="nan"')), "finite"),
        (qualisys(qualisys_camera("left", EYES["left"]).replace('r11="0', 'r11="7')), "pose 0 is not a rotation"),
    ],
)
def test_broken_qualisys_files(scene, ingest, load, text: str, said: str) -> None:
    root = scene(None)
    (root / "Calib.qca.txt").write_text(text)
    with pytest.raises(CandidateError, match=said) as caught:
        load_only(ingest("rig"), root, load)
    assert caught.value.reason is Reason.E_CAMERA
