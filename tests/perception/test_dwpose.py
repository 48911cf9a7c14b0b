"""DWPose from ONNX files of the official signature: boxes against hand calculation, points against dots that the test drew."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from schemas.typed import RecipeError
from stages.perception.openpose import COCO, LEFT_HAND, NECK, RIGHT_HAND
from stages.perception.weights import WeightsError

pytest.importorskip("onnx", reason="onnx is not installed (extra: dev)")
pytest.importorskip("rtmlib", reason="rtmlib is not installed (extra: perception)")

from stages.perception.dwpose import DWPose
from tests.perception.dwpose_files import SCORE_Y, Row, draw_dot, write_detector, write_pose

# In the network's 640 x 640 picture; an image of 320 x 240 is doubled into its top left corner.
LEFT = Row(8, (20, 30), (0.5, -0.25), (np.log(16), np.log(32)))  # centre (164, 238), 128 x 256
RIGHT = Row(32, (14, 7), (0.0, 0.5), (np.log(4), np.log(8)), score=0.5)  # centre (448, 240), 128 x 256


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A detector that sees a person left and one right, whatever the image; and the pose network."""
    folder = tmp_path_factory.mktemp("dwpose")
    return write_detector(folder / "yolox_l.onnx", [RIGHT, LEFT]), write_pose(folder / "dw-ll_ucoco_384.onnx")


def dots() -> NDArray[np.uint8]:
    """Black, 320 x 240; red, green and blue dots within both boxes."""
    image = np.zeros((240, 320, 3), np.uint8)
    for channel, (x, y) in enumerate([(70.0, 90.0), (95.5, 130.25), (85.0, 165.0), (210.0, 100.0), (240.5, 120.0), (225.0, 150.75)]):
        draw_dot(image, x, y, channel % 3, width=6.0)
    return image


def test_boxes_are_decoded_as_by_hand(tmp_path: Path, files: tuple[Path, Path]) -> None:
    found = DWPose(*files, device="cpu").boxes([np.zeros((240, 320, 3), np.uint8)])
    expected = [[(164 - 64) / 2, (238 - 128) / 2, (164 + 64) / 2, (238 + 128) / 2], [192, 56, 256, 184]]
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)


def test_only_people_count_from_a_score_of_03_and_once(tmp_path: Path, files: tuple[Path, Path]) -> None:
    again = Row(16, (10, 15), (0.5, -0.25), (np.log(8), np.log(16)), score=0.6)  # centre (168, 236): nearly LEFT
    faint, car = Row(8, (70, 70), (0, 0), (3, 3), score=0.29), Row(8, (60, 10), (0, 0), (3, 3), label=2, score=0.95)
    detector = write_detector(tmp_path / "many.onnx", [again, faint, car, LEFT, RIGHT])
    [found] = DWPose(detector, files[1], device="cpu").boxes([np.zeros((240, 320, 3), np.uint8)])
    np.testing.assert_allclose(found, [[50, 55, 114, 183], [192, 56, 256, 184]], rtol=1e-5)  # 0.9 before 0.5


def test_the_detector_is_fed_rgb_in_the_top_left_corner_on_gray(tmp_path: Path, files: tuple[Path, Path]) -> None:
    """An objectness that reads the red of one pixel of the network's picture: 240 is the first row below the image of 320 x 120."""
    inside = Row(8, (20, 10), log_size=(2, 2), score=1.0, lit=(200, 100))
    padded = Row(8, (60, 60), log_size=(2, 2), score=1.0, lit=(200, 240))
    detector = DWPose(write_detector(tmp_path / "lit.onnx", [inside, padded]), files[1], device="cpu")
    picture = np.zeros((120, 320, 3), np.uint8)
    gray_only, blue, red = picture, picture.copy(), picture.copy()
    blue[..., 2], red[..., 0] = 255, 255
    counts = [len(boxes) for boxes in detector.boxes([gray_only, blue, red])]
    assert counts == [1, 1, 2]  # 114 / 255 of the padding is more than 0.3; a black or blue pixel is less


def test_points_lie_where_the_dots_are(files: tuple[Path, Path]) -> None:
    [people] = DWPose(*files, device="cpu").people([dots()])
    truth = np.array([[(70, 90), (95.5, 130.25), (85, 165)], [(210, 100), (240.5, 120), (225, 150.75)]])
    for person in range(2):
        for coco, place in enumerate(COCO):  # the network's point i looks for channel i mod 3
            assert np.abs(people.keypoints[person, place] - truth[person, coco % 3]).max() < 0.8
        for part, start in ((LEFT_HAND, 91), (RIGHT_HAND, 112)):
            expected = truth[person, (start + np.arange(21)) % 3]
            assert np.abs(people.keypoints[person, part] - expected).max() < 0.8
        shoulders = people.keypoints[person, [5, 2]]
        assert np.allclose(people.keypoints[person, NECK], shoulders.mean(0), atol=1e-3)


def test_points_are_unbiased(files: tuple[Path, Path]) -> None:
    """Dots all over: were the first pixel's centre taken for (0, 0), all would be off by half a pixel the same way."""
    model, rng, errors = DWPose(*files, device="cpu"), np.random.default_rng(0), []
    for _ in range(12):
        image = np.zeros((240, 320, 3), np.uint8)
        x, y = rng.uniform(60, 105), rng.uniform(80, 160)
        draw_dot(image, x, y, 0)
        errors.append(model.people([image])[0].keypoints[0, 0] - (x, y))
    assert np.abs(np.mean(errors, axis=0)).max() < 0.15 and np.abs(errors).max() < 0.8


def test_a_score_is_the_smaller_maximum_and_the_necks_is_all_or_nothing(files: tuple[Path, Path]) -> None:
    model, image = DWPose(*files, device="cpu"), dots()
    [people] = model.people([image])
    brightest = {0: (255 - 123.675) / 58.395, 1: (255 - 116.28) / 57.12, 2: (255 - 103.53) / 57.375}  # RGB's own mean and deviation
    for coco, place in enumerate(COCO):
        assert people.scores[0, place] == pytest.approx(SCORE_Y * brightest[coco % 3], rel=0.03)  # that of y is the smaller
    assert people.scores[0, NECK] == 1  # both shoulders above 0.3: left asks for blue, right for red
    image[..., 2] = 0
    [people] = model.people([image])
    assert people.scores[0, NECK] == 0 and people.scores[0, 5] == 0 and people.scores[0, 2] > 0.3
    assert not people.keypoints[0, 5].any()  # nothing speaks for it: it has no place


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_a_batch_changes_nothing(tmp_path: Path, files: tuple[Path, Path], batch: int) -> None:
    """Whether the files take one picture, a fixed number, or any."""
    images = [dots(), np.zeros((100, 80, 3), np.uint8), dots()[::-1].copy(), dots()[:, ::-1].copy()]
    one_by_one = [DWPose(*files, device="cpu").people([image])[0] for image in images]
    for size in ("n", 4):
        pose = write_pose(tmp_path / f"pose_{size}.onnx", size)
        together = DWPose(files[0], pose, device="cpu", batch=batch).people(images)
        for alone, beside in zip(one_by_one, together, strict=True):
            assert np.array_equal(alone.keypoints, beside.keypoints) and np.array_equal(alone.scores, beside.scores)


def test_nobody_is_nobody_unless_the_whole_picture_is_asked_for(tmp_path: Path, files: tuple[Path, Path]) -> None:
    detector, image = write_detector(tmp_path / "nobody.onnx", []), np.zeros((384, 288, 3), np.uint8)
    draw_dot(image, 100.0, 200.0, 0)
    assert DWPose(detector, files[1], device="cpu").people([]) == []
    [people] = DWPose(detector, files[1], device="cpu").people([image])
    assert people.keypoints.shape == (0, 134, 2) and people.scores.shape == (0, 134)
    [people] = DWPose(detector, files[1], device="cpu", whole_picture=True).people([image])
    assert np.abs(people.keypoints[:, 0] - [100, 200]).max() < 0.8 and len(people.scores) == 1


def test_a_file_that_is_not_there_is_not_downloaded(tmp_path: Path, files: tuple[Path, Path]) -> None:
    for pair in ((tmp_path / "none.onnx", files[1]), (files[0], tmp_path / "none.onnx")):
        with pytest.raises(WeightsError, match=r"there is no .*none\.onnx"):
            DWPose(*pair)


def test_files_that_are_something_else_are_refused(tmp_path: Path, files: tuple[Path, Path]) -> None:
    with pytest.raises(WeightsError, match=r"takes .*\(3, 384, 288\).*expected .*\(8400, 85\)"):
        DWPose(files[1], files[0])
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(files[0].read_bytes()[:1000])
    with pytest.raises(WeightsError, match="no network that onnxruntime can run"):
        DWPose(broken, files[1])


def test_a_device_that_is_not_there_is_refused(files: tuple[Path, Path]) -> None:
    import onnxruntime

    with pytest.raises(RecipeError, match='allowed: "auto"'):
        DWPose(*files, device="gpu")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(RecipeError, match="onnxruntime-gpu"):
            DWPose(*files, device="cuda:0")


def test_nothing_is_printed(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """rtmlib prints a line for each file, which would end up in the output of commands."""
    DWPose(*files, device="cpu")
    assert capsys.readouterr().out == ""


def test_networks_compute_in_one_thread_whatever_the_machine_has(files: tuple[Path, Path]) -> None:
    """More would sum in another order, and their number is the machine's."""
    model = DWPose(*files, device="cpu")
    for tool in (model._detector, model._pose):
        options = tool.session.get_session_options()
        assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
        assert tool.session.get_providers() == ["CPUExecutionProvider"]


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 2)])
def test_the_smallest_pictures_are_no_error(files: tuple[Path, Path], size: tuple[int, int]) -> None:
    for whole_picture in (False, True):
        model = DWPose(*files, device="cpu", whole_picture=whole_picture)
        for value in (0, 255):
            [people] = model.people([np.full((*size, 3), value, np.uint8)])
            assert np.isfinite(people.keypoints).all() and ((people.scores >= 0) & (people.scores <= 1)).all()
