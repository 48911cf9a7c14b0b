"""The contracts of a run: one row for every candidate, nothing computed twice, the same bytes whoever does the work."""

import json
import os
import shutil

import numpy as np
import pytest
import webdataset as wds

from pipeline.curate import DONE, FAILED, OVER_BUDGET, USAGE, main
from pipeline.run import Result
from schemas.candidate import parse_key
from tests.engine import toy

SLICES = {"stages": ["tests.engine.toy:Slices"]}


def test_every_candidate_has_one_row_that_says_why(curate):
    out = curate("--error-budget=1", touchy={"max_brightness": 0.015, "fail": [3], "bug": [4], "timeout": [5], "hungry": [6]})
    assert out.code == DONE
    assert len(out.rows) == len(out.by_id) == 23
    assert out.by_id["n00007"]["status"] == "kept"
    assert out.by_id["n00020"]["status"] == "rejected" and out.by_id["n00020"]["reasons"] == ["overexposed"]
    assert out.by_id["n00020"]["scores"]["brightness"] == 0.02
    failed = {name: (out.by_id[name]["status"], out.by_id[name]["reasons"]) for name in ("n00003", "n00004", "n00005", "n00006")}
    assert failed == {
        "n00003": ("error", ["E_TRUNCATED"]),
        "n00004": ("error", ["E_STAGE"]),
        "n00005": ("error", ["E_TIMEOUT"]),
        "n00006": ("error", ["E_OOM"]),
    }
    assert "4 / 0" in out.by_id["n00004"]["error_message"], "the message of a bug names it"
    assert out.by_id["n00003"]["scores"]["brightness"] is None, "not computed is null, never a number"


def test_what_a_machine_lacks_is_no_candidates_fault(curate, tmp_path, capsys):
    """Rows that blame the footage would stand after the package was installed: the units must run again instead."""
    package = tmp_path / "toys"
    assert curate(touchy={"needs": str(package)}).code == FAILED
    assert "install it with: uv pip install toys" in capsys.readouterr().err
    package.touch()
    out = curate(touchy={"needs": str(package)})
    assert out.code == DONE and {row["status"] for row in out.rows} == {"kept"}


def test_children_are_counted_and_refused_ones_have_rows(curate, footage):
    out = curate(**SLICES)
    sources = [row for row in out.rows if row["is_source"]]
    children = [row for row in out.rows if not row["is_source"]]
    assert len(sources) == 23 and len(children) == 46
    for source in sources:
        mine = [row for row in children if row["parent_id"] == source["sample_id"]]
        assert source["n_children"] == len(mine) == 2
        assert not source["is_sample"] and source["shard"] is None
    refused = [row for row in children if row["status"] == "rejected"]
    odd = [name for name in out.by_id if (int(name[1:]) % 5 + 3) % 2]
    assert len(refused) == len(odd) and all(row["reasons"] == ["boundary"] for row in refused)


@pytest.mark.parametrize(("executor", "workers"), [("process", 1), ("process", 2), ("process", 4), ("ray", 2)])
def test_same_bytes_from_every_executor_and_worker_count(curate, executor, workers, request):
    if executor == "ray":
        request.getfixturevalue("ray_cluster")
    settings = {"touchy": {"max_brightness": 0.015, "fail": [3]}, "unit": 3}
    reference = curate(output="reference", **settings)
    other = curate(f"--workers={workers}", output="other", executor=executor, **settings)
    assert reference.code == other.code == DONE
    assert other.digest == reference.digest


def test_a_rerun_computes_nothing_and_changes_nothing(curate, tmp_path):
    log = tmp_path / "log"
    first = curate(touchy={"log": str(log)})
    before = first.digest
    assert len(log.read_text().split()) == 23
    again = curate(touchy={"log": str(log)})
    assert again.code == DONE and again.digest == before
    assert len(log.read_text().split()) == 23, "nothing was looked at again"


def test_parts_of_another_version_of_the_format_are_made_again(curate, monkeypatch):
    """Whatever they hold: here members as no version of ours wrote them."""
    monkeypatch.setattr("pipeline.unit.UNIT_VERSION", 0)
    monkeypatch.setattr("pipeline.parts.members_to_json", lambda members: '[{"another": "format"}]' if list(members) else "[]")
    monkeypatch.setattr("pipeline.run._pack_and_publish", lambda *_: Result("interrupted"))
    curate()
    monkeypatch.undo()
    again = curate()
    assert again.code == DONE and {row["steps_reused"] for row in again.units} == {0}
    assert again.digest == curate(output="anew").digest


def test_a_changed_limit_decides_anew_and_computes_nothing(curate, tmp_path):
    log = tmp_path / "log"
    curate(touchy={"log": str(log), "max_brightness": 0.015})
    loose = curate(touchy={"log": str(log), "max_brightness": 0.018})
    assert len(log.read_text().split()) == 23, "scores of the first run decide the second"
    assert [row["steps_computed"] for row in loose.units] == [0] * len(loose.units)
    fresh = curate(touchy={"log": str(log), "max_brightness": 0.018}, output="fresh")
    assert loose.digest == fresh.digest, "and the result is that of a run from nothing"


def test_a_changed_setting_computes_that_stage_again(curate, tmp_path):
    curate()
    again = curate(touchy={"sleep_s": 0.001})
    assert {row["steps_reused"] for row in again.units if row["n_candidates"] == 5} == {5}, "the ingest's results stand"
    assert {row["steps_computed"] for row in again.units if row["n_candidates"] == 5} == {5}


def test_a_changed_file_recomputes_that_candidate_alone(curate, footage, tmp_path):
    log = tmp_path / "log"
    curate(touchy={"log": str(log)})
    log.unlink()
    os.utime(footage / "n00008.txt", ns=(1, 1))
    changed = curate(touchy={"log": str(log)})
    assert log.read_text().split() == ["8"]
    shutil.rmtree(tmp_path / "out")
    assert curate(touchy={"log": str(log)}).digest == changed.digest


def test_new_inputs_form_new_units_and_old_ones_keep_their_names(curate, footage):
    first = curate()
    before = {row["candidate_id"]: row["unit"] for row in first.rows}
    (footage / "n00000a.txt").write_bytes(b"900\nnew")  # sorts between old ones
    second = curate()
    after = {row["candidate_id"]: row["unit"] for row in second.rows}
    assert {name: after[name] for name in before} == before
    assert after["n00000a"] not in before.values()


def test_the_webdataset_reader_reads_the_shards(curate, footage):
    out = curate(touchy={"max_brightness": 0.015})
    shards = sorted(str(path) for path in (out.path / "shards").iterdir())
    assert len(shards) > 1
    seen = {}
    for sample in wds.WebDataset(shards, shardshuffle=False, empty_check=False):
        assert parse_key(sample["__key__"]).startswith("numbers/")
        seen[sample["__key__"]] = sample
    kept = [row for row in out.rows if row["status"] == "kept"]
    assert sorted(seen) == sorted(row["sample_id"] for row in kept)
    for row in kept:
        sample = seen[row["sample_id"]]
        assert sample["view00.mp4"] == (footage / row["media"][0]).read_bytes(), "source bytes are copied"
        assert sample["caption.txt"].decode() == f"number {row['candidate_id']}"
        assert json.loads(sample["meta.json"])["sample_id"] == row["sample_id"]


def test_shards_reach_the_target_size_and_hold_whole_samples(curate):
    out = curate(target_mb=0.01)
    sizes = [path.stat().st_size for path in sorted((out.path / "shards").iterdir())]
    assert (all(size <= 10_000 + 10_240 for size in sizes) and len(sizes) == len({*sizes})) or len(sizes) > 3
    by_shard = {}
    for row in out.rows:
        by_shard.setdefault(row["shard"], []).append(row["sample_id"])
    assert sum(len(ids) for ids in by_shard.values()) == 23


def test_target_count_keeps_the_best_and_says_so(curate):
    source = {"target_count": 4, "best_by": "-brightness"}
    out = curate(touchy={"max_brightness": 0.015}, **source)
    kept = sorted(name for name, row in out.by_id.items() if row["status"] == "kept")
    assert kept == ["n00000", "n00001", "n00002", "n00003"]
    assert out.by_id["n00010"]["reasons"] == ["over_target_count"] and out.by_id["n00010"]["status"] == "rejected"
    assert out.by_id["n00016"]["reasons"] == ["overexposed"], "what a limit rejects does not take part in the ranking"


def test_shuffled_shards_are_the_same_for_the_same_seed_only(curate, tmp_path, footage):
    def order(seed: int, output: str) -> list[str]:
        recipe = toy.recipe(tmp_path, target_mb=10.0)
        recipe.write_text(recipe.read_text().replace("target_mb: 10.0", "target_mb: 10.0\n  order: shuffle"))
        arguments = [str(recipe), f"--input=numbers={footage}", f"--output={tmp_path / output}", f"--seed={seed}"]
        assert main([*arguments, "--executor=inline", "--quiet", "--no-report"]) == DONE
        shards = sorted(str(path) for path in (tmp_path / output / "shards").iterdir())
        return [sample["__key__"] for sample in wds.WebDataset(shards, shardshuffle=False, empty_check=False)]

    first, same, other = order(1, "a"), order(1, "b"), order(2, "c")
    assert first == same != other and sorted(first) == sorted(other)


def test_captions_by_sample_id_win_and_missing_text_is_counted(curate, tmp_path):
    (tmp_path / "captions.jsonl").write_text('{"sample_id": "numbers_-n00002", "text": "two"}\n{"sample_id": "nobody", "text": "?"}\n')
    out = curate(f"--captions={tmp_path / 'captions.jsonl'}")
    shards = sorted(str(path) for path in (out.path / "shards").iterdir())
    texts = {s["__key__"]: s["caption.txt"].decode() for s in wds.WebDataset(shards, shardshuffle=False, empty_check=False)}
    assert texts["numbers_-n00002"] == "two" and texts["numbers_-n00003"] == "number n00003"
    run = json.loads((out.path / "run.json").read_text())
    assert run["captions"] == {"given": 2, "without_sample": 1}
    assert run["text"] == {"numbers": {"with": 23, "without": 0}}


def test_retry_errors_looks_again_at_provisional_ones_only(curate, tmp_path):
    log = tmp_path / "log"
    settings = {"touchy": {"timeout": [5], "fail": [6], "log": str(log)}}
    curate("--error-budget=1", **settings)
    log.unlink()
    curate("--error-budget=1", **settings)
    assert not log.exists(), "not without being told"
    again = curate("--error-budget=1", "--retry-errors", **settings)
    assert log.read_text().split() == ["5"]
    assert again.by_id["n00005"]["reasons"] == ["E_TIMEOUT"] and again.by_id["n00006"]["reasons"] == ["E_TRUNCATED"]


def test_more_errors_than_the_budget_ends_with_3_and_a_complete_manifest(curate):
    out = curate(touchy={"fail": [1, 2, 3]})
    assert out.code == OVER_BUDGET and len(out.rows) == 23
    assert json.loads((out.path / "run.json").read_text())["error_budget"] == {
        "limit": 0.05,
        "errors": 3,
        "judged": 23,
        "exceeded": True,
    }


def test_dry_run_writes_nothing(curate, capsys):
    out = curate("--dry-run")
    assert out.code == DONE and not out.path.exists()
    assert "23 candidates; 5 of 5 units to run" in capsys.readouterr().out


def test_explain_names_what_changed(curate, capsys, footage):
    curate(touchy={"max_brightness": 0.015})
    os.utime(footage / "n00001.txt", ns=(1, 1))
    curate("--explain", "--dry-run", touchy={"max_brightness": 0.018})
    said = capsys.readouterr().out
    assert "limits.max_brightness changed from 0.015 to 0.018 (decision only" in said
    assert "the files of 'n00001' changed" in said


def test_limit_then_all_is_the_same_as_new_inputs(curate):
    small = curate("--limit=5")
    assert len(small.rows) == 5
    assert len(curate().rows) == 23


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--input=nmbers=x"], "did you mean 'numbers'?"),
        (["--input=numbers"], "NAME=PATH"),
        (["--input=numbers=/nowhere/at/all"], "there is nothing at"),
    ],
)
def test_usage_errors_end_with_2_and_say_what_to_do(tmp_path, footage, capsys, arguments, said):
    recipe = toy.recipe(tmp_path)
    assert main([str(recipe), *arguments, f"--output={tmp_path / 'out'}", "--quiet"]) == USAGE
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_output_inside_the_input_is_refused(tmp_path, footage, capsys):
    recipe = toy.recipe(tmp_path)
    assert main([str(recipe), f"--input=numbers={footage}", f"--output={footage / 'out'}", "--quiet"]) == USAGE
    assert "lies inside the input" in capsys.readouterr().err


def test_a_smaller_limit_would_drop_results_and_is_refused(curate, capsys):
    curate()
    assert curate("--limit=3").code == USAGE
    assert "--limit 3 would drop 20" in capsys.readouterr().err


def test_a_file_that_vanishes_between_examining_and_packing_fails_loudly(curate, footage, monkeypatch, capsys):
    from pipeline import run

    plan = run.plan_shards

    def late(*arguments, **settings):
        os.utime(footage / "n00002.txt", ns=(7, 7))
        return plan(*arguments, **settings)

    monkeypatch.setattr(run, "plan_shards", late)
    ranked = {"target_count": 23, "best_by": "brightness"}  # ranked sources are packed after the last unit
    out = curate(**ranked)
    assert out.code == FAILED
    assert "changed while the run was under way" in capsys.readouterr().err
    monkeypatch.undo()
    assert curate(**ranked).code == DONE, "the same command then takes the file as it is now"


def test_cameras_are_packed_for_the_frames_that_are_packed(tmp_path):
    from pipeline.payload import _cameras
    from schemas.camera import CameraTrack, intrinsics

    track = CameraTrack(np.tile(np.eye(4), (3, 1, 1)), intrinsics(10, 10, 8, 6, 3), 16, 12, "metres")
    stored = np.load(__import__("io").BytesIO(_cameras([(track, np.arange(3)), (track.scaled(8, 6), np.arange(3))])), allow_pickle=False)
    assert stored["c2w"].shape == (2, 3, 4, 4) and stored["size"].tolist() == [[16, 12], [8, 6]]
    assert stored["K"][1, 0].tolist() == [[5, 0, 4], [0, 5, 3], [0, 0, 1]]
