"""Targets: every camera file that an ingest, an option or a command reads."""

import json
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from pipeline.report.camera_files import CameraFileError, read_camera_file
from pipeline.report.camera_view import camera_page, facts
from pipeline.viewpoints import ViewpointsError
from pipeline.viewpoints.files import read_cameras
from schemas.camera import CameraTrack, check_poses
from schemas.frames import FrameIndex
from schemas.verdict import CandidateError
from stages.ingest.colmap import parse_model
from stages.ingest.geometry import bars_of_padding, common_centre, fit_to_frames, over_frames
from stages.ingest.kubric4d import parse_camera
from stages.ingest.nerfstudio import parse_transforms
from stages.ingest.qualisys import parse_calibration
from stages.ingest.realestate10k import match_times, normalised_track, parse_trajectory, video_id
from stages.ingest.rig import _qualisys_tracks
from stages.ingest.rig_json import parse_rig
from stages.ingest.syncamvideo import moving_poses, static_poses
from tests.fuzz import seeds
from tests.fuzz.mutate import mutated, mutated_json, mutated_text
from tests.fuzz.reading import json_of, text_of
from tests.fuzz.target import Target, check_track, write_file

_POSE = [[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, -2]]
_RIG = {
    "version": 1, "units": "millimetres", "up": [0, 0, 1], "centre": [0, 0, 1.2],
    "cameras": {
        "a": {"video": "cam01.mp4", "width": 64, "height": 48, "fx": 60, "fy": 60, "cx": 32, "cy": 24,
        "distortion": [0.1, 0, 0, 0], "w2c": _POSE},
        "b": {"width": 64, "height": 48, "K": [[[60, 0, 32], [0, 60, 24], [0, 0, 1]]] * 2, "c2w": [_POSE, _POSE]},
    },
}  # fmt: skip
_INDEX = {"width": 32, "height": 24, "codec": "h264", "keyframes": np.zeros(1, np.int64)}


def _used(tracks: dict[str, CameraTrack]) -> str:
    """What an ingest goes on to do with them: sizes, lengths, the scene's centre."""
    for track in tracks.values():
        check_track(track)
    centre = common_centre(np.concatenate([track.c2w for track in tracks.values()]), 10.0)
    assert centre is None or np.isfinite(centre).all()
    for track in tracks.values():
        for rule in ("crop", "pad", "scale", "refuse"):
            try:
                made, note = fit_to_frames(track, 32, 24, rule, "centre", 0.5)
            except CandidateError:
                continue
            check_track(made)
            assert (made.width, made.height) == (32, 24) and note != ""
        assert np.isfinite(bars_of_padding(track, 32, 24, "centre")).all()
        index = FrameIndex(pts=np.arange(3), time_base=1, fps=1, **_INDEX)  # type: ignore[arg-type]
        try:
            check_track(over_frames(track, index, "the view"))
        except CandidateError:
            continue
    return f"{min(len(tracks), 2)} cameras"


def _rig(data: bytes, folder: Path) -> str:
    return _used(parse_rig(json_of(folder, "cameras.json")))


def _poses(data: bytes, folder: Path) -> str:
    document = json_of(folder, "cameras.json")
    made = (moving_poses if data[:6] == b'{"fram' else static_poses)(document, "cameras.json")
    for poses in made.values():
        check_poses(poses)
    assert made
    return f"{min(len(made), 2)} cameras"


def _transforms(data: bytes, folder: Path) -> str:
    posed = parse_transforms(json_of(folder, "cameras.json"))
    assert len(posed.names) == len(posed.track)
    return _used({"cam": posed.track})


def _kubric(data: bytes, folder: Path) -> str:
    track, rate = parse_camera(json_of(folder, "cameras.json"), "cameras.json")
    assert np.isfinite(rate)
    return _used({"cam": track})


def _qualisys(data: bytes, folder: Path) -> str:
    tracks, _ = _qualisys_tracks(parse_calibration(text_of(folder, "x.qca.txt")), ["cam01", "cam02"])
    return _used(tracks) if tracks else "no camera"


def _write_colmap(value: tuple[bytes, bytes], folder: Path) -> None:
    for name, data in zip(("cameras.txt", "images.txt"), value, strict=True):
        (folder / name).write_bytes(data)


def _colmap(value: tuple[bytes, bytes], folder: Path) -> str:
    tracks = parse_model(text_of(folder, "cameras.txt"), text_of(folder, "images.txt"), "arbitrary")
    return _used(tracks) if tracks else "no camera"


def _trajectory(data: bytes, folder: Path) -> str:
    text = text_of(folder, "clip.txt")
    video_id(text.partition("\n")[0])
    trajectory = parse_trajectory(text)
    for rule in ("trust", "crop"):
        track, _ = normalised_track(trajectory, 64, 36, rule)  # type: ignore[arg-type]
        check_track(track)
    times = trajectory.times_us * 1000
    found = match_times(times - times[0], np.arange(0, 10**9, 10**7), 5e6)
    assert len(found) == len(times) and (np.diff(found) > 0).all()
    return "matched"


@st.composite
def _any_file(draw: st.DrawFn) -> tuple[str, bytes]:
    """A camera file of any kind, most often under a name that goes with it."""
    kinds = {
        "cameras.json": mutated_json([_RIG, *seeds.documents("rig", "cameras.json")]),
        "scene1.json": mutated_json(seeds.documents("syncamvideo-v1", "scene1.json")),
        "camera_extrinsics.json": mutated_json(seeds.documents("syncamvideo-v2", "scene1/cameras/camera_extrinsics.json")),
        "transforms.json": mutated_json(seeds.documents("dl3dv", "transforms.json")),
        "scn02900_p0_v0.json": mutated_json(seeds.documents("kubric4d", ".json")),
        "clip.txt": mutated_text(seeds.texts("realestate10k", ".txt")),
        "x.qca.txt": mutated([seeds.QUALISYS.encode()]),
        "cameras.npz": mutated([cameras_npz()]),
    }
    name = draw(st.sampled_from(list(kinds)))
    data = draw(kinds[name])
    return (draw(st.sampled_from(list(kinds))) if draw(st.integers(0, 7)) == 0 else name), data


def cameras_npz() -> bytes:
    from pipeline.encoding.sample import npz

    poses = np.tile(np.eye(4), (2, 3, 1, 1))
    poses[1, :, 0, 3] = 1.0
    return npz(
        c2w=poses, K=np.tile(np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]]), (2, 3, 1, 1)), frame=np.tile(np.arange(3), (2, 1)),
        size=np.array([[64, 48]] * 2), distortion=np.zeros((2, 5)), metric=np.array([True, False]),
    )  # fmt: skip


def _write_named(value: tuple[str, bytes], folder: Path) -> None:
    (folder / value[0]).write_bytes(value[1])


def _camera_file(value: tuple[str, bytes], folder: Path) -> str:
    cameras = read_camera_file(folder / value[0])
    for track in cameras.tracks.values():
        check_track(track)
    facts(cameras)
    camera_page(cameras, value[0]).encode("utf-8", "backslashreplace")
    return cameras.kind


def _viewpoints(value: tuple[str, bytes], folder: Path) -> str:
    made = read_cameras(folder / value[0], frames=3, size=(32, 24))
    assert np.isfinite(made.c2w).all() and np.isfinite(made.K).all()
    return f"{min(made.views, 2)} views"


def targets() -> list[Target]:
    named = write_file("cameras.json")
    xml = [seeds.QUALISYS.encode(), seeds.LAUGHS.encode()]
    pieces = [
        b"<!DOCTYPE x>",
        b"<camera>",
        b"&#0;",
        b"&lt;",
        b"]]>",
        b"<" * 2000,
        b'"1e999"',
        b'"nan"',
        b'"9999999999999999999999"',
        b"<a>" * 5000,
    ]
    colmap = [mutated_text([text]) for text in seeds.COLMAP]
    poses = [*seeds.texts("syncamvideo-v1", "scene1.json"), *seeds.texts("syncamvideo-v2", "scene1/cameras/camera_extrinsics.json")]
    unreal = st.one_of(mutated_json([json.loads(text) for text in poses]), mutated_text(poses))
    return [
        Target("rig json", mutated_json([_RIG, *seeds.documents("rig", "cameras.json")]), _rig, write=named),
        Target("SynCamVideo json", unreal, _poses, write=named),
        Target("transforms.json", mutated_json(seeds.documents("dl3dv", "transforms.json")), _transforms, write=named),
        Target("Kubric-4D json", mutated_json(seeds.documents("kubric4d", ".json")), _kubric, write=named),
        Target("Qualisys xml", mutated(xml, pieces), _qualisys, write=write_file("x.qca.txt")),
        Target("COLMAP text", st.tuples(*colmap), _colmap, write=_write_colmap),
        Target("trajectory txt", mutated_text(seeds.texts("realestate10k", ".txt")), _trajectory, write=write_file("clip.txt")),
        Target("any camera file, drawn", _any_file(), _camera_file, (CameraFileError,), _write_named),
        Target("any camera file, viewpoints", _any_file(), _viewpoints, (ViewpointsError,), _write_named),
    ]
