"""Real recordings in one run: a calibrated rig, single-view clips, and published trajectories with studio footage along them."""

import os
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.studio import write_layout
from tests.e2e.output import Output, cameras, decoded, intact, nearest_frame, picture, run, write_recipe


@dataclass
class Made:
    real: Path
    footage: Path
    output: Output


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    given = os.environ.get("PARALLAX_REAL_DATA")
    if not given:
        pytest.skip("PARALLAX_REAL_DATA is not set: the real recordings are not here")
    real, folder = Path(given), tmp_path_factory.mktemp("real")
    footage = folder / "realestate10k"
    write_layout("realestate10k", footage, size=(256, 144), trajectories=real / "realestate10k_poses")
    quality = [{"header": {}}, {"quality": {"sample_frames": 8}}]
    sources = {
        "rig": {"license": "BSD-3-Clause", "stages": [{"header": {"min_views": 2}}, "sync", {"view_angles": {"overlap": True}}]},
        "realestate10k": {"license": "CC-BY-4.0", "stages": [{"view_groups": {"min_overlap": 0.5}}]},
        "sav": {"ingest": "clips", "license": "CC-BY-4.0", "stages": quality},
        "decode": {"ingest": "clips", "stages": quality},
    }
    inputs = {"rig": real / "pose2sim_single", "realestate10k": footage, "sav": real / "sav_videos", "decode": real / "decode"}
    recipe = write_recipe(folder / "recipe.yaml", sources, shards={"target_mb": 32})
    return Made(real, footage, run(recipe, inputs, folder / "out", "--workers=2", "--error-budget=1"))


def first_size(path: Path) -> list[int]:
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        return [frame.width, frame.height]


def test_all_ended_well(made):
    assert made.output.code == 0 and intact(made.output.path)
    counts = made.output.run["counts"]
    print({name: {status: n for status, n in each.items() if n} for name, each in counts.items()})
    assert all(each.get("error", 0) == 0 for each in counts.values()), [
        row["error_message"] for row in made.output.rows if row["error_message"]
    ]
    page = made.output.page()
    assert all(name in page for name in counts)


def test_the_rig_is_kept_with_its_four_cameras_and_says_how_sizes_were_reconciled(made):
    (row,) = made.output.of("rig")
    assert row["status"] == "kept" and len(row["view_ids"]) == 4
    assert (row["n_frames"], round(row["fps"])) == (100, 60)
    assert row["scores"]["sync_frame_spread"] == 0 and row["scores"]["sync_offset_ms"] < 8
    notes = dict(row["notes"])
    assert any(key.startswith("size.") for key in notes), notes
    pairs = {(pair["a"], pair["b"]): pair for pair in row["pairs"]}
    assert pairs.keys() == set(combinations(row["view_ids"], 2))
    assert all(0 < pair["rotation_deg"]["median"] <= 180 and 0 <= pair["overlap"] <= 1 for pair in pairs.values())
    packed = cameras(made.output.samples[row["sample_id"]])
    assert packed["c2w"].shape == (4, 100, 4, 4) and packed["metric"].all() and np.abs(packed["distortion"]).max() > 0
    assert packed["size"].tolist() == [first_size(made.real / "pose2sim_single" / path) for path in row["media"]]
    # Four people-height cameras around a capture volume: metres apart, and looking inward.
    apart = np.linalg.norm(packed["c2w"][:, None, 0, :3, 3] - packed["c2w"][None, :, 0, :3, 3], axis=-1)
    assert apart[apart > 0].min() > 1 and apart.max() < 30


def test_clips_are_kept_or_rejected_and_copied_whole(made):
    for source, folder in (("sav", "sav_videos"), ("decode", "decode")):
        rows = made.output.of(source)
        assert {row["candidate_id"] for row in rows} == {path.name for path in (made.real / folder).glob("*.mp4")}
        for row in rows:
            assert row["status"] in ("kept", "rejected") and all(row["scores"][name] is not None for name in ("width", "fps", "sharpness"))
            if row["status"] == "kept":
                assert made.output.samples[row["sample_id"]]["view00.mp4"] == (made.real / folder / row["candidate_id"]).read_bytes()
    assert all(row["status"] == "kept" for row in made.output.of("sav")), "sharp, well-lit footage of moving things"


def test_every_trajectory_gives_groups_with_its_own_frames(made):
    sources = made.output.of("realestate10k", is_source=True)
    assert len(sources) == 5 and {row["status"] for row in sources} == {"kept"}
    for source in sources:
        children = [row for row in made.output.of("realestate10k") if row["parent_id"] == source["sample_id"]]
        kept = [row for row in children if row["status"] == "kept"]
        assert kept and all(row["reasons"] == ["no_such_angle"] for row in children if row not in kept)
        frames, pts_ns = decoded(made.footage / source["media"][0])
        row = kept[0]
        assert row["scores"]["frame_interval"] <= 100 and row["scores"]["overlap"] >= 0.5
        for number, ((index,), (time,)) in enumerate(zip(row["frame_index"], row["pts_ns"], strict=True)):
            best, difference = nearest_frame(picture(made.output.samples[row["sample_id"]][f"view{number:02d}.jpg"]), frames)
            assert best == index and difference < 6 and pts_ns[index] == time
