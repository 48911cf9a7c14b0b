"""What a rerun takes over and what it must not: each of these was once got wrong."""

import errno
import json
import os
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.audit import main as audit
from pipeline.curate import DONE, FAILED, OVER_BUDGET, USAGE, main
from pipeline.payload import Bytes
from stages.stage import Child, Findings, Sampler, Scorer, Tier
from tests.engine import toy


def _members(output: Path) -> dict[str, bytes]:
    found = {}
    for shard in sorted((output / "shards").glob("*.tar")):
        with tarfile.open(shard) as archive:
            found |= {name: archive.extractfile(name).read() for name in archive.getnames()}
    return found


class Numbered(Sampler):
    """Children of the same frames under names that a setting decides, as a changed seed or hop renumbers them."""

    name = "numbered"
    version = 1
    needs = frozenset({"video"})

    @dataclass(frozen=True)
    class Config:
        first: int = 0
        twice: bool = False

    def sample(self, scene, seed, media):
        def child(number):
            return Child(f"s{number}", "view_group", (0,), (np.arange(1),), None, ("v",))

        return [child(self.config.first), child(self.config.first if self.config.twice else self.config.first + 1)]


class Unstorable(Scorer):
    """Gives what JSON cannot hold, or a score that nobody declared, for one candidate."""

    name = "unstorable"
    version = 1
    tier = Tier.PIXELS
    needs = frozenset({"video"})

    @dataclass(frozen=True)
    class Config:
        undeclared: bool = False

    def score(self, item, media):
        if item.scene.candidate.candidate_id != "n00003":
            return Findings({"brightness": 0.5})
        return Findings({"loveliness": 1.0} if self.config.undeclared else {"brightness": np.float32(0.5)})


def test_footage_inside_the_output_folder_is_refused(tmp_path, capsys):
    footage = toy.make_numbers(tmp_path / "out" / "shards", 3)
    code = main([str(toy.recipe(tmp_path)), f"--input=numbers={footage}", f"--output={tmp_path / 'out'}", "--executor=inline", "--quiet"])
    assert code == USAGE and "lies inside --output" in capsys.readouterr().err
    assert len(list(footage.iterdir())) == 3


def test_what_others_put_into_the_output_folder_is_left_alone(curate):
    out = curate()
    (out.path / "shards" / ".notes").mkdir()
    (out.path / "shards" / "index.json").write_text("{}")
    (out.path / "parts" / "mine.txt").write_text("")
    assert curate(touchy={"max_brightness": 0.01}).code == DONE
    assert (out.path / "shards" / ".notes").is_dir() and (out.path / "shards" / "index.json").exists()
    assert (out.path / "parts" / "mine.txt").exists()


def test_a_unit_whose_footage_has_all_gone_does_not_stop_the_run(curate, footage):
    curate(executor="process", unit=5)
    for number in range(5):
        (footage / f"n{number:05d}.txt").unlink()
    out = curate(executor="process", unit=5)
    assert out.code == DONE and len(out.rows) == 18


@pytest.mark.parametrize("name", ["n\u2028x", "n\u0085x", "n\nx", 'n"x'])
def test_any_file_name_survives_the_plan(curate, footage, name):
    (footage / f"{name}.txt").write_bytes(b"5\nxx")
    assert curate().code == DONE
    out = curate()
    assert out.code == DONE and name in out.by_id


def test_footage_that_sorts_first_drops_nothing_under_a_limit(curate, footage):
    first = curate("--limit=4")
    for number in range(3):
        (footage / f"n-{number}.txt").write_bytes(b"7\nnew")
    again = curate("--limit=4")
    assert again.code == DONE and sorted(again.by_id) == sorted(first.by_id)
    assert curate("--limit=6").code == DONE


def test_what_cannot_be_stored_costs_one_candidate(curate):
    for settings in ({}, {"undeclared": True}):
        out = curate("--error-budget=1", output=f"out{len(settings)}", stages=[{"tests.engine.test_takeover:Unstorable": settings}])
        assert out.code == DONE
        assert [name for name, row in out.by_id.items() if row["reasons"] == ["E_STAGE"]] == ["n00003"]


def test_two_children_with_one_name_cost_their_candidate(curate):
    out = curate("--error-budget=1", stages=[{"tests.engine.test_takeover:Numbered": {"twice": True}}])
    assert {tuple(row["reasons"]) for row in out.rows} == {("E_STAGE",)}
    assert "suffix 's0'" in out.rows[0]["error_message"]


def test_renumbered_children_take_over_no_others_description(curate, monkeypatch):
    # The toy's files hold no pictures; the pictures are not what this is about.
    monkeypatch.setattr("pipeline.payload._view_member", lambda name, *_: (Bytes(f"{name}.png", b"picture"), (64, 48)))

    def stages(first):
        return [{"tests.engine.test_takeover:Numbered": {"first": first}}, {"tests.engine.toy:Touchy": {}}]

    curate(stages=stages(2))
    resumed = curate(stages=stages(1))
    fresh = curate(stages=stages(1), output="fresh")
    assert resumed.digest == fresh.digest
    for name, data in _members(resumed.path).items():
        if name.endswith("meta.json"):
            assert json.loads(data)["sample_id"] == name.removesuffix(".meta.json")


def test_another_class_of_the_same_name_is_another_stage(curate, monkeypatch):
    class Darker(toy.Touchy):
        def score(self, item, media):
            found = super().score(item, media)
            return replace(found, scores={"brightness": found.scores["brightness"] / 2})

    monkeypatch.setattr(toy, "Darker", Darker, raising=False)
    Darker.__module__, Darker.__qualname__ = "tests.engine.toy", "Darker"
    curate()
    other = curate(stages=["tests.engine.toy:Darker"])
    assert other.by_id["n00020"]["scores"]["brightness"] == 0.01


def test_a_raised_ingest_version_runs_everything_again(curate, monkeypatch):
    curate()
    monkeypatch.setattr(toy.Numbers, "version", 2)
    assert {row["steps_reused"] for row in curate().units} == {0}


def test_a_limit_tightened_and_loosened_again_computes_nothing(curate, tmp_path):
    log = tmp_path / "log"

    def stages(fps):
        return [{"header": {"min_fps": fps}}, {"tests.engine.toy:Touchy": {"log": str(log)}}]

    curate(stages=stages(10))
    count = len(log.read_text().split())
    assert {row["stopped_at"] for row in curate(stages=stages(100)).rows} == {"touchy"}
    assert {row["status"] for row in curate(stages=stages(10)).rows} == {"kept"}
    assert len(log.read_text().split()) == count == 23


def test_a_new_text_computes_nothing(curate, tmp_path):
    log = tmp_path / "log"
    curate(touchy={"log": str(log)})
    (tmp_path / "captions.json").write_text('{"numbers_-n00002": "two"}')
    out = curate(f"--captions={tmp_path / 'captions.json'}", touchy={"log": str(log)})
    assert len(log.read_text().split()) == 23
    assert _members(out.path)["numbers_-n00002.caption.txt"] == b"two"


def test_retry_errors_reaches_units_that_run_for_another_reason_too(curate, tmp_path):
    log = tmp_path / "log"
    curate("--error-budget=1", touchy={"timeout": [5], "log": str(log)})
    log.unlink()
    curate("--error-budget=1", "--retry-errors", touchy={"timeout": [5], "log": str(log), "max_brightness": 0.01})
    assert log.read_text().split() == ["5"]


def test_errors_of_children_count_against_the_budget(curate):
    out = curate("--error-budget=0", stages=["tests.engine.toy:Slices", {"tests.engine.toy:Touchy": {"fail": list(range(23))}}])
    assert out.code == OVER_BUDGET


def test_the_budget_does_not_depend_on_where_the_errors_lie(tmp_path):
    footage = toy.make_numbers(tmp_path / "in", 150)
    recipe = toy.recipe(tmp_path, touchy={"fail": list(range(7))}, unit=25)
    code = main([str(recipe), f"--input=numbers={footage}", f"--output={tmp_path / 'out'}", "--executor=inline", "--quiet", "--no-report"])
    assert code == DONE, "7 of 150 is less than a twentieth, though all of them come first"


def test_children_of_long_names_get_their_texts(curate, footage, tmp_path):
    name = "n" + "0" * 100 + "7"
    (footage / f"{name}.txt").write_bytes(b"7\nxx")
    ids = [row["sample_id"] for row in curate(stages=["tests.engine.toy:Slices"]).rows if row["candidate_id"] == name and row["parent_id"]]
    assert len(ids) == 2 and all(len(each) <= 88 for each in ids)
    (tmp_path / "captions.json").write_text(json.dumps({ids[0]: "long"}))
    out = curate(f"--captions={tmp_path / 'captions.json'}", stages=["tests.engine.toy:Slices"])
    assert json.loads((out.path / "run.json").read_text())["captions"]["without_sample"] == 0
    assert [row["has_text"] for row in out.rows if row["sample_id"] == ids[0]] == [True]


def test_a_damaged_part_is_made_again(curate):
    out = curate(touchy={"max_brightness": 0.01})
    tar = sorted((out.path / "parts").glob("u000000-*.tar"))[0]
    data = bytearray(tar.read_bytes())
    place = bytes(data).index(b"number n00001")
    data[place] ^= 1
    tar.write_bytes(data)
    resumed = curate(touchy={"max_brightness": 0.012})
    assert resumed.code == DONE and _members(resumed.path)["numbers_-n00001.caption.txt"] == b"number n00001"


def _damage(part: Path, what: str) -> None:
    data = bytearray(part.read_bytes())
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    if what == "another table":
        pq.write_table(pa.table({"a": [1]}), part)
    elif what == "cut":
        part.write_bytes(data[: len(data) // 2])
    else:
        at, size = {"empty": (0, len(data)), "footer": (footer, 40), "data": (4, footer - 4)}[what]
        data[at : at + size] = b"" if what == "empty" else bytes(size)
        part.write_bytes(data)


@pytest.mark.parametrize("what", ["empty", "cut", "another table", "footer", "data"])
def test_a_damaged_table_of_a_part_is_named_and_made_again_without_it(curate, capsys, what):
    out = curate()
    part = sorted((out.path / "parts").glob("u000001-*.parquet"))[0]
    _damage(part, what)
    capsys.readouterr()
    assert audit(["verify", str(out.path)]) and f"parts/{part.name}: is damaged; remove it" in capsys.readouterr().out
    assert curate().code == FAILED
    assert f"{part}: is damaged" in (said := capsys.readouterr().err) and "remove it, then run the same command again" in said
    part.unlink()
    again = curate()
    assert again.code == DONE and again.digest == out.digest


def test_a_part_that_may_not_be_read_is_a_finding_of_verify(curate, capsys, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    out = curate()
    monkeypatch.setattr("pipeline.auditing.verify_origin.open_part", refuse)
    capsys.readouterr()
    assert audit(["verify", str(out.path)])
    assert capsys.readouterr().out.count("cannot be read ([Errno 13] Permission denied") == 5


@pytest.mark.parametrize("what", ["empty", "footer", "data"])
def test_a_damaged_part_of_an_earlier_recipe_is_passed_over(curate, what):
    out = curate(touchy={"max_brightness": 0.01})
    _damage(sorted((out.path / "parts").glob("u000001-*.parquet"))[0], what)
    expected = curate(output="other", touchy={"max_brightness": 0.012})
    again = curate(touchy={"max_brightness": 0.012})
    assert again.code == DONE and again.digest == expected.digest


def test_a_rejected_sample_whose_payload_cannot_be_made_stays_rejected(tmp_path, footage):
    recipe = toy.recipe(tmp_path, stages=["tests.engine.toy:Slices"])
    recipe.write_text(recipe.read_text() + "keep_rejected: payload\n")
    output = tmp_path / "out"
    main(
        [str(recipe), f"--input=numbers={footage}", f"--output={output}", "--executor=inline", "--quiet", "--no-report", "--error-budget=1"]
    )
    import pyarrow.dataset as ds

    rows = ds.dataset(output / "manifest" / "samples").to_table().to_pylist()
    refused = [row for row in rows if "boundary" in row["reasons"]]
    assert refused and {row["status"] for row in refused} == {"rejected"}
    assert "not stored" in dict(refused[0]["notes"])["payload"], "the toy's files hold no frames to store"


def test_captions_in_every_format(tmp_path):
    from pipeline.plan import read_captions

    texts = {"a": "one\nline\u2028and more", "b": 'a "quoted", text'}
    (tmp_path / "c.json").write_text(json.dumps(texts))
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({"sample_id": k, "text": v}, ensure_ascii=False) + "\n" for k, v in texts.items()))
    (tmp_path / "c.csv").write_text('sample_id,text\na,"one\nline\u2028and more"\nb,"a ""quoted"", text"\n')
    for name in ("c.json", "c.jsonl", "c.csv"):
        assert read_captions(tmp_path / name) == texts
    (tmp_path / "bad.jsonl").write_text("{")
    with pytest.raises(ValueError, match=r"bad\.jsonl"):
        read_captions(tmp_path / "bad.jsonl")
