"""Twins within a run: the first is kept, the later ones are turned away and name it, whoever does the work."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.auditing.folder import OutputFolder
from pipeline.auditing.verify import verify
from pipeline.curate import DONE, main
from pipeline.duplicates import Duplicates, HammingIndex, Printed
from pipeline.payload import Bytes
from schemas.verdict import Reason
from stages.fingerprint import FingerprintConfig
from tests.engine import twins
from tests.engine.conftest import Curated

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., Curated]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """run(sources, ...) curates the folders in/NAME."""

    def curate(
        sources: dict[str, dict[str, Any]], *arguments: str, output: str = "out", executor: str = "inline", unit: int = 3
    ) -> Curated:
        recipe = twins.recipe(tmp_path / "recipe.yaml", sources, unit)
        given = [f"--input={name}={tmp_path / 'in' / name}" for name in sources]
        common = [f"--output={tmp_path / output}", f"--executor={executor}", "--quiet", "--no-report"]
        return Curated(tmp_path / output, main([str(recipe), *given, *common, *arguments]))

    return curate


def decided(out: Curated) -> dict[str, tuple[str, ...]]:
    """What became of each sample: ("kept",), or why not, of whom, and how far from it."""
    found: dict[str, tuple[str, ...]] = {}
    for row in [row for row in out.rows if row["is_sample"]]:
        notes = dict(row["notes"] or [])
        why = (*row["reasons"], *(notes[name] for name in ("duplicate_of", "duplicate_distance") if name in notes))
        found[row["sample_id"]] = (row["status"],) if row["status"] == "kept" else why
        assert (row["shard"] is not None) == (row["status"] == "kept"), "twins are in no shard"
    return found


def test_later_twins_name_the_first_within_and_across_sources(run, tmp_path):
    clips, more = tmp_path / "in" / "clips", tmp_path / "in" / "more"
    twins.show(clips, "n1", 1)
    twins.show(clips, "n2", 2)
    twins.show(clips, "n3", 1)  # the bytes of n1
    twins.show(clips, "n4", 2, turned=24)
    twins.show(clips, "n5", 2, turned=33)  # 4.125 bits a hash
    twins.show(more, "n6", 2, turned=8)
    twins.show(more, "n7", 1, turned=0, number=7)  # looks like n1, other bytes
    twins.show(more, "n8", 3)
    twins.show(more, "n9", 3)
    out = run({"clips": {"shown": {"max_distance": 4.0}}, "more": {"shown": {"max_distance": 4.0}}}, unit=2)
    assert out.code == DONE
    assert decided(out) == {
        "clips_-n1": ("kept",),
        "clips_-n2": ("kept",),
        "clips_-n3": ("duplicate", "clips_-n1", "0"),
        "clips_-n4": ("near_duplicate", "clips_-n2", "3"),
        "clips_-n5": ("kept",),
        "more_-n6": ("near_duplicate", "clips_-n2", "1"),
        "more_-n7": ("near_duplicate", "clips_-n1", "0"),
        "more_-n8": ("kept",),
        "more_-n9": ("duplicate", "more_-n8", "0"),
    }
    assert verify(OutputFolder(out.path), lambda count: None) == []
    run_json = json.loads((out.path / "run.json").read_text())
    assert run_json["reasons"]["clips"] == {"duplicate": 1, "near_duplicate": 1}
    assert run_json["counts"]["more"] == {"kept": 1, "rejected": 3}


def test_a_twin_of_what_is_rejected_is_kept_and_sources_without_the_stage_take_no_part(run, tmp_path):
    for name in ("clips", "plain"):
        twins.show(tmp_path / "in" / name, "n0009", 1)
        twins.show(tmp_path / "in" / name, "n1", 1, turned=2)
    touchy = {"tests.engine.toy:Touchy": {"max_brightness": 0.005}}
    shown = {"tests.engine.twins:Shown": {}}
    out = run({"plain": {"stages": [touchy]}, "clips": {"stages": [touchy, shown]}})
    assert {name: row[0] for name, row in decided(out).items()} == {
        "plain_-n0009": "overexposed", "plain_-n1": "kept", "clips_-n0009": "overexposed", "clips_-n1": "kept",
    }  # fmt: skip


@pytest.mark.parametrize(("executor", "workers"), [("process", 1), ("process", 3), ("ray", 2)])
def test_same_twins_whoever_does_the_work(run, tmp_path, executor, workers, request):
    if executor == "ray":
        request.getfixturevalue("ray_cluster")
    twins.mixed(tmp_path / "in")
    sources = {"a": {}, "b": {}}
    reference = run(sources, output="reference")
    other = run(sources, f"--workers={workers}", output="other", executor=executor)
    assert reference.code == other.code == DONE and other.digest == reference.digest
    assert {reason for row in reference.rows for reason in row["reasons"]} == {"duplicate", "near_duplicate"}


def test_same_twins_after_kill_and_resume(tmp_path):
    command = [sys.executable, "-m", "tests.engine.twins", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert len(result["digests"]) > 8 and set(result["digests"]) == {result["reference"]}


def test_a_changed_limit_decides_anew_and_runs_no_unit(run, tmp_path, monkeypatch):
    log = tmp_path / "log"
    monkeypatch.setenv("SHOWN_LOG", str(log))
    twins.mixed(tmp_path / "in")
    answers = []
    for shown in ({"max_distance": 4.0}, {"max_distance": None}, {"max_distance": None, "exact": False}, {"max_distance": 8.0}):
        out = run({"a": {"shown": shown}, "b": {"shown": shown}})
        answers.append(decided(out))
        assert len(log.read_text().split()) == 40, "no fingerprint is taken twice"
    kept = [sum(answer == ("kept",) for answer in each.values()) for each in answers]
    assert kept[2] == 40 and kept[1] < 40 and kept[0] < kept[1] and kept[3] < kept[0]
    fresh = run({"a": {"shown": shown}, "b": {"shown": shown}}, output="fresh")
    assert fresh.digest == out.digest, "and the result is that of a run from nothing"


def test_new_footage_pushes_nothing_out(run, tmp_path):
    clips = tmp_path / "in" / "clips"
    twins.show(clips, "n5", 1)
    assert decided(run({"clips": {}})) == {"clips_-n5": ("kept",)}
    twins.show(clips, "n1", 1)
    assert decided(run({"clips": {}})) == {"clips_-n5": ("kept",), "clips_-n1": ("duplicate", "clips_-n5", "0")}


def test_of_a_source_that_keeps_its_best_the_best_twin_stays_and_the_count_is_full(run, tmp_path):
    best, plain = tmp_path / "in" / "best", tmp_path / "in" / "plain"
    for number, what in ((10, 1), (90, 1), (80, 2), (70, 3), (60, 4), (50, 5)):  # the number is the score
        twins.show(best, f"n{number}", what, number=number)
    twins.show(plain, "n1", 2)  # a source that takes all goes first
    out = run({"best": {"target_count": 3, "best_by": "brightness"}, "plain": {}})
    assert decided(out) == {
        "best_-n10": ("near_duplicate", "best_-n90", "0"),
        "best_-n90": ("kept",),
        "best_-n80": ("near_duplicate", "plain_-n1", "0"),
        "best_-n70": ("kept",),
        "best_-n60": ("kept",),
        "best_-n50": ("over_target_count",),
        "plain_-n1": ("kept",),
    }


def test_children_of_one_source_are_no_twins_of_each_other(run, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.payload._view_member", lambda name, *_: (Bytes(f"{name}.png", b"picture"), (64, 48)))  # the toy has none
    clips = tmp_path / "in" / "clips"
    twins.show(clips, "n1", 1, number=1)  # four frames: both of its children are kept
    twins.show(clips, "n2", 1, number=6)
    out = run({"clips": {"first": ["tests.engine.toy:Slices"]}})
    found = decided(out)
    assert [found[f"clips_-n1_-s{i}"] for i in range(2)] == [("kept",)] * 2
    assert [found[f"clips_-n2_-s{i}"][:2] for i in range(2)] == [("near_duplicate", "clips_-n1_-s0")] * 2


def printed(number: int, hashes: np.ndarray, views: int = 1) -> Printed:
    return Printed(f"s{number}", f"s{number}", f"content {number}", views, tuple(hashes.tolist()))


def perturbed(rng: np.random.Generator, count: int, hashes: int, most: int) -> np.ndarray:
    """[count,hashes] at random, every second one an earlier one with up to `most` bits turned; frames that many share, too."""
    made = rng.integers(0, 2**64, (count, hashes), np.uint64, endpoint=False)
    made[rng.random(count) < 0.3, 0] = 0
    for i in range(1, count, 2):
        made[i] = made[rng.integers(i)]
        for bit in rng.choice(64 * hashes, rng.integers(most + 1), replace=False):
            made[i, bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
    return made


@pytest.mark.parametrize(("hashes", "radius"), [(8, 0), (8, 32), (8, 72), (1, 4), (3, 12), (36, 72)])
def test_the_index_finds_the_pairs_of_brute_force(hashes, radius):
    """Tables grow on the way, from 1024 slots to 2048 and more."""
    made = perturbed(np.random.default_rng([hashes, radius]), 1300, hashes, min(radius + 8, 64 * hashes))
    index, found = HammingIndex(hashes, radius), set()
    for start in range(0, len(made), 70):
        query, item, bits = index.near(made[start : start + 70])
        found |= set(zip((query + start).tolist(), item.tolist(), bits.tolist(), strict=True))
        index.add(made[start : start + 70])
    expected = set()
    for i in range(len(made)):
        bits = np.bitwise_count(made[: i - i % 70] ^ made[i]).sum(axis=1)
        expected |= {(i, int(j), int(bits[j])) for j in np.flatnonzero(bits <= radius)}
    assert found == expected and len(expected) > 30


@pytest.mark.parametrize("batch", [7, 1000])
def test_who_is_kept_is_what_comparing_with_all_kept_ones_gives(batch):
    """However many come at once. The reference is the plain loop; sources have limits of their own."""
    rng = np.random.default_rng(3)
    made = perturbed(rng, 600, 8, 70)
    limits = {"strict": FingerprintConfig(max_distance=2.0), "loose": FingerprintConfig(max_distance=6.0)}
    names = ["strict" if i // batch % 2 else "loose" for i in range(len(made))]
    duplicates, found = Duplicates(limits), []
    for start in range(0, len(made), batch):
        some = [printed(i, made[i]) for i in range(start, min(start + batch, len(made)))]
        found += [None if twin is None else (twin.of, twin.distance) for twin in duplicates.judge(names[start], some)]
    kept, expected = [], []
    for i, own in enumerate(made):
        bits = np.bitwise_count(made[kept] ^ own).sum(axis=1) if kept else np.array([999])
        nearest = int(bits.argmin())
        twin = bits[nearest] <= 8 * (limits[names[i]].max_distance or 0)
        expected.append((f"s{kept[nearest]}", bits[nearest] / 8) if twin else None)
        kept += [] if twin else [i]
    assert found == expected and 100 < sum(each is not None for each in found) < 500


def test_only_footage_of_as_many_views_and_hashes_is_compared():
    same = np.arange(8, dtype=np.uint64)
    duplicates = Duplicates({"clips": FingerprintConfig()})
    one, two, fewer = printed(0, same), printed(1, same, views=2), printed(2, same[:4])
    nothing = Printed("s3", "s3", "content 3", 1, None)
    assert duplicates.judge("clips", [one, two, fewer, nothing, nothing.__class__("s4", "s4", "content 4", 1, None)]) == [None] * 5
    [found] = duplicates.judge("clips", [printed(5, same, views=2)])
    assert found is not None and found.of == "s1" and found.reason is Reason.NEAR_DUPLICATE
    [bytes_] = duplicates.judge("clips", [Printed("s6", "s6", "content 3", 1, None)])
    assert bytes_ is not None and bytes_.of == "s3" and bytes_.reason is Reason.DUPLICATE
