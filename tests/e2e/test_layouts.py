"""Studio footage of every built layout through the command in one run, compared with what the studio knows."""

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.binding import shipped_recipes
from pipeline.studio import LAYOUTS, write_layout
from stages.ingest import ingests
from tests.e2e.output import Output, cameras, decoded, intact, nearest_frame, picture, run, write_recipe

pytest.importorskip("torch", reason="torch is not installed: RealEstate10K's chunks cannot be written")

RIGS = {"json": "rig", "colmap": "rig_colmap", "qualisys": "rig_qualisys"}
FORMS = ("video", "frames", "torch")
GOOD_CLIPS = 4
LOOK_AT = np.array([0.0, 0.0, 0.95])  # what the studio's multi-camera scenes look at


@dataclass
class Made:
    """Footage below `footage`, the studio's truth below `truth`, in the same places."""

    footage: Path
    truth: Path
    output: Output

    def known(self, place: str, scene: str) -> dict[str, np.ndarray]:
        with np.load(self.truth / place / f"{scene}.npz") as stored:
            return {name: stored[name] for name in ("views", "times", "c2w", "K")}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("layouts")
    footage, truth = folder / "footage", folder / "truth"

    def film(layout: str, place: str, with_truth: bool = True, **settings: Any) -> None:
        write_layout(layout, footage / place, truth=truth / place if with_truth else None, **settings)

    film("syncamvideo-v1", "syncamvideo/v1", scenes=1, cameras=3, frames=5, size=(96, 64))
    film("syncamvideo-v2", "syncamvideo/v2", scenes=1, cameras=3, frames=5, size=(64, 64))
    for form in FORMS:
        film("realestate10k", f"realestate10k/{form}", form == "video", scenes=2, frames=80, size=(96, 54), footage=form)
    film("dl3dv", "dl3dv", False, scenes=1, frames=16, size=(96, 54))
    film("kubric4d", "kubric4d", False, scenes=1, cameras=2, frames=3, size=(96, 64))
    film("davis", "davis", False, scenes=1, frames=3, size=(128, 72))
    for calibration in RIGS:
        film("rig", f"rig/{calibration}", scenes=1, cameras=3, frames=5, size=(64, 36), calibration=calibration)
    film("clips", "clips", False, scenes=GOOD_CLIPS, frames=48, size=(192, 108))

    sources = {**yaml.safe_load(shipped_recipes()["smoke"].read_text())["sources"]}
    sources["realestate10k"]["stages"] = [{"view_groups": {"views": 4, "groups": 4, "min_overlap": 0.3}}]
    for name in RIGS.values():
        sources[name] = sources["rig"] | {"ingest": "rig"}
    shipped = yaml.safe_load(shipped_recipes()["fcvg"].read_text())["sources"]
    for source in shipped.values():  # our pictures are smaller than these limits are meant for; models: test_perception.py
        source["stages"] = [stage for stage in source["stages"] if not {"header", "quality", "lines", "poses"} & stage.keys()]
    sources["posed_windows"] = {"ingest": "realestate10k", **shipped["realestate10k"]}
    shipped["clips"]["stages"][0]["windows"] |= {"fps": None, "stride": 1, "hop": 10, "test_fraction": 0.5}
    sources["clip_windows"] = {"ingest": "clips", **shipped["clips"]}
    inputs = {name: footage / name for name in ("syncamvideo", "realestate10k", "dl3dv", "kubric4d", "davis", "clips")}
    inputs |= {name: footage / "rig" / calibration for calibration, name in RIGS.items()}
    inputs |= {"posed_windows": footage / "realestate10k" / "video", "clip_windows": footage / "clips"}
    recipe = write_recipe(folder / "recipe.yaml", sources)
    return Made(footage, truth, run(recipe, inputs, folder / "out", "--executor=process", "--workers=2", "--error-budget=0.5"))


def test_every_built_layout_is_in_this_run(made):
    assert {name.partition("-")[0] for name in LAYOUTS} == set(ingests()) <= {row["source"] for row in made.output.rows}
    assert made.output.code == 0


def test_multi_camera_scenes_are_kept_and_camera_only_sets_skipped(made):
    assert made.output.verdicts("syncamvideo") == {
        "v1/train/scene1": "kept",
        "v1/val/Hemi36_4m_15": "skipped camera_only",
        "v1/val/Hemi36_5m_30": "skipped camera_only",
        "v2/train/f24_aperture5/scene1": "kept",
        "v2/val/basic": "skipped camera_only",
    }
    assert [made.output.verdicts(name) for name in RIGS.values()] == [{"scene1": "kept"}] * 3


def test_each_clip_gets_the_verdict_that_its_fault_deserves(made):
    found = made.output.verdicts("clips")
    faults = {
        "black": "black", "frozen": "frozen", "letterboxed": "letterbox", "blurred": "blurred", "too-short": "too_short",
        "underexposed": "underexposed", "overexposed": "overexposed",
    }  # fmt: skip
    for fault, reason in faults.items():
        status, *reasons = found[f"bad_{fault}.mp4"].split()
        assert status == "rejected" and reason in reasons, (fault, reasons)
    assert found["bad_not-a-video.mp4"] == "error E_OPEN" and found["bad_truncated.mp4"] == "error E_TRUNCATED"
    good = {name: verdict for name, verdict in found.items() if not name.startswith("bad_")}
    assert len(good) == GOOD_CLIPS and set(good.values()) == {"kept"}


def test_the_webdataset_reader_finds_every_kept_sample_and_no_other(made):
    kept = {row["sample_id"]: row for row in made.output.rows if row["status"] == "kept" and row["is_sample"]}
    assert made.output.samples.keys() == kept.keys()
    for name, sample in made.output.samples.items():
        row = kept[name]
        suffix = {"view_group": "jpg"}.get(row["kind"], "mp4")
        views = [f"view{number:02d}.{suffix}" for number in range(len(row["view_ids"]))]
        posed = row["source"] not in ("clips", "clip_windows", "davis")
        members = {*views, "meta.json"} | ({"cameras.npz"} if posed else set()) | ({"caption.txt"} if row["has_text"] else set())
        members |= {"davis": {"masks.npz"}, "clips": {"motion.npz", "lines.npz"}}.get(row["source"], set())
        assert {member for member in sample if not member.startswith("__")} == members


def scene_of(made: Made, row: dict[str, Any]) -> tuple[dict[str, np.ndarray], list[int]]:
    """The truth of a multi-camera row, and for each of its views the truth's position."""
    calibration = {name: key for key, name in RIGS.items()}.get(row["source"])
    place = f"rig/{calibration}" if calibration else f"syncamvideo/{row['candidate_id'][:2]}"
    known = made.known(place, "scene1")
    return known, [known["views"].tolist().index(name) for name in row["view_ids"]]


def multi_camera(made: Made) -> list[dict[str, Any]]:
    rows = [row for name in ("syncamvideo", *RIGS.values()) for row in made.output.of(name, status="kept")]
    assert len(rows) == 5
    return rows


def test_cameras_of_multi_camera_scenes_are_the_studios(made):
    for row in multi_camera(made):
        known, order = scene_of(made, row)
        packed = cameras(made.output.samples[row["sample_id"]])
        true, K = known["c2w"][order], known["K"][order]
        tolerance = 5e-5 if "v2" in row["candidate_id"] else 1e-6  # v2 files are rounded to about six digits
        assert packed["frame"].tolist() == [[0, 1, 2, 3, 4]] * 3
        found, expected = (np.linalg.inv(poses[:1, :1]) @ poses for poses in (packed["c2w"], true))
        if row["source"] == "rig_colmap":  # COLMAP says no unit
            assert not packed["metric"].any()
        else:
            assert packed["metric"].all()
        assert np.abs(found - expected).max() < tolerance, row["sample_id"]
        assert np.abs(packed["K"] - K).max() < 1e-6, row["sample_id"]
        sizes = {(round(2 * cx), round(2 * cy)) for cx, cy in K[:, 0, :2, 2]}
        assert {tuple(size) for size in packed["size"].tolist()} == sizes, "K goes with the pictures that are really there"


def degrees(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    cosine = (u * v).sum(-1) / np.linalg.norm(u, axis=-1) / np.linalg.norm(v, axis=-1)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def test_pair_angles_in_the_manifest_are_those_of_the_true_cameras(made):
    for row in multi_camera(made):
        known, order = scene_of(made, row)
        true = dict(zip(row["view_ids"], known["c2w"][order], strict=True))
        pairs = {(pair["a"], pair["b"]): pair for pair in row["pairs"]}
        assert pairs.keys() == set(combinations(row["view_ids"], 2))
        for (a, b), pair in pairs.items():
            A, B = true[a], true[b]
            relative = np.swapaxes(A[:, :3, :3], 1, 2) @ B[:, :3, :3]
            rotation = np.degrees(np.arccos(np.clip((np.trace(relative, axis1=1, axis2=2) - 1) / 2, -1, 1)))
            expected = {"rotation_deg": rotation, "axis_deg": degrees(A[:, :3, 2], B[:, :3, 2])}
            if row["source"] in ("syncamvideo", "rig"):  # centre and up are in the files, or follow from them exactly
                out = [poses[:, :3, 3] - LOOK_AT for poses in (A, B)]
                expected["parallax_deg"] = degrees(*out)
                around = [np.degrees(np.arctan2(each[:, 1], each[:, 0])) for each in out]
                sense = -1 if row["source"] == "syncamvideo" else 1  # Unreal's world is left-handed; ours is not
                expected["azimuth_deg"] = (sense * (around[1] - around[0]) + 180) % 360 - 180
                height = [np.degrees(np.arctan2(each[:, 2], np.hypot(each[:, 0], each[:, 1]))) for each in out]
                expected["elevation_deg"] = height[1] - height[0]
            for kind, values in expected.items():
                spread = [values.min(), np.median(values), values.max()]
                stored = [pair[kind][of] for of in ("min", "median", "max")]
                assert np.allclose(stored, spread, atol=0.02), (row["sample_id"], a, b, kind)
        largest = max(pair["parallax_deg" if pair["parallax_deg"] else "axis_deg"]["median"] for pair in pairs.values())
        assert abs(row["scores"]["angle_deg"] - largest) < 1e-3


def test_videos_of_whole_scenes_are_copied_byte_for_byte(made):
    for row in multi_camera(made):
        calibration = {name: key for key, name in RIGS.items()}.get(row["source"])
        root = made.footage / (f"rig/{calibration}" if calibration else "syncamvideo")
        sample = made.output.samples[row["sample_id"]]
        assert [sample[f"view{n:02d}.mp4"] for n in range(3)] == [(root / path).read_bytes() for path in row["media"]]


def listed(made: Made, clip: str) -> list[int]:
    """The times of a clip's trajectory file, in microseconds."""
    text = (made.footage / "realestate10k" / "video" / "train" / f"{clip}.txt").read_text()
    return [int(line.split()[0]) for line in text.splitlines()[1:]]


def test_view_groups_hold_the_very_frames_and_cameras_of_their_numbers(made):
    import torch

    groups = [row for row in made.output.of("realestate10k", status="kept") if row["kind"] == "view_group"]
    counts = {form: sum(row["candidate_id"].startswith(form) for row in groups) for form in FORMS}
    assert min(counts.values()) >= 4 and len(set(counts.values())) == 1, "the same walk gives the same groups in every form"
    films: dict[str, tuple[np.ndarray, list[int]]] = {}
    for row in groups:
        sample, clip = made.output.samples[row["sample_id"]], Path(row["candidate_id"]).name
        times, known = listed(made, clip), made.known("realestate10k/video", clip)
        entries = [times.index(round(time / 1000)) for (time,) in row["pts_ns"]]
        assert entries == sorted(set(entries)) and entries[-1] - entries[0] <= 100
        packed = cameras(sample)
        found, true = packed["c2w"][:, 0], known["c2w"][0][entries]
        found, true = (np.linalg.inv(poses[0]) @ poses for poses in (found, true))
        found[:, :3, 3] *= np.linalg.norm(true[-1, :3, 3]) / np.linalg.norm(found[-1, :3, 3])  # the unit is the clip's own
        assert np.abs(found - true).max() < 1e-5
        assert np.abs(packed["K"][:, 0] - known["K"][0][entries]).max() < 1e-4
        form, file = row["candidate_id"].partition("/")[0], made.footage / "realestate10k" / row["media"][0]
        packed_images = [sample[f"view{n:02d}.jpg"] for n in range(4)]
        if form == "video":
            frames, pts_ns = films.setdefault(str(file), decoded(file))
            for (number,), (time,), data in zip(row["frame_index"], row["pts_ns"], packed_images, strict=True):
                assert pts_ns[number] == time
                best, difference = nearest_frame(picture(data), frames)
                assert best == number and difference < 6
        elif form == "frames":
            assert packed_images == [(file.parent / f"{times[entry]}.jpg").read_bytes() for entry in entries]
        else:
            (scene,) = (each for each in torch.load(file, weights_only=True) if each["key"] == clip)
            assert packed_images == [scene["images"][entry].numpy().tobytes() for entry in entries]


def windows(made: Made, source: str) -> list[dict[str, Any]]:
    rows = [row for row in made.output.of(source, status="kept") if row["kind"] == "window"]
    assert rows and all(len(row["frame_index"][0]) == 25 for row in rows)
    return rows


@pytest.mark.parametrize(("source", "root"), [("posed_windows", "realestate10k/video"), ("clip_windows", "clips")])
def test_windows_hold_the_very_frames_of_their_numbers(made, source, root):
    films: dict[str, tuple[np.ndarray, list[int]]] = {}
    for row in windows(made, source):
        file = made.footage / root / row["media"][0]
        frames, pts_ns = films.setdefault(str(file), decoded(file))
        packed, times = decoded(made.output.samples[row["sample_id"]]["view00.mp4"])
        assert len(packed) == 25
        (numbers,) = row["frame_index"]
        assert row["pts_ns"] == [[pts_ns[number] for number in numbers]]
        steps = np.diff(times) - np.diff(row["pts_ns"][0])
        assert np.abs(steps).max() < 1_000_000, "every frame keeps its own time"
        found = [nearest_frame(frame, frames) for frame in packed]
        assert [best for best, _ in found] == numbers
        assert max(difference for _, difference in found) < 6  # the sensor noise does not survive the encoder whole


def test_posed_windows_hold_the_cameras_of_their_frames(made):
    for row in windows(made, "posed_windows"):
        clip = Path(row["candidate_id"]).name
        times, known = listed(made, clip), made.known("realestate10k/video", clip)
        entries = [times.index(round(time / 1000)) for time in row["pts_ns"][0]]
        packed = cameras(made.output.samples[row["sample_id"]])
        assert packed["frame"].tolist() == [list(range(25))]
        found, true = (np.linalg.inv(poses[0]) @ poses for poses in (packed["c2w"][0], known["c2w"][0][entries]))
        assert np.abs(found[:, :3, :3] - true[:, :3, :3]).max() < 1e-5
        assert np.abs(packed["K"][0] - known["K"][0][entries]).max() < 1e-4


def test_no_video_is_on_both_sides_of_the_split(made):
    sides: dict[str, set[str]] = {}
    for source in ("posed_windows", "clip_windows"):
        for row in made.output.rows:
            if row["source"] == source and row["kind"] == "window":
                sides.setdefault(row["media"][0], set()).add(row["split"])
    assert all(len(side) == 1 for side in sides.values()), sides
    assert {*map(min, sides.values())} == {"train", "test"}, "both sides are there"
    for row in windows(made, "clip_windows"):
        assert f"-{row['split']}-" in row["shard"]


def test_the_output_is_intact_and_the_report_names_every_source(made):
    assert intact(made.output.path)
    page = made.output.page()
    assert all(name in page for name in {row["source"] for row in made.output.rows})
    assert page.count("data:image/") > 10 and "://" not in page.replace("http://www.w3.org", "")
