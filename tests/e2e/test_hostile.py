"""Hostile and broken input through the command: each its own code in its own row, and nothing else lost."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipeline.studio import write_layout
from schemas.verdict import ERRORS
from tests.e2e.output import Output, decoded, intact, run_apart, tree, write_recipe
from tests.media import hostile, torture

H264 = {"video": {"codec": "h264", "crf": 14, "gop": 12}}


@dataclass
class Made:
    footage: Path
    output: Output
    before: dict[str, str]
    after: dict[str, str]  # everything but the output folder, before the run and after it
    expected: dict[str, dict[str, str]]  # source -> candidate id -> verdict
    footage_of: dict[str, torture.Footage]  # the torture set


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("hostile")
    footage, elsewhere, cwd = folder / "footage", folder / "elsewhere", folder / "cwd"
    for each in (footage, elsewhere, cwd):
        each.mkdir()
    expected = {"clips": _clips(footage / "clips", elsewhere), "listed": _listed(footage / "listed", elsewhere)}
    expected["markup"] = _markup(footage / "markup", footage / "clips" / "good.mp4")
    expected["rig"] = _rigs(footage / "rig")
    expected["syncamvideo"] = _syncamvideo(footage / "syncamvideo")
    expected["realestate10k"] = _realestate10k(footage / "realestate10k")
    tortured = torture.footage(footage / "torture")
    multi_camera = {"stages": [{"header": {"min_views": 2}}, "sync", "view_angles"]}
    windows = {"frames": 5, "stride": 3, "hop": 2}
    sources = {
        "clips": {"stages": ["header", "quality"]},
        "listed": {"ingest": "clips", "options": {"csv": "list.csv"}, "stages": ["header"]},
        "markup": {"ingest": "clips", "stages": [{"header": {"min_width": 100}}]},
        "rig": multi_camera,
        "syncamvideo": multi_camera,
        "realestate10k": {"stages": [{"view_groups": {"views": 2, "min_overlap": 0.1, "max_interval": 8}}]},
        "torture": {"ingest": "clips", "stages": ["header"]},
        "windows": {"ingest": "clips", "stages": [{"windows": windows | {"max_time_error_ms": None}}], "payload": H264},
    }
    for settings in ({"max_black_fraction": None, "max_frozen_fraction": None, "max_letterbox_fraction": None, "min_sharpness": None},):
        sources["clips"]["stages"][1] = {"quality": settings | {"max_dark_fraction": None, "max_bright_fraction": None}}
    inputs = {name: footage / name for name in sources if name != "windows"} | {"windows": footage / "torture"}
    recipe = write_recipe(folder / "recipe.yaml", sources, units={"size": 8}, media={"timeout_s": 20})
    output = folder / "out"
    before = tree(folder)
    result = run_apart(recipe, inputs, output, cwd, "--executor=process", "--workers=2", "--error-budget=1")
    return Made(footage, result, before, tree(folder, without=output), expected, tortured)


def _clips(folder: Path, elsewhere: Path) -> dict[str, str]:
    found = {name: f"error {reason}" if reason else "kept" for name, (_, reason) in hostile.make_hostile(folder).items()}
    found.pop("audio_only.wav")  # no extension of a video
    found["link_out.mp4"] = found["pipe.mp4"] = "error E_UNSAFE_PATH"
    (folder / "link_up.mp4").symlink_to(hostile.video(elsewhere / "private.mp4", frames=7))
    (folder / "link_nowhere.mp4").symlink_to("gone.mp4")
    return found | {"link_up.mp4": "error E_UNSAFE_PATH", "link_nowhere.mp4": "skipped no_footage"}


def _markup(folder: Path, good: Path) -> dict[str, str]:
    """Names and a caption that would run in a browser, few enough for all to be in the report."""
    folder.mkdir()
    shutil.copy(good, folder / "<script>alert(1)<!--.mp4")
    (folder / "<script>alert(1)<!--.txt").write_text("<b onclick=alert(3)> & a caption\n")
    (folder / "<img src=x onerror=alert(2)>.mp4").write_bytes(b"no video")
    return {"<script>alert(1)<!--.mp4": "kept", "<img src=x onerror=alert(2)>.mp4": "error E_OPEN"}


def _listed(folder: Path, elsewhere: Path) -> dict[str, str]:
    """A table that somebody else wrote."""
    folder.mkdir()
    hostile.video(folder / "one.mp4")
    (folder / "inner").mkdir()
    shutil.copy(folder / "one.mp4", folder / "inner" / "two.mp4")
    outside = str(elsewhere / "private.mp4")
    rows = [
        "one.mp4,first",
        "inner/two.mp4,second",
        "one.mp4,again",
        "../clips/good.mp4,up",
        f"{outside},away",
        "gone.mp4,missing",
        "inner,folder",
    ]
    (folder / "list.csv").write_text("file_name,text\n" + "".join(f"{row}\n" for row in rows))
    return {
        "one.mp4": "kept", "inner/two.mp4": "kept", "one.mp4#2": "error E_DUPLICATE", "../clips/good.mp4": "error E_UNSAFE_PATH",
        outside: "error E_UNSAFE_PATH", "gone.mp4": "skipped no_footage", "inner": "error E_UNSAFE_PATH",
    }  # fmt: skip


def _copies(good: Path, faults: dict[str, tuple[Callable[[Path], object], str]]) -> dict[str, str]:
    """Copies of a good scene beside it, each with one fault."""
    for name, (spoil, _) in faults.items():
        shutil.copytree(good, good.with_name(name))
        spoil(good.with_name(name))
    return {name: verdict for name, (_, verdict) in faults.items()}


def _json(name: str, change: Callable[[dict], object]) -> Callable[[Path], object]:
    def spoil(scene: Path) -> None:
        document = json.loads((scene / name).read_text())
        change(document)
        (scene / name).write_text(json.dumps(document))

    return spoil


def _rigs(folder: Path) -> dict[str, str]:
    write_layout("rig", folder, scenes=1, cameras=2, frames=6, size=(64, 48))
    file = "cameras.json"

    def pose(row: int, column: int, value: float) -> Callable[[dict], object]:
        return lambda document: document["cameras"]["cam01"]["c2w"][row].__setitem__(column, value)

    def no_rotation(scene: Path) -> None:
        _json(file, lambda document: document["cameras"]["cam01"].__setitem__("c2w", np.diag([2.0, 1, 1, 1]).tolist()))(scene)

    def short_path(document: dict) -> None:
        document["cameras"]["cam02"]["c2w"] = document["cameras"]["cam02"]["c2w"][:4]

    faults = {
        "scene2_nan": (_json(file, pose(0, 3, float("nan"))), "error E_CAMERA"),
        "scene2_infinite": (_json(file, pose(1, 1, float("inf"))), "error E_CAMERA"),
        "scene2_no_rotation": (no_rotation, "error E_CAMERA"),
        "scene2_negative_focal": (_json(file, lambda d: d["cameras"]["cam01"]["K"][0].__setitem__(0, -50.0)), "error E_CAMERA"),
        "scene2_not_json": (lambda scene: (scene / file).write_text("{"), "error E_CAMERA"),
        "scene2_fewer_poses": (_json(file, short_path), "error E_FRAMECOUNT"),
        "scene2_no_such_video": (lambda scene: (scene / "videos" / "cam02.mp4").unlink(), "error E_FRAMECOUNT"),
        "scene2_no_calibration": (lambda scene: (scene / file).unlink(), "error E_CAMERA"),
        "scene2_cut_video": (lambda scene: hostile.cut(scene / "videos/cam02.mp4", scene / "videos/cam02.mp4", 0.5), "error E_TRUNCATED"),
        "scene2_linked": (lambda scene: _link_out(scene / "videos" / "cam01.mp4", folder.parent), "error E_UNSAFE_PATH"),
    }
    return {"scene1": "kept"} | _copies(folder / "scene1", faults)


def _link_out(path: Path, target: Path) -> None:
    path.unlink()
    path.symlink_to(target / "clips" / "good.mp4")


def _syncamvideo(folder: Path) -> dict[str, str]:
    write_layout("syncamvideo-v2", folder, scenes=1, cameras=2, frames=6, size=(64, 64))
    lens, file = folder / "train" / "f24_aperture5", "cameras/camera_extrinsics.json"

    def entry(text: str) -> Callable[[dict], object]:
        return lambda document: document["frame0"].__setitem__("cam01", text)

    faults = {
        "scene2_nan": (_json(file, entry("[nan 0 0 0] [0 1 0 0] [0 0 1 0] [0 0 0 1] ")), "error E_CAMERA"),
        "scene2_no_rotation": (_json(file, entry("[3 0 0 0] [0 1 0 0] [0 0 1 0] [0 0 0 1] ")), "error E_CAMERA"),
        "scene2_words": (_json(file, entry("a matrix")), "error E_CAMERA"),
        "scene2_missing_frames": (_json(file, lambda d: [d.pop(name) for name in list(d)[3:]]), "error E_FRAMECOUNT"),
        "scene2_no_camera": (_json(file, lambda d: [each.pop("cam02") for each in d.values()]), "error E_FRAMECOUNT"),
        "scene2_no_cameras": (lambda scene: (scene / file).unlink(), "error E_CAMERA"),
    }
    made = _copies(lens / "scene1", faults)
    return {f"train/f24_aperture5/{name}": verdict for name, verdict in ({"scene1": "kept"} | made).items()} | {
        "val/basic": "skipped camera_only"
    }


def _realestate10k(folder: Path) -> dict[str, str]:
    write_layout("realestate10k", folder, scenes=1, frames=12, size=(64, 36))
    (good,) = (folder / "train").glob("*.txt")
    url, *lines = good.read_text().splitlines()

    def cell(line: int, column: int, value: str) -> list[str]:
        words = lines[line].split()
        words[column] = value
        return [*lines[:line], " ".join(words), *lines[line + 1 :]]

    faults = {
        "nan": ([url, *cell(5, 7, "nan")], "error E_CAMERA"),
        "no_rotation": ([url, *cell(5, 7, "7.5")], "error E_CAMERA"),
        "no_focal": ([url, *cell(2, 1, "0")], "error E_CAMERA"),
        "words": ([url, *cell(2, 9, "left")], "error E_CAMERA"),
        "cut_line": ([url, *lines[:-1], lines[-1][:40]], "error E_CAMERA"),
        "no_cameras": ([url], "error E_CAMERA"),
        "no_url": (["rubbish", *lines], "error E_CAMERA"),
        "backward": ([url, *lines[::-1]], "error E_PTS"),
        "too_late": ([url, *cell(11, 0, "99000000")], "error E_FRAMECOUNT"),
        "between_frames": ([url, *cell(4, 0, str(int(lines[4].split()[0]) + 3))], "kept"),  # published times are rounded
        "no_footage": ([url.partition("=")[0] + "=AAAAAAAAAAA", *lines], "skipped no_footage"),
    }
    for name, (text, _) in faults.items():
        (folder / "train" / f"{name}.txt").write_text("\n".join(text) + "\n")
    found = {good.stem: "kept"} | {name: verdict for name, (_, verdict) in faults.items()}
    return {f"train/{name}": verdict for name, verdict in found.items()}


@pytest.mark.parametrize("source", ["clips", "listed", "markup", "rig", "syncamvideo", "realestate10k"])
def test_each_ends_in_its_own_code_and_good_neighbours_are_kept(made, source):
    found = made.output.verdicts(source)
    expected = made.expected[source]
    if source == "realestate10k":  # its sources are only the parents of what is packed
        found = {name: " ".join(verdict.split()[:2]) for name, verdict in found.items()}
    assert found == expected
    units = {}
    for row in made.output.of(source, is_source=True):
        units.setdefault(row["unit"], set()).add(row["status"])
    assert any({"kept", "error"} <= statuses for statuses in units.values()), "good and bad ones shared a unit"


def test_every_error_says_what_is_wrong_and_where(made):
    for row in made.output.rows:
        if row["status"] == "error":
            assert len(row["reasons"]) == 1 and row["reasons"][0] in ERRORS and row["reasons"][0] != "E_STAGE"
            assert row["stage"] and len(row["error_message"]) > 15, row
            assert row["shard"] is None


def test_nothing_outside_the_output_folder_was_touched(made):
    assert made.after == made.before
    assert not [path for path in made.output.path.rglob("*") if path.is_symlink()]


def test_private_files_do_not_leak_into_the_shards(made):
    private = (made.footage.parent / "elsewhere" / "private.mp4").read_bytes()
    packed = [data for sample in made.output.samples.values() for data in sample.values()]
    assert packed and private not in packed


def test_file_names_with_metacharacters_and_newlines_survive_and_run_nothing(made):
    by_name = {row["candidate_id"]: made.output.samples[row["sample_id"]] for row in made.output.of("clips", status="kept")}
    for name in hostile.GOOD_NAMES:
        sample = by_name[name]
        assert sample["view00.mp4"] == (made.footage / "clips" / name).read_bytes()
        assert json.loads(sample["meta.json"])["candidate_id"] == name
    assert not list(made.footage.parent.rglob("owned"))


def test_markup_in_names_is_text_in_the_report(made):
    page = made.output.page()
    assert "<script>alert" not in page and "<img src=x" not in page and "<b onclick" not in page
    assert "&lt;img src=x onerror=alert(2)&gt;.mp4" in page  # the kept one is shown by its key, which has no markup left
    (sample,) = (sample for key, sample in made.output.samples.items() if key.startswith("markup_-"))
    assert sample["caption.txt"].decode() == "<b onclick=alert(3)> & a caption"


def test_every_candidate_has_one_row_and_the_output_is_intact(made):
    assert made.output.code == 0
    ids = [row["sample_id"] for row in made.output.rows]
    assert len(ids) == len(set(ids))
    assert made.output.run["counts"].keys() == {row["source"] for row in made.output.rows}
    assert intact(made.output.path)


def test_every_video_of_the_torture_set_is_kept_and_copied_whole(made):
    assert set(made.output.verdicts("torture").values()) == {"kept"}
    for row in made.output.of("torture"):
        each = made.footage_of[row["candidate_id"]]
        assert row["n_frames"] == len(each.numbers), row["candidate_id"]
        sample = made.output.samples[row["sample_id"]]
        (view,) = (name for name in sample if name.startswith("view00"))
        assert sample[view] == each.path.read_bytes()


def test_no_window_of_the_torture_set_holds_a_wrong_frame(made):
    """The numbers burned into the pictures of the packed window are those that its frame_index means."""
    checked: dict[str, int] = {}
    wrong = []
    for row in made.output.of("windows"):
        if row["kind"] != "window":
            continue
        each = made.footage_of[row["candidate_id"]]
        if row["status"] != "kept":
            assert row["candidate_id"].startswith("variable_rate"), row  # only there a frame may be missing at its time
            continue
        frames, times = decoded(made.output.samples[row["sample_id"]]["view00.mp4"])
        (index,), (pts_ns,) = row["frame_index"], row["pts_ns"]
        numbers = [torture.number_of(frame) for frame in frames]
        if numbers != [each.numbers[i] for i in index]:
            wrong.append((row["sample_id"], numbers, index))
        shown = [round((each.times[i] - each.times[index[0]]) * 1_000_000_000) for i in index]
        assert np.abs(np.subtract(pts_ns, pts_ns[0]) - shown).max() <= 1000, "pts are those of the source's frames"
        assert np.abs(np.subtract(times, times[0]) - shown).max() < 1_000_000, "and of the packed ones, to a millisecond"
        checked[row["candidate_id"]] = checked.get(row["candidate_id"], 0) + len(frames)
    assert wrong == []
    assert checked.keys() == made.footage_of.keys() and min(checked.values()) >= 20, checked
