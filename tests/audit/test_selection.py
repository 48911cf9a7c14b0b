"""Selections: written by what-if, read by training, packed by `curate --selection`."""

import json
import shlex
from pathlib import Path

import pytest

from pipeline.audit import main as audit
from pipeline.curate import DONE, USAGE
from pipeline.curate import main as curate
from pipeline.loader.catalog import Catalog, CatalogError
from pipeline.selection import read_selection
from tests.audit.asking import WHOLE, ask, graded, rows, run
from tests.engine.storm import digest
from tests.engine.toy import make_numbers

LIMITS = {("seen", "min_brightness"): 0.4, ("dear", "min_lines"): 0.3}
LOOSE = ["seen.min_brightness=0.4", "dear.min_lines=0.1"]


@pytest.fixture
def folder(tmp_path: Path, pictures: None) -> Path:
    """Forty numbers, some kept; folder / "out" and the recipe beside it."""
    assert run(tmp_path, graded(WHOLE, LIMITS), footage=make_numbers(tmp_path / "in", 40)) == DONE
    return tmp_path


def ids(catalog: Catalog) -> set[str]:
    return {catalog.sample_id(i) for i in range(len(catalog))}


def kept(answer: list[dict]) -> set[str]:
    return {row["sample_id"] for row in answer if row["status"] == "kept"}


def command(folder: Path, name: str, *more: str) -> list[str]:
    options = ["--executor=inline", "--error-budget=1", "--quiet", "--no-report", *more]
    return [str(folder / "recipe.yaml"), f"--input=numbers={folder / 'in'}", f"--output={folder / 'out'}", f"--selection={name}", *options]


def test_what_a_tightened_selection_keeps_can_be_read_at_once(folder):
    everything = ids(Catalog.open(folder / "out"))
    answer = ask(folder / "out", ["seen.min_brightness=0.6"], "tight")
    assert kept(answer) < everything
    assert ids(Catalog.open(folder / "out", selection="tight")) == kept(answer)


def test_payload_that_was_not_stored_is_packed_by_the_command_that_readers_name(folder):
    answer = ask(folder / "out", LOOSE, "loose")
    before = ids(Catalog.open(folder / "out"))
    assert kept(answer) > before and {row["stored"] for row in answer if row["sample_id"] not in before} == {False}
    with pytest.raises(CatalogError) as refused:
        Catalog.open(folder / "out", selection="loose")
    missing = len(kept(answer) - before)
    assert f"{missing} of {len(kept(answer))} ids" in str(refused.value)
    named = shlex.split(str(refused.value).partition("pack them: ")[2])
    assert named[:4] == ["python", "-m", "pipeline.curate", "RECIPE"]
    named[3] = str(folder / "recipe.yaml")
    assert curate([*named[3:], "--executor=inline", "--error-budget=1", "--quiet", "--no-report"]) == DONE
    assert ids(Catalog.open(folder / "out", selection="loose")) == kept(answer)
    assert audit(["verify", str(folder / "out"), "--quiet"]) == 0


def test_packing_recomputes_no_score_and_ends_where_a_run_from_nothing_does(folder):
    ask(folder / "out", LOOSE, "loose")
    assert curate(command(folder, "loose")) == DONE
    from pipeline.auditing.folder import OutputFolder

    units = OutputFolder(folder / "out").table("units").to_pylist()
    assert {unit["steps_computed"] for unit in units} == {0}
    fresh = graded(WHOLE, {**LIMITS, ("dear", "min_lines"): 0.1})
    assert run(folder, fresh, footage=folder / "in", output="fresh") == DONE
    assert digest(folder / "out") == digest(folder / "fresh")


def test_a_run_that_was_broken_off_while_it_packed_goes_on(folder):
    ask(folder / "out", LOOSE, "loose")
    first = (folder / "out" / "manifest" / "samples" / "part-00000.parquet").read_bytes()
    assert curate(command(folder, "loose")) == DONE
    finished = digest(folder / "out")
    assert curate(command(folder, "loose")) == DONE, "again, with nothing to do"
    document = json.loads((folder / "out" / "run.json").read_text())
    (folder / "out" / "run.json").write_text(json.dumps({**document, "state": "running"}))
    (folder / "out" / "manifest" / "samples" / "part-00000.parquet").write_bytes(first)
    assert curate(command(folder, "loose")) == DONE
    assert digest(folder / "out") == finished


def test_a_manifest_that_has_changed_since_is_refused_with_the_question_to_ask_again(folder, capsys):
    ask(folder / "out", LOOSE, "loose")
    asked_of = rows(folder / "out")
    make_numbers(folder / "in", 41)
    assert run(folder, graded(WHOLE, LIMITS), footage=folder / "in") == DONE
    assert len(rows(folder / "out")) == len(asked_of) + 1
    capsys.readouterr()
    assert curate(command(folder, "loose")) == USAGE
    told = capsys.readouterr().err
    assert "has changed since the selection 'loose' was written" in told
    again = shlex.split(told.partition("ask again: ")[2])
    assert audit(again[3:]) == 0
    assert curate(command(folder, "loose")) == DONE


@pytest.mark.parametrize(
    ("more", "recipe", "said"),
    [
        (["--seed=7"], LIMITS, "seed: 0, now 7"),
        ([], {**LIMITS, ("sharp", "min_sharpness"): 0.2}, "min_sharpness: None, now 0.2"),
    ],
)
def test_another_recipe_than_was_asked_about_is_refused(folder, capsys, more, recipe, said):
    ask(folder / "out", LOOSE, "loose")
    import yaml

    (folder / "recipe.yaml").write_text(yaml.safe_dump(graded(WHOLE, recipe)))
    assert curate(command(folder, "loose", *more)) == USAGE
    assert said in (told := capsys.readouterr().err) and "another recipe" in told


def test_names_of_selections(folder, capsys):
    ask(folder / "out", LOOSE, "loose")
    assert curate(command(folder, "lose")) == USAGE
    assert "did you mean 'loose'?" in capsys.readouterr().err
    with pytest.raises(CatalogError, match="did you mean 'loose'"):
        Catalog.open(folder / "out", selection="lose")
    (folder / "out" / "selections" / "mine.txt").write_text("numbers_-n00001\n")
    for name in ("mine", "../loose", "", "a/b"):
        assert audit(["what-if", str(folder / "out"), "--set=seen.min_brightness=0.4", f"--write={name}"]) == 2
    assert sorted(path.name for path in (folder / "out" / "selections").iterdir()) == ["loose.json", "loose.parquet", "mine.txt"]


def test_what_a_selection_says_of_itself(folder):
    ask(folder / "out", LOOSE, "loose")
    selection = read_selection(folder / "out", "loose")
    assert [str(each) for each in selection.settings] == ["numbers.seen.min_brightness=0.4", "numbers.dear.min_lines=0.1"]
    stages = selection.recipe["sources"]["numbers"]["stages"]
    assert next(iter(stages[3].values()))["min_lines"] == 0.1
    assert selection.counts["sources"]["numbers"]["flips"]["rejected->kept"] > 0
    ask(folder / "out", LOOSE, "again")
    assert read_selection(folder / "out", "again").digest == selection.digest


def test_verify_recomputes_the_hashes_of_what_made_the_rows(folder, capsys):
    ask(folder / "out", LOOSE, "loose")
    out = folder / "out"
    assert audit(["verify", str(out), "--quiet"]) == 0
    document = json.loads((out / "run.json").read_text())
    document["recipe"]["description"] = "another"
    (out / "run.json").write_text(json.dumps(document))
    tar = sorted((out / "parts").glob("u000000-*.tar"))[0]
    tar.write_bytes(tar.read_bytes().replace(b"number", b"nomber", 1))
    rows_file = out / "selections" / "loose.parquet"
    rows_file.write_bytes(rows_file.read_bytes() + b" ")
    shard = next((out / "shards").glob("*.tar"))
    capsys.readouterr()
    assert audit(["verify", str(out), "--quiet"]) == 1
    told = capsys.readouterr().out
    for where in ("run.json: recipe_sha256", f"parts/{tar.name}: sha256", "selections/loose.parquet: sha256"):
        assert where in told
    assert "3 problem(s)" in told and shard.name not in told


def test_show_tells_steps_unit_and_selections(folder, capsys):
    answer = ask(folder / "out", LOOSE, "loose")
    new = next(row["sample_id"] for row in answer if row["was"] == "rejected" and row["status"] == "kept")
    capsys.readouterr()
    assert audit(["show", str(folder / "out"), new]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    key = next(line for line in lines if line.startswith("dear "))
    assert key.endswith("FAILS: min_lines") and len(key.split()[1]) == 32
    assert any(line.startswith("seen ") and line.endswith(" ok") for line in lines)
    assert any(line.startswith("unit u0000") for line in lines) and "loose kept" in lines
