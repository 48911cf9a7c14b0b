"""DAVIS: sequences, lists and masks as published, masks beside the views of a sample, and hostile files."""

import io
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.studio import write_layout
from schemas.recipe import MediaLimits
from schemas.typed import RecipeError, build
from schemas.verdict import CandidateError, Reason
from stages.ingest.davis import DavisOptions, mask_files
from stages.perception.mask_files import read_mask
from stages.storage import Tree
from tests.e2e.output import Output, decoded, intact, run, tree, write_recipe

FRAMES, SIZE = 5, (96, 64)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sequences in `data`, and their truth beside it."""
    folder = tmp_path_factory.mktemp("davis")
    write_layout("davis", folder / "data", scenes=3, frames=FRAMES, size=SIZE, truth=folder / "truth")
    return folder


def indexed(path: Path) -> np.ndarray:
    """[H,W] of an indexed PNG, by Pillow."""
    Image = pytest.importorskip("PIL.Image")
    with Image.open(path) as opened:
        assert opened.mode in ("P", "L")
        return np.array(opened)


def packed_masks(sample: dict[str, Any]) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(sample["masks.npz"]), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def sequences(root: Path, *names: str, frames: str = "JPEGImages/480p", numbers: tuple[int, ...] = (0, 1, 2)) -> Path:
    for name in names:
        (root / frames / name).mkdir(parents=True)
        for number in numbers:
            cv2.imwrite(str(root / frames / name / f"{number:05d}.jpg"), np.full((48, 64, 3), 20 * number, np.uint8))
    return root


def listing(root: Path, **lists: str) -> None:
    for name, text in lists.items():
        file = root / (name.replace("__", "/").replace("_", "-") + ".txt")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


# Discovery


def test_sequences_have_their_frames_masks_times_and_splits(studio: Path, ingest, load) -> None:
    reader = ingest("davis")
    found = list(reader.discover(Tree(studio / "data")))
    assert [(each.candidate_id, each.split) for each in found] == [("plaza-01", "train"), ("plaza-02", "train"), ("plaza-03", "val")]
    for candidate in found:
        scene = load(reader, studio / "data", candidate)
        (view,) = scene.views
        assert (len(view.index), view.index.fps, view.cameras, scene.notes["masks"]) == (FRAMES, 24, None, f"{FRAMES} of {FRAMES} frames")
        assert view.index.pts_ns.tolist() == [round(k * 1e9 / 24) for k in range(FRAMES)]
        assert [file.path for file in mask_files(candidate).values()] == [
            f"Annotations/480p/{candidate.candidate_id}/{k:05d}.png" for k in range(FRAMES)
        ]


def test_a_changed_mask_is_another_candidate(studio: Path, ingest, tmp_path: Path) -> None:
    root = Path(shutil.copytree(studio / "data", tmp_path / "data"))
    before = {each.candidate_id: each.identity() for each in ingest("davis").discover(Tree(root))}
    os.utime(root / "Annotations/480p/plaza-02/00003.png", ns=(1, 1))
    after = {each.candidate_id: each.identity() for each in ingest("davis").discover(Tree(root))}
    assert [name for name in before if before[name] != after[name]] == ["plaza-02"]


def test_lists_of_both_releases_give_splits_and_what_is_missing(tmp_path: Path, ingest) -> None:
    root = sequences(tmp_path / "DAVIS", "bear", "bmx-trees", "goat", "surf")
    listing(root, ImageSets__2017__train="bear\ngoat\n", ImageSets__2017__val="goat\n", ImageSets__2017__test_dev="gone\n")
    listing(root, ImageSets__480p__train="/JPEGImages/480p/surf/00000.jpg /Annotations/480p/surf/00000.png\n" * 3)

    def splits(**options: Any) -> dict[str, Any]:
        return {each.candidate_id: each.split for each in ingest("davis", **options).discover(Tree(tmp_path))}

    assert splits() == {"DAVIS/bear": "train", "DAVIS/bmx-trees": None, "DAVIS/goat": "val", "DAVIS/gone": "test", "DAVIS/surf": None}
    assert splits(sets="ImageSets/480p") == {"DAVIS/bear": None, "DAVIS/bmx-trees": None, "DAVIS/goat": None, "DAVIS/surf": "train"}
    gone = [each for each in ingest("davis").discover(Tree(tmp_path)) if each.error]
    assert [(each.candidate_id, each.error[0]) for each in gone if each.error] == [("DAVIS/gone", Reason.NO_FOOTAGE)]


def test_numbers_are_times_and_a_gap_stays_one(tmp_path: Path, ingest, load) -> None:
    sequences(tmp_path, "bear", numbers=(3, 4, 7))
    reader = ingest("davis", fps=10)
    (candidate,) = reader.discover(Tree(tmp_path))
    (view,) = load(reader, tmp_path, candidate).views
    assert (view.index.pts_ns / 1e6).tolist() == [300, 400, 700]


def test_folders_may_be_named(tmp_path: Path, ingest) -> None:
    sequences(tmp_path, "bear")
    sequences(tmp_path, "bear", frames="JPEGImages/Full-Resolution", numbers=(0, 1))
    sequences(tmp_path, "bear", frames="mine/pictures", numbers=(0,))

    def frames(**options: Any) -> int:
        (candidate,) = ingest("davis", **options).discover(Tree(tmp_path))
        return len(candidate.views[0].media.files)

    assert (frames(), frames(frames="JPEGImages/Full-Resolution"), frames(frames="mine/pictures")) == (3, 2, 1)
    for option in ("frames", "masks", "sets"):
        with pytest.raises(RecipeError, match="must be relative"):
            build(DavisOptions, {option: "../elsewhere"}, "options")


def test_what_is_no_davis_folder_or_no_list_is_refused(tmp_path: Path, ingest) -> None:
    with pytest.raises(ValueError, match="looked for JPEGImages/480p"):
        list(ingest("davis").discover(Tree(tmp_path)))
    sequences(tmp_path, "bear")
    with pytest.raises(FileNotFoundError, match="'ImageSets/2099'"):
        list(ingest("davis", sets="ImageSets/2099").discover(Tree(tmp_path)))
    listing(tmp_path, ImageSets__2017__train="bear\n..\n")
    with pytest.raises(ValueError, match="line 2 names no sequence"):
        list(ingest("davis").discover(Tree(tmp_path)))


def test_a_folder_whose_name_is_no_text_or_that_cannot_be_listed_costs_one_sequence(
    tmp_path: Path, ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    sequences(tmp_path, "bear", "goat", "cafe")
    (tmp_path / "JPEGImages/480p/cafe").rename(tmp_path / "JPEGImages/480p" / os.fsdecode(b"caf\xe9"))
    scandir = os.scandir

    def failing(path: Any) -> list[str]:
        if str(path).endswith("480p/goat"):
            raise OSError(5, "Input/output error")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    found = {each.candidate_id: each.error and each.error[0] for each in ingest("davis").discover(Tree(tmp_path))}
    assert found == {"bear": None, "caf\\xe9": Reason.E_UNSAFE_PATH, "goat": Reason.E_IO}


# Through the command


def png(size: tuple[int, int], colour: int, depth: int = 8) -> bytes:
    """A picture of zeros of any colour type, header to end."""
    channels = {0: 1, 2: 3, 3: 1, 6: 4}[colour]
    rows = bytes(1 + (size[0] * channels * depth + 7) // 8) * size[1]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)), (b"PLTE", bytes(6))]
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    framed = [struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def mask(data: bytes | Callable[[bytes], bytes], name: str = "00002.png") -> Callable[[Path, Path], object]:
    def spoil(pictures: Path, masks: Path) -> None:
        known = (masks / "00002.png").read_bytes()
        (masks / name).write_bytes(data if isinstance(data, bytes) else data(known))

    return spoil


def picture(data: Callable[[bytes], bytes], name: str = "00002.jpg") -> Callable[[Path, Path], object]:
    def spoil(pictures: Path, masks: Path) -> None:
        (pictures / name).write_bytes(data((pictures / "00002.jpg").read_bytes()))

    return spoil


def linked(pictures: Path, masks: Path) -> None:
    (masks / "00002.png").unlink()
    (masks / "00002.png").symlink_to(masks.parents[3] / "private.png")


def other_size(pictures: Path, masks: Path) -> None:
    cv2.imwrite(str(pictures / "00002.jpg"), np.zeros((50, 50, 3), np.uint8))


FAULTS: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "mask-alone": (mask(png(SIZE, 3), "00077.png"), "error E_FRAMECOUNT"),
    "mask-misnamed": (mask(png(SIZE, 3), "first.png"), "error E_PTS"),
    "mask-cut": (mask(lambda data: data[: len(data) // 2]), "error E_TRUNCATED"),
    "mask-cut-inside": (mask(lambda data: data[: len(data) // 2] + data[-12:]), "error E_TRUNCATED"),
    "mask-empty": (mask(b""), "error E_OPEN"),
    "mask-colour": (mask(png(SIZE, 2)), "error E_OPEN"),
    "mask-16-bit": (mask(png(SIZE, 0, 16)), "error E_OPEN"),
    "mask-of-another": (mask(png((64, 96), 3)), "error E_OPEN"),
    "mask-huge": (mask(lambda data: data[:16] + struct.pack(">II", 60000, 60000) + data[24:]), "error E_TOO_BIG"),
    "mask-linked": (linked, "error E_UNSAFE_PATH"),
    "mask-gray": (mask(png(SIZE, 0)), "kept"),
    "mask-two-bit": (mask(png(SIZE, 3, 2)), "kept"),
    "mask-a-pixel-less": (mask(png((SIZE[0] - 1, SIZE[1]), 3)), "kept"),  # as some of DAVIS's own
    "no-masks": (lambda pictures, masks: shutil.rmtree(masks), "kept"),
    "picture-cut": (picture(lambda data: data[:-400]), "error E_TRUNCATED"),
    "picture-none": (picture(lambda data: b"<html>"), "error E_OPEN"),
    "picture-misnamed": (picture(lambda data: data, "extra.jpg"), "error E_PTS"),
    "picture-twice": (picture(lambda data: data, "2.jpg"), "error E_PTS"),
    "picture-of-another-size": (other_size, "error E_OPEN"),
    "no-pictures": (lambda pictures, masks: [path.unlink() for path in pictures.iterdir()], "skipped no_footage"),
}


@pytest.fixture(scope="module")
def made(studio: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Output]:
    """The studio's sequences and spoilt copies of one, through two executors."""
    folder = tmp_path_factory.mktemp("hostile")
    root = Path(shutil.copytree(studio / "data", folder / "davis"))
    (folder / "private.png").write_bytes(png(SIZE, 3))
    for name, (spoil, _) in FAULTS.items():
        places = [root / part / "480p" for part in ("JPEGImages", "Annotations")]
        for place in places:
            shutil.copytree(place / "plaza-01", place / name)
        spoil(*(place / name for place in places))
    encoded = {"payload": {"video": {"codec": "h264", "crf": 14}}}
    windows = [{"windows": {"frames": 3, "stride": 1, "hop": 2}}, {"masks": {"height": 128, "stride": 2}}]
    sources = {
        "davis": {"stages": ["header", {"masks": {"height": 48}}], **encoded},
        "cut": {"ingest": "davis", "stages": windows, **encoded},
    }
    recipe = write_recipe(folder / "recipe.yaml", sources)
    return {
        name: run(recipe, {"davis": root, "cut": studio / "data"}, folder / name, f"--executor={name}", "--error-budget=1", *more)
        for name, *more in (("inline", "--no-report"), ("process", "--workers=2"))
    }


@pytest.mark.parametrize("executor", ["inline", "process"])
def test_each_fault_ends_in_its_own_code_and_good_neighbours_are_kept(made: dict[str, Output], executor: str) -> None:
    expected = {f"plaza-0{k}": "kept" for k in (1, 2, 3)} | {name: verdict for name, (_, verdict) in FAULTS.items()}
    assert made[executor].verdicts("davis") == expected
    assert all(len(row["error_message"]) > 15 for row in made[executor].rows if row["status"] == "error")
    assert intact(made[executor].path)


def test_both_executors_write_the_same_bytes(made: dict[str, Output]) -> None:
    inline, process = (tree(made[name].path / "shards") for name in ("inline", "process"))
    assert inline == process and inline
    rows = [sorted(made[name].rows, key=lambda row: row["sample_id"]) for name in ("inline", "process")]
    assert rows[0] == rows[1]


def test_masks_lie_beside_the_view_at_their_frames(made: dict[str, Output], studio: Path) -> None:
    for name in ("plaza-01", "plaza-02", "plaza-03"):
        found = packed_masks(made["process"].samples[f"davis_-{name}"])
        with np.load(studio / "truth" / f"{name}.npz") as stored:
            true = np.maximum(stored["instance"][0], 0)
        assert found["frames_00"].tolist() == list(range(FRAMES)) and found["size_00"].tolist() == list(SIZE)
        assert found["masks_00"].dtype == np.uint8 and found["masks_00"].shape == (FRAMES, 48, 72)
        rows, columns = ((np.arange(n) + 0.5) * have / n for n, have in ((48, SIZE[1]), (72, SIZE[0])))
        assert (found["masks_00"] == true[:, rows.astype(int)[:, None], columns.astype(int)]).all()
        assert len(np.unique(found["masks_00"])) > 2


def test_a_window_has_the_masks_of_its_own_frames(made: dict[str, Output], studio: Path) -> None:
    windows = [row for row in made["process"].of("cut") if row["kind"] == "window"]
    assert [row["frame_index"] for row in windows] == [[[0, 1, 2]], [[2, 3, 4]]] * 3
    for row in windows:
        found = packed_masks(made["process"].samples[row["sample_id"]])
        known = [indexed(studio / f"data/Annotations/480p/{row['candidate_id']}/{row['frame_index'][0][k]:05d}.png") for k in (0, 2)]
        assert found["frames_00"].tolist() == [0, 2] and (found["masks_00"] == np.stack(known)).all()
        frames, _ = decoded(made["process"].samples[row["sample_id"]]["view00.mp4"])
        assert len(frames) == 3


def test_without_masks_there_is_no_member_and_without_some_there_are_fewer(made: dict[str, Output]) -> None:
    samples = made["process"].samples
    assert "masks.npz" not in samples["davis_-no-masks"] and "view00.mp4" in samples["davis_-no-masks"]
    assert (packed_masks(samples["davis_-mask-gray"])["masks_00"][2] == 0).all()


def test_a_recipe_that_wants_masks_of_plain_clips_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    recipe = write_recipe(tmp_path / "recipe.yaml", {"clips": {"stages": ["masks"]}})
    assert run(recipe, {"clips": tmp_path / "in"}, tmp_path / "out").code == 2
    said = capsys.readouterr().err
    assert "'masks' needs masks" in said and "davis" in said


# Whatever is in the file


def test_no_mask_raises_anything_else(studio: Path, tmp_path: Path) -> None:
    """Bytes changed, cut out and doubled: a mask of the size that its header says, or one of the codes."""
    whole, rng = (studio / "data/Annotations/480p/plaza-01/00001.png").read_bytes(), np.random.default_rng(0)
    seen: set[Reason | None] = set()
    for _ in range(400):
        data = bytearray(whole)
        for place in rng.integers(0, len(data) if rng.random() < 0.5 else 40, rng.integers(1, 4)):
            data[place] = rng.integers(256)
        if rng.random() < 0.3:
            start, stop = np.sort(rng.integers(0, len(data), 2))
            data[start:stop] = data[start:stop] * int(rng.integers(0, 3))
        (tmp_path / "mask.png").write_bytes(data)
        try:
            ids = read_mask(tmp_path / "mask.png", MediaLimits())
        except CandidateError as problem:
            seen.add(problem.reason)
        else:
            seen.add(None)
            assert ids.dtype == np.uint8 and ids.shape == struct.unpack(">II", data[16:24])[::-1]
    assert {Reason.E_OPEN, Reason.E_TRUNCATED, Reason.E_TOO_BIG} <= seen <= {None, Reason.E_OPEN, Reason.E_TRUNCATED, Reason.E_TOO_BIG}


# A real recording


def test_judo_and_bike_go_through_the_shipped_recipe(real_data: Path, tmp_path: Path) -> None:
    """Real masks: of four frames in sixteen, one a pixel narrower than its frames, of people who come and go."""
    root = real_data / "davis_judo_bike"
    if not root.is_dir():
        pytest.skip("davis_judo_bike is not among the real recordings")
    output = run("recapture", {"davis": root}, tmp_path / "out", "--executor=inline", "--no-report")
    assert output.code == 0 and intact(output.path)
    assert output.verdicts("davis") == {"bike": "rejected too_short", "judo": "kept"}
    (row,) = output.of("davis", status="kept")
    assert dict(row["notes"])["masks"] == "4 of 16 frames" and (row["n_frames"], round(row["fps"])) == (16, 24)
    sample = output.samples["davis_-judo"]
    frames, _ = decoded(sample["view00.mp4"])
    assert frames.shape == (16, 480, 854, 3)
    found = packed_masks(sample)
    assert found["frames_00"].tolist() == [0, 5, 8, 13] and found["masks_00"].shape == (4, 64, 114)
    for number, small in zip((0, 5, 8, 13), found["masks_00"], strict=True):
        whole = indexed(root / f"masks/judo/{number:05d}.png")
        assert set(np.unique(small)) == set(np.unique(whole)), number
        for each in np.unique(whole):
            shares = (small == each).mean(), (whole == each).mean()
            assert abs(shares[0] - shares[1]) < 0.005, (number, each, shares)
    assert "masks.npz" not in output.samples.get("davis_-bike", {})
