"""The evaluation command: its numbers against numbers computed here, its conditions against what they mean."""

import json
import math
import shutil
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.bases.registry import load_base
from pipeline.evaluate import main as evaluate
from pipeline.loader.catalog import Catalog
from pipeline.methods.syncammaster.cameras import camera_tensor
from pipeline.methods.syncammaster.config import ViewConfig
from pipeline.methods.syncammaster.evaluation import Protocol, _noise_seed, derangement, eligible, read_clips
from pipeline.methods.syncammaster.generate import generate
from pipeline.methods.syncammaster.model import SynCamModel
from pipeline.methods.syncammaster.weights import load
from tests.e2e.output import Output, decoded, tree

STEPS = 2


def arguments(weights: Path | list[Path], data: Path, output: Path, *more: str) -> list[str]:
    folders = weights if isinstance(weights, list) else [weights]
    given = [f"--weights={folder}" for folder in folders]
    return ["syncammaster", *given, f"--data={data}", f"--output={output}", f"--steps={STEPS}", "--quiet", *more]


def rows_of(output: Path) -> list[dict]:
    return pq.read_table(output / "results.parquet").to_pylist()


@pytest.fixture(scope="module")
def done(held_out, disturbed, tmp_path_factory):
    output = tmp_path_factory.mktemp("done") / "eval"
    assert evaluate(arguments(disturbed, held_out, output)) == 0
    return output


def test_every_clip_condition_and_seed_has_its_row(done, held_out):
    rows = rows_of(done)
    ids = {row["sample_id"] for row in Output(held_out, 0).rows if row["shard"]}
    assert {(row["sample_id"], row["seed"], row["condition"]) for row in rows} == {
        (key, seed, name) for key in ids for seed in (0, 1) for name in ("full", "modules-off", "cameras-shuffled")
    }
    assert len(rows) == 4 * 2 * 3
    for row in rows:
        assert len(row["psnr_frames"]) == len(row["ssim_frames"]) == 3
        assert row["psnr"] == pytest.approx(np.mean(row["psnr_frames"])) and row["input_id"] != row["view_id"]


def test_untrained_modules_gain_exactly_nothing(untrained, held_out, tmp_path, capsys):
    """At step 0 the model is the base, whatever cameras it is told: three equal columns and intervals of no width."""
    assert evaluate(arguments(untrained, held_out, tmp_path / "eval")) == 0
    said = capsys.readouterr().out
    assert said.count("+0.00 [+0.00, +0.00]") == 2 and "4 clips, 1 seed" in said
    by_clip: dict[tuple, set] = {}
    for row in rows_of(tmp_path / "eval"):
        by_clip.setdefault((row["sample_id"], row["view"]), set()).add((tuple(row["psnr_frames"]), tuple(row["ssim_frames"])))
    assert all(len(found) == 1 for found in by_clip.values()) and len(set(map(tuple, by_clip.values()))) == 4


@pytest.mark.parametrize("condition", ["full", "modules-off", "cameras-shuffled"])
def test_the_numbers_are_those_of_generating_and_measuring_by_hand(done, held_out, disturbed, condition):
    base, catalog = load_base("tiny"), Catalog.open(held_out)
    protocol = Protocol(frames=3, size=(32, 32), steps=STEPS)
    clips, _ = read_clips(catalog, protocol, eligible(catalog, protocol))
    place, seed = 2, 1
    clip = clips[place]
    told = clips[derangement(4, 0)[place]] if condition == "cameras-shuffled" else clip
    truth = _filmed(held_out, clip)
    model = SynCamModel(base, ViewConfig()).eval()
    load(disturbed[seed], model)
    made = generate(
        _alone() if condition == "modules-off" else model,
        base,
        texts=[clip.caption],
        cameras=camera_tensor(told.c2w[None], told.K[None], [told.metric], base.spec, ViewConfig(), (32, 32)),
        frames=3,
        size=(32, 32),
        steps=STEPS,
        guidance=1.0,
        video=torch.from_numpy(truth[0]).permute(3, 0, 1, 2)[None].float() / 127.5 - 1,
        seeds=[_noise_seed(seed, clip.sample_id)],
    )
    ours = ((made[0, 1].permute(1, 2, 3, 0).numpy() + 1) * 127.5).round().astype(np.int64)
    wanted = [10 * math.log10(255**2 / ((ours[f] - truth[1][f].astype(np.int64)) ** 2).mean()) for f in range(3)]
    [row] = [row for row in rows_of(done) if (row["sample_id"], row["seed"], row["condition"]) == (clip.sample_id, seed, condition)]
    assert row["psnr_frames"] == pytest.approx(wanted, abs=1e-3)
    assert (row["input_id"], row["view_id"]) == clip.view_ids


def _alone():
    """The base without any module around its blocks, view by view."""
    plain = load_base("tiny")

    def predict(z, t, text, cameras):
        return torch.stack([plain.predict(z[:, view], t, text) for view in range(z.shape[1])], dim=1)

    return predict


def _filmed(held_out: Path, clip) -> list[np.ndarray]:
    """[F,H,W,3] of the clip's views, by the loader's own decoder: other decoders differ by the colour conversion."""
    from pipeline.loader.frames import decode

    sample = Output(held_out, 0).samples[clip.sample_id]
    names = sorted(name for name in sample if name.startswith("view"))
    assert len(decoded(sample[names[0]])[0]) == 4
    return [decode(sample[names[view]], range(3), (32, 32)) for view in clip.views]


def test_a_second_run_generates_nothing_and_a_gap_is_filled_with_the_same(done, held_out, disturbed, tmp_path, capsys):
    output = tmp_path / "eval"
    shutil.copytree(done, output)
    stamps = {path: path.stat().st_mtime_ns for path in (output / "parts").iterdir()}
    assert len(stamps) == 24
    gap = [path for path in sorted(stamps) if "full" in path.name][:2]
    for path in gap:
        path.unlink()
    assert evaluate(arguments(disturbed, held_out, output)) == 0
    changed = [path for path in sorted(stamps) if path.stat().st_mtime_ns != stamps[path]]
    assert changed == gap
    assert rows_of(output) == rows_of(done)
    before, after = ({k: v for k, v in tree(folder).items() if not k.startswith("pictures")} for folder in (done, output))
    assert before == after


def test_other_settings_are_not_answered_with_old_numbers(done, held_out, disturbed, tmp_path):
    output = tmp_path / "eval"
    shutil.copytree(done, output)
    assert evaluate(arguments(disturbed[:1], held_out, output, "--compare=modules-off", "--text-guidance=1", "--video-guidance=1")) == 0
    old = {(row["sample_id"], row["condition"]): row["psnr"] for row in rows_of(done) if row["seed"] == 0}
    new = {(row["sample_id"], row["condition"]): row["psnr"] for row in rows_of(output)}
    assert len(new) == 8 and all(new[key] != old[key] for key in new if key[1] == "full")


def test_the_order_and_number_of_clips_at_once_change_nothing(done, held_out, disturbed, tmp_path):
    assert evaluate(arguments(disturbed, held_out, tmp_path / "eval", "--batch=3")) == 0
    for ours, once in zip(rows_of(tmp_path / "eval"), rows_of(done), strict=True):
        assert ours["sample_id"] == once["sample_id"] and ours["psnr_frames"] == pytest.approx(once["psnr_frames"], abs=0.05)


def test_the_sheet_shows_the_input_the_truth_and_each_condition(done, held_out):
    sheet = cv2.imread(str(done / "sheet.png"))
    assert sheet is not None and sheet.shape[1] > 5 * 192 and sheet.shape[0] > 4 * 192
    pictures = sorted(path.name.rsplit(".", 2)[1] for path in (done / "pictures").iterdir())
    assert pictures == sorted(["input", "truth", "full", "modules-off", "cameras-shuffled"] * 4)


def test_the_summary_has_the_table_in_numbers(done):
    summary = json.loads((done / "summary.json").read_text())
    full, off, shuffled = summary["lines"]
    rows = rows_of(done)
    mean = {
        name: np.mean([row["psnr"] for row in rows if row["condition"] == name]) for name in ("full", "modules-off", "cameras-shuffled")
    }
    assert [line["condition"] for line in summary["lines"]] == list(mean)
    assert [line["psnr"] for line in summary["lines"]] == pytest.approx(list(mean.values()))
    assert off["psnr_gain"]["mean"] == pytest.approx(mean["full"] - mean["modules-off"])
    assert shuffled["psnr_gain"]["clusters"] == 4 and shuffled["psnr_gain"]["values"] == 8
    assert full["psnr_gain"] is None and summary["protocol"]["steps"] == STEPS


def test_a_clip_that_cannot_be_read_is_named_and_in_no_number(held_out, untrained, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(held_out, copy)
    lost = next(row for row in Output(copy, 0).rows if row["shard"])
    (copy / "shards" / lost["shard"]).write_bytes(b"")
    assert evaluate(arguments(untrained, copy, tmp_path / "eval")) == 0
    said = capsys.readouterr()
    gone = {row["sample_id"] for row in Output(held_out, 0).rows if row["shard"] == lost["shard"]}
    assert f"{4 - len(gone)} clips" in said.out and all(key in said.err for key in gone)
    assert gone.isdisjoint(row["sample_id"] for row in rows_of(tmp_path / "eval"))


def test_angles_choose_views_that_stand_so_far_apart(held_out):
    catalog = Catalog.open(held_out)
    angles = np.concatenate([catalog.angle(i)[np.triu_indices(3, 1)] for i in range(len(catalog))])
    low = float(np.median(angles))
    protocol = Protocol(frames=3, size=(32, 32), angles=(low, 180.0))
    clips, _ = read_clips(catalog, protocol, eligible(catalog, protocol))
    assert clips and all(catalog.angle(clip.sample)[clip.views] >= low for clip in clips)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_no_clip_keeps_its_own_cameras(n):
    other = derangement(n, seed=3)
    assert sorted(other) == list(range(n)) and all(other[i] != i for i in range(n))
    assert n < 4 or derangement(n, seed=4) != other


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--weights={here}/none"], "does not exist"),
        (["--data={here}/none"], "none"),
        (["--base=tinny"], "tiny"),
        (["--compare=nothing"], "allowed: modules-off, cameras-shuffled"),
        (["--frames=50"], "fewer --frames"),
        (["--views=9"], "9 views"),
        (["--size=33x33"], "multiples of 16"),
        (["--limit=1"], "needs the cameras of another clip"),
        (["--angles=9-3"], "must ascend"),
        (["--device=cuda:99"], "cuda:99"),
        (["--output={data}"], "holds something else (manifest, plan, run.json"),
        (["--weights={weights}/../none"], "the same weights twice"),
    ],
)
def test_what_cannot_work_ends_with_2_and_says_why(held_out, untrained, tmp_path, capsys, change, said):
    given = [each.format(here=tmp_path, data=held_out, weights=untrained) for each in change]
    weights = tmp_path / "none" if "{here}" in change[0] and "--weights" in change[0] else untrained
    try:
        code = evaluate([*arguments(weights, held_out, tmp_path / "eval"), *given])
    except SystemExit as ended:
        code = ended.code
    err = capsys.readouterr().err
    assert code == 2 and said in err and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []
