"""benchmarks.perception compares like with like: its networks have the true sizes, and separate passes do the whole job."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs the extra dev")
pytest.importorskip("rtmlib", reason="needs the extra perception")

from benchmarks.dwpose_networks import write_detector, write_pose
from benchmarks.gpu_gauge import Gauge
from benchmarks.perception import digest, found_in
from benchmarks.perception_passes import Decode, MasksPass, Motion, OwnStream, Setup, TracksPass
from benchmarks.shots import scene_of
from pipeline.studio.video import write_mp4
from schemas.recipe import MediaLimits
from stages.media import Media
from stages.perception.checkpoints import CHECKPOINTS
from stages.perception.dwpose import DWPose
from stages.perception.klt import KltTracker
from stages.perception.regions import RegionSegmenter
from stages.stage import Item
from tests.perception.motion_clips import studio_clip


def test_dwpose_networks_are_as_large_as_the_official_ones_and_see_nobody(tmp_path: Path) -> None:
    files = {"dwpose-det": write_detector(tmp_path / "det.onnx"), "dwpose-pose": write_pose(tmp_path / "pose.onnx")}
    for name, path in files.items():
        assert path.stat().st_size == pytest.approx(CHECKPOINTS[name].size, rel=5e-4)
    picture = np.random.default_rng(0).integers(0, 256, (90, 160, 3), np.uint8)
    [people] = DWPose(*files.values(), device="cpu", whole_picture=True).people([picture])
    assert people.keypoints.shape == (1, 134, 2)
    assert np.isfinite(people.keypoints).all()


class Light:
    """In the place of the large models."""

    def segmenter(self) -> RegionSegmenter:
        return RegionSegmenter()

    def tracker(self) -> KltTracker:
        return KltTracker()


class LightMotion(Light, Motion): ...


class LightMasks(Light, MasksPass): ...


class LightTracks(Light, TracksPass): ...


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    write_mp4(tmp_path / "clips" / "one.mp4", studio_clip(3).frames(), Fraction(10))
    write_mp4(tmp_path / "clips" / "two.mp4", studio_clip(6).frames(), Fraction(10))
    files: Any = dict.fromkeys(("sam-vit-h", "cotracker3-offline"), tmp_path / "none")
    return Setup(tmp_path, ("one.mp4", "two.mp4"), files, frames=8, points=60)


def test_masks_and_tracks_in_separate_passes_find_what_the_stage_does(setup: Setup) -> None:
    together, masks, tracks = LightMotion(setup), LightMasks(setup), LightTracks(setup)
    with Media(setup.folder / "clips", MediaLimits()) as media:
        items = [Item(Path(name).stem, "video", scene_of(media, name)) for name in setup.clips]
        whole = [found_in([together], item, media)[0] for item in items]
        for item in items:
            found_in([masks], item, media)
        apart = [found_in([tracks], item, media)[0] for item in items]
        [decoded, streamed] = found_in([Decode([together, masks]), OwnStream(together, "cpu")], items[0], media)
    assert all(found.scores["n_masks"] for found in whole)
    assert [digest(found) for found in apart] == [digest(found) for found in whole]
    assert digest(whole[0]) != digest(whole[1])
    assert digest(streamed) == digest(whole[0])
    assert decoded.scores["n_frames"] == 8


def test_busy_counts_samples_of_the_measured_seconds_alone() -> None:
    gauge = Gauge("cpu")
    gauge.samples = [(1.0, 90.0), (2.0, 10.0), (3.0, 30.0), (9.0, 90.0)]
    assert gauge.busy([(1.5, 2.5), (2.9, 3.1)]) == "20 %"
    assert gauge.busy([(4.0, 5.0)]) == "not measured"
