"""MediaPipe's networks on several people: geometry against independent drawings, and real photos against their ground truth."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from schemas.candidate import Candidate, MediaFile, MediaRef, View
from schemas.frames import Scene, SceneView
from schemas.recipe import MediaLimits
from schemas.typed import build
from stages.detect_poses import DetectPoses, PosesConfig
from stages.media import Media
from stages.perception.holistic import (
    Body,
    Crops,
    HolisticPose,
    anchors,
    apart,
    body_region,
    distinct,
    face_region_again,
    hand_region,
    in_image,
    refined,
    squares_of,
)
from stages.perception.openpose import COCO, FACE
from stages.perception.weights import WeightsError
from stages.stage import Child, Item

REAL = Path(os.environ.get("PARALLAX_REAL_DATA", "/none")) / "coco_wholebody"
NETWORKS = ("mediapipe-pose-detection", "mediapipe-pose-landmark", "mediapipe-hand-landmark", "mediapipe-face-landmark")


def soft_dot(height: int, width: int, x: float, y: float, spread: float) -> NDArray[np.uint8]:
    down, across = np.mgrid[:height, :width] + 0.5
    return np.rint(255 * np.exp(-((across - x) ** 2 + (down - y) ** 2) / (2 * spread**2))).astype(np.uint8)[..., None].repeat(3, axis=2)


@pytest.mark.parametrize(("side", "angle"), [(100.0, 0.0), (100.0, 0.7), (333.0, -2.0), (1500.0, 3.0), (40.0, 1.5)])
def test_what_a_crop_shows_is_mapped_back_to_where_it_is(side: float, angle: float) -> None:
    """The centre of gravity of a dot in the crop, back in the image: its place, whatever the crop's size and turn."""
    spread = max(2.0, side / 40)
    truth = np.array([410.3, 288.6])
    image = soft_dot(600, 800, *truth, spread)
    region = np.array([truth[0] + 0.11 * side, truth[1] - 0.07 * side, side, angle])
    crop = Crops(image).cut(region, 128)[..., 0].astype(np.float64)
    assert crop.shape == (128, 128) and crop.max() <= 1
    middles = (np.arange(128) + 0.5) / 128
    found = np.array([crop.sum(0) @ middles, crop.sum(1) @ middles]) / crop.sum()
    assert np.abs(in_image(found, region) - truth).max() < 0.004 * side


def test_up_in_a_crop_is_up_along_the_body() -> None:
    hips, head = np.array([300.0, 200.0]), np.array([400.0, 200.0])  # lies, the head to the right
    region = body_region(hips, head)
    assert region[2] == pytest.approx(2.5 * 100)
    inside = in_image(np.array([0.5, 0.5 - 1 / 2.5]), region)  # straight up by the body's length
    assert np.allclose(inside, head)
    assert np.allclose(in_image(np.array([0.5, 0.5]), region), hips)


def test_anchors_are_those_of_the_detector() -> None:
    found = anchors(224, [(8, 2), (16, 2), (32, 6)])
    assert len(found) == 2254  # what the network gives
    assert np.allclose(found[:4], [[4 / 224, 4 / 224]] * 2 + [[12 / 224, 4 / 224]] * 2)
    assert np.allclose(found[-1], 1 - 16 / 224) and np.allclose(found[1568], 8 / 224)


@pytest.mark.parametrize(("width", "height"), [(640, 425), (425, 640), (500, 500), (1920, 1080), (3, 2)])
def test_squares_see_every_corner_and_whoever_is_half_as_large(width: int, height: int) -> None:
    for levels in range(4):
        squares = squares_of(width, height, levels)
        assert squares[0].tolist() == [width / 2, height / 2, max(width, height), 0]
        for level in range(levels):
            side = min(width, height) / 2**level
            same = squares[1:][np.isclose(squares[1:, 2], side)]
            if len(same) == 0:
                assert side == max(width, height)
                continue
            for axis, length in ((0, width), (1, height)):
                edges = np.unique(same[:, axis]) - side / 2
                assert edges[0] == pytest.approx(0) and edges[-1] + side == pytest.approx(length)
                assert len(edges) == 1 or np.diff(edges).max() <= side / 2 + 1e-9


def test_a_ribbon_is_not_cut_into_thousands_of_squares() -> None:
    assert len(squares_of(10_000, 10, 2)) < 40


def test_of_detections_in_one_place_the_surest_stays() -> None:
    regions = np.array([[100, 100, 80, 0], [104, 97, 90, 0.1], [300, 100, 80, 0], [100, 100, 700, 0.0]])
    assert apart(regions, np.array([0.6, 0.9, 0.7, 0.5]))[:, 0].tolist() == [104, 300]


def body(x: float, y: float, side: float, score: float = 1.0) -> Body:
    points = np.random.default_rng(1).uniform(-0.25, 0.25, (33, 2)) * side + (x, y)
    return Body(points, np.full(33, 0.9), score, np.array([x, y, side, 0.0]))


def test_the_same_body_counts_once_and_neighbours_twice() -> None:
    surest, again, neighbour = body(100, 100, 200, 0.99), body(108, 95, 210, 0.9), body(180, 100, 200, 0.8)
    assert distinct([neighbour, again, surest]) == [surest, neighbour]
    assert distinct([]) == []


def test_a_body_seen_in_a_leg_of_another_is_none() -> None:
    person = Body(upright(300, 300, 400), np.full(33, 0.9), 0.99, np.array([300, 300, 400, 0.0]))
    knee = person.points[26]
    in_leg = Body(knee + (upright(0, 0, 60) * (0.5, 1)), np.full(33, 0.9), 1.0, np.array([*knee, 60, 0.0]))
    beside = Body(upright(420, 300, 60), np.full(33, 0.9), 1.0, np.array([420, 300, 60, 0.0]))
    assert distinct([in_leg, person, beside]) == [beside, person]


def upright(x: float, y: float, side: float) -> NDArray[np.float64]:
    """33 points of somebody who stands, the hips' middle at (x, y)."""
    unit = np.zeros((33, 2))
    unit[:11] = (0, -0.35)
    for left, place in {11: (0.08, -0.25), 13: (0.1, -0.13), 15: (0.11, 0), 17: (0.11, 0.03), 19: (0.1, 0.03), 21: (0.1, 0.02)}.items():
        unit[left], unit[left + 1] = place, (-place[0], place[1])
    for left, place in {23: (0.06, 0), 25: (0.06, 0.18), 27: (0.06, 0.35), 29: (0.06, 0.37), 31: (0.08, 0.37)}.items():
        unit[left], unit[left + 1] = place, (-place[0], place[1])
    return unit * side + (x, y)


def test_refined_points_lie_at_their_heats_centre() -> None:
    heat = np.full((64, 64, 2), -50.0)
    heat[30:33, 20:23, 0] = 4.0  # centre (21.5, 31.5) cells
    heat[10, 10, 1] = -1.0  # too cold to move anything
    moved = refined(np.array([[21 / 64, 33 / 64], [10.5 / 64, 11.5 / 64]]), heat)
    np.testing.assert_allclose(moved * 64, [[21.5, 31.5], [10.5, 11.5]], atol=1e-9)
    outside = np.array([[1.2, 0.5], [-0.3, 0.5]])
    assert np.array_equal(refined(outside, heat), outside)


def test_regions_of_hands_and_faces_follow_their_turn() -> None:
    """A turned body's hand and face have the same regions, turned."""
    rng, angle, middle = np.random.default_rng(2), 0.8, np.array([200.0, 150.0])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    hand, face = rng.uniform(100, 130, (3, 2)), rng.uniform(100, 160, (468, 2))
    face[263], face[33] = (150, 120), (110, 121)
    for make, points in ((lambda p: hand_region(*p), hand), (face_region_again, face)):
        straight, turned = make(points), make((points - middle) @ turn.T + middle)
        assert np.allclose(turned[:2], turn @ (straight[:2] - middle) + middle) and turned[2] == pytest.approx(straight[2])
        assert np.isclose(np.cos(turned[3] - straight[3] - angle), 1)


def test_files_that_are_no_networks_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed (extra: perception)")
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(b"TFL3" * 100)
    for path in (broken, tmp_path / "none.tflite"):
        with pytest.raises(WeightsError, match="no network that LiteRT can run"):
            HolisticPose(path, path)


@pytest.fixture(scope="module")
def files(fetched: Callable[[str], Path]) -> list[Path]:
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed (extra: perception)")
    return [fetched(name) for name in NETWORKS]


def test_networks_in_the_wrong_order_are_refused(files: list[Path]) -> None:
    with pytest.raises(WeightsError, match=r"takes \[1, 256, 256, 3\].*expected \[1, 224, 224, 3\]"):
        HolisticPose(files[1], files[0])


def test_nobody_in_an_empty_picture_of_any_shape(files: list[Path]) -> None:
    images = [np.full(shape, 120, np.uint8) for shape in ((240, 320, 3), (1, 1, 3), (9, 400, 3))]
    for people in HolisticPose(*files, levels=1).people(images):
        assert people.keypoints.shape == (0, 134, 2) and people.scores.shape == (0, 134)


real_photos = pytest.mark.skipif(not REAL.is_dir(), reason="PARALLAX_REAL_DATA does not name the folder of real recordings")


@real_photos
def test_body_points_of_real_photos_pck(files: list[Path]) -> None:
    """Done-when: PCK@0.1 of visible body points (COCO's 17) at least 0.8, 0.1 of the longer side of the person's box; people are
    matched to the ground truth so that most points are right, and who is not found has none right."""
    right, visible, extra = pck(HolisticPose(*files))
    assert right / visible >= 0.8, f"{right} of {visible}"
    assert extra <= 1


def pck(model: HolisticPose) -> tuple[int, int, int]:
    """Points that are right, points there are, and people found whom nobody marked."""
    from scipy.optimize import linear_sum_assignment

    truth = json.loads((REAL / "test_coco_wholebody.json").read_text("utf-8"))
    right = visible = extra = 0
    for about in truth["images"]:
        image = cv2.cvtColor(cv2.imread(str(REAL / about["file_name"])), cv2.COLOR_BGR2RGB)
        marked = [each for each in truth["annotations"] if each["image_id"] == about["id"] and each["num_keypoints"]]
        points = np.array([each["keypoints"] for each in marked]).reshape(-1, 17, 3)
        sides = np.array([max(each["bbox"][2:]) for each in marked])
        [people] = model.people([np.asarray(image, np.uint8)])
        gaps = np.linalg.norm(people.keypoints[:, None, list(COCO)] - (points[..., :2] + 0.5), axis=-1)  # COCO marks pixel numbers
        good = (gaps <= 0.1 * sides[:, None]) & (points[..., 2] == 2) & (people.scores[:, None, list(COCO)] > 0)
        counts = good.sum(-1)
        rows, columns = linear_sum_assignment(-counts)
        right += int(counts[rows, columns].sum())
        visible += int((points[..., 2] == 2).sum())
        extra += max(0, len(people.keypoints) - len(marked))
    return right, visible, extra


@real_photos
def test_a_mirrored_photo_has_mirrored_people(files: list[Path]) -> None:
    """Left and right must change places, in the body and in the face."""
    model = HolisticPose(*files, levels=0)
    image = np.asarray(cv2.cvtColor(cv2.imread(str(REAL / "000000000785.jpg")), cv2.COLOR_BGR2RGB), np.uint8)
    [people], [mirrored] = (model.people([each]) for each in (image, np.ascontiguousarray(image[:, ::-1])))
    pairs = {2: 5, 3: 6, 4: 7, 8: 11, 9: 12, 10: 13}
    for right, left in pairs.items():
        for one, other in ((right, left), (left, right)):
            expected = np.array([image.shape[1], 0]) + mirrored.keypoints[0, other] * (-1, 1)
            assert np.linalg.norm(people.keypoints[0, one] - expected) < 0.05 * 347  # of the person's height
    face, other_face = people.keypoints[0, FACE], mirrored.keypoints[0, FACE]
    chin = face[8]
    assert np.linalg.norm(chin - ((image.shape[1], 0) + other_face[8] * (-1, 1))) < 6 and face[0, 0] < face[16, 0]


@pytest.mark.skipif(not (REAL.parent / "sav_videos").is_dir(), reason="PARALLAX_REAL_DATA does not name the folder of real recordings")
def test_the_stage_follows_the_one_person_of_a_real_clip(files: list[Path]) -> None:
    """A man stands upright and juggles a ball with his foot: one person from first to last, with face and feet where they belong."""
    path = REAL.parent / "sav_videos" / "05_default_juggle.mp4"
    about = path.stat()
    with Media(path.parent, MediaLimits()) as media:
        ref = MediaRef("video", (MediaFile(path.name, about.st_size, about.st_mtime_ns),))
        index = media.index(ref)
        scene = Scene(Candidate("clips", "juggle", "video", (View("cam", ref),)), (SceneView("cam", ref, index),))
        child = Child("w0", "window", (0,), (np.arange(10, 35),), None, ("cam",))
        settings = build(PosesConfig, {"stride": 8, "levels": 1, "weights": [str(file) for file in files]}, "poses")
        found = DetectPoses(settings).score(Item("key", "window", scene, child), media)
    poses = found.members["poses"]
    assert found.scores["n_people"] == 1 and found.scores["pose_score"] > 0.8
    assert poses["frame"].tolist() == [0, 8, 16, 24]
    [person] = [number for number in poses["ids"] if (poses["scores"][:, number] > 0).any(1).all()]
    xy = poses["keypoints"][:, person]
    assert (xy[:, 0, 1] < xy[:, 1, 1]).all() and (xy[:, 1, 1] < xy[:, 8, 1]).all()  # nose above neck above hip
    assert (xy[:, 2, 0] < xy[:, 5, 0]).all()  # he faces us: his right shoulder is on the left
    assert ((xy[:, :18] > 0) & (xy[:, :18] < (index.width, index.height))).all()
    faces = poses["scores"][:, person, FACE].max(1) > 0
    size = np.ptp(xy[..., 1], axis=1)
    nose_gap = np.linalg.norm(xy[:, FACE][:, 30] - xy[:, 0], axis=1)  # the tip of the nose, as face and as body see it
    assert faces.any() and (nose_gap[faces] < 0.03 * size[faces]).all()
