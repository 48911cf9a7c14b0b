"""`audit diff` says the same of equal runs, and names the cause of every difference between others."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.audit import main as audit
from tests.audit import graded as stages
from tests.audit.asking import WHOLE, graded, run
from tests.engine.toy import make_numbers

LIMITS = {("seen", "min_brightness"): 0.4, ("dear", "min_lines"): 0.3}


@pytest.fixture
def first(tmp_path: Path, pictures: None) -> Path:
    assert run(tmp_path, graded(WHOLE, LIMITS), footage=make_numbers(tmp_path / "in", 30), output="first") == 0
    return tmp_path


def difference(folder: Path, capsys: pytest.CaptureFixture[str], status: int, *more: str) -> dict[str, Any]:
    capsys.readouterr()
    assert audit(["diff", str(folder / "first"), str(folder / "second"), "--json", *more]) == status
    return json.loads(capsys.readouterr().out)


def test_equal_runs_are_the_same(first, capsys):
    assert run(first, graded(WHOLE, LIMITS), footage=first / "in", output="second") == 0
    found = difference(first, capsys, 0)
    assert not any(part for name, part in found.items() if name != "shards") and not any(found["shards"].values())
    assert audit(["diff", str(first / "first"), str(first / "second")]) == 0
    assert "the same rows and shards" in capsys.readouterr().out


def test_a_changed_limit_is_named_with_the_scores_that_it_turns_on(first, capsys):
    assert run(first, graded(WHOLE, {**LIMITS, ("dear", "min_lines"): 0.6}), footage=first / "in", output="second") == 0
    found = difference(first, capsys, 1)
    assert found["verdicts"], "some rows must flip for this test to mean anything"
    for each in found["verdicts"]:
        assert (each["before"]["reasons"], each["after"]["reasons"][-1]) == (each["before"]["reasons"], "few_lines")
        (why,) = each["why"]
        value = float(why.split()[2].rstrip(","))
        assert why == f"few_lines: n_lines {value:g}, limit min_lines >= 0.3 -> >= 0.6" and 0.3 <= value < 0.6
    assert any("min_lines: 0.3, now 0.6" in line for line in found["run"])
    assert found["made_of"]["numbers"] == ["stages.tests.audit.graded:Dear.limits.min_lines: 0.3, now 0.6"]
    assert found["step_keys"] == {} and found["scores"] == {}
    assert found["shards"]["only_first"] and found["shards"]["only_second"]


def test_other_inputs_are_named(first, capsys):
    os.utime(first / "in" / "n00004.txt", ns=(1, 1))
    (first / "in" / "n00007.txt").unlink()
    make_numbers(first / "more", 31)
    shutil.copy2(first / "more" / "n00030.txt", first / "in")
    assert run(first, graded(WHOLE, LIMITS), footage=first / "in", output="second") == 0
    found = difference(first, capsys, 1)
    assert (found["only_first"], found["only_second"]) == (["numbers_-n00007"], ["numbers_-n00030"])
    assert found["made_of"]["numbers"] == ["1 candidates with other input files (path, size or time): n00004"]
    assert found["step_keys"]["ingest"] == 1 and found["verdicts"] == []


def test_a_stage_that_computes_something_else_is_named(first, capsys, monkeypatch):
    monkeypatch.setattr(stages.Seen, "version", 2)
    monkeypatch.setattr(stages, "draw", lambda name, what: 0.999 * original(name, what))
    assert run(first, graded(WHOLE, LIMITS), footage=first / "in", output="second") == 0
    found = difference(first, capsys, 1)
    assert found["made_of"]["numbers"] == ["stages.tests.audit.graded:Seen.version: 1, now 2"]
    assert found["step_keys"] == {"seen": found["step_keys"]["seen"]} and found["step_keys"]["seen"] > 5
    assert {"brightness", "width", "sharpness"} <= set(found["scores"])
    near = difference(first, capsys, 1, "--tolerance=0.002")
    assert near["scores"] == {}, "they differ by a thousandth"


original = stages.draw


def test_a_damaged_table_is_usage_and_another_layout_is_said(first, capsys):
    assert audit(["diff", str(first / "first"), str(first / "in")]) == 2
    assert "holds neither manifest/ nor run.json" in capsys.readouterr().err
