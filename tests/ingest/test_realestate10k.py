"""RealEstate10K in its three layouts; times matched to frames by pts."""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest

from schemas.camera import look_at
from schemas.verdict import CandidateError, Reason
from stages.ingest.realestate10k import match_times, parse_trajectory, video_id
from stages.storage import Tree

FX, FY = 0.5, 0.5 * 16 / 9  # square pixels on 16:9


def w2c(i: int) -> np.ndarray:
    return np.linalg.inv(look_at((0.1 * i, -3, 1), (0, 0, 0.5)))[:3]


def trajectory(times_us: Iterable[int], youtube: str = "QShWPZxTDoE", cx: float = 0.5) -> str:
    lines = [f"https://www.youtube.com/watch?v={youtube}"]
    for i, time in enumerate(times_us):
        pose = " ".join(f"{x:.9f}" for x in w2c(i).ravel())
        lines.append(f"{time} {FX:.9f} {FY:.9f} {cx:.9f} 0.500000000 0.000000000 0.000000000 {pose}")
    return "\n".join(lines) + "\n"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def at(frames: Iterable[int], fps: float = 30) -> list[int]:
    """Published times: the frame's time, cut to microseconds."""
    return [int(frame * 1e6 / fps) for frame in frames]


def test_video_named_by_the_youtube_id_is_matched_on_its_own_clock(tmp_path: Path, make_video, ingest, load) -> None:
    """Two clips of one video, a stretch of it each; poses and K of the frames that are there."""
    wanted = {"aaaa": [4, 6, 8, 10], "bbbb": [15, 16, 17]}
    for clip, frames in wanted.items():
        write(tmp_path / "train" / f"{clip}.txt", trajectory(at(frames), cx=0.4))
    write(tmp_path / "test" / "cccc.txt", trajectory([0], youtube="-aldZQifF2U"))
    make_video(tmp_path / "videos" / "QShWPZxTDoE.mp4", frames=20, size=(96, 54), fps=30)
    reader = ingest("realestate10k")
    found = list(reader.discover(Tree(tmp_path)))
    assert [(each.candidate_id, each.split) for each in found] == [("train/aaaa", "train"), ("train/bbbb", "train"), ("test/cccc", "test")]
    assert [each.attrs["video_id"] for each in found] == ["QShWPZxTDoE", "QShWPZxTDoE", "-aldZQifF2U"]
    assert found[2].error is not None and found[2].error[0] is Reason.NO_FOOTAGE
    for candidate in found[:2]:
        [view] = load(reader, tmp_path, candidate).views
        assert view.camera_frames.tolist() == wanted[candidate.candidate_id[-4:]]
        assert view.cameras.scale == "arbitrary"
        assert view.cameras.c2w[1] == pytest.approx(look_at((0.1, -3, 1), (0, 0, 0.5)), abs=1e-6)
        # A point one unit ahead and 0.1 to the right lies at the normalised 0.5 * 0.1 + 0.4 of the width.
        x = view.cameras.K[0] @ [0.1, 0.0, 1.0]
        assert x[:2] / x[2] == pytest.approx([(0.5 * 0.1 + 0.4) * 96, 0.5 * 54])


def test_video_named_by_the_clip_starts_with_the_first_camera(tmp_path: Path, make_video, ingest, load) -> None:
    """Whatever its first pts is; and it goes before the long video."""
    write(tmp_path / "aaaa.txt", trajectory(at([4750, 4752, 4753])))
    make_video(tmp_path / "videos" / "aaaa.mp4", frames=5, size=(96, 54), first=7)
    make_video(tmp_path / "videos" / "QShWPZxTDoE.mp4", frames=2, size=(96, 54))
    reader = ingest("realestate10k")
    [candidate] = reader.discover(Tree(tmp_path))
    assert (candidate.candidate_id, candidate.split, candidate.attrs["footage"]) == ("aaaa", None, "video named by the clip")
    [view] = load(reader, tmp_path, candidate).views
    assert view.camera_frames.tolist() == [0, 2, 3]


def test_extracted_frames(tmp_path: Path, ingest, load) -> None:
    """Named by their times: sorted by number, further frames allowed, a missing one not."""
    times = [900000, 1000000, 1100000]
    write(tmp_path / "train" / "aaaa.txt", trajectory(times))
    folder = tmp_path / "frames" / "aaaa"
    folder.mkdir(parents=True)
    for time in (*times, 950000):
        cv2.imwrite(str(folder / f"{time}.jpg"), np.full((54, 96, 3), 90, np.uint8))
    reader = ingest("realestate10k")
    [candidate] = reader.discover(Tree(tmp_path))
    assert [file.path[-11:] for file in candidate.views[0].media.files] == ["/900000.jpg", "/950000.jpg", "1000000.jpg", "1100000.jpg"]
    [view] = load(reader, tmp_path, candidate).views
    assert view.camera_frames.tolist() == [0, 2, 3]
    assert view.index.pts_ns.tolist() == [900_000_000, 950_000_000, 1_000_000_000, 1_100_000_000]

    (folder / "1000000.jpg").unlink()
    [candidate] = reader.discover(Tree(tmp_path))
    with pytest.raises(CandidateError, match=r"1 of 3 camera times .* camera 1 at 1.000000 s") as caught:
        load(reader, tmp_path, candidate)
    assert caught.value.reason is Reason.E_FRAMECOUNT

    (folder / "first.jpg").write_bytes(b"")
    [candidate] = reader.discover(Tree(tmp_path))
    assert candidate.error is not None and candidate.error[0] is Reason.E_PTS


def test_torch_chunks(tmp_path: Path, ingest, load) -> None:
    torch = pytest.importorskip("torch")
    times = [1_000_000, 1_033_000, 1_067_000]
    cameras = [[FX, FY, 0.5, 0.5, 0, 0, *w2c(i).ravel()] for i in range(3)]
    picture = cv2.imencode(".jpg", np.full((54, 96, 3), 90, np.uint8))[1]
    scene = {
        "url": "https://www.youtube.com/watch?v=QShWPZxTDoE",
        "timestamps": torch.tensor(times),
        "cameras": torch.tensor(cameras, dtype=torch.float32),
        "images": [torch.from_numpy(picture.copy()) for _ in times],
    }
    folder = tmp_path / "train"
    folder.mkdir()
    few = {**scene, "images": scene["images"][:2], "key": "few"}
    nan = {**scene, "cameras": scene["cameras"] * float("nan"), "key": "nan"}
    torch.save([{**scene, "key": "aaaa"}, {"key": "empty"}, few, nan, {**scene, "key": "../../escape"}], folder / "000000.torch")
    torch.save([{**scene, "key": "aaaa"}], folder / "000001.torch")
    (folder / "000002.torch").write_bytes(b"this is no chunk")
    torch.save({"not": "a list"}, folder / "000003.torch")
    reader = ingest("realestate10k")
    found = list(reader.discover(Tree(tmp_path)))
    assert [(each.candidate_id, each.error and str(each.error[0])) for each in found] == [
        ("train/aaaa", None),
        ("train/empty", None),
        ("train/few", None),
        ("train/nan", None),
        ("train/000000.torch/item4", None),
        ("train/aaaa#2", "E_DUPLICATE"),
        ("train/000002.torch", "E_OPEN"),
        ("train/000003.torch", "E_OPEN"),
    ]
    assert found[0].attrs["video_id"] == "QShWPZxTDoE" and found[0].split == "train"
    [view] = load(reader, tmp_path, found[0]).views
    assert view.camera_frames.tolist() == [0, 1, 2]
    assert view.index.pts_ns.tolist() == [time * 1000 for time in times]
    assert view.cameras.c2w[2] == pytest.approx(look_at((0.2, -3, 1), (0, 0, 0.5)), abs=1e-5)
    assert (view.cameras.K[0, 0, 0], view.cameras.width, view.cameras.height) == (pytest.approx(48), 96, 54)
    for candidate, reason in ((found[1], Reason.E_OPEN), (found[2], Reason.E_FRAMECOUNT), (found[3], Reason.E_CAMERA)):
        with pytest.raises(CandidateError) as caught:
            load(reader, tmp_path, candidate)
        assert caught.value.reason is reason


def test_chunk_keys_that_are_no_text_are_spelled_out(tmp_path: Path, ingest) -> None:
    torch = pytest.importorskip("torch")
    (tmp_path / "test").mkdir()
    torch.save([{"key": "a\ud800"}, {"key": "\udcff"}, {"key": "a\\ud800"}], tmp_path / "test" / "000000.torch")
    found = list(ingest("realestate10k").discover(Tree(tmp_path)))
    assert [each.candidate_id for each in found] == ["test/a\\ud800", "test/\\xff", "test/a\\ud800#2"]
    assert [each.error and each.error[0] for each in found] == [None, None, Reason.E_DUPLICATE]
    for each in found:
        assert each.identity() and each.key and repr((each.attrs, each.error)).encode("utf-8")
        assert str(each.attrs["video_id"]).encode("utf-8")


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("trust", [48, 0.5 * 16 / 9 * 72, 48, 36]),  # normalised numbers times the real size
        ("crop", [64, 64, 48, 36]),  # 128 x 72 cut to 96 x 72
    ],
)
def test_frames_of_another_shape_than_square_pixels_imply(tmp_path, make_video, ingest, load, rule, expected) -> None:
    write(tmp_path / "aaaa.txt", trajectory(at([0, 1])))
    make_video(tmp_path / "videos" / "aaaa.mp4", frames=2, size=(96, 72))
    reader = ingest("realestate10k", aspect_rule=rule)
    [candidate] = reader.discover(Tree(tmp_path))
    scene = load(reader, tmp_path, candidate)
    K = scene.views[0].cameras.K[0]
    assert [K[0, 0], K[1, 1], K[0, 2], K[1, 2]] == pytest.approx(expected)
    assert rule in scene.notes["aspect"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (trajectory([0, 33333, 33333]), Reason.E_PTS),
        (trajectory([33333, 0]), Reason.E_PTS),
        (trajectory([-1, 0]), Reason.E_PTS),
        (trajectory([]), Reason.E_CAMERA),
        (trajectory([0]).replace("0.500000000", "half"), Reason.E_CAMERA),
        (trajectory([0]).replace("0.500000000 0.8", "0.8"), Reason.E_CAMERA),
        (trajectory([0]).replace("\n0 ", "\n0.5 "), Reason.E_CAMERA),
    ],
)
def test_broken_trajectories(text: str, reason: Reason) -> None:
    with pytest.raises(CandidateError) as caught:
        parse_trajectory(text)
    assert caught.value.reason is reason


def test_nan_pose_and_missing_url_are_one_row_each(tmp_path: Path, make_video, ingest, load) -> None:
    write(tmp_path / "train" / "aaaa.txt", trajectory(at([0, 1])).replace("-3.000000000", "nan").replace(f"{w2c(1)[0, 3]:.9f}", "nan"))
    write(tmp_path / "train" / "bbbb.txt", "no url\n")
    make_video(tmp_path / "videos" / "train" / "aaaa.mp4", frames=2)
    reader = ingest("realestate10k")
    first, second = reader.discover(Tree(tmp_path))
    with pytest.raises(CandidateError, match="NaN") as caught:
        load(reader, tmp_path, first)
    assert caught.value.reason is Reason.E_CAMERA
    assert second.error is not None and second.error[0] is Reason.E_CAMERA


def test_nearest_frame_within_half_an_interval() -> None:
    pts = np.array([0, 40, 80, 120], np.int64) * 1_000_000
    times = np.array([1, 59, 61, 139], np.int64) * 1_000_000
    assert match_times(times, pts, 20e6).tolist() == [0, 1, 2, 3]
    with pytest.raises(CandidateError, match=r"19\.000 ms"):
        match_times(times, pts, 18e6)
    with pytest.raises(CandidateError, match="cameras 0 and 1 both belong to frame 1"):
        match_times(np.array([30, 50], np.int64) * 1_000_000, pts, 20e6)
    assert match_times(np.array([5]), np.array([0]), 10).tolist() == [0]


def test_nearest_frame_agrees_with_brute_force() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        pts = np.cumsum(random.integers(30, 50, 40))
        wanted = np.sort(random.choice(40, 12, replace=False))
        times = pts[wanted] + random.integers(-14, 15, 12)
        brute = [int(np.abs(pts - time).argmin()) for time in times]
        assert match_times(times, pts, 15.0).tolist() == brute == wanted.tolist()


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("https://www.youtube.com/watch?v=-aldZQifF2U", "-aldZQifF2U"),
        ("https://www.youtube.com/watch?t=5&v=_ca03xP_KUU", "_ca03xP_KUU"),
        ("https://youtu.be/a-Unpcomk5k", "a-Unpcomk5k"),
        ("https://www.youtube.com/watch?v=../../etc", None),
        ("158692025 0.4 0.8", None),
        ("http://[", None),
        ("", None),
    ],
)
def test_video_ids(url: str, found: str | None) -> None:
    assert video_id(url) == found
