import json
import os
from hashlib import sha256
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.studio.layouts import LAYOUTS, write_layout
from pipeline.studio.layouts.rig import quaternion
from schemas.camera import look_at, relative_to
from schemas.recipe import MediaLimits
from schemas.verdict import CandidateError, Reason
from stages.ingest import ingests
from stages.media import Media
from stages.storage import Tree

SMALL = {"scenes": 1, "frames": 6, "size": (64, 48)}


def digests(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest() for path in paths}


def load_all(name: str, folder: Path):
    """Every candidate of the folder with its scene, read by the real ingest, and the frames of its first view's first and last
    camera. Those that the ingest refuses have neither.
    """
    found = ingests()[name]
    ingest = found(found.Options())
    with Media(folder, MediaLimits()) as media:
        for candidate in ingest.discover(Tree(folder)):
            if candidate.error:
                yield candidate, None, None
                continue
            scene = ingest.load(Tree(folder), candidate, media)
            view = scene.views[0]
            ends = [int(view.camera_frames[0]), int(view.camera_frames[-1])]
            yield candidate, scene, media.frames(view.media, view.index, ends).astype(int)


def assert_same_motion(found, true_c2w, tolerance, scale_free=False):
    """Camera paths equal up to the choice of the world (and of its unit)."""
    a, b = relative_to(found, found[0]), relative_to(true_c2w, true_c2w[0])
    if scale_free:
        a[:, :3, 3] *= np.linalg.norm(b[:, :3, 3]) / np.linalg.norm(a[:, :3, 3])
    assert np.abs(a - b).max() < tolerance


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(name, tmp_path):
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_layout(name, tmp_path / folder, seed=seed, **SMALL)
    first, second, other = (digests(tmp_path / folder) for folder in "abc")
    assert first == second
    footage = [file for file in first if file.endswith((".mp4", ".png")) and "bad" not in file]
    assert footage and not set(map(first.get, footage)) & set(other.values())


def test_more_scenes_leave_the_first_ones_as_they_are(tmp_path):
    write_layout("rig", tmp_path / "one", scenes=1, cameras=2, frames=4, size=(64, 48))
    write_layout("rig", tmp_path / "two", scenes=2, cameras=2, frames=4, size=(64, 48))
    assert digests(tmp_path / "one").items() <= digests(tmp_path / "two").items()


@pytest.mark.parametrize(("name", "tolerance"), [("syncamvideo-v1", 1e-9), ("syncamvideo-v2", 5e-5)])
def test_syncamvideo_comes_back_through_the_ingest(name, tolerance, tmp_path):
    size = (96, 64) if name.endswith("v1") else (64, 64)
    write_layout(name, tmp_path / "data", scenes=2, cameras=3, frames=5, size=size, truth=tmp_path / "truth")
    loaded = list(load_all("syncamvideo", tmp_path / "data"))
    scenes = [(candidate, scene) for candidate, scene, _ in loaded if scene]
    assert len(scenes) == 2 and all(candidate.error[0] is Reason.CAMERA_ONLY for candidate, scene, _ in loaded if scene is None)
    assert len(loaded) > 2
    for (candidate, scene), number in zip(scenes, (1, 2), strict=True):
        assert candidate.caption and candidate.split == "train"
        true = np.load(tmp_path / f"truth/scene{number}.npz")
        views = {view.view_id: view for view in scene.views}
        assert sorted(views) == sorted(true["views"])
        found = np.stack([views[name].cameras.c2w[0] for name in true["views"]])
        assert_same_motion(found, true["c2w"][:, 0], tolerance)
        for v, name in enumerate(true["views"]):
            assert np.abs(views[name].cameras.K - true["K"][v]).max() < 1e-6 and len(views[name].index) == 5
            assert np.abs(np.array(views[name].cameras.centre) - (0, 0, 0.95)).max() < 1e-3


def check_realestate10k(footage: str, folder: Path, scenes: int) -> dict[str, np.ndarray]:
    """Cameras against the truth; returns the first and last picture of every clip."""
    write_layout("realestate10k", folder / "data", scenes=scenes, frames=6, size=(64, 36), footage=footage, truth=folder / "truth")
    pictures = {}
    for candidate, scene, ends in load_all("realestate10k", folder / "data"):
        name = Path(candidate.candidate_id).name
        true = np.load(folder / f"truth/{name}.npz")
        (view,) = scene.views
        assert len(view.camera_frames) == 6 and (np.diff(view.camera_frames) == 1).all()
        assert_same_motion(view.cameras.c2w, true["c2w"][0], 2e-6 if footage == "torch" else 1e-8, scale_free=True)
        assert np.abs(view.cameras.K - true["K"][0]).max() < 1e-4
        pictures[name, candidate.split, candidate.attrs["video_id"]] = ends
    return pictures


def test_realestate10k_comes_back_through_the_ingest_as_video_and_as_frames(tmp_path):
    video, frames = (check_realestate10k(footage, tmp_path / footage, scenes=5) for footage in ("video", "frames"))
    assert sorted(split for _, split, _ in video) == ["test"] + ["train"] * 4 and len({video_id for *_, video_id in video}) == 3
    assert video.keys() == frames.keys()
    for key, ends in video.items():
        # One frame off, the first or last picture would show the title or another room.
        assert np.abs(ends - frames[key]).mean(axis=(1, 2, 3)).max() < 10
        assert min(np.abs(ends - other).mean() for name, other in frames.items() if name != key) > 20


def test_realestate10k_comes_back_through_the_ingest_as_torch_chunks(tmp_path):
    pytest.importorskip("torch")
    chunk, frames = (check_realestate10k(footage, tmp_path / footage, scenes=2) for footage in ("torch", "frames"))
    assert chunk.keys() == frames.keys()
    assert all((ends == frames[key]).all() for key, ends in chunk.items())


@pytest.mark.parametrize("calibration", ["json", "colmap", "qualisys"])
def test_rig_comes_back_through_the_ingest(calibration, tmp_path):
    write_layout("rig", tmp_path / "data", scenes=1, cameras=3, frames=5, size=(64, 36), calibration=calibration, truth=tmp_path / "truth")
    ((_, scene, _),) = load_all("rig", tmp_path / "data")
    true = np.load(tmp_path / "truth/scene1.npz")
    for v, name in enumerate(true["views"]):
        view = next(view for view in scene.views if view.view_id == name)
        assert np.abs(view.cameras.c2w - true["c2w"][v]).max() < 1e-9
        assert np.abs(view.cameras.K - true["K"][v]).max() < 1e-9
    moving = np.ptp(true["c2w"], axis=1).max(axis=(1, 2)) > 0
    assert list(moving) == [False, False, calibration != "qualisys"]


def test_good_clips_open_and_bad_ones_have_their_faults(tmp_path):
    write_layout("clips", tmp_path / "clips", scenes=4, frames=24, size=(96, 54))
    pictures = {}
    with Media(tmp_path / "clips", MediaLimits()) as media:
        for candidate in ingests()["clips"](ingests()["clips"].Options()).discover(Tree(tmp_path / "clips")):
            media_ref, name = candidate.views[0].media, Path(candidate.candidate_id).stem
            assert bool(candidate.caption) == (name not in ("bad_truncated", "bad_not-a-video"))
            try:
                index = media.index(media_ref)
                pictures[name] = media.frames(media_ref, index, range(len(index)))
            except CandidateError as problem:
                pictures[name] = problem.reason
    assert pictures.pop("bad_not-a-video") is Reason.E_OPEN
    assert pictures.pop("bad_truncated") is Reason.E_TRUNCATED
    good = {name: frames for name, frames in pictures.items() if not name.startswith("bad_")}
    assert len(good) == 4 and all(len(frames) == 24 and frames.std() > 20 for frames in good.values())
    assert pictures["bad_black"].max() < 20 and pictures["bad_underexposed"].mean() < 25 and pictures["bad_overexposed"].mean() > 225
    assert len(pictures["bad_too-short"]) == 5
    assert pictures["bad_letterboxed"][:, :7].max() < 25 and pictures["bad_letterboxed"][:, 20:30].mean() > 40
    frozen = pictures["bad_frozen"].astype(int)
    assert np.abs(np.diff(frozen, axis=0)).mean() < 0.5
    still = good["fixed-camera_still-subject_01"].astype(int)
    assert np.abs(np.diff(still, axis=0)).mean() > 0.5  # noise keeps a real still scene from being a frozen video

    def detail(frames):
        return np.abs(np.diff(frames.astype(int), axis=2)).mean()

    assert detail(pictures["bad_blurred"]) < 0.6 * detail(good["fixed-camera_moving-subject_01"])


def published(folder: Path, name: str, video: str, frames: np.ndarray) -> None:
    """A trajectory file as released, subsampled, in its own unit and orientation."""
    lines = [f"https://www.youtube.com/watch?v={video}"]
    for frame in frames:
        c2w = look_at((0.02 * frame, 5.0, 3.0), (1.0 + 0.02 * frame, 5.3, 9.0), (0.0, -1.0, 0.0))
        w2c = np.linalg.inv(c2w)[:3].ravel()
        lines.append(f"{round(frame * 1001 / 30 * 1000)} 0.48 0.853333333 0.5 0.5 0 0 " + " ".join(f"{value:.9f}" for value in w2c))
    (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")


def test_footage_along_published_trajectories_has_every_frame_at_its_own_time(tmp_path):
    given = tmp_path / "given"
    given.mkdir()
    numbers = 4756 + np.array([0, 8, 16, 25, 33, 42])
    published(given, "0123456789abcdef", "QShWPZxTDoE", numbers)
    published(given, "1123456789abcdef", "_ca03xP_KUU", numbers + 100)
    published(given, "2123456789abcdef", "_ca03xP_KUU", numbers + 900)  # the same video once more
    write_layout("realestate10k", tmp_path / "data", size=(64, 36), trajectories=given, truth=tmp_path / "truth")
    videos = sorted(path.stem for path in (tmp_path / "data/videos").iterdir())
    assert videos == ["1123456789abcdef", "2123456789abcdef", "QShWPZxTDoE"]
    loaded = list(load_all("realestate10k", tmp_path / "data"))
    assert len(loaded) == 3
    for candidate, scene, _ in loaded:
        name = Path(candidate.candidate_id).name
        assert (tmp_path / f"data/train/{name}.txt").read_bytes() == (given / f"{name}.txt").read_bytes()
        (view,) = scene.views
        assert list(view.camera_frames) == [0, 8, 16, 25, 33, 42] and len(view.index) == 43
        true = np.load(tmp_path / f"truth/{name}.npz")
        assert_same_motion(view.cameras.c2w, true["c2w"][0][view.camera_frames], 1e-7, scale_free=True)
        assert (true["depth"] < 20).all() and true["depth"].min() > 0.3  # inside a closed room, not inside its furniture


def test_footage_along_the_real_trajectories(tmp_path):
    data = os.environ.get("PARALLAX_REAL_DATA")
    if not data:
        pytest.skip("PARALLAX_REAL_DATA is not set: no real recordings here")
    given = Path(data) / "realestate10k_poses"
    write_layout("realestate10k", tmp_path / "data", size=(64, 36), trajectories=given, truth=tmp_path / "truth")
    loaded = list(load_all("realestate10k", tmp_path / "data"))
    assert len(loaded) == 5
    for candidate, scene, _ in loaded:
        (view,) = scene.views
        true = np.load(tmp_path / "truth" / f"{Path(candidate.candidate_id).name}.npz")
        assert len(view.camera_frames) == 16 and set(np.diff(view.camera_frames)) == {8, 9}
        assert_same_motion(view.cameras.c2w, true["c2w"][0][view.camera_frames], 1e-6, scale_free=True)
        assert np.isfinite(true["depth"]).all() and true["depth"].min() > 0.2


def test_frames_carry_the_times_of_their_rate(tmp_path):
    write_layout("syncamvideo-v2", tmp_path / "data", cameras=1, **SMALL)
    with av.open(str(tmp_path / "data/train/f24_aperture5/scene1/videos/cam01.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert times == pytest.approx([k / 15 for k in range(6)], abs=1e-4)
    frames = json.loads((tmp_path / "data/train/f24_aperture5/scene1/cameras/camera_extrinsics.json").read_text())
    assert list(frames) == [f"frame{k}" for k in range(6)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"name": "nuscenes"}, ", ".join(LAYOUTS)),
        ({"name": "rig", "cameras": 0}, "cameras is 0; this layout takes 1 to 64"),
        ({"name": "clips", "cameras": 2}, "cameras is 2; this layout takes 1 to 1"),
        ({"name": "rig", "size": (63, 48)}, "63x48"),
        ({"name": "rig", "frames": 1}, "frames is 1"),
        ({"name": "rig", "seed": -1}, "seed is -1"),
        ({"name": "rig", "footage": "frames"}, "'realestate10k'"),
        ({"name": "clips", "calibration": "colmap"}, "'rig'"),
    ],
)
def test_impossible_orders_are_refused_by_name_and_value(arguments, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        write_layout(output=tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_nothing_is_mixed_into_a_folder_that_holds_something(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not an empty folder"):
        write_layout("rig", tmp_path)
    with pytest.raises(ValueError, match="inside the dataset"):
        write_layout("rig", tmp_path / "new", truth=tmp_path / "new/truth")
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_quaternions_turn_like_their_matrices():
    rng = np.random.default_rng(0)
    for _ in range(20):
        R = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        R *= np.sign(np.linalg.det(R))
        w, x, y, z = quaternion(R)
        v, q = rng.normal(size=3), np.array([x, y, z])
        assert np.abs(v + 2 * np.cross(q, np.cross(q, v) + w * v) - R @ v).max() < 1e-9
