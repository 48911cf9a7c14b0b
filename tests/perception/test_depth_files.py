"""Depth that is known: against the studio, and against files that are broken or mean harm."""

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.studio.render import render
from pipeline.studio.trajectories import scattered
from pipeline.studio.worlds import plaza
from schemas.camera import intrinsics
from schemas.recipe import MediaLimits
from schemas.verdict import CandidateError, Reason
from stages.media import Media
from stages.perception.depth import back_project
from stages.perception.depth_files import planar, read_kubric4d, read_npz


def test_a_studio_map_back_projects_to_what_an_independent_ray_caster_hits(tmp_path: Path) -> None:
    from tests.studio.conftest import cast_rays, pixel_centres

    scene, pose, K = plaza(5), scattered(np.random.default_rng(1), 1)[0], intrinsics(60, 60, 32, 24)[0]
    frame = render(scene, 0.5, pose, K, (64, 48))
    np.savez_compressed(tmp_path / "a.npz", depth=np.stack([frame.depth] * 3), K=K)
    [maps] = read_npz(tmp_path / "a.npz", [1], 3)
    assert maps.K is not None
    points = back_project(maps.metres[0], maps.K[0], pose)
    centres = pixel_centres(64, 48)
    z, _ = cast_rays(scene, 0.5, pose, K, centres)
    seen = np.isfinite(z) & np.isfinite(frame.depth.ravel())
    local = np.concatenate([(centres - K[:2, 2]) / (K[0, 0], K[1, 1]), np.ones((len(centres), 1))], axis=1) * z[:, None]
    truth = local @ pose[:3, :3].T + pose[:3, 3]
    error = np.linalg.norm(points.reshape(-1, 3)[seen] - truth[seen], axis=1)
    # A ray along an edge may take either side of it; everywhere else the two agree to float32.
    assert seen.mean() > 0.5 and np.quantile(error, 0.99) < 1e-3


def test_frames_and_views_are_the_ones_asked_for(tmp_path: Path) -> None:
    depth = np.arange(2 * 7 * 4 * 5, dtype=np.float64).reshape(2, 7, 4, 5) + 1
    K = intrinsics(5, 5, 2.5, 2, 14).reshape(2, 7, 3, 3) * np.arange(1, 15).reshape(2, 7, 1, 1)
    np.savez(tmp_path / "views.npz", depth=depth, views=np.array(["left", "right"]), K=K)
    found = list(read_npz(tmp_path / "views.npz", [0, 3, 6], 7, "right"))
    assert np.array_equal(np.concatenate([each.metres for each in found]), depth[1, [0, 3, 6]].astype(np.float32))
    assert np.array_equal(np.concatenate([each.K for each in found if each.K is not None]), K[1, [0, 3, 6]])
    np.savez(tmp_path / "one.npz", depth=depth[0].astype(np.float16))
    [only] = read_npz(tmp_path / "one.npz", [5], 7)
    assert only.K is None and np.array_equal(only.metres[0], depth[0, 5])


def test_what_is_not_above_nothing_is_unknown(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", depth=np.array([[[np.nan, -1, 0, np.inf, 2]]], np.float32))
    [maps] = read_npz(tmp_path / "a.npz", [0], 1)
    assert maps.metres.ravel().tolist() == [0, 0, 0, np.inf, 2]


@pytest.mark.parametrize(
    "arrays, reason, message",
    [
        ({"depth": np.ones((4, 3, 2))}, Reason.E_FRAMECOUNT, "depth for 4 frames, the view has 5"),
        ({"depth": np.ones((5, 3))}, Reason.E_OPEN, r"`depth` is float64 \[5, 3\]"),
        ({"depth": np.ones((5, 3, 2), int)}, Reason.E_OPEN, "`depth` is int64"),
        ({"depth": np.full((5, 3, 2), None)}, Reason.E_OPEN, "`depth` is object"),
        ({"z": np.ones((5, 3, 2))}, Reason.E_OPEN, "depth.npy"),
        ({"depth": np.ones((1, 5, 3, 2)), "views": np.array(["a"])}, Reason.E_OPEN, "views a; none is 'cam'"),
        ({"depth": np.ones((5, 3, 2)), "K": np.eye(4)}, Reason.E_CAMERA, r"K is \[4, 4\]"),
        ({"depth": np.ones((5, 3, 2)), "K": np.zeros((3, 3))}, Reason.E_CAMERA, "positive focal lengths"),
    ],
)
def test_bad_files_say_what_is_wrong(tmp_path: Path, arrays: dict[str, Any], reason: Reason, message: str) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(CandidateError, match=message) as error:
        list(read_npz(tmp_path / "bad.npz", [0, 4], 5, "cam"))
    assert error.value.reason == reason


@pytest.mark.parametrize("kept", [0, 10, 400, -40])
def test_cut_off_files_are_refused(tmp_path: Path, kept: int) -> None:
    np.savez_compressed(tmp_path / "cut.npz", depth=np.random.default_rng(0).random((5, 30, 20)))
    data = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[:kept])
    with pytest.raises(CandidateError) as error:
        list(read_npz(tmp_path / "cut.npz", [0, 4], 5))
    assert error.value.reason == Reason.E_OPEN


def test_kubric_distances_become_depth_along_the_axis(tmp_path: Path) -> None:
    """A wall 7 m ahead, square to the axis: its distance grows to the corners, its depth does not. K as published."""
    folder = write_kubric(tmp_path, wall=7.0)
    maps = list(read_kubric4d(*kubric_paths(folder, [0, 2])))
    assert len(maps) == 2 and maps[0].K is not None
    np.testing.assert_allclose(maps[0].K[0], [[576, 0, 288], [0, 576, 192], [0, 0, 1]])
    np.testing.assert_allclose(maps[1].metres, 9.0, rtol=1e-6)
    np.testing.assert_allclose(maps[0].metres, 7.0, rtol=1e-6)


def test_planar_depth_of_a_sphere() -> None:
    """All points at one distance: depth is that times the cosine of the angle to the axis."""
    K = intrinsics(40, 50, 33, 20)[0]
    rays = back_project(np.ones((48, 64), np.float32), K, np.eye(4))
    np.testing.assert_allclose(planar(np.full((48, 64), 3, np.float32), K), 3 / np.linalg.norm(rays, axis=2), rtol=1e-6)


def kubric_paths(folder: Path, frames: list[int]) -> tuple[Path, list[Path]]:
    return folder.parent / "scn00000_p0_v4.json", [folder / f"depth_{frame:05d}.tiff" for frame in frames]


def write_kubric(root: Path, wall: float) -> Path:
    """Three frames of a wall that recedes by a metre a frame, in the layout of specs/recapture.md 4.2."""
    folder = root / "scn00000" / "frames_p0_v4"
    folder.mkdir(parents=True)
    K = intrinsics(576, 576, 288, 192)[0]
    rays = back_project(np.ones((384, 576), np.float32), K, np.eye(4))
    for t in range(3):
        distance = np.linalg.norm(rays * (wall + t), axis=2).astype(np.float32)
        assert cv2.imwrite(str(folder / f"depth_{t:05d}.tiff"), distance)
    camera = {"K": [[1, 0, -0.5], [0, -1.5, -0.5], [0, 0, -1]]}
    about = {"scene": {"resolution": [576, 384], "num_frames": 3}, "camera": camera}
    (folder.parent / "scn00000_p0_v4.json").write_text(json.dumps(about))
    return folder


# Files that mean harm


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Media]:
    with Media(tmp_path_factory.mktemp("media"), MediaLimits()) as opened:
        yield opened


def known_in_sandbox(media: Media, layout: str, *paths: Path, frames: int = 1) -> dict[str, Any]:
    asked = (layout, [str(path) for path in paths], list(range(frames)), 5, "cam", (12, 8), 64, media.limits)
    found: dict[str, Any] = media.run("stages.perception.depth_files:known_maps", *asked)
    return found


def refusal(media: Media, layout: str, *paths: Path) -> tuple[Reason, str]:
    with pytest.raises(CandidateError) as error:
        known_in_sandbox(media, layout, *paths)
    return error.value.reason, error.value.message


def array(header: str, data: bytes = b"") -> bytes:
    """A .npy with a header of one's own."""
    padded = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded + data


def write_npz(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return path


def plain(shape: str, descr: str = "<f4") -> str:
    return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}"


FIVE = array(plain("(5, 8, 12)"), np.ones((5, 8, 12), np.float32).tobytes())


def test_a_good_file_comes_through_the_sandbox(media: Media, tmp_path: Path) -> None:
    found = known_in_sandbox(media, "npz", write_npz(tmp_path / "a.npz", depth=FIVE), frames=3)
    assert found["depth"].dtype == np.float16 and found["depth"].shape == (3, 8, 12) and (found["depth"] == 1).all()


@pytest.mark.parametrize(
    "members, reason, message",
    [
        ({"depth": array(plain("(5, 100000, 100000)"))}, Reason.E_TOO_BIG, "media.max_pixels"),
        ({"depth": array(plain("(900000000, 8, 12)"))}, Reason.E_TOO_BIG, "media.max_frames"),
        ({"depth": array(plain("(5, -8, -12)"))}, Reason.E_OPEN, "-8"),
        ({"depth": array(plain("(5, 8, 12)", "|O"), b"cos\nsystem\n(S'false'\ntR.")}, Reason.E_OPEN, "object"),
        ({"depth": array("{'descr': '<f4', 'shape': (5L")}, Reason.E_OPEN, "is no depth file"),
        ({"depth": array("(" * 5000)}, Reason.E_OPEN, "is no depth file"),
        ({"depth": b"\x93NUMPY\x03\x00" + FIVE[8:]}, Reason.E_OPEN, "version"),
        ({"depth": FIVE[:-1]}, Reason.E_OPEN, "takes 1920 bytes, the file holds 1919"),
        ({"depth": FIVE, "K": array(plain("(10000000, 3, 3)", "<f8"))}, Reason.E_OPEN, "`K` is float64"),
        ({"depth": FIVE, "K": array(plain("(3, 3)", "<U5"), bytes(180))}, Reason.E_OPEN, "`K` is <U5"),
        ({"depth": FIVE, "K": array(plain("(3, 3)", "|O"), b"x")}, Reason.E_OPEN, "`K` is object"),
        ({"depth": FIVE, "K": array(plain("(3, 3)", "<f8"), np.full((3, 3), np.nan).tobytes())}, Reason.E_CAMERA, "finite"),
        ({"depth": FIVE, "views": array(plain("(1,)", "<U99999999"))}, Reason.E_OPEN, "`views`"),
    ],
)
def test_an_npz_that_promises_too_much_or_is_no_array_is_refused_before_it_is_read(
    media: Media, tmp_path: Path, members: dict[str, bytes], reason: Reason, message: str
) -> None:
    found, said = refusal(media, "npz", write_npz(tmp_path / "bad.npz", **members))
    assert found == reason and message in said


@pytest.mark.parametrize(("at", "value"), [(6, 1), (8, 99)], ids=["encrypted", "unknown compression"])
def test_zip_features_that_nobody_can_read_are_refused(media: Media, tmp_path: Path, at: int, value: int) -> None:
    data = bytearray(write_npz(tmp_path / "bad.npz", depth=FIVE).read_bytes())
    data[at] = value
    data[data.index(b"PK\1\2") + at + 2] = value
    (tmp_path / "bad.npz").write_bytes(data)
    assert refusal(media, "npz", tmp_path / "bad.npz")[0] == Reason.E_OPEN


def test_damage_of_any_kind_is_the_candidate_s_error_and_no_bug(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, depth=np.ones((5, 8, 12), np.float16), K=np.eye(3))
    data, rng, refused = buffer.getvalue(), np.random.default_rng(0), 0
    for _ in range(400):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        (tmp_path / "a.npz").write_bytes(damaged)
        try:
            list(read_npz(tmp_path / "a.npz", [0, 4], 5, "cam"))
        except CandidateError:
            refused += 1
    assert refused > 50


def test_what_is_deeper_than_float16_holds_is_nothing(media: Media, tmp_path: Path) -> None:
    depth = np.full((5, 8, 12), 1e9, np.float32)
    np.savez(tmp_path / "far.npz", depth=depth)
    assert np.isinf(known_in_sandbox(media, "npz", tmp_path / "far.npz")["depth"]).all()


@pytest.mark.parametrize(
    "written, message",
    [
        (np.ones((384, 576, 3), np.uint8), "says channels 3"),
        (np.ones((384, 576), np.uint16), "bits 16"),
        (np.ones((10, 576), np.float32), "height 10"),
        (b"no tiff", "is no TIFF"),
        (b"II*\0\xff\xff\xff\xff", "is no TIFF"),
        (b"", "is no TIFF"),
        (bytes(1 << 22), "larger than"),
    ],
)
def test_a_tiff_must_be_the_map_that_the_camera_file_speaks_of(media: Media, tmp_path: Path, written: Any, message: str) -> None:
    folder = write_kubric(tmp_path, wall=5.0)
    camera, maps = kubric_paths(folder, [0])
    if isinstance(written, bytes):
        maps[0].write_bytes(written)
    else:
        assert cv2.imwrite(str(maps[0]), written)
    reason, said = refusal(media, "kubric4d", camera, *maps)
    assert (reason == Reason.E_OPEN and message in said and "float32 [384,576]" in said) or message == "larger than"


def test_a_tiff_that_promises_more_than_the_camera_file_is_not_decoded(media: Media, tmp_path: Path) -> None:
    folder = write_kubric(tmp_path, wall=5.0)
    camera, [path] = kubric_paths(folder, [0])
    data = bytearray(path.read_bytes())
    at = int.from_bytes(data[4:8], "little")
    for start in range(at + 2, at + 2 + 12 * int.from_bytes(data[at : at + 2], "little"), 12):
        if int.from_bytes(data[start : start + 2], "little") in (256, 257):
            data[start + 2 : start + 12] = (4).to_bytes(2, "little") + (1).to_bytes(4, "little") + (1 << 30).to_bytes(4, "little")
    path.write_bytes(data)
    reason, said = refusal(media, "kubric4d", camera, path)
    assert reason == Reason.E_OPEN and f"width {1 << 30}" in said


def test_damaged_tiffs_never_get_out_of_the_sandbox(media: Media, tmp_path: Path) -> None:
    folder = write_kubric(tmp_path, wall=5.0)
    camera, [path] = kubric_paths(folder, [0])
    data, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(40):
        damaged = bytearray(data)
        for place in (*rng.integers(len(data) - 300, len(data), 3), *rng.integers(0, len(data), 3)):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            known_in_sandbox(media, "kubric4d", camera, path)
        except CandidateError as error:
            assert error.reason in (Reason.E_OPEN, Reason.E_CRASH)


@pytest.mark.parametrize(
    "text, reason",
    [
        ("[" * 100_000, Reason.E_CAMERA),
        ("[]", Reason.E_CAMERA),
        ('{"scene": {"resolution": [1e400, 1]}, "camera": {"K": [[1]]}}', Reason.E_CAMERA),
        ('{"scene": {"resolution": [0, 384]}, "camera": {"K": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}}', Reason.E_CAMERA),
        ('{"scene": {"resolution": [576, 384]}, "camera": {"K": [[1, 0, 0], [0, NaN, 0], [0, 0, 1]]}}', Reason.E_CAMERA),
        ('{"scene": {"resolution": [576, 384]}, "camera": {"K": [[1, 0, 0], [0, 1, 0], [0, 0, Infinity]]}}', Reason.E_CAMERA),
        ('{"scene": {"resolution": [1e308, 32]}, "camera": {"K": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}}', Reason.E_TOO_BIG),
        ('{"scene": {"resolution": [1000000, 1000000]}, "camera": {"K": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}}', Reason.E_TOO_BIG),
    ],
)
def test_camera_files_of_kubric_4d_are_trusted_no_more(media: Media, tmp_path: Path, text: str, reason: Reason) -> None:
    camera, maps = kubric_paths(write_kubric(tmp_path, wall=5.0), [0])
    camera.write_text(text)
    assert refusal(media, "kubric4d", camera, *maps)[0] == reason
