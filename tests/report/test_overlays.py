"""Overlays: drawn where the arrays say, and found for what was rejected too."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.auditing.folder import OutputFolder
from pipeline.curate import main as curate
from pipeline.report.found import Found
from pipeline.report.overlays import draw, frames_of
from pipeline.studio import write_layout

GRAY = np.full((90, 160, 3), 100, np.uint8)
SIZE = np.array([1600, 900])  # of the source: ten times as wide


def touched(picture: np.ndarray) -> np.ndarray:
    """[n,2] x, y of the pixels that were drawn on."""
    return np.argwhere((picture != 100).any(2))[:, ::-1]


def test_a_match_has_one_colour_and_lies_where_it_was_found() -> None:
    first = np.array([[[105, 205], [1405, 205]], [[305, 405], [305, 805]]], np.float32)
    a, b = draw("lines", {"first": first, "second": first + np.float32([0, 100]), "size": SIZE}, [GRAY, GRAY], [0, 9])
    for picture, row in ((a, 20), (b, 30)):
        horizontal = touched(picture)[np.abs(touched(picture)[:, 1] - row) <= 1]
        assert abs(horizontal[:, 0].min() - 10) <= 3 and abs(horizontal[:, 0].max() - 140) <= 3
    assert np.array_equal(a[20, 100], b[30, 100]) and not np.array_equal(a[20, 100], a[60, 30])
    assert (GRAY == 100).all()


def test_masks_are_tinted_and_tracks_coloured_by_how_far_they_go() -> None:
    labels = np.zeros((9, 16), np.uint8)
    labels[:, 8:] = 1
    still, gone = np.repeat([[[200.0, 450.0]]], 3, 0), np.array([[[800.0, 100.0]], [[1000.0, 100.0]], [[1200.0, 100.0]]])
    arrays = {
        "labels": labels,
        "tracks": np.concatenate([still, gone], 1).astype(np.float16),
        "visible": np.ones((3, 2), bool),
        "size": SIZE,
    }
    masked, tracked = draw("motion", arrays, [GRAY, GRAY], [0, 2])
    assert touched(masked)[:, 0].min() == 80 and len(touched(masked)) == 80 * 90
    blue, red = tracked[45, 20].astype(int), tracked[10, 100].astype(int)
    assert blue[2] > blue[0] + 50 and red[0] > red[2] + 50


def test_a_point_that_was_not_found_is_not_drawn() -> None:
    keypoints, scores = np.full((1, 1, 134, 2), 450, np.float32), np.zeros((1, 1, 134), np.float16)
    keypoints[0, 0, 3], keypoints[0, 0, 4] = (200, 200), (800, 200)  # right elbow, right wrist
    scores[0, 0, 3] = scores[0, 0, 4] = 0.9
    arrays = {"keypoints": keypoints, "scores": scores, "frame": np.array([5]), "size": SIZE}
    assert frames_of("poses", arrays, 9) == [5]
    [picture] = draw("poses", arrays, [GRAY], [5])
    assert np.abs(touched(picture)[:, 1] - 20).max() <= 3 and 58 <= len(np.unique(touched(picture)[:, 0])) <= 66
    scores[:] = 0
    assert len(touched(draw("poses", {**arrays, "scores": scores}, [GRAY], [5])[0])) == 0


def recipe(folder: Path, **limits: float) -> Path:
    stages = [{"stages.filter_motion:MotionFilter": {"frames": 5, "max_camera_motion": 9.0, **limits}}]
    path = folder / "see.yaml"
    path.write_text(yaml.safe_dump({"name": "see", "sources": {"clips": {"license": "x", "stages": stages}}}))
    return path


def test_what_was_rejected_shows_the_same_arrays_as_what_was_kept(tmp_path: Path) -> None:
    pytest.importorskip("skimage", reason="the region segmenter needs scikit-image")
    write_layout("clips", tmp_path / "clips", scenes=1, frames=6, size=(96, 64))
    found = []
    for least, status in ((0.0, "kept"), (9.0, "rejected")):
        told = [f"--input=clips={tmp_path / 'clips'}", f"--output={tmp_path / 'out'}", "--quiet", "--executor=inline", "--error-budget=1"]
        assert curate([str(recipe(tmp_path, min_foreground_motion=least)), *told]) == 0
        output = OutputFolder(tmp_path / "out")
        [row] = [row for row in output.table("samples").to_pylist() if row["candidate_id"] == "fixed-camera_moving-subject_01.mp4"]
        assert row["status"] == status
        found.append(Found(output).arrays(row, "motion"))
        page = (tmp_path / "out" / "report" / "index.html").read_text("utf-8")
        assert "Foreground motion" in page and "data:image/jpeg" in page
    assert found[0] is not None and found[1] is not None and set(found[0]) == set(found[1])
    assert all(np.array_equal(found[0][name], found[1][name], equal_nan=found[0][name].dtype.kind == "f") for name in found[0])
