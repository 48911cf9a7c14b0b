"""Skeletons of clips: two people, drawn as three dots each, walk towards each other; their members and scores are what the drawing says."""

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from schemas.candidate import Candidate, MediaFile, MediaRef, View
from schemas.frames import Scene, SceneView
from schemas.typed import RecipeError, build
from schemas.verdict import Reason
from stages.detect_poses import DetectPoses, PosesConfig, in_source, looked_at, packable, summary
from stages.media import Media
from stages.perception.fetch import Fetcher
from stages.perception.linking import link
from stages.perception.openpose import COCO
from stages.perception.results import People
from stages.perception.weights import CHECKPOINTS, WeightsError, proven
from stages.stage import Child, Item, Shown

pytest.importorskip("onnx", reason="onnx is not installed (extra: dev)")
pytest.importorskip("rtmlib", reason="rtmlib is not installed (extra: perception)")
pytest.importorskip("scipy", reason="scipy is not installed (extra: perception)")

from tests.perception.dwpose_files import Row, draw_dot, write_detector, write_pose

FRAMES = 13
MakeStage = Callable[..., DetectPoses]
# Each is a box where the red light at its place in the network's picture (320 x 240, doubled) is on. They leave 40 pixels between them.
PEOPLE = [
    Row(8, (20, 30), (0, 0), (np.log(16), np.log(32)), lit=(4, 476)),
    Row(8, (60, 30), (0, 0), (np.log(16), np.log(32)), lit=(12, 476)),
]
LIGHTS = [(2, 238), (6, 238)]  # pixels of the source


def frame(number: int, there: tuple[bool, bool] = (True, True)) -> np.ndarray:
    """Person 0 in the left box moves right, person 1 in the right box moves left, each with a light that says so."""
    image = np.zeros((240, 320, 3), np.uint8)
    for person, x in enumerate((60 + 3 * number, 260 - 3 * number)):
        if there[person]:
            draw_all(image, x, 110 + 20 * person)
            light = LIGHTS[person]
            image[light[1] - 1 : light[1] + 2, light[0] - 1 : light[0] + 2] = 255
    return image


PARTS = [(0, -30), (-12, 5), (14, 35)]  # where the three dots of a person are: the points 0, 3, 6, ..., the next, the next


def draw_all(image: np.ndarray, x: float, y: float) -> None:
    for channel, (across, down) in enumerate(PARTS):
        draw_dot(image, x + across, y + down, channel, width=5.0)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("dwpose")
    return str(write_detector(folder / "det.onnx", PEOPLE)), str(write_pose(folder / "pose.onnx"))


@pytest.fixture
def stage(files: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MakeStage:
    monkeypatch.setenv("PARALLAX_WEIGHTS", str(tmp_path / "weights"))

    def make(**settings: object) -> DetectPoses:
        return DetectPoses(build(PosesConfig, {"model": "dwpose", "weights": files, "device": "cpu", **settings}, "poses"))

    return make


@pytest.fixture
def make_colour_clip(clip_folder: Path, media: Media) -> Callable[..., Scene]:
    """As make_clip, from RGB frames, lossless but for the colours' resolution."""

    def make(frames: list[np.ndarray]) -> Scene:
        name = f"colour{len(list(clip_folder.iterdir()))}.mp4"
        with av.open(str(clip_folder / name), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"qp": "4", "preset": "veryfast"})
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt = "yuv420p"
            for each in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(each, "rgb24")))
            container.mux(stream.encode())
        stat = (clip_folder / name).stat()
        ref = MediaRef("video", (MediaFile(name, stat.st_size, stat.st_mtime_ns),))
        return Scene(Candidate("clips", name, "video", (View("cam", ref),)), (SceneView("cam", ref, media.index(ref)),))

    return make


def test_a_clip_of_two_people(stage: MakeStage, make_colour_clip: Callable[..., Scene], media: Media) -> None:
    scene = make_colour_clip([frame(number) for number in range(FRAMES)])
    found = stage(stride=3, batch=2).score(Item("key", "video", scene), media)
    poses = found.members["poses"]
    assert poses["frame"].tolist() == [0, 3, 6, 9, 12] and poses["ids"].tolist() == [0, 1]
    assert poses["keypoints"].dtype == np.float32 and poses["scores"].dtype == np.float16
    assert poses["keypoints"].shape == (5, 2, 134, 2) and poses["scores"].shape == (5, 2, 134)
    first = int(poses["keypoints"][0, 0, 0, 0] > 160)  # which of the two has number 0
    for place, number in enumerate(poses["frame"]):
        for person, x in enumerate((60 + 3 * number, 260 - 3 * number)):
            mine = person if first == 0 else 1 - person
            truth = np.array([(x + across, 110 + 20 * person + down) for across, down in PARTS])
            for coco, point in enumerate(COCO):
                assert np.abs(poses["keypoints"][place, mine, point] - truth[coco % 3]).max() < 2
    assert found.scores["n_people"] == 2
    assert 0.4 < found.scores["pose_score"] < 1
    assert sum(array.nbytes for array in poses.values()) < 50_000


def test_positions_are_of_the_packed_frames_and_pixels_of_the_source(
    stage: MakeStage, make_colour_clip: Callable[..., Scene], media: Media
) -> None:
    """A window of every second frame, looked at in half size."""
    scene = make_colour_clip([frame(number) for number in range(FRAMES)])
    chosen = np.arange(2, FRAMES, 2)
    child = Child("w0", "window", (0,), (chosen,), None, ("cam",))
    poses = stage(stride=2, height=120).score(Item("key", "window", scene, child), media).members["poses"]
    assert poses["frame"].tolist() == [0, 2, 4, 5]
    for place, position in enumerate(poses["frame"]):
        xs = sorted(poses["keypoints"][place, :, 0, 0])
        number = chosen[position]
        assert np.abs(np.array(xs) - (60 + 3 * number, 260 - 3 * number)).max() < 2.5


@pytest.mark.parametrize("away", [(False, True), (False, False)])
def test_who_is_not_in_the_last_frame_does_not_count(
    stage: MakeStage, make_colour_clip: Callable[..., Scene], media: Media, away: tuple[bool, bool]
) -> None:
    scene = make_colour_clip([frame(number) if number < 9 else frame(number, away) for number in range(FRAMES)])
    limited = stage(stride=4, min_people=2)
    found = limited.score(Item("key", "video", scene), media)
    assert found.scores["n_people"] == sum(away)
    assert found.members["poses"]["ids"].tolist() == [0, 1]
    assert limited.decide(found.scores) == [Reason.FEW_PEOPLE]


def test_nobody_is_no_error(stage: MakeStage, make_colour_clip: Callable[..., Scene], media: Media) -> None:
    found = stage().score(Item("key", "video", make_colour_clip([frame(0, (False, False))] * 3)), media)
    assert found.scores == {"n_people": 0, "pose_score": None}
    assert found.members["poses"]["keypoints"].shape == (2, 0, 134, 2)


def test_twice_the_same(stage: MakeStage, make_colour_clip: Callable[..., Scene], media: Media) -> None:
    """Another batch, another stage: the same bytes."""
    scene = make_colour_clip([frame(number) for number in range(5)])
    one, other = (stage(stride=1, batch=size).score(Item("key", "video", scene), media) for size in (1, 4))
    assert one.scores == other.scores
    for name, array in one.members["poses"].items():
        assert array.tobytes() == other.members["poses"][name].tobytes()


@pytest.mark.parametrize(
    ("count", "stride", "expected"),
    [(25, 4, [0, 4, 8, 12, 16, 20, 24]), (10, 4, [0, 4, 8, 9]), (1, 4, [0]), (5, 100, [0, 4]), (3, 1, [0, 1, 2]), (0, 4, [])],
)
def test_first_and_last_are_always_looked_at(count: int, stride: int, expected: list[int]) -> None:
    assert looked_at(count, stride).tolist() == expected


def test_scores_of_known_people() -> None:
    places = np.random.default_rng(0).uniform(0, 100, (134, 2)) + np.array([0, 200, 400])[:, None, None]
    scores = np.zeros((3, 3, 134), np.float32)
    scores[0, :2, :18], scores[1, :, :18], scores[2, 1:, :18] = 0.9, 0.6, 0.6  # 1 is in the first and the last
    scores[:, :, 17] = 0.2  # no point found, so none that counts; but somebody is there
    scores[2, 0], scores[0, 2] = 0, 0
    linked = link([People(places.astype(np.float32), each) for each in scores])
    found = summary(linked)
    assert found["n_people"] == 1
    assert found["pose_score"] == pytest.approx((2 * 0.9 + 5 * 0.6) / 7)
    assert set(packable(linked, np.arange(3))) == {"keypoints", "scores", "ids", "frame"}


def test_keypoints_are_scaled_by_either_side() -> None:
    people = People(np.full((1, 134, 2), 10, np.float32), np.ones((1, 134), np.float32))
    assert in_source(people, (100, 200, 3), (400, 300)).keypoints[0, 0].tolist() == [20, 30]


def test_settings_are_checked(files: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PARALLAX_WEIGHTS", str(tmp_path / "none"))
    with pytest.raises(RecipeError, match="'holistic' takes 4"):
        build(PosesConfig, {"weights": list(files)}, "poses")
    with pytest.raises(RecipeError, match="batch"):
        build(PosesConfig, {"batch": 0}, "poses")
    with pytest.raises(WeightsError, match="dwpose-det"):
        DetectPoses(PosesConfig(model="dwpose")).prepare()
    moved = DetectPoses(PosesConfig(model="dwpose", weights=files, device="cuda", min_people=3))
    assert moved.compute_settings() == DetectPoses(PosesConfig(model="dwpose")).compute_settings()


def test_what_the_other_model_is_told_is_no_part_of_the_step_key() -> None:
    def key(**settings: object) -> dict[str, object]:
        return DetectPoses(build(PosesConfig, settings, "poses")).compute_settings()

    assert key() == key(whole_picture=True) != key(levels=1)
    assert key(model="dwpose") == key(model="dwpose", levels=1) != key(model="dwpose", whole_picture=True)
    assert key() == key(batch=2) and key(model="dwpose") != key(model="dwpose", batch=2), "a batch may change the last bits"


def test_stages_of_the_same_settings_share_a_model_and_looking_loads_none(
    stage: MakeStage, make_colour_clip: Callable[..., Scene], media: Media
) -> None:
    one, same, other = stage(), stage(stride=2), stage(whole_picture=True)
    for each in (one, same, other):
        each.prepare()
    assert one.detector is same.detector and one.detector is not other.detector
    one.score(Item("key", "video", make_colour_clip([frame(0)] * 2)), media)
    assert one.detector is same.detector
    with pytest.raises(AttributeError):
        stage().look(Item("key", "video", make_colour_clip([frame(0)])), iter([Shown(0, 0, frame(0))]))


@pytest.mark.parametrize(("model", "command"), [("holistic", "fetch mediapipe"), ("dwpose", "fetch dwpose")])
def test_one_command_fetches_what_a_model_lacks(model: str, command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from pipeline.weights import main

    monkeypatch.setenv("PARALLAX_WEIGHTS", str(tmp_path / "none"))
    stage = DetectPoses(build(PosesConfig, {"model": model}, "poses"))
    with pytest.raises(WeightsError, match=f"python -m pipeline.weights {command}$"):
        stage.prepare()
    asked: list[str] = []
    monkeypatch.setattr(Fetcher, "fetch", lambda self, name: asked.append(name) or (proven(CHECKPOINTS[name], tmp_path), True))
    assert main(command.split()) == 0
    assert tuple(asked) == tuple(name for name, _ in stage.weights())


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("size", [(2, 2), (64, 64)])
def test_the_least_of_clips(
    stage: MakeStage, make_colour_clip: Callable[..., Scene], media: Media, count: int, size: tuple[int, int]
) -> None:
    found = stage(height=64).score(Item("key", "video", make_colour_clip([np.zeros((*size, 3), np.uint8)] * count)), media)
    assert found.scores == {"n_people": 0, "pose_score": None}
    assert found.members["poses"]["keypoints"].shape == (count, 0, 134, 2)
