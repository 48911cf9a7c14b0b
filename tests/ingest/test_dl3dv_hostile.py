"""DL3DV-10K: what is wrong with a scene is said, and costs no other."""

import copy
import io
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from schemas.verdict import CandidateError, Reason
from stages.ingest.nerfstudio import parse_transforms
from tests.e2e.output import run, write_recipe
from tests.ingest.dl3dv_scenes import HASHES, document, refused, write_scene


def changed(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    made = document()
    change(made)
    return made


def at(frame: int, **values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda made: made["frames"][frame].update(values)


def pose(row: int, column: int, value: Any) -> Callable[[dict[str, Any]], Any]:
    def change(made: dict[str, Any]) -> None:
        made["frames"][1]["transform_matrix"][row][column] = value

    return change


HOSTILE: dict[str, tuple[Any, str, str]] = {
    "empty": ("", "E_CAMERA", "not valid JSON"),
    "cut": (json.dumps(document())[:500], "E_CAMERA", "not valid JSON"),
    "twice": ('{"w": 1, "w": 2}', "E_CAMERA", "occurs twice"),
    "deep": ("[" * 100_000, "E_CAMERA", "not valid JSON"),
    "digits": ('{"w": ' + "9" * 5000 + "}", "E_CAMERA", "not valid JSON"),
    "list": ([1, 2], "E_CAMERA", "expected an object"),
    **{
        f"no {key}": (changed(lambda made, key=key: made.pop(key)), "E_CAMERA", f"{key} is missing")
        for key in ("w", "h", "fl_x", "fl_y", "cx", "cy")
    },
    "no frames": (changed(lambda made: made.pop("frames")), "E_CAMERA", "frames is missing"),
    "zero frames": (changed(lambda made: made["frames"].clear()), "E_CAMERA", "at least one frame"),
    "frames object": (changed(lambda made: made.update(frames={"0": {}})), "E_CAMERA", "frames is {"),
    "frame text": (changed(lambda made: made["frames"].append("x")), "E_CAMERA", "frames[3] is 'x'"),
    "no path": (changed(lambda made: made["frames"][1].pop("file_path")), "E_CAMERA", "frames[1].file_path is missing"),
    "no pose": (changed(lambda made: made["frames"][1].pop("transform_matrix")), "E_CAMERA", "transform_matrix is missing"),
    "nan": (changed(pose(0, 0, float("nan"))), "E_CAMERA", "pose 1 holds NaN"),
    "nan place": (changed(pose(1, 3, float("nan"))), "E_CAMERA", "pose 1 holds NaN"),
    "infinite": (changed(pose(1, 3, float("inf"))), "E_CAMERA", "frames[1] at"),
    "scaled": (changed(pose(0, 0, 2.0)), "E_CAMERA", "not a rotation"),
    "mirrored": (changed(pose(0, 0, -1.0)), "E_CAMERA", "not a rotation"),
    "zeros": (changed(at(1, transform_matrix=[[0.0] * 4] * 4)), "E_CAMERA", "not a rotation"),
    "last row": (changed(pose(3, 0, 0.5)), "E_CAMERA", "last row"),
    "far away": (changed(pose(2, 3, 1000.5)), "E_CAMERA", "failed reconstruction"),
    "huge": (changed(pose(2, 3, 10**400)), "E_CAMERA", "beyond floating point"),
    "text number": (changed(pose(2, 3, "1.5")), "E_CAMERA", "expected a number"),
    "truth value": (changed(pose(0, 0, True)), "E_CAMERA", "expected a number"),
    "three rows": (changed(at(1, transform_matrix=np.eye(4)[:3].tolist())), "E_CAMERA", "4 rows of 4"),
    "ragged": (changed(at(1, transform_matrix=[[1, 0, 0, 0], [0, 1], [0], []])), "E_CAMERA", "4 rows of 4"),
    "own lens": (changed(at(1, fl_x=3.0)), "E_CAMERA", "fl_x of its own"),
    "zero wide": (changed(lambda made: made.update(w=0)), "E_CAMERA", "w is 0"),
    "half a pixel": (changed(lambda made: made.update(w=383.5)), "E_CAMERA", "whole number"),
    "vast": (changed(lambda made: made.update(w=10**9, h=10**9)), "E_CAMERA", "1 to 65536"),
    "focal": (changed(lambda made: made.update(fl_x=1e12)), "E_CAMERA", "fl_x is"),
    "behind": (changed(lambda made: made.update(fl_y=-230.4)), "E_CAMERA", "fl_y is"),
    "focal nan": (changed(lambda made: made.update(fl_x=float("nan"))), "E_CAMERA", "fl_x is nan"),
    "off centre": (changed(lambda made: made.update(cx=1e6)), "E_CAMERA", "cx is"),
    "distortion": (changed(lambda made: made.update(k2=1e30)), "E_CAMERA", "coefficients"),
    "distortion nan": (changed(lambda made: made.update(p2=float("nan"))), "E_CAMERA", "coefficients"),
    "distortion text": (changed(lambda made: made.update(k1=[])), "E_CAMERA", "k1 is []"),
    "k4": (changed(lambda made: made.update(k4=0.1)), "E_CAMERA", "k4 is 0.1"),
    "fisheye": (changed(lambda made: made.update(camera_model="OPENCV_FISHEYE")), "E_CAMERA", "OPENCV_FISHEYE"),
    "pinhole bent": (changed(lambda made: made.update(camera_model="PINHOLE", k1=0.1)), "E_CAMERA", "camera_model"),
    "absolute": (changed(at(1, file_path="/etc/passwd")), "E_UNSAFE_PATH", "'/etc/passwd'"),
    "up": (changed(at(1, file_path="images/../../frame_00002.png")), "E_UNSAFE_PATH", "images/NAME"),
    "drive": (changed(at(1, file_path="C:\\images\\frame_00002.png")), "E_UNSAFE_PATH", "images/NAME"),
    "nul": (changed(at(1, file_path="images/frame_00002.png\0")), "E_UNSAFE_PATH", "images/NAME"),
    "elsewhere": (changed(at(1, file_path="masks/frame_00002.png")), "E_CAMERA", "images/frame_00001.png"),
    "path number": (changed(at(1, file_path=2)), "E_CAMERA", "file_path is 2"),
    "same picture": (changed(at(1, file_path="./images/frame_00001.png")), "E_FRAMECOUNT", "frames[0] and frames[1]"),
    "same stem": (changed(at(1, file_path="images/frame_00001.jpg")), "E_FRAMECOUNT", "two cameras for one picture"),
    "extra": (document(frames=5), "E_FRAMECOUNT", "2 of 5 cameras have no picture"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_each_fault_of_the_cameras_is_said(name, tmp_path, ingest, load):
    given, reason, says = HOSTILE[name]
    write_scene(tmp_path / HASHES[0], given)
    problem = refused(ingest, load, tmp_path)
    assert str(problem.reason) == reason and says in problem.message, problem


def test_faults_of_files(tmp_path, ingest, load):
    def fault(number: int, change: Callable[[Path], Any], **scene: Any) -> tuple[str, str]:
        folder = write_scene(tmp_path / str(number) / HASHES[0], **scene)
        change(folder)
        problem = refused(ingest, load, tmp_path / str(number))
        return str(problem.reason), problem.message

    def outside(folder: Path) -> None:
        (tmp_path / "secret.png").write_bytes((folder / "images_4/frame_00001.png").read_bytes())
        (folder / "images_4/frame_00001.png").unlink()
        (folder / "images_4/frame_00001.png").symlink_to(tmp_path / "secret.png")

    def other_size(folder: Path) -> None:
        cv2.imwrite(str(folder / "images_4/frame_00002.png"), np.zeros((54, 94, 3), np.uint8))

    def linked_cameras(folder: Path) -> None:
        (folder / "transforms.json").rename(tmp_path / "cameras.json")
        (folder / "transforms.json").symlink_to(tmp_path / "cameras.json")

    found = [
        fault(0, lambda folder: (folder / "transforms.json").unlink()),
        fault(1, outside),
        fault(2, other_size),
        fault(3, lambda folder: (folder / "images_4/frame_00002.png").rename(folder / "images_4/second.png")),
        fault(4, lambda folder: (folder / "images_4/frame_2.png").write_bytes(b"")),
        fault(5, lambda folder: (folder / "images_4/frame_00003.png").write_bytes(b"no picture")),
        fault(6, lambda folder: (folder / "images_4/frame_00003.png").unlink()),
        fault(7, linked_cameras),
        fault(8, lambda folder: (folder / "images_4/frame_9999999999.png").write_bytes(b"")),
        fault(9, lambda folder: (folder / "transforms.json").write_text(" " * (17 << 20))),
        fault(10, lambda folder: None, numbers=()),
    ]
    assert [reason for reason, _ in found] == [
        "E_CAMERA", "E_UNSAFE_PATH", "E_OPEN", "E_PTS", "E_PTS", "E_OPEN", "E_FRAMECOUNT", "E_UNSAFE_PATH", "E_PTS", "E_CAMERA",
        "no_footage",
    ]  # fmt: skip
    for (_, message), says in zip(found, ["no transforms.json", "out of", "94x54", "second.png", "frame_2.png"], strict=False):
        assert says in message


def test_whatever_stands_in_the_file_only_candidate_errors_come_out():
    """Values of a good document replaced at random, thousands of times."""
    rng = random.Random(0)
    odd: list[Any] = [
        None,
        True,
        -1,
        0,
        1e308,
        float("nan"),
        float("inf"),
        10**400,
        "",
        "x",
        "../x",
        "\ud800",
        [],
        [[]],
        {},
        {"w": 1},
        [1] * 5,
    ]

    def places(value: Any) -> Iterator[tuple[Any, Any]]:
        for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            yield value, key
            yield from places(value[key])

    good, refusals = document(), 0
    assert len(parse_transforms(good).names) == 3
    for _ in range(3000):
        made = copy.deepcopy(good)
        for _ in range(rng.randint(1, 3)):
            holder, key = rng.choice(list(places(made)))
            holder[key] = copy.deepcopy(rng.choice(odd))
        try:
            track = parse_transforms(made).track
            assert np.isfinite(track.c2w).all() and np.isfinite(track.K).all() and np.isfinite(track.distortion).all()
        except CandidateError as problem:
            refusals += 1
            assert problem.reason in (Reason.E_CAMERA, Reason.E_UNSAFE_PATH, Reason.E_FRAMECOUNT) and len(problem.message) < 600
    assert refusals > 1500


def test_bad_scenes_end_in_their_codes_and_their_neighbours_are_kept(tmp_path):
    expected = {}
    for k, name in enumerate(sorted(HOSTILE)):
        given, reason, _ = HOSTILE[name]
        write_scene(tmp_path / "data" / f"{k:02d} {name}", given)
        expected[f"{k:02d} {name}"] = f"error {reason}"
        if k % 10 == 0:
            write_scene(tmp_path / "data" / f"{k:02d} good")
            expected[f"{k:02d} good"] = "kept"
    write_scene(tmp_path / "data" / HASHES[0])
    (tmp_path / "list.txt").write_text(HASHES[0])
    expected[HASHES[0]] = "skipped excluded"
    options = {"exclude": str(tmp_path / "list.txt")}
    sources = {"dl3dv": {"options": options, "stages": [{"view_groups": {"views": 2, "min_overlap": 0.3}}], "payload": {"image": "png"}}}
    recipe = write_recipe(tmp_path / "recipe.yaml", sources)
    output = run(recipe, {"dl3dv": tmp_path / "data"}, tmp_path / "out", "--executor=process", "--no-report", "--error-budget=1")
    assert output.code == 0 and output.verdicts("dl3dv") == expected
    packed = [row for row in output.of("dl3dv", status="kept") if row["is_sample"]]
    assert {row["candidate_id"] for row in packed} == {name for name in expected if name.endswith("good")}
    for row in packed:
        with np.load(io.BytesIO(output.samples[row["sample_id"]]["cameras.npz"])) as stored:
            assert stored["c2w"].shape == (2, 1, 4, 4)
