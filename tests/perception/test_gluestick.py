"""GlueStick on pictures, from its official file: what is found again, which way round, and where there is nothing to find."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from schemas.typed import RecipeError
from stages.perception.device import Precision
from stages.perception.gluestick import GlueStick
from stages.perception.weights import find
from stages.perception.wireframe import detect
from tests.perception.gluestick_files import boxes, write_checkpoint, write_superpoint


@pytest.fixture(scope="module")
def superpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_superpoint(tmp_path_factory.mktemp("superpoint"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, superpoint: Path) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("gluestick"), superpoint)


@pytest.fixture(scope="module")
def matcher(checkpoint: Path, superpoint: Path) -> GlueStick:
    found = find("gluestick", str(checkpoint))
    return GlueStick(found.path, superpoint, max_lines=40, max_keypoints=60, device="cpu")


def test_the_official_file_runs_on_a_pair(matcher: GlueStick) -> None:
    image = boxes()
    found = matcher.match(image, np.roll(image, 8, 1))
    assert len(found.first) >= 8
    assert found.first.dtype == found.second.dtype == found.scores.dtype == np.float32
    assert found.first.shape == found.second.shape == (len(found.scores), 2, 2)
    assert (found.scores > 0.2).all() and (found.scores <= 1).all()
    # Even random weights know a picture again that was moved by one cell of SuperPoint.
    assert np.abs(found.second - found.first - [8, 0]).max() < 2
    again = matcher.match(image, np.roll(image, 8, 1))
    assert again.first.tobytes() == found.first.tobytes() and again.scores.tobytes() == found.scores.tobytes()


def test_swapping_images_swaps_the_matches(matcher: GlueStick) -> None:
    image, moved = boxes(), np.roll(boxes(), 8, 1)
    there, back = matcher.match(image, moved), matcher.match(moved, image)

    def pairs(one: np.ndarray, two: np.ndarray) -> set[tuple[float, ...]]:
        return {tuple(np.sort(np.concatenate([a, b], 1), axis=0).round(2).ravel().tolist()) for a, b in zip(one, two, strict=True)}

    assert len(there.first) >= 8
    assert pairs(there.first, there.second) == pairs(back.second, back.first)


def test_a_callers_segments_are_used_whichever_way_they_point(matcher: GlueStick) -> None:
    image, moved = boxes(), np.roll(boxes(), 8, 1)
    lines = detect(image, 12).lines
    lines = lines[(lines[:, :, 0] < 240).all(1)]  # what the roll does not tear
    plain = matcher.match(image, moved, (lines, lines + np.float32([8, 0])))
    turned = matcher.match(image, moved, (lines[:, ::-1], (lines + np.float32([8, 0]))[:, ::-1]))
    assert len(plain.first) >= 2
    for name in ("first", "second", "scores"):
        assert getattr(plain, name).tobytes() == getattr(turned, name).tobytes()


def test_a_lone_segment_comes_back_where_it_was_given(matcher: GlueStick) -> None:
    image = boxes()
    line = np.array([[[40.25, 50.5], [90.75, 60.0]]], np.float32)
    found = matcher.match(image, image, (line, line[:, ::-1]))
    assert len(found.first) == 1
    assert np.array_equal(found.first, line) and np.array_equal(found.second, line)


_GRAY = np.full((120, 160, 3), 128, np.uint8)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (_GRAY, _GRAY),
        (boxes(), _GRAY),
        (_GRAY, boxes()),
        (np.zeros((4, 200, 3), np.uint8), boxes()),
        (np.zeros((0, 0, 3), np.uint8), boxes()),
    ],
)
def test_nothing_to_match_gives_empty_arrays(matcher: GlueStick, first: np.ndarray, second: np.ndarray) -> None:
    found = matcher.match(first, second)
    assert found.first.shape == found.second.shape == (0, 2, 2) and found.scores.shape == (0,)


def test_no_keypoints_at_all_still_match_segments(checkpoint: Path, superpoint: Path) -> None:
    bare = GlueStick(checkpoint, superpoint, max_lines=40, max_keypoints=0, device="cpu")
    found = bare.match(boxes(), boxes())
    assert np.array_equal(found.first, found.second) and len(found.first) > 0


@pytest.mark.parametrize(("precision", "sure"), [("fp16", 0.5), ("bf16", 0.9)])
def test_a_lower_precision_finds_what_is_clear(
    checkpoint: Path, superpoint: Path, matcher: GlueStick, precision: Precision, sure: float
) -> None:
    """With these weights bf16 moves a score by up to 0.4, fp16 by 0.1, as many threads as there may be; 0.2 is the threshold."""
    image = boxes()
    lower = GlueStick(checkpoint, superpoint, max_lines=40, max_keypoints=60, device="cpu", precision=precision)
    found, exact = lower.match(image, image), matcher.match(image, image)
    clear = exact.first[exact.scores > sure]  # weaker ones may fall to either side of the threshold
    assert len(clear) >= 6
    assert {line.tobytes() for line in clear} <= {line.tobytes() for line in found.first}
    assert found.scores.dtype == np.float32 and found.scores.tolist() != exact.scores.tolist()
    with pytest.raises(RecipeError, match="'fp8'"):
        GlueStick(checkpoint, superpoint, device="cpu", precision="fp8")  # type: ignore[arg-type]


def test_no_segments_given_are_no_matches(matcher: GlueStick) -> None:
    none = np.zeros((0, 2, 2), np.float32)
    some = np.array([[[40, 50], [90, 60]]], np.float32)
    for lines in ((none, some), (some, none), (none, none)):
        assert len(matcher.match(boxes(), boxes(), lines).scores) == 0
    with pytest.raises(ValueError, match="segments"):
        matcher.match(boxes(), boxes(), (np.zeros((3, 4), np.float32), some))
