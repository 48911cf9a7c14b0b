"""What the pages show is run as it stands there: the worked examples of a source and of a stage, and the questions in SQL."""

import re
import runpy
from fractions import Fraction

import numpy as np
import pytest
import yaml

from pipeline.auditing.folder import OutputFolder
from pipeline.auditing.sql import query
from pipeline.curate import main as curate
from pipeline.studio import write_layout
from pipeline.studio.video import write_mp4
from tests.e2e.output import Output, run, write_recipe
from tests.test_docs import section, text

PAGE = "docs/architecture.md"


def blocks(heading: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", section(PAGE, heading), re.DOTALL)


def test_the_example_of_a_source_runs_and_is_short(tmp_path, monkeypatch, capsys) -> None:
    (module, test), (recipe,) = blocks("### A source", "python"), blocks("### A source", "yaml")
    assert sum(len([line for line in each.splitlines() if line]) for each in (module, test, recipe)) < 60
    for name, content in {"my_source.py": module, "walks.yaml": recipe, "test_my_source.py": test}.items():
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "in").mkdir()
    found = runpy.run_path("test_my_source.py")
    (check,) = (value for name, value in found.items() if name.startswith("test_"))
    check(tmp_path / "in", capsys)
    rows = {row["candidate_id"]: row for row in Output(tmp_path / "in-out", 3).rows}
    assert rows["a"]["license"] == "CC-BY-4.0" and rows["b"]["reasons"] == ["E_CAMERA"]
    (tmp_path / "in/b.txt").write_text("96 64 80 80 48\n")  # what its own test leaves out
    (tmp_path / "in/a.txt").write_text("96 64 80 80 48 32\n1 0 0 0  0 1 0 0  0 0 1 0\n")
    curate(["walks.yaml", "--input=walks=in", "--output=in-out", "--executor=inline", "--no-report", "--quiet"])
    rows = {row["candidate_id"]: row for row in Output(tmp_path / "in-out", 3).rows}
    assert rows["a"]["reasons"] == ["E_FRAMECOUNT"] and "1 poses for 5 frames" in rows["a"]["error_message"]
    assert rows["b"]["reasons"] == ["E_CAMERA"]


def test_the_example_of_a_stage_runs(tmp_path, monkeypatch) -> None:
    (module,), (recipe,) = blocks("### A stage", "python"), blocks("### A stage", "yaml")
    (tmp_path / "my_stages.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "in").mkdir()
    for name, light in (("dark", 60), ("bright", 230)):
        write_mp4(tmp_path / f"in/{name}.mp4", [np.full((72, 128, 3), light, np.uint8)] * 3, Fraction(25))
    output = run(write_recipe(tmp_path / "mine.yaml", yaml.safe_load(recipe)["sources"]), {"clips": tmp_path / "in"}, tmp_path / "out",
                 "--executor=inline", "--no-report")  # fmt: skip
    assert output.verdicts("clips") == {"dark.mp4": "kept", "bright.mp4": "rejected overexposed"}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Output:
    """A rig, clips of which some are bad, and a walk with groups: something for every question to find."""
    folder = tmp_path_factory.mktemp("questions")
    write_layout("rig", folder / "rig", scenes=1, cameras=4, frames=3, size=(64, 36))
    write_layout("clips", folder / "clips", scenes=2, frames=12, size=(192, 108))
    write_layout("dl3dv", folder / "dl3dv", scenes=1, frames=16, size=(96, 54))
    sources = {
        "rig": {"license": "mine", "stages": [{"header": {}}, {"sync": {}}, {"view_angles": {"angle": "parallax"}}]},
        "clips": {"stages": [{"header": {"min_width": 128, "min_height": 72, "min_fps": 10}}, {"quality": {"every": True}}]},
        "dl3dv": {"license": "theirs", "stages": [{"view_groups": {"views": 2, "groups": 2, "min_overlap": 0.3}}]},
    }
    inputs = {name: folder / name for name in sources}
    return run(write_recipe(folder / "small.yaml", sources), inputs, folder / "out", "--executor=inline", "--no-report", "--error-budget=1")


QUESTIONS = dict(re.findall(r"\n([^\n]+):\n\n```sql\n(.*?)```", text("docs/manifest.md"), re.DOTALL))
NONE_IS_GOOD = "Which clips have windows on both sides of the split (must be none)"


@pytest.mark.parametrize("question", QUESTIONS)
def test_questions_in_sql_are_answered(question: str, small: Output) -> None:
    assert len(QUESTIONS) == text("docs/manifest.md").count("```sql")
    statement = QUESTIONS[question].replace("rig_-scene1", small.of("rig")[0]["sample_id"])
    names, rows = query(OutputFolder(small.path), statement)
    assert names and bool(rows) == (question != NONE_IS_GOOD), question


def test_answers_are_those_of_counting(small: Output) -> None:
    """The questions that aggregate, against the rows themselves."""

    def answer(start: str) -> list[tuple]:
        (statement,) = (sql for question, sql in QUESTIONS.items() if question.startswith(start))
        return query(OutputFolder(small.path), statement)[1]

    rejected = [(row["source"], reason) for row in small.rows if row["status"] == "rejected" for reason in row["reasons"]]
    assert {(source, reason): count for source, reason, count in answer("What was rejected")} == {
        each: rejected.count(each) for each in rejected
    }
    sizes = {"mine": 0, "theirs": 0, None: 0}
    for shard in (small.path / "shards").iterdir():
        source = shard.name.split("-")[0]
        sizes[{"rig": "mine", "dl3dv": "theirs", "clips": None}[source]] += shard.stat().st_size
    found = {license: size for _, license, _, size in answer("Samples and bytes")}
    assert set(found) == set(sizes)
    for license, size in found.items():  # members alone, without the tars' headers and padding
        assert 0.2 * sizes[license] < size < sizes[license]
    sharpness = [row["scores"]["sharpness"] for row in small.rows if row["scores"]["sharpness"] is not None]
    assert sum(count for _, count in answer("A score's histogram")) == len(sharpness)
    pairs = [pair for row in small.of("rig") for pair in row["pairs"]]
    of_rig = [count for source, _, count in answer("View angles") if source == "rig"]
    assert sum(of_rig) == len(pairs) == 6
    assert {name for name, *_ in answer("Where the time")} >= {"ingest", "quality"}
