"""`audit what-if` on studio footage, beside runs with the new recipe: tightened and loosened limits in every tier and at samplers."""

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.studio import write_layout
from tests.audit.asking import ask, changed, rows, run, same_as, turned

# Two sources over the same clips: whole clips in three cost tiers, and windows with limits before, in and after their sampler.
RECIPE: dict[str, Any] = {
    "name": "asked",
    "units": {"size": 7},
    "shards": {"target_mb": 0.2},
    "sources": {
        "clips": {
            "license": "CC0",
            "stages": [
                {"header": {"min_frames": 6}},
                {"quality": {"every": True, "min_sharpness": 15, "max_frozen_fraction": 0.5, "max_brightness": 0.58}},
                {"motion": {"max_camera_motion": 0.02, "min_foreground_motion": None}},
            ],
        },
        "windows": {
            "ingest": "clips",
            "stages": [
                {"header": {"min_frames": 6}},
                {"windows": {"frames": 4, "hop": 2, "max_time_error_ms": 30}},
                {"endpoints": {"min_difference": 0.02}},
                {"quality": {"every": True, "min_sharpness": 15}},
            ],
            "payload": {"video": {"codec": "h264", "preset": "ultrafast"}},
        },
    },
}


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("footage")
    write_layout("clips", folder, scenes=51, frames=6, size=(96, 64))
    return folder


@pytest.fixture(scope="module")
def curated(footage: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty clips, curated."""
    folder = tmp_path_factory.mktemp("curated")
    assert run(folder, RECIPE, footage=footage) == 0
    return folder


@pytest.mark.parametrize(
    ("settings", "flips"),
    [
        (["clips.quality.min_sharpness=22"], {"kept->rejected"}),
        (["quality.min_sharpness=off"], {"rejected->kept", "rejected->unknown"}),
        (["clips.motion.max_camera_motion=0.1", "clips.motion.min_foreground_motion=0.01"], {"rejected->kept", "kept->rejected"}),
        (["clips.header.min_frames=5"], {"rejected->unknown"}),
        (["windows.header.min_frames=off"], {"rejected->unknown"}),
        (["windows.header.min_frames=8"], {"kept->rejected", "kept->gone", "rejected->gone"}),
        (["windows.endpoints.min_difference=0.01", "windows.endpoints.max_difference=0.1"], {"rejected->kept", "kept->rejected"}),
        (["windows.windows.max_time_error_ms=0.0000001"], {"kept->rejected"}),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
def test_the_answer_is_that_of_a_run(curated, footage, tmp_path, settings, flips):
    shutil.copytree(curated / "out", tmp_path / "out")
    answer = ask(tmp_path / "out", settings)
    assert run(tmp_path, changed(RECIPE, settings), footage=footage) == 0
    found = same_as(answer, rows(tmp_path / "out"))
    assert turned(found) == flips, found


def test_a_loosened_limit_needs_no_run_where_every_stage_ran(curated, footage, tmp_path):
    """exhaustive: true. And the run that it is compared with begins from nothing."""
    recipe = copy.deepcopy(RECIPE)
    del recipe["sources"]["windows"]
    recipe["sources"]["clips"]["exhaustive"] = True
    settings = ["quality.max_brightness=0.65", "quality.min_sharpness=12", "header.min_frames=3", "motion.max_camera_motion=0.1"]
    small = tmp_path / "footage"
    small.mkdir()
    for path in sorted(footage.glob("*.mp4"))[:18]:
        shutil.copy2(path, small)
    assert run(tmp_path, recipe, footage=small) == 0
    answer = ask(tmp_path / "out", settings)
    assert run(tmp_path, changed(recipe, settings), footage=small, output="other") == 0
    found = same_as(answer, rows(tmp_path / "other"))
    assert turned(found) == {"rejected->kept"}, found


@pytest.mark.long
def test_five_hundred_clips_beside_runs_from_nothing(tmp_path):
    write_layout("clips", tmp_path / "footage", scenes=491, frames=6, size=(96, 64))
    assert run(tmp_path, RECIPE, footage=tmp_path / "footage") == 0
    tight = ["clips.quality.min_sharpness=22", "clips.motion.max_camera_motion=0.0005", "windows.endpoints.min_difference=0.05"]
    loose = ["clips.quality.min_sharpness=12", "clips.motion.max_camera_motion=0.1", "windows.quality.min_sharpness=off"]
    for number, (settings, flips) in enumerate(((tight, {"kept->rejected"}), (loose, {"rejected->kept", "rejected->unknown"}))):
        answer = ask(tmp_path / "out", settings, f"asked{number}")
        assert len({row["sample_id"] for row in answer if row["source"] == "clips"}) == 500
        assert run(tmp_path, changed(RECIPE, settings), footage=tmp_path / "footage", output=f"out{number}") == 0
        found = same_as(answer, rows(tmp_path / f"out{number}"))
        assert turned(found) == flips, found
