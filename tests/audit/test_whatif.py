"""`audit what-if`: any limits on any row say what a run says; what cannot be asked is refused with the reason."""

import copy
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.audit import main as audit
from pipeline.binding import load_recipe, resolved, source_of
from tests.audit.asking import WHOLE, ask, changed, graded, rows, run, same_as, turned
from tests.engine.toy import make_numbers

LIMITS = {
    "cheap": ("min_width", "min_height", "max_fps"),
    "cut": ("max_time_error_ms",),
    "seen": ("min_brightness", "max_brightness", "max_dark_fraction"),
    "sharp": ("min_sharpness",),
    "dear": ("max_camera_motion", "min_lines"),
}


def some_limits(chance: random.Random, stages: tuple[str, ...], share: float) -> dict[tuple[str, str], float | None]:
    """Limits that turn away few enough for all tiers to matter."""
    found: dict[tuple[str, str], float | None] = {}
    for stage in stages:
        for key in LIMITS[stage]:
            if chance.random() < share:
                value = chance.uniform(0, 0.45)
                found[stage, key] = None if chance.random() < 0.3 else value if key.startswith("min") else 1 - value
    return found


@pytest.mark.parametrize("seed", range(6))
def test_any_limits_on_any_row(tmp_path, pictures, seed):
    """Errors and nulls at every stage, samplers that refuse, rankings: whatever is not called unknown is what a run says."""
    chance = random.Random(seed)
    stages = (("cheap", "cut", "seen", "sharp", "dear"), WHOLE, ("cut", "cheap", "seen", "dear"))[seed % 3]
    source = {"exhaustive": seed % 4 == 1, **({"target_count": 8, "best_by": chance.choice(["width", "-sharpness"])} if seed % 2 else {})}
    footage = make_numbers(tmp_path / "in", 60)
    limits = some_limits(chance, stages, 0.5)
    for number in range(3):
        output = f"out{number}"
        assert run(tmp_path, graded(stages, limits, **source), footage=footage, output=output) == 0
        wanted = some_limits(chance, stages, 0.3)
        settings = [f"{stage}.{key}={'off' if value is None else value}" for (stage, key), value in wanted.items()]
        if not settings:
            continue
        answer = ask(tmp_path / output, settings)
        assert run(tmp_path, graded(stages, limits | wanted, **source), footage=footage, output=output) == 0
        same_as(answer, rows(tmp_path / output))


@pytest.mark.parametrize("seed", range(3))
def test_twins_are_looked_for_again(tmp_path, pictures, seed):
    """What falls gives way to its twins; where all stages ran on all rows, nothing is unknown."""
    chance = random.Random(seed)
    source = {"exhaustive": True, **({"target_count": 6, "best_by": "-sharpness"} if seed == 1 else {})}
    footage = make_numbers(tmp_path / "in", 60)
    stages = ("seen", "sharp", "print")

    def recipe(limits: dict[tuple[str, str], float | None]) -> dict[str, Any]:
        document = graded(stages, limits, **source)
        document["sources"]["others"] = {**copy.deepcopy(document["sources"]["numbers"]), "target_count": None, "best_by": None}
        return document

    assert run(tmp_path, recipe({}), footage=footage) == 0
    twins = {reason for row in rows(tmp_path / "out").values() for reason in row["reasons"] if "duplicate" in reason}
    assert twins == {"duplicate", "near_duplicate"}
    settings = [f"numbers.seen.min_brightness={chance.uniform(0.2, 0.4):.3f}", "others.sharp.min_sharpness=0.3"]
    answer = ask(tmp_path / "out", settings)
    assert run(tmp_path, changed(recipe({}), settings), footage=footage) == 0
    found = same_as(answer, rows(tmp_path / "out"))
    assert turned(found) == {"kept->rejected", "rejected->kept"}, found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    recipe = graded((*WHOLE[:1], "cut", *WHOLE[1:]), {("cheap", "min_width"): 0.1})
    recipe["sources"]["others"] = {**recipe["sources"]["numbers"], "stages": recipe["sources"]["numbers"]["stages"][:1]}
    footage = make_numbers(folder / "in", 30)
    assert run(folder, recipe, footage=footage) == 0
    return folder / "out"


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("min_sharpness=3", ["[SOURCE.]stage.key=value"]),
        ("sharp.min_sharpness", ["[SOURCE.]stage.key=value"]),
        ("shrp.min_sharpness=3", ["'shrp'", "did you mean 'sharp'?", "cheap, cut, dear, seen, sharp"]),
        ("sharp.min_sharpnes=3", ["'min_sharpnes'", "did you mean 'min_sharpness'?", "limits of 'sharp': min_sharpness"]),
        ("number.sharp.min_sharpness=3", ["'number'", "did you mean 'numbers'?", "numbers, others"]),
        ("others.sharp.min_sharpness=3", ["no stage 'sharp'", "stages: cheap"]),
        ("cheap.errors=0.2", ["'errors' is no limit", "run pipeline.curate", "max_fps, min_height, min_width"]),
        ("cheap.max_fps=fast", ["'fast' is neither a finite number nor 'off'"]),
        ("cheap.max_fps=nan", ["'nan' is neither"]),
    ],
)
def test_what_cannot_be_asked_says_what_can(whole, capsys, setting, said):
    assert audit(["what-if", str(whole), "--set", setting]) == 2
    told = capsys.readouterr()
    assert told.out == "" and all(word in told.err for word in said), told.err


def test_limits_that_steer_a_search_need_a_run(tmp_path, capsys):
    recipe = load_recipe("smoke")
    document = {"state": "done", "recipe": resolved(recipe, {name: source_of(recipe, name) for name in recipe.sources})}
    (tmp_path / "run.json").write_text(json.dumps(document))
    assert audit(["what-if", str(tmp_path), "--set=view_groups.min_overlap=0.3"]) == 2
    assert "steer what it looks for" in (told := capsys.readouterr().err) and "run pipeline.curate" in told
    assert audit(["what-if", str(tmp_path), "--set=view_angles.min_overlap=0.3"]) == 2
    assert "needs 'overlap: true'" in capsys.readouterr().err


def test_limits_of_an_unfinished_run_are_not_taken_for_those_that_decided(whole, tmp_path, capsys):
    output = Path(shutil.copytree(whole, tmp_path / "out"))
    document = json.loads((output / "run.json").read_text())
    (output / "run.json").write_text(json.dumps({**document, "state": "interrupted"}))
    assert audit(["what-if", str(output), "--set=cheap.min_width=0.5"]) == 2
    assert "its last run is 'interrupted'" in capsys.readouterr().err


def test_the_numbers_are_those_of_the_rows(whole, capsys):
    assert audit(["what-if", str(whole), "--set=numbers.cheap.min_width=off", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(each["source"], each["key"], each["before"], each["after"]) for each in told["limits"]] == [
        ("numbers", "min_width", 0.1, None)
    ]
    numbers, others = told["sources"]["numbers"], told["sources"]["others"]
    rejected = [row for row in rows(whole).values() if row["source"] == "numbers" and row["reasons"] == ["low_resolution"]]
    assert len(rejected) > 0
    assert numbers["flips"] == {"rejected->unknown": len(rejected)} and numbers["needs"] == {"cut": len(rejected)}
    assert numbers["reasons"] == {"low_resolution": {"rejected->unknown": len(rejected)}}
    assert others["flips"] == {} and others["before"] == {name: others["after"][name] for name in others["before"]}


def test_a_look_writes_nothing(whole):
    before = sorted(whole.rglob("*"))
    assert audit(["what-if", str(whole), "--set=cheap.min_width=0.5"]) == 0
    assert sorted(whole.rglob("*")) == before
