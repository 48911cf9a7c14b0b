"""summary, show and sql answer from the tables, and sql reaches nothing else."""

import csv
import io
import json
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.audit import main
from pipeline.auditing.folder import OutputFolder
from pipeline.auditing.layout import format_cell, text_table
from pipeline.auditing.show import UnknownSample, show
from pipeline.auditing.sql import QueryError, query
from pipeline.auditing.summary import summarize
from schemas.verdict import REASON_TEXT, Reason
from tests.audit.fabricate import HOSTILE, Fabricated


def test_every_reason_is_explained() -> None:
    assert set(REASON_TEXT) == set(Reason)


def test_summary_counts(intact: Fabricated) -> None:
    summary = summarize(OutputFolder(intact.path))
    clips, groups = summary["sources"]["clips"], summary["sources"]["groups"]
    assert {name: clips[name] for name in ("candidates", "rows", "kept", "rejected", "error", "skipped", "samples")} == {
        "candidates": 26, "rows": 26, "kept": 19, "rejected": 5, "error": 2, "skipped": 0, "samples": 19,
    }  # fmt: skip
    assert clips["reasons"] == {"blurred": 4, "E_OPEN": 1, "E_TRUNCATED": 1, "too_short": 1}
    # Of walks 4..23 without the short 7, the odd ones have a caption: 5, 9, 11, ... 23.
    assert clips["text"] == {"with": 9, "without": 10}
    # The posed video itself is no sample: it counts through its groups.
    assert (groups["candidates"], groups["rows"], groups["kept"], groups["rejected"]) == (1, 10, 3, 6)
    assert summary["shards"] == {"count": 5, "bytes": sum(p.stat().st_size for p in (intact.path / "shards").iterdir()), "samples": 25}


def test_summary_command(intact: Fabricated, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", str(intact.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["candidates"] == 31
    assert main(["summary", str(intact.path)]) == 0
    text = capsys.readouterr().out
    assert "error budget EXCEEDED: 2 of 31 samples are errors (6.5%, at most 5.0%)" in text
    assert REASON_TEXT[Reason.BLURRED] in text


def test_summary_of_a_run_that_has_not_published_yet(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"state": "interrupted", "recipe": {"name": "x", "sources": {}}}')
    summary = summarize(OutputFolder(tmp_path))
    assert summary["state"] == "interrupted" and summary["candidates"] == 0


def test_show_puts_each_score_beside_its_limit(intact: Fabricated) -> None:
    row = next(row for row in intact.of("clips") if row["candidate_id"] == "walk 002.mp4")
    text = show(OutputFolder(intact.path), row["sample_id"])
    assert "REJECTED" in text and REASON_TEXT[Reason.BLURRED] in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "sharpness 40 luma² >= 60 FAILS: blurred" in lines
    assert "duration_s 2.5 s >= 1 ok" in lines
    assert "not in a shard" in lines


def test_show_of_a_packed_group_names_members_frames_and_parent(intact: Fabricated) -> None:
    row = next(row for row in intact.of("groups") if row["shard"])
    text = show(OutputFolder(intact.path), row["sample_id"])
    assert row["shard"] in text and "view03.jpg" in text and "meta.json" in text
    assert f"parent  {row['parent_id']} (kept, train/abc)" in text
    parent = show(OutputFolder(intact.path), row["parent_id"])
    assert "children (9)" in parent and "no_such_angle" in parent


def test_show_takes_the_sources_own_name_and_suggests_near_ones(intact: Fabricated) -> None:
    assert "clips_-walk_x20003_x2emp4" in show(OutputFolder(intact.path), "walk 003.mp4")
    with pytest.raises(UnknownSample, match="did you mean clips_-walk_x20003_x2emp4"):
        show(OutputFolder(intact.path), "clips_-walk_x20003_x2emp")


def test_a_name_cannot_drive_the_terminal() -> None:
    assert format_cell("a\x1b[2Jb\nc") == "a\\x1b[2Jb\\nc"
    assert "\x1b" not in text_table(["name"], [["\x1b]0;title\x07"]])


def test_sql_answers(intact: Fabricated) -> None:
    header, rows = query(OutputFolder(intact.path), "SELECT sample_id, scores.sharpness AS s FROM samples WHERE s < 60 ORDER BY s")
    assert header == ["sample_id", "s"]
    assert [row[1] for row in rows] == [20.0, 30.0, 40.0, 50.0]
    _, [[count]] = query(OutputFolder(intact.path), "WITH m AS (SELECT unnest(members) AS u FROM shards) SELECT count(*) FROM m")
    assert count == sum(1 for row in intact.rows if row["shard"]) * 2 + 9 + 3 * 5 + 3 * 3  # view and meta; captions; views beyond one
    assert query(OutputFolder(intact.path), "SELECT sum(n_rows) FROM units")[1] == [(40,)]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM read_csv('{secret}')",
        "SELECT * FROM '{secret}'",
        "SELECT * FROM read_text('{secret}')",
        "SELECT * FROM glob('{folder}/*')",
        "COPY samples TO '{folder}/stolen.csv'",
        "EXPLAIN ANALYZE COPY samples TO '{folder}/stolen.csv'",
        "ATTACH '{folder}/new.db'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        "CREATE TABLE t AS SELECT 1",
        "DROP VIEW samples",
        "SELECT 1; SELECT 2",
        "SELECT * FROM hidden",
        "",
        "SELEC",
    ],
)
def test_sql_reaches_nothing_but_the_manifest(intact: Fabricated, tmp_path: Path, statement: str) -> None:
    hidden = pa.table({"secret": [1]})  # DuckDB would find a local of this name if it were let
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    with pytest.raises(QueryError):
        query(OutputFolder(intact.path), statement.format(secret=secret, folder=tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret.csv"]
    assert hidden.num_rows == 1


def test_sql_command(intact: Fabricated, capsys: pytest.CaptureFixture[str]) -> None:
    statement = "SELECT candidate_id, status FROM samples WHERE source = 'clips' ORDER BY sample_id"
    assert main(["sql", str(intact.path), statement, "--csv"]) == 0
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert rows[0] == ["candidate_id", "status"] and len(rows) == 27
    assert [HOSTILE, "error"] in rows
    assert main(["sql", str(intact.path), "SELECT nonsense FROM samples"]) == 2
    assert "DESCRIBE samples" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [[], ["summary"], ["verify"], ["report"], ["show"], ["sql"]])
def test_help_teaches(verb: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*verb, "--help"])
    assert ended.value.code == 0
    assert "DIR" in capsys.readouterr().out


def test_usage_errors_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", str(tmp_path)]) == 2
    assert "holds neither manifest/ nor run.json" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["sumary", str(tmp_path)])
    assert ended.value.code == 2
