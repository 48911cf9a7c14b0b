"""Curated shards to shards of latents, through the command, read back by others: numpy, webdataset, our audit and our loader."""

import io
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.audit import main as audit
from pipeline.bases.registry import load_base
from pipeline.encode_latents import main as encode
from pipeline.loader.catalog import Catalog
from pipeline.loader.loader import Loader
from pipeline.loader.settings import LoaderSettings
from tests.e2e.output import Output, cameras, decoded, picture, tree
from tests.encode.conftest import run_json

ROOT = Path(__file__).resolve().parents[2]
FRAMES = 9  # of the shortest video


def arguments(curated: Path, output: Path, *more: str) -> list[str]:
    return [f"--data={curated}", f"--output={output}", "--base=tiny", "--size=64x64", "--quiet", *more]


def array(data: bytes, name: str) -> np.ndarray:
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        return stored[name]


def published(folder: Path) -> dict[str, str]:
    """All that must be the same for the same input: not the clocks of the units table, nor the parts that hold them."""
    return {
        name: what for name, what in tree(folder).items() if what.startswith("file") and not name.startswith(("parts/", "manifest/units/"))
    }


def test_the_folder_is_intact_and_has_every_sample_of_the_input(curated, encoded, capsys):
    assert audit(["verify", str(encoded), "--quiet"]) == 0, capsys.readouterr().out
    ours, source = Output(encoded, 0), Output(curated, 0)
    assert set(ours.samples) == set(source.samples)
    assert len(ours.samples) == 3 + 2 + 2
    assert len(list((encoded / "shards").iterdir())) == len(list((curated / "shards").iterdir())) > 3
    for key, sample in ours.samples.items():
        views = [name for name in sample if name.startswith("view")]
        assert views == [f"view{i:02d}_latent.npz" for i in range(len(views))]
        assert len(views) == len([name for name in source.samples[key] if name.startswith("view")])
        assert sample.get("caption.txt") == source.samples[key].get("caption.txt")


def test_latents_are_those_of_the_decoded_frames(curated, encoded):
    """The codec of `tiny` is exact, so its latents are the pixels: of other people's decoder, resized by area and cut by hand."""
    import cv2

    base = load_base("tiny")
    ours, source = Output(encoded, 0).samples, Output(curated, 0).samples
    for key, sample in ours.items():
        for view in sorted(name for name in sample if name.startswith("view")):
            latent = array(sample[view], "latent")
            media = next(data for name, data in source[key].items() if name.startswith(view[:6]))
            frames = picture(media)[None] if media.startswith(b"\x89PNG") else decoded(media)[0][:FRAMES]
            assert latent.dtype == np.float16 and latent.shape == (192, len(frames), 8, 8)
            made = base.decode(torch.from_numpy(latent).float()[None])[0].permute(1, 2, 3, 0).numpy()
            height, width = frames.shape[1:3]
            scaled = [cv2.resize(frame, (round(width * 64 / height), 64), interpolation=cv2.INTER_AREA) for frame in frames]
            left = (scaled[0].shape[1] - 64) // 2
            wanted = np.stack(scaled)[:, :, left : left + 64].astype(np.float64)
            # What two area filters differ by (ours works on luma and chroma apart). A cut that is off by one column is worse.
            off = [np.abs((np.roll(made, by, 2) + 1) * 127.5 - wanted)[:, :, 2:-2].mean() for by in (0, -1, 1)]
            assert off[0] < 4.0 and off[0] == min(off), key
    assert any(array(sample["view00_latent.npz"], "latent").shape[1] == 1 for sample in ours.values()), "view groups have one frame"


def test_latents_are_bit_for_bit_what_training_would_make_itself(curated, encoded):
    """Pictures through our own loader and codec at training time, against latents read: equal up to float16."""
    pixels, latents = Catalog.open(curated), Catalog.open(encoded)
    kinds = {"multiview_video": 1.0}
    frames = LoaderSettings(batch=2, views=2, frames=FRAMES, size=(64, 64), mix=kinds, curriculum=())
    read = LoaderSettings(batch=2, views=2, frames=FRAMES, size=(64, 64), mix=kinds, curriculum=(), payload="latents")
    base = load_base("tiny")
    [made] = next(iter(Loader(latents, read)))
    assert made.latents is not None and made.text is not None and made.video is None
    for slot, key in enumerate(made.sample_ids):
        views = tuple(latents.view_ids(_position(latents, key)).index(name) for name in made.view_ids[slot])
        batch = Loader.read(pixels, frames, [_draw(pixels, key, views, FRAMES)])
        video = batch.pictures(torch.device("cpu"), torch.float32)
        assert torch.equal(base.encode(video[0]).half().float(), made.latents[slot])
        assert torch.equal(base.embed([batch.captions[0]])[0].half().float(), made.text[slot])
        assert np.array_equal(batch.c2w[0], made.c2w[slot])
        assert np.allclose(batch.K[0], made.K[slot], atol=1e-9)
        assert made.captions[slot] == batch.captions[0] != ""


@pytest.mark.parametrize("kind", ["multiview_images", "singleview_video"])
def test_the_loader_reads_the_other_kinds_too(encoded, kind):
    settings = LoaderSettings(batch=2, views=2, frames=FRAMES, size=(64, 64), mix={kind: 1.0}, curriculum=(), payload="latents")
    [batch] = next(iter(Loader(Catalog.open(encoded), settings)))
    assert batch.latents.shape == ((2, 2, 192, 1, 8, 8) if kind == "multiview_images" else (2, 1, 192, FRAMES, 8, 8))


def _position(catalog: Catalog, key: str) -> int:
    return next(i for i in range(len(catalog)) if catalog.sample_id(i) == key)


def _draw(catalog: Catalog, key: str, views: tuple[int, ...], frames: int, stride: int = 1):
    from pipeline.loader.draw import Draw

    i = _position(catalog, key)
    return Draw(0, 0, 0, catalog.kind(i), i, views, tuple(range(0, frames * stride, stride)))


def test_cameras_go_with_the_picture_that_was_encoded(curated, encoded):
    """A world point's pixel, resized and cut as the picture was, is where the new K puts it."""
    ours, source = Output(encoded, 0).samples, Output(curated, 0).samples
    key = next(key for key in ours if key.startswith("syncamvideo"))
    old, new = cameras(source[key]), cameras(ours[key])
    assert np.array_equal(new["c2w"], old["c2w"][:, :FRAMES]) and new["frame"].tolist() == [list(range(FRAMES))] * 3
    assert new["size"].tolist() == [[64, 64]] * 3 and old["size"].tolist() == [[96, 72]] * 3
    point = np.array([0.3, -0.2, 0.8, 1.0])
    for view in range(3):
        eye = np.linalg.inv(old["c2w"][view, 0]) @ point
        before, after = (stored["K"][view, 0] @ eye[:3] / eye[2] for stored in (old, new))
        scaled_width = round(96 * 64 / 72)  # 85 x 64 covers 64 x 64; (85 - 64) // 2 columns go on the left
        expected = before[:2] * [scaled_width / 96, 64 / 72] - [(scaled_width - 64) // 2, 0]
        assert after[:2] == pytest.approx(expected, abs=1e-9)


def test_rows_say_what_is_in_the_shards_now(curated, encoded):
    rows = {row["sample_id"]: row for row in Output(encoded, 0).rows}
    source = {row["sample_id"]: row for row in Output(curated, 0).rows}
    for key, row in rows.items():
        assert row["status"] == "kept"
        if not row["is_sample"]:
            assert row["n_children"] == sum(each["parent_id"] == key for each in rows.values()) > 0
            continue
        assert (row["width"], row["height"]) == (64, 64)
        assert row["n_frames"] == (1 if row["kind"] == "view_group" else FRAMES)
        assert row["frame_index"] == (source[key]["frame_index"] or [list(range(FRAMES))] * len(row["view_ids"]))
        for same in ("pairs", "scores", "has_text", "split", "view_ids", "candidate_id", "license"):
            assert row[same] == source[key][same], same


def test_run_json_says_how_it_was_encoded_and_the_empty_text_lies_beside(curated, encoded):
    run = run_json(encoded)
    known = {"base": "tiny", "size": [64, 64], "frames": FRAMES, "frame_stride": 1, "dtype": "float16", "spatial": 8, "temporal": 1}
    assert known.items() <= run["encoding"].items() and run["state"] == "done"
    assert run["recipe"] == run_json(curated)["recipe"]
    null = array((encoded / "null_text.npz").read_bytes(), "text")
    assert np.array_equal(null, load_base("tiny").embed([""])[0].half().numpy())


def test_fewer_frames_with_a_stride_and_short_videos_are_left_out(curated, tmp_path, capsys):
    """Scenes have 9 frames, clips 11: five frames, every second, reach over 9; six would over 11."""
    output = tmp_path / "five"
    assert encode(arguments(curated, output, "--frames=5", "--frame-stride=2")) == 0
    sample = next(each for key, each in Output(output, 0).samples.items() if key.startswith("syncamvideo"))
    full = array(sample["view01_latent.npz"], "latent")
    assert full.shape[1] == 5 and cameras(sample)["frame"].tolist() == [[0, 1, 2, 3, 4]] * 3
    six = tmp_path / "six"
    assert encode(arguments(curated, six, "--frames=6", "--frame-stride=2")) == 0
    rows = {row["sample_id"]: row for row in Output(six, 0).rows}
    short = [row for row in rows.values() if row["source"] == "syncamvideo"]
    assert [(row["status"], row["reasons"]) for row in short] == [("rejected", ["too_short"])] * 3
    assert all(row["status"] == "kept" for row in rows.values() if row["source"] != "syncamvideo")
    assert audit(["verify", str(six), "--quiet"]) == 0, capsys.readouterr().out


def test_a_stride_is_read_back_by_the_loader(curated, tmp_path):
    output = tmp_path / "strided"
    assert encode(arguments(curated, output, "--frames=4", "--frame-stride=2")) == 0
    settings = LoaderSettings(
        batch=1, views=3, frames=4, frame_stride=2, size=(64, 64), mix={"multiview_video": 1.0}, curriculum=(), payload="latents"
    )
    [batch] = next(iter(Loader(Catalog.open(output), settings)))
    key = batch.sample_ids[0]
    pixels = Catalog.open(curated)
    views = tuple(pixels.view_ids(_position(pixels, key)).index(name) for name in batch.view_ids[0])
    truth = Loader.read(pixels, LoaderSettings(batch=1, views=3, frames=4, size=(64, 64)), [_draw(pixels, key, views, 4, 2)])
    video = truth.pictures(torch.device("cpu"), torch.float32)[0]
    assert torch.equal(load_base("tiny").encode(video).half().float(), batch.latents[0])
    assert np.array_equal(truth.c2w[0], batch.c2w[0])


def test_a_selection_and_a_limit_take_their_samples_and_no_others(curated, tmp_path, capsys):
    ids = [row["sample_id"] for row in Output(curated, 0).rows if row["shard"]]
    chosen = sorted([next(key for key in ids if "-g0" in key), ids[-1]])
    copy = tmp_path / "copy"
    shutil.copytree(curated, copy)
    (copy / "selections").mkdir(exist_ok=True)
    (copy / "selections" / "two.txt").write_text("\n".join(chosen) + "\n")
    assert encode(arguments(copy, tmp_path / "two", "--selection=two")) == 0
    assert sorted(Output(tmp_path / "two", 0).samples) == chosen
    assert encode(arguments(copy, tmp_path / "one", "--limit=1")) == 0
    assert len(Output(tmp_path / "one", 0).samples) == 1
    for name in ("one", "two"):
        assert audit(["verify", str(tmp_path / name), "--quiet"]) == 0, capsys.readouterr().out


def test_a_truncated_shard_costs_its_samples_and_a_repaired_one_gives_them_back(curated, encoded, tmp_path, capsys):
    copy, output = tmp_path / "copy", tmp_path / "out"
    shutil.copytree(curated, copy)
    shard = max((copy / "shards").glob("syncamvideo*"))
    whole = shard.read_bytes()
    lost = {row["sample_id"] for row in Output(copy, 0).rows if row["shard"] == shard.name}
    shard.write_bytes(whole[: len(whole) // 3])
    assert encode(arguments(copy, output)) == 0
    said = capsys.readouterr().err
    rows = {row["sample_id"]: row for row in Output(output, 0).rows}
    assert lost and all(rows[key]["status"] == "error" and rows[key]["stage"] == "encode_latents" for key in lost)
    assert all(key in said and shard.name in rows[key]["error_message"] for key in lost)
    assert set(Output(output, 0).samples) == {row["sample_id"] for row in Output(copy, 0).rows if row["shard"]} - lost
    assert audit(["verify", str(output), "--quiet"]) == 0, capsys.readouterr().out
    shard.write_bytes(whole)
    assert encode(arguments(copy, output)) == 0
    assert lost.isdisjoint(Output(output, 0).samples), "what is done stays done"
    assert encode(arguments(copy, output, "--retry-errors")) == 0
    assert {name: what for name, what in published(output).items() if name != "run.json"} == {
        name: what for name, what in published(encoded).items() if name != "run.json"
    }


def test_a_damaged_view_is_an_error_of_its_sample_alone(curated, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(curated, copy)
    catalog = Catalog.open(copy)
    victim = next(i for i in range(len(catalog)) if catalog.kind(i) == "multiview_images")
    member = catalog.members(victim)["view01.png"]
    with (copy / "shards" / member.shard).open("r+b") as file:
        file.seek(member.offset + 60)
        file.write(b"\0" * (member.size - 60))
    assert encode(arguments(copy, tmp_path / "out")) == 0
    bad = [row["sample_id"] for row in Output(tmp_path / "out", 0).rows if row["status"] != "kept"]
    assert bad == [catalog.sample_id(victim)]
    assert audit(["verify", str(tmp_path / "out"), "--quiet"]) == 0


# kill -9 right after the n-th shard was renamed into place, before its part says that it is done.
KILLED = """
import os, signal, sys
replace, seen = os.replace, 0
def counting(source, target):
    global seen
    replace(source, target)
    seen += "/shards/" in str(target)
    if seen == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = counting
from pipeline.encode_latents import main
main(sys.argv[2:])
"""


def test_killed_half_way_and_run_again_it_ends_with_the_same_bytes(curated, encoded, tmp_path, capsys):
    output = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, "2", *arguments(curated, output)]
    killed = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, timeout=200)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-1000:]
    first = sorted((output / "parts").glob("*.parquet"))
    assert len(first) == 1 and not (output / "manifest").exists(), "the manifest comes last"
    stamp = first[0].stat().st_mtime_ns
    assert encode(arguments(curated, output)) == 0
    assert first[0].stat().st_mtime_ns == stamp, "a finished shard is not encoded again"
    assert published(output) == published(encoded)
    assert not list(output.rglob(".tmp-*")) and not list((output / "parts").glob("*.tar"))
    assert audit(["verify", str(output), "--quiet"]) == 0, capsys.readouterr().out


def test_a_full_disk_says_so_and_the_same_command_goes_on(curated, encoded, tmp_path, capsys):
    """A limit on file sizes fails a write as a full disk does; view groups fit under this one, scenes do not."""
    output, before = tmp_path / "out", resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
    try:
        code = encode(arguments(curated, output))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    said = capsys.readouterr().err
    assert code == 1 and "no space is left; make room and run the same command again" in said and "Traceback" not in said
    assert not (output / "manifest").exists() and not list(output.rglob(".tmp-*"))
    assert encode(arguments(curated, output)) == 0
    assert published(output) == published(encoded)


def test_other_settings_in_the_same_folder_replace_what_was_there(curated, encoded, tmp_path, capsys):
    output = tmp_path / "out"
    shutil.copytree(encoded, output)
    assert encode([f"--data={curated}", f"--output={output}", "--base=tiny", "--size=32x64", "--frames=3", "--quiet"]) == 0
    assert run_json(output)["encoding"]["size"] == [32, 64]
    sample = next(each for key, each in Output(output, 0).samples.items() if key.startswith("clips"))
    assert array(sample["view00_latent.npz"], "latent").shape == (192, 3, 4, 8)
    assert audit(["verify", str(output), "--quiet"]) == 0, capsys.readouterr().out


def test_a_dry_run_says_how_much_it_would_be_and_writes_nothing(curated, encoded, tmp_path, capsys):
    assert encode(arguments(curated, tmp_path / "out", "--dry-run")) == 0
    said = capsys.readouterr().out
    latents = [array(data, "latent") for each in Output(encoded, 0).samples.values() for name, data in each.items() if "_latent" in name]
    from pipeline.auditing.layout import human_bytes

    assert "7 of 7 samples" in said and f"latents {human_bytes(sum(each.nbytes for each in latents))}" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--size=60x64"], "64x64"),
        (["--size=big"], "HxW (height x width)"),
        (["--data={encoded}"], "holds latents already"),
        (["--output={curated}"], "the folder that is read"),
        (["--output={other}"], "something else than latents"),
        (["--base=tinny"], "tiny"),
        (["--selection=none"], "no such selection"),
        (["--split=none"], "no sample has the split 'none'"),
        (["--data={other}/nothing"], "nothing"),
        (["--frames=0"], "at least 1"),
        (["--device=cuda:99"], "cuda:99"),
    ],
)
def test_what_cannot_work_ends_with_2_and_says_why(curated, encoded, tmp_path, capsys, change, said):
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    places = {"curated": curated, "encoded": encoded, "other": other}
    before = tree(tmp_path)
    try:
        code = encode([*arguments(curated, tmp_path / "out"), *(each.format(**places) for each in change)])
    except SystemExit as ended:
        code = ended.code
    err = capsys.readouterr().err
    assert code == 2 and said in err and "Traceback" not in err
    assert tree(tmp_path) == before
